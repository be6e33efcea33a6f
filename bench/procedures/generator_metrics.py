"""What is recorded of each generator beside its outcomes: what it drew, what of that was selected, and what it cost."""

from collections.abc import Sequence

import numpy as np

from bench.artifacts import Completions, Selection
from bench.estimators.best_of_n import pass_at_k
from bench.evaluation.cells import KL_FROM, powers_of_two
from bench.experiment import Results
from bench.generators import Generator, Generators
from bench.models import loading
from bench.records.costs import of_pool
from bench.scoring.verifier import verify
from bench.store import Use
from bench.tasks import Task


def generator_counts(
    generators: Generators, results: Results, task: Task, uses: Sequence[Use]
) -> dict[str, float | str]:
    """Numbers of every generator as generators/NAME/..., and of all together as generators/....

    samples: drawn a prompt; pass@k: on the training prompts, by the task's verifier, from all of its samples;
    correct_paths: distinct ones a prompt; prompts_solved_only: solved by a sample of no other; selected, and
    selected_share of all that was; prompts_covered by what was selected of it, prompts_covered_only by nothing else;
    tokens: its own, of the samples used; cost_*: of the stored units they lie in; reencoded: completions written in the
    student's token ids, and left_out: those of them that are not what was drawn. tuned/kl_from_NAME is added as NaN
    where the token ids differ, and counted in generators/kl_undefined.
    """
    each = generators.each
    right = [verify(results.train, one.pool, task=task).value == 1 for one in each]  # [M, n]
    paths = [correct_paths(one.pool, gold, task) for one, gold in zip(each, right, strict=True)]
    solved = np.stack([gold.any(axis=1) for gold in right])  # [G, M]
    counts: dict[str, float | str] = {
        "generators/names": " ".join(one.name for one in each),
        "generators/prompts_solved": int(solved.any(axis=0).sum()),
        "generators/correct_paths": float(np.mean([len(set().union(*row)) for row in zip(*paths, strict=True)])),
    }
    measured = results.outcomes["tuned"].kl_from
    undefined = [name for name, divergence in measured.items() if np.isnan(divergence.kl).all()]
    counts |= {f"tuned/{KL_FROM}{name}": float("nan") for name in undefined} | {
        "generators/kl_undefined": len(undefined)
    }
    selected = by_generator(results.selections["tuned"], generators.widths)
    for number, one in enumerate(each):
        found: dict[str, float | str] = {
            **_drawn(one, right[number], paths[number]),
            "prompts_solved_only": int((solved[number] & (solved.sum(axis=0) == 1)).sum()),
            **selected[number],
            **of_pool(one.pool, uses),
        }
        counts |= {f"generators/{one.name}/{name}": value for name, value in found.items()}
    return counts


def _drawn(one: Generator, right: np.ndarray, paths: list[set[str]]) -> dict[str, float | str]:
    sizes = powers_of_two(one.pool.shape[1])
    solved = pass_at_k(right.astype(float), sizes).mean(axis=0)
    return {
        "samples": one.pool.shape[1],
        "tokens": float(one.pool.length.sum()),
        "parameters": loading.count_parameters(one.policy),
        "outcomes": one.outcomes_name,
        "token_ids": "the student's" if one.differs is None else f"another {one.differs}",
        "reencoded": 0 if one.differs is None else one.usable.size,
        "left_out": int((~one.usable).sum()),
        **{f"pass@{k}": float(value) for k, value in zip(sizes, solved, strict=True)},
        "correct_paths": float(np.mean([len(row) for row in paths])),
    }


def by_generator(chosen: Selection, widths: Sequence[int]) -> list[dict[str, float | str]]:
    """What of a selection from pools side by side, of these widths, is each pool's."""
    origin = np.searchsorted(np.cumsum(widths), chosen.column, side="right")  # [K]
    covered = [set(chosen.row[origin == number].tolist()) for number in range(len(widths))]
    found: list[dict[str, float | str]] = []
    for number, rows in enumerate(covered):
        others = set().union(*(other for place, other in enumerate(covered) if place != number))
        found.append(
            {
                "selected": int((origin == number).sum()),
                "selected_share": float((origin == number).mean()),
                "prompts_covered": len(rows),
                "prompts_covered_only": len(rows - others),
            }
        )
    return found


def correct_paths(pool: Completions, right: np.ndarray, task: Task) -> list[set[str]]:
    """[M] sets: of each prompt, the paths of its right completions (right: [M, N] bool); those without one are none."""
    found: list[set[str]] = []
    for rows, part in pool.shards():
        for texts, ours in zip(np.asarray(part.text), right[rows], strict=True):
            paths = {task.path(text) for text in texts[ours]}
            found.append({path for path in paths if path is not None})
    return found
