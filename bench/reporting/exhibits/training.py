"""Policies along one run's training: accuracy on validation prompts against updates, and against KL from the base."""

from collections.abc import Sequence
from typing import Any

from bench.evaluation.heldout import VALIDATION
from bench.records.read import Run
from bench.reporting import plots, style, tables
from bench.reporting.exhibit import Figure, shows
from bench.reporting.groups import Group


@shows("of_one_run", 110)
def training(groups: Sequence[Group]) -> Figure | None:
    """Left: accuracy of one sample after so many updates, the highest ringed. Right: the same against measured KL."""
    (run,) = groups[0].runs
    looks = {arm: style.LOOKS[arm] for arm in plots.TITLES} | style.elsewhere(
        [*dict.fromkeys(policy.arm for policy in run.elsewhere.values())]
    )
    rows = [row for arm in looks for row in _rows(run, arm)]
    if not rows:
        return None
    caption = (
        f"Policies along their training on {run.metrics[f'{VALIDATION}/prompts']} validation prompts (run "
        f"{run.folder.name}, seed {run.config['seed']}); 0 updates is the base. Ringed: the highest accuracy, which, "
        "as the best of several, is a little lower on other prompts. Bars: 95 % intervals over prompts."
    )
    best = {arm: run.metrics.get(f"{arm}/{VALIDATION}_best_updates") for arm in looks}
    size = style.FULL_WIDTH, 0.36 * style.FULL_WIDTH
    return plots.figure(
        "training", caption, rows, groups, lambda canvas, rows: _draw(canvas, rows, best, looks), size, over=""
    )


def _rows(run: Run, arm: str) -> plots.Rows:
    curves = {name: run.series(arm, VALIDATION, name) for name in ("accuracy", "greedy_accuracy", "kl")}
    return [
        {"arm": arm, "updates": updates}
        | {key: end for name, curve in curves.items() for key, end in tables.spread(name, curve.get(updates)).items()}
        for updates in curves["accuracy"]
    ]


def _draw(canvas: Any, rows: plots.Rows, best: dict[str, int | None], looks: dict[str, style.Look]) -> None:
    panels = plots.grid_of(canvas, 2, sharey=True)
    titles = {"updates": "updates", "kl": "KL from the base (nats per sequence)"}
    for axes, (x, title) in zip(panels, titles.items(), strict=True):
        for arm, look in looks.items():
            points = [row for row in plots.where(rows, arm=arm) if row[x] is not None]
            if points:
                plots.line(axes, points, x, "accuracy", look, label=plots.TITLES.get(arm, arm))
            for row in plots.where(points, updates=best[arm]):
                ring = style.Look(look.colour, "o", "none")
                point = plots.bare([row], x, "accuracy")
                plots.line(axes, point, x, "accuracy", ring, markersize=9, markerfacecolor="none")
        axes.set_xlabel(title)
    plots.name_axes(panels, y="accuracy on validation prompts")
