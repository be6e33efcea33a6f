"""The figure of hybrids of demonstrations and samples: accuracy and KL against the samples that were paid for."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, legend_above, line, where
from bench.reporting.groups import Group
from bench.reporting.hybrids import curves, points
from bench.reporting.style import FULL_WIDTH, QUIET, Look, sequence
from bench.reporting.tables.shared import over_what, spread

PANELS = {"pass@1": ("pass", "accuracy", 1), "KL from the base (nats a sequence)": ("policy", "kl", 1)}
APART = 0.005  # of the axis, between the points of two curves at as many samples


def hybrid_figure(groups: Sequence[Group]) -> Figure | None:
    """Two panels over the samples a training prompt, a curve a gate; None where no run is a hybrid."""
    found = points(groups)
    if not found:
        return None
    made = curves(found)
    rows = [
        {
            "gate": name,
            "point": one.label,
            "easy_share": one.share,
            "samples": one.samples,
            "measure": measure,
            **spread("value", one.group.mean("tuned", *cell)),
        }
        for name, own in made.items()
        for one in own
        for measure, cell in PANELS.items()
    ]
    return Figure(
        name="hybrid",
        caption=(
            "Policies fine-tuned on demonstrations of the easy prompts and accepted samples of the others, by the gate "
            "that says which are easy, against the samples paid for; every gate ends in full SFT (none) and full RFT. "
            "Points at equal samples stand side by side. "
            f"{over_what([one.group for one in found])}."
        ),
        rows=rows,
        runs=[run for one in found for run in one.group.runs],
        draw=lambda drawn: _draw(drawn, rows, list(made)),
        width=FULL_WIDTH,
        height=0.5 * FULL_WIDTH,
    )


def _draw(drawn: Any, rows: Rows, names: Sequence[str]) -> None:
    coloured = [name for name in names if name != "random"]
    looks = dict(zip(coloured, sequence(len(coloured)), strict=True)) | {"random": Look(QUIET, "o", "--")}
    apart = APART * (max(row["samples"] for row in rows) or 1.0)
    panels = drawn.subplots(1, 2)
    for axes, measure in zip(panels, PANELS, strict=True):
        for place, name in enumerate(names):
            own = where(rows, gate=name, measure=measure)
            beside = apart * (place - (len(names) - 1) / 2)
            line(axes, [row | {"x": row["samples"] + beside} for row in own], "x", "value", looks[name], label=name)
        axes.set_xlabel("samples a training prompt")
        axes.set_ylabel(measure)
    legend_above(drawn, panels)
