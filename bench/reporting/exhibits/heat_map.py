"""Temperature by top-p: what the fine-tuned policy gains, what Best-of-n gains, and at what KL."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.reporting import arrange, plots, style, tables
from bench.reporting.exhibit import Figure, shows
from bench.reporting.groups import Group, order_of

AXES = ("temperature", "top_p")
MOST_PANELS = 24
PANELS = {"tuned": "accuracy, fine-tuned", "best_of_n": "accuracy, Best-of-{n}", "kl": "KL of the fine-tuned (nats)"}


@shows("figures", 30)
def heat_map(groups: Sequence[Group]) -> Figure | None:
    """All of PANELS where nothing else was swept, else the fine-tuned accuracy for each setting of what else was.

    None without at least two temperatures and two top-p.
    """
    if not all(name in groups[0].settings for name in AXES):
        return None
    faceted = [
        (title, panel)
        for title, panel in arrange.in_panels(groups, AXES)
        if all(len({group.settings[name] for group in panel}) > 1 for name in AXES)
    ]
    if not 0 < len(faceted) <= MOST_PANELS:
        return None
    shown = [group for _, panel in faceted for group in panel]
    largest = min(max(group.series("base", "best_of_n", "accuracy")) for group in shown)
    rows = [row for title, panel in faceted for group in panel for row in _cells(title, group, largest)]
    what, panels = "accuracy of one sample of the fine-tuned policy", len(PANELS)
    if len(faceted) == 1:
        what += f", of Best-of-{largest} with the same sampler, and the fine-tuned policy's KL from the raw base"
    else:
        rows, panels = plots.where(rows, of="tuned"), len(faceted)
    return plots.figure(
        "heat_map",
        f"Temperature by top-p: {what}; below each value half the width of its interval.",
        rows,
        shown,
        _draw,
        (style.FULL_WIDTH, 0.4 + (0.4 + 0.36 * len(plots.values_of(rows, "temperature"))) * -(-panels // 3)),
    )


def _cells(title: str, group: Group, largest: int) -> plots.Rows:
    measured = {
        "tuned": (None, group.mean("tuned", "pass", "accuracy", 1)),
        "best_of_n": (largest, group.mean("base", "best_of_n", "accuracy", largest)),
        "kl": (None, group.mean("tuned", "policy", "kl", 1)),
    }
    cell = {name: group.settings[name] for name in AXES}
    return [
        {"panel": title or PANELS[of].format(n=largest), **cell, "of": of, "n": n, **tables.spread("value", estimate)}
        for of, (n, estimate) in measured.items()
    ]


def _draw(canvas: Any, rows: plots.Rows) -> None:
    titles = plots.values_of(rows, "panel")
    panels = plots.grid_of(canvas, len(titles), sharey=True, sharex=True)
    across, down = (sorted({row[name] for row in rows}, key=order_of) for name in reversed(AXES))
    accuracies = [row["value"] for row in rows if row["of"] != "kl"]
    wide = plots.columns_of(len(titles))
    for place, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        here = plots.where(rows, panel=title)
        grid = np.full((len(down), len(across)), np.nan)
        for row in here:
            grid[down.index(row["temperature"]), across.index(row["top_p"])] = row["value"]
        values = [row["value"] for row in here] if here[0]["of"] == "kl" else accuracies
        ends = {"vmin": min(values), "vmax": max(*values, min(values) + 1e-9)}
        image = axes.imshow(grid, cmap="cividis", aspect="auto", **ends)
        for row in here:
            value, half = row["value"], (row["value_high"] - row["value_low"]) / 2
            at = across.index(row["top_p"]), down.index(row["temperature"])
            text, dark = f"{value:.2f}\n±{half:.2f}", image.norm(value) < 0.5
            axes.text(
                *at, text, ha="center", va="center", fontsize=style.legend_size() - 0.5, color="w" if dark else "k"
            )
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(down)), down)
        axes.set_title(title)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if place >= len(titles) - wide:
            axes.set_xlabel("top-p")
        if place % wide == 0:
            axes.set_ylabel("temperature")
