"""Temperature by top-p: what the fine-tuned policy gains, what Best-of-n gains, and at what KL."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, in_panels, order_of, where
from bench.reporting.groups import Group
from bench.reporting.style import FULL_WIDTH, LABEL_SIZE
from bench.reporting.tables.shared import over_what, spread

AXES = ("temperature", "top_p")
PANELS = {"tuned": "accuracy, fine-tuned", "best_of_n": "accuracy, Best-of-{n}", "kl": "KL of the fine-tuned (nats)"}


def heat_maps(groups: Sequence[Group]) -> list[Figure]:
    """One figure for each setting of what else was swept; none without at least two temperatures and two top-p."""
    if not all(name in groups[0].settings for name in AXES):
        return []
    return [
        _heat_map(title, found)
        for title, found in in_panels(groups, AXES)
        if all(len({group.settings[name] for group in found}) > 1 for name in AXES)
    ]


def _heat_map(title: str, groups: Sequence[Group]) -> Figure:
    largest = min(max(group.series("base", "best_of_n", "accuracy")) for group in groups)
    rows: Rows = []
    for group in groups:
        measured = {
            "tuned": group.mean("tuned", "pass", "accuracy", 1),
            "best_of_n": group.mean("base", "best_of_n", "accuracy", largest),
            "kl": group.mean("tuned", "policy", "kl", 1),
        }
        cell = {name: group.settings[name] for name in AXES}
        rows += [
            {**cell, "of": of, "n": largest if of == "best_of_n" else None, **spread("value", found)}
            for of, found in measured.items()
        ]
    name = "_".join(["heat_map", *"".join(c if c.isalnum() else " " for c in title).split()])
    return Figure(
        name=name,
        caption=(
            f"Temperature by top-p{f' at {title}' if title else ''}: accuracy of one sample of the fine-tuned policy, "
            f"of Best-of-{largest} with the same sampler, and the fine-tuned policy's KL from the raw base; below each "
            f"value half the width of its interval. {over_what(groups)}."
        ),
        rows=rows,
        runs=[run for group in groups for run in group.runs],
        draw=lambda drawn: _draw(drawn, rows, largest),
        width=FULL_WIDTH,
        height=0.75 + 0.42 * len({row["temperature"] for row in rows}),
    )


def _draw(drawn: Any, rows: Rows, largest: int) -> None:
    panels = drawn.subplots(1, len(PANELS), sharey=True)
    across, down = (sorted({row[name] for row in rows}, key=order_of) for name in reversed(AXES))
    accuracies = [row["value"] for row in rows if row["of"] != "kl"]
    for axes, (of, title) in zip(panels, PANELS.items(), strict=True):
        grid = np.full((len(down), len(across)), np.nan)
        for row in where(rows, of=of):
            grid[down.index(row["temperature"]), across.index(row["top_p"])] = row["value"]
        ends = (min(accuracies), max(accuracies)) if of != "kl" else (np.nanmin(grid), np.nanmax(grid))
        image = axes.imshow(grid, cmap="cividis", vmin=ends[0], vmax=max(ends[1], ends[0] + 1e-9), aspect="auto")
        for row in where(rows, of=of):
            value, half = row["value"], (row["value_high"] - row["value_low"]) / 2
            place = across.index(row["top_p"]), down.index(row["temperature"])
            dark = image.norm(value) < 0.5
            text = f"{value:.2f}\n±{half:.2f}"
            axes.text(*place, text, ha="center", va="center", fontsize=LABEL_SIZE + 0.5, color="w" if dark else "k")
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(down)), down)
        axes.set_xlabel("top-p")
        axes.set_title(title.format(n=largest))
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0].set_ylabel("temperature")
