r"""Several generators: several policies draw the training pool; one of them may be the student, which is fine-tuned.

python -m bench procedure=generators 'procedure.drawn_by=[student,larger]' procedure.generators.larger.weight=2
python -m bench procedure=generators +policy@procedure.generators.mine.policy=folder \
    procedure.generators.mine.policy.path=FOLDER +procedure.generators.mine.weight=1 \
    'procedure.drawn_by=[student,mine]'                                              your own generator
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Rewards, Selection
from bench.blocks import side_by_side
from bench.config.rules import ABOVE_ZERO, PLAIN_NAME, TRUE_OR_FALSE, Rule, checked, list_of, text
from bench.errors import BenchError
from bench.estimators.compute import best_of_n_query_flops
from bench.estimators.curves import pass_at_k
from bench.evaluation.measures import KL_FROM, powers_of_two
from bench.models import loading
from bench.procedures.findings import ArtifactGraph, Findings, Results, TrainingCost, correct_paths, total, uses_of
from bench.procedures.parts import Parts
from bench.procedures.sft import solution_metrics, with_solutions
from bench.scoring.verifier import verify
from bench.seeds import generator as random_generator
from bench.seeds import small_seed
from bench.selection.cells import prompts_dropped
from bench.selection.pairs import refuse_pairs
from bench.store import Use, unique
from bench.tasks import Task


def _each_generator(value: Any) -> Iterator[tuple[str, Any, Rule]]:
    for name, entry in value.items() if isinstance(value, Mapping) else ():
        yield str(name), str(name), PLAIN_NAME
        yield str(name), entry, GENERATOR
        if isinstance(entry, Mapping) and "weight" in entry:
            yield f"{name}.weight", entry["weight"], ABOVE_ZERO


GENERATOR = Rule(
    lambda entry: isinstance(entry, Mapping) and set(entry) == {"policy", "weight"}, "a policy and a weight, no more"
)
GENERATORS = Rule(
    lambda value: (
        isinstance(value, Mapping) and len(value) > 0 and sum(entry["policy"] is None for entry in value.values()) < 2
    ),
    "one or more generators by name, at most one of which has policy=null: the student",
    _each_generator,
)
NAMES = list_of(
    text(r"\S+", "a name"), "a list of one or more generators' names, each once", empty=False, distinct=True
)


@dataclass(frozen=True)
class Generator:
    """One generator, and the samples that it drew."""

    name: str
    policy: Policy
    is_student: bool
    pool: Completions  # [M, n] as it was drawn
    differs: str | None  # how its token ids differ from the student's: its texts were re-encoded; None: equal ids
    usable: np.ndarray  # [M, n] bool; False: the student's tokenizer can't reproduce the text

    @property
    def outcomes_name(self) -> str:
        """The name of its policy in the records."""
        return "base" if self.is_student else f"generator_{self.name}"


@dataclass(frozen=True)
class Generators(Findings):
    """The generators of the training pool."""

    each: tuple[Generator, ...]  # in the order of its columns
    sampled: Completions  # [M, N] the training pool without worked solutions
    written: Completions | None  # [M, 1] the worked solutions, in its last column; None: not trained on

    @property
    def widths(self) -> list[int]:
        """The number of columns of the pool that each generator drew."""
        return [generator.pool.shape[1] for generator in self.each]

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """The metrics of each generator as generators/NAME/..., and of all together as generators/....

        samples: samples per prompt. pass@k: on the training prompts, by the task's verifier, from all samples.
        correct_paths: distinct correct reasoning paths per prompt. prompts_solved_only: prompts that no other generator
        solved. selected, selected_share: selected completions. prompts_covered: prompts with a selected completion;
        prompts_covered_only: those without one of another generator. tokens: of the samples; cost_*: of the stored
        units that hold them. reencoded: completions that were re-encoded in the student's token ids; left_out: those
        whose text changed by that. generators/kl_undefined counts the tuned/kl_from_NAME that are NaN, since the token
        ids differ.
        """
        right = [verify(results.train, generator.pool, task=task).value == 1 for generator in self.each]  # [M, n]
        paths = [correct_paths(generator.pool, gold, task) for generator, gold in zip(self.each, right, strict=True)]
        solved = np.stack([gold.any(axis=1) for gold in right])  # [G, M]
        measured = results.outcomes["tuned"].kl_from
        undefined = [name for name, divergence in measured.items() if np.isnan(divergence.kl).all()]
        metrics: dict[str, float | str] = {
            "generators/names": " ".join(generator.name for generator in self.each),
            "generators/prompts_solved": int(solved.any(axis=0).sum()),
            "generators/correct_paths": float(np.mean([len(set().union(*row)) for row in zip(*paths, strict=True)])),
            **{f"tuned/{KL_FROM}{name}": float("nan") for name in undefined},
            "generators/kl_undefined": len(undefined),
        }
        selected = by_generator(results.selections["tuned"], self.widths)
        for number, generator in enumerate(self.each):
            units = uses_of(generator.pool, uses)
            sizes, differs = powers_of_two(self.widths[number]), generator.differs
            passed = pass_at_k(right[number].astype(float), sizes).mean(axis=0)
            own: dict[str, float | str] = {
                "samples": self.widths[number],
                "tokens": float(generator.pool.length.sum()),
                "parameters": loading.count_parameters(generator.policy),
                "outcomes": generator.outcomes_name,
                "token_ids": "the student's" if differs is None else f"another {differs}",
                "reencoded": 0 if differs is None else generator.usable.size,
                "left_out": int((~generator.usable).sum()),
                **{f"pass@{k}": float(value) for k, value in zip(sizes, passed, strict=True)},
                "correct_paths": float(np.mean([len(row) for row in paths[number]])),
                "prompts_solved_only": int((solved[number] & (solved.sum(axis=0) == 1)).sum()),
                **selected[number],
                "cost_generated_tokens": total("generated_tokens", units),
                "cost_flops": total("flops", units),
                "cost_seconds": round(sum(use.seconds for use in units), 3),
            }
            metrics |= {f"generators/{generator.name}/{name}": value for name, value in own.items()}
        return metrics if self.written is None else metrics | solution_metrics(self.written, results.train, task)

    def drawn(self, results: Results) -> tuple[Completions, np.ndarray]:
        return self.sampled, results.rewards.value[:, : self.sampled.shape[1]]

    def drawn_by(self, results: Results) -> list[str]:
        return self._per_column([generator.outcomes_name for generator in self.each])

    def labels(self, results: Results) -> dict[str, Sequence[str]]:
        return {"generator": self._per_column([generator.name for generator in self.each])}

    def _per_column(self, names: Sequence[str]) -> list[str]:
        drawn = [name for name, width in zip(names, self.widths, strict=True) for _ in range(width)]
        return drawn if self.written is None else [*drawn, "solution"]

    def cost(self, results: Results, uses: Sequence[Use]) -> TrainingCost:
        """The cost, with the generators' fine-tuning, and their FLOPs beyond those of the base for as many samples."""
        cost = super().cost(replace(results, pool=self.sampled), uses)
        others = {generator.policy.path.parts[-2:] for generator in self.each if not generator.is_student}
        tuned = tuple(use for use in unique(uses) if use.stage == "sft" and (use.stage, use.key) in others)

        def flops(policy: Policy, pool: Completions) -> float:
            size, length = loading.count_parameters(policy), float(pool.length.mean())
            return best_of_n_query_flops(size, 0, cost.prompt_tokens, length, pool.shape[1])

        beyond = sum(flops(generator.policy, generator.pool) for generator in self.each)
        beyond -= flops(results.policies["base"], self.sampled)
        return replace(cost, other_generators_flops=len(results.train) * beyond, probing=tuned)

    def pools(self, graph: ArtifactGraph, results: Results, base: str) -> list[str]:
        names = []
        for generator in self.each:
            policy = base if generator.is_student else graph.policy(generator.outcomes_name, generator.policy)
            names.append(graph.pool(f"train_{generator.name}", generator.pool, [policy]))
        if self.written is not None:
            names.append(graph.pool("train_solutions", self.written, []))
        return list(dict.fromkeys(names))


def check_settings(config: Mapping[str, Any]) -> None:
    """BenchError where drawn_by names an unknown generator, or worked solutions would join pairs."""
    if config["procedure"]["solutions"]:
        refuse_pairs(config, "procedure.solutions=true", "worked solutions are trained on as single completions")
    known = config["procedure"]["generators"]
    for name in config["procedure"]["drawn_by"]:
        if name not in known:
            raise BenchError(f"procedure.drawn_by={name} is not allowed: the generators are {', '.join(known)}.")


@checked(check_settings)
def from_several(
    parts: Parts,
    *,
    generators: Annotated[Mapping[str, Mapping[str, Any]], GENERATORS],
    drawn_by: Annotated[Sequence[str], NAMES],
    solutions: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Results:
    """Run one experiment whose training pool is drawn by several policies, and select regardless of the generator.

    generators: name -> {"policy": a policy, or None for the student; "weight": above 0}. drawn_by: the names of those
    that draw; the others are not loaded. They share num_completions per prompt by weight (see `shares`), so that all
    mixes cost equally many samples. Scoring and selection see one pool: `distinct_correct` keeps each path once over
    all generators. Source: pools of several models as in RFT (Yuan et al. 2023, arXiv 2308.01825).

    Each generator has its own random streams. The student has those of the run: with the student alone this equals
    `bench.experiment.run`, and both share artifacts. Texts of a generator with other token ids than the student's are
    re-encoded (bench.models.tokens); those that change are unscored, so that no selection takes them. The control
    ("matched") takes as many completions per prompt from the same pool. Every generator is judged on the held-out
    prompts too, and the KL of the tuned policy is estimated from each.
    """
    unknown = [name for name in drawn_by if name not in generators]
    if unknown:
        raise BenchError(
            f"procedure.drawn_by names {unknown[0]}, which is none of procedure.generators: {', '.join(generators)}."
        )
    if solutions:
        parts.refuse_without_solutions()
    train, base, score = parts.train, parts.base, parts.scorer

    each: list[Generator] = []
    readable: list[Completions] = []  # their pools [M, n] in the student's token ids
    weights = {name: generators[name]["weight"] for name in drawn_by}
    for name, count in shares(weights, parts.num_completions, seed=parts.seed).items():
        own = generators[name]["policy"]
        policy = base if own is None else parts.named(f"generator_{name}", own)
        stream = generator_seed(parts.seed, name, is_student=own is None)
        pool = parts.generation(train, policy, num_completions=count, seed=stream)
        in_ids, usable, differs = parts.readable(pool, policy)
        readable.append(in_ids)
        each.append(Generator(name, policy, own is None, pool, differs, usable))

    scored = score(train, side_by_side([generator.pool for generator in each])).value  # [M, N]
    usable = np.concatenate([generator.usable for generator in each], axis=1)
    rewards = Rewards(np.where(usable, scored, np.nan))
    union = side_by_side(readable)
    eligible = parts.prompt_filter(rewards.value)
    dropped = prompts_dropped(rewards.value, eligible)
    of_others = not all(generator.is_student for generator in each)
    selections = parts.select(eligible, union, rescored_on=train if of_others else None)
    pool, written = union, parts.demonstrations() if solutions else None
    if written is not None:
        pool, rewards, selections = with_solutions(parts, written, readable, rewards, selections)
    results = parts.train_and_judge(
        pool,
        rewards,
        selections,
        prompts_filtered=dropped,
        compared={generator.name: generator.policy for generator in each},
        findings=Generators(tuple(each), union, written),
    )
    others = {generator.outcomes_name: parts.judge(generator.policy) for generator in each if not generator.is_student}
    return replace(results, outcomes=results.outcomes | others)


def generator_seed(seed: int, name: str, *, is_student: bool) -> int:
    """The seed of a generator. Seeds differ: two policies with equal random numbers would draw similar samples."""
    return seed if is_student else small_seed(seed, "generator", name)


def shares(weights: Mapping[str, float], total: int, *, seed: int) -> dict[str, int]:
    """Divide `total` samples by weight: largest remainders, ties at random. BenchError where a generator gets none."""
    exact = np.array(list(weights.values()), float) * (total / sum(weights.values()))
    exact = np.where(np.abs(exact - np.round(exact)) < 1e-9, np.round(exact), exact)  # 4 x 0.25 is a whole number
    counts = np.floor(exact).astype(int)
    remainders = np.round(exact - counts, 9)
    chance = random_generator(seed, "shares").random(len(counts))
    first = np.lexsort((chance, -remainders))[: total - counts.sum()]
    counts[first] += 1
    none = [name for name, count in zip(weights, counts.tolist(), strict=True) if count == 0]
    if none:
        raise BenchError(
            f"num_completions={total} leaves none for {', '.join(none)} of procedure.drawn_by; raise it, or the weight."
        )
    return dict(zip(weights, counts.tolist(), strict=True))


def by_generator(chosen: Selection, widths: Sequence[int]) -> list[dict[str, float | str]]:
    """Per pool, the metrics of its part of a selection from pools side by side. widths: columns of each pool."""
    origin = np.searchsorted(np.cumsum(widths), chosen.column, side="right")  # [K]
    covered = [set(chosen.row[origin == number].tolist()) for number in range(len(widths))]
    return [
        {
            "selected": int((origin == number).sum()),
            "selected_share": float((origin == number).mean()),
            "prompts_covered": len(rows),
            "prompts_covered_only": len(rows.difference(*covered[:number], *covered[number + 1 :])),
        }
        for number, rows in enumerate(covered)
    ]
