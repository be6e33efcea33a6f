"""The figure of pools that several policies drew: accuracy of what was trained on them, whose samples, how far."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, legend_above, line, where
from bench.reporting.groups import Group
from bench.reporting.mixes import Mix, mixes
from bench.reporting.style import FULL_WIDTH, LOOKS, Look, sequence
from bench.reporting.tables.shared import over_what, spread
from bench.reporting.ways import named

APART = 0.13  # of a row, between the generators' markers


def generators_figure(groups: Sequence[Group]) -> Figure | None:
    """Three panels with a row a mix; None where no pool was drawn by named generators."""
    found = mixes(groups)
    if not found:
        return None
    found = sorted(found, key=lambda mix: (list(mix.others.values()), len(mix.names)), reverse=True)
    rows = [row for mix in found for row in _rows(mix)]
    return Figure(
        name="generators",
        caption=(
            "Policies fine-tuned on what was selected from pools that different generators drew. Left: accuracy of one "
            "sample of the tuned policy, hollow: of each generator itself. Middle: whose completions were selected. "
            "Right: the tuned policy's KL from each generator, none where its token ids are others. "
            f"{over_what([mix.group for mix in found])}."
        ),
        rows=rows,
        runs=[run for mix in found for run in mix.group.runs],
        draw=lambda drawn: _draw(drawn, rows),
        width=FULL_WIDTH,
        height=0.9 + 0.3 * len(found),
    )


def _rows(mix: Mix) -> Rows:
    rest = named(mix.group, list(mix.others))
    return [
        {
            "settings": f"{mix.label}\n{rest}" if rest else mix.label,
            "generator": name,
            **spread("tuned", mix.group.mean("tuned", "pass", "accuracy", 1)),
            **spread("own", mix.accuracy(name)),
            "selected_share": mix.mean(f"generators/{name}/selected_share"),
            **spread("kl", mix.kl_from(name)),
        }
        for name in mix.names
    ]


def _draw(drawn: Any, rows: Rows) -> None:
    settings = list(dict.fromkeys(row["settings"] for row in rows))
    names = list(dict.fromkeys(row["generator"] for row in rows))
    names.sort(key=lambda name: min(row["own"] for row in where(rows, generator=name)))
    looks = dict(zip(names, sequence(len(names)), strict=True))
    placed = [
        row | {"place": settings.index(row["settings"]), "beside": settings.index(row["settings"]) + nudge}
        for row in rows
        for nudge in [APART * (names.index(row["generator"]) - (len(names) - 1) / 2)]
    ]
    accuracy, share, kl = drawn.subplots(1, 3, sharey=True, width_ratios=(3, 2, 3))
    first = [next(row for row in placed if row["settings"] == one) for one in settings]
    line(accuracy, first, "tuned", "place", LOOKS["tuned"], linestyle="none", label="tuned")
    for name, look in looks.items():
        own = where(placed, generator=name)
        line(accuracy, own, "own", "beside", look, linestyle="none", markerfacecolor="white", label=name)
        known = [row for row in own if row["kl"] is not None]
        if known:
            line(kl, known, "kl", "beside", look, linestyle="none")
    _stack(share, placed, settings, looks)
    accuracy.set_xlabel("held-out accuracy")
    share.set_xlabel("share selected")
    kl.set_xlabel("KL from it (nats a sequence)")
    accuracy.set_yticks(range(len(settings)), settings)
    accuracy.set_ylim(-0.6, len(settings) - 0.4)
    for axes in (accuracy, share, kl):
        axes.tick_params(axis="y", length=0, labelsize=6)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.4)
        axes.set_axisbelow(True)
    legend_above(drawn, accuracy)


def _stack(axes: Any, rows: Rows, settings: Sequence[str], looks: dict[str, Look]) -> None:
    """Each row's shares from left to right."""
    ends = dict.fromkeys(settings, 0.0)
    for name, look in looks.items():
        for row in where(rows, generator=name):
            axes.barh(
                row["place"], row["selected_share"], 0.6, left=ends[row["settings"]], color=look.colour, linewidth=0
            )
            ends[row["settings"]] += row["selected_share"]
    axes.set_xlim(0, 1)
