"""Policies along one run's training: accuracy on validation prompts against updates, and against KL from the base."""

from typing import Any

from bench.evaluation.along_training import VALIDATION
from bench.records.read import Run
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, line, where
from bench.reporting.style import FULL_WIDTH, LOOKS
from bench.reporting.tables.shared import ARMS, spread

NAMES = {"tuned": "fine-tuned", "control": ARMS["control"]}


def training_figure(run: Run) -> Figure | None:
    """Left: accuracy of one sample after so many updates, the highest ringed. Right: the same against measured KL.

    None where the run kept no policy on the way.
    """
    rows = [row for arm in NAMES for row in _rows(run, arm)]
    if not rows:
        return None
    return Figure(
        name="training",
        caption=(
            f"Policies along their training on {run.metrics[f'{VALIDATION}/prompts']} validation prompts (run "
            f"{run.folder.name}, seed {run.config['seed']}); 0 updates is the base. Ringed: the highest accuracy, "
            "which, as the best of several, is a little lower on other prompts. Bars: 95 % intervals over prompts."
        ),
        rows=rows,
        runs=[run],
        draw=lambda drawn: _draw(drawn, rows, run.metrics),
        width=FULL_WIDTH,
        height=0.36 * FULL_WIDTH,
    )


def _rows(run: Run, arm: str) -> Rows:
    curves = {name: run.series(arm, VALIDATION, name) for name in ("accuracy", "greedy_accuracy", "kl")}
    return [
        {"arm": arm, "updates": updates}
        | {key: end for name, curve in curves.items() for key, end in spread(name, curve.get(updates)).items()}
        for updates in curves["accuracy"]
    ]


def _draw(drawn: Any, rows: Rows, metrics: dict[str, Any]) -> None:
    left, right = drawn.subplots(1, 2, sharey=True)
    for arm, name in NAMES.items():
        found = where(rows, arm=arm)
        moved = [row for row in found if row["kl"] is not None]
        line(left, found, "updates", "accuracy", LOOKS[arm], label=name)
        line(right, moved, "kl", "accuracy", LOOKS[arm])
        best = where(found, updates=metrics.get(f"{arm}/{VALIDATION}_best_updates"))
        for axes, x in ((left, "updates"), (right, "kl")):
            for row in best:
                if row[x] is not None:
                    axes.plot(
                        row[x],
                        row["accuracy"],
                        marker="o",
                        markersize=9,
                        markerfacecolor="none",
                        markeredgecolor=LOOKS[arm].colour,
                        linestyle="none",
                    )
    left.set_xlabel("updates")
    left.set_ylabel("accuracy on validation prompts")
    right.set_xlabel("KL from the base (nats a sequence)")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, handlelength=2.5)
