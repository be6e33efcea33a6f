"""Accuracy of the fine-tuned policy against how many samples its training pool took in all."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.records.read import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, beside, guide, in_panels, legend_above, line, where
from bench.reporting.groups import Group
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, sequence
from bench.reporting.tables.adaptive import TOTAL, those_adaptive
from bench.reporting.tables.shared import all_runs, over_what, spread


class Point(NamedTuple):
    """What one way of sampling, given one budget, came to."""

    label: str  # of the way: points of one label are joined
    samples: float  # drawn of training prompts in all, mean over seeds
    accuracy: Estimate
    kl: Estimate | None  # nats a sequence


def samples_budget(groups: Sequence[Group]) -> Figure | None:
    """Every way of sampling training prompts of bench.adaptive, N by N; None where every run had another procedure."""
    groups = those_adaptive(groups)
    if not groups:
        return None
    points = [point(group, name) for name, found in in_panels(groups, ("num_completions",)) for group in found]
    base = groups[0].mean("base", "pass", "accuracy", 1)
    return budget_figure(points, groups, base=base)


def point(group: Group, label: str, metric: str = TOTAL) -> Point:
    """metric: of metrics.json, where a run says how many samples it drew of training prompts."""
    samples = sum(float(run.metrics[metric]) for run in group.runs) / len(group.runs)
    moved = group.series("tuned", "policy", "kl")
    accuracy = group.mean("tuned", "pass", "accuracy", 1)
    return Point(label or "all", samples, accuracy, group.mean("tuned", "policy", "kl", 1) if moved else None)


def budget_figure(points: Sequence[Point], groups: Sequence[Group], *, base: Estimate | None = None) -> Figure:
    """Accuracy and KL against the total of samples, a line for each label; base: the untuned policy's accuracy."""
    rows: Rows = [
        {
            "label": one.label,
            "samples": one.samples,
            **spread("accuracy", one.accuracy),
            **spread("kl", one.kl),
        }
        for one in sorted(points, key=lambda one: (one.label, one.samples))
    ]
    return Figure(
        name="samples_budget",
        caption=(
            "Accuracy on held-out prompts, and KL from the raw base, of the policy that was fine-tuned on accepted "
            "completions, against the samples that were drawn of all training prompts together (mean over seeds); "
            "ways with as many stand side by side. "
            f"{'Dotted: the base. ' if base else ''}{over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _draw(drawn, rows, base),
        width=FULL_WIDTH,
        height=COLUMN_WIDTH * 0.85,
    )


def _draw(drawn: Any, rows: Rows, base: Estimate | None) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    labels = list(dict.fromkeys(row["label"] for row in rows))
    panels = drawn.subplots(1, 2, sharex=True)
    titles = {"accuracy": "accuracy on held-out prompts", "kl": "KL from the base (nats a sequence)"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for place, (label, look) in enumerate(zip(labels, sequence(len(labels)), strict=True)):
            found = [row for row in where(rows, label=label) if row[key] is not None]
            if found:
                line(axes, beside(found, "samples", place, len(labels)), "samples", key, look, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("samples of training prompts in all")
        axes.set_ylabel(title)
    if base is not None:
        guide(panels[0], y=base.value)
    legend_above(drawn, list(panels))
