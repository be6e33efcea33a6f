"""Tables that runs, sweeps and reports print, as aligned Markdown that fits a terminal."""

from collections.abc import Sequence

import numpy as np

from bench.records.read import Run
from bench.reporting.contrasts import contrast, recorded_primary
from bench.reporting.groups import Group, distinctions, estimate, in_order
from bench.reporting.ranking import Ranked
from bench.reporting.tables.comparison import main
from bench.reporting.tables.writing import markdown

KEPT = ("arm", "greedy", "sampled", "kl", "kl_unsolved", "kl_bound", "verdict")


def main_table(run: Run) -> str:
    """Base, fine-tuned policy, its random twin and Best-of-N at each n: accuracy and KL, with 95 % intervals.

    Best-of-1 is a row of its own where the run's sampler is not the raw base, which the policies are sampled like.
    """
    table = main([Group({}, (run,))])
    return markdown(type(table)(**{**vars(table), "columns": {key: table.columns[key] for key in KEPT}}).texts)


def headline(run: Run) -> str:
    """One line: the tuned policy's accuracy and KL, and what the selection did."""
    difference, verdict = _selection_effect(run)
    against = f", {difference} over control: {verdict}" if difference else ""
    return (
        f"tuned pass@1 {run.series('tuned', 'pass', 'accuracy')[1]}{against}; "
        f"KL {run.series('tuned', 'policy', 'kl')[1].value:.2f} nats"
    )


def runs_table(runs: Sequence[Run]) -> str:
    """One row a run, by what sets them apart: both arms' accuracy and the paired selection effect.

    Runs that differ in nothing but the seed, and have a control, get a last row: their mean, with an interval for new
    seeds on new prompts.
    """
    runs = in_order(runs)
    apart = distinctions([run.config for run in runs])
    seeded = len({run.config["seed"] for run in runs}) > 1
    effects = (("tuned", "pass"), ("control", "pass"), ("tuned", "greedy"), ("control", "greedy"))
    names = ("tuned pass@1", "control pass@1", "tuned greedy", "control greedy")
    rows = [("run", *apart[0], *(["seed"] if seeded else []), *names, "tuned - control", "verdict")]
    for settings, run in zip(apart, runs, strict=True):
        rows.append(
            (
                run.folder.name,
                *settings.values(),
                *([str(run.config["seed"])] if seeded else []),
                *(_accuracy(run, *effect) for effect in effects),
                *_selection_effect(run),
            )
        )
    if seeded and not apart[0] and all(run.controlled for run in runs):
        scores = [np.stack([run.per_prompt(*effect, "accuracy", 1) for run in runs]) for effect in effects]  # [S, M]
        found = contrast(scores[0], scores[1], "mean")
        means = [str(estimate(values, shares=True)) for values in scores]
        rows.append(("mean", f"all {len(runs)}", *means, str(found.difference), found.verdict))
    return markdown(rows)


def ranking_table(ranked: Sequence[Ranked]) -> str:
    """One row a method, best first, against its control and against the first."""
    means = ("tuned pass@1", "control pass@1", "tuned - control", "tuned is", "first - this", "first is", "KL")
    rows: list[tuple[str, ...]] = [("method", "seeds", *means)]
    rows += [
        (
            one.name,
            str(one.seeds),
            str(one.tuned),
            str(one.control or ""),
            str(one.effect.difference if one.effect else ""),
            one.effect_verdict,
            str(one.ahead.difference if one.ahead else ""),
            one.ahead_verdict,
            f"{one.kl.value:.2f}",
        )
        for one in ranked
    ]
    return markdown(rows)


def _accuracy(run: Run, arm: str, method: str) -> str:
    return str(run.series(arm, method, "accuracy")[1]) if arm != "control" or run.controlled else ""


def _selection_effect(run: Run) -> tuple[str, str]:
    """Tuned less control with its interval, and the verdict on it."""
    if not run.controlled:
        return "", "no control"
    difference, verdict = recorded_primary(run)
    return str(difference), verdict
