"""Temperature by top-p, or any two settings: what the fine-tuned policy gains, what Best-of-n gains, and at what KL."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice
from bench.reporting.exhibit import Figure, shows
from bench.reporting.finish import text_width
from bench.reporting.groups import Group, order_of
from bench.reporting.words import best_of_n_name

DEFAULT = {"x": "top_p", "y": "temperature"}
NAMES = {"top_p": "top-p"}
SMALLEST = 4.5  # points of text that can be read
PANELS = {"tuned": "accuracy, fine-tuned", "best_of_n": "accuracy, {best}", "kl": "KL of the fine-tuned (nats)"}


@shows("figures", 30)
def heat_map(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """All of PANELS where nothing else was swept, else the fine-tuned accuracy for each setting of what else was.

    axes: any two settings in which the groups differ, instead of top-p (x) and temperature (y). None without at least
    two values of both.
    """
    asked, swept = axes.get("heat_map", {}), list(groups[0].settings)
    wanted = DEFAULT | dict(asked)
    if not set(wanted.values()) <= set(swept) and not (asked and swept):
        return None
    x, y = (choice("heat_map", {"heat_map": wanted}, swept, axis) for axis in DEFAULT)
    if x == y:
        raise BenchError(f"x={x} y={y} is not possible for heat_map: they must be two settings.")
    faceted = [
        (title, panel)
        for title, panel in arrange.in_panels(groups, (x, y))
        if all(len({group.settings[name] for group in panel}) > 1 for name in (x, y))
    ]
    if not 0 < len(faceted) <= plots.MOST_PANELS:
        return None
    shown = [group for _, panel in faceted for group in panel]
    largest = min(max(group.series("base", "best_of_n", "accuracy")) for group in shown)
    rows = [row for title, panel in faceted for group in panel for row in _cells(title, group, largest, (y, x))]
    what, panels = "accuracy of one sample of the fine-tuned policy", len(PANELS)
    if len(faceted) == 1:
        what += f", of Best-of-{largest} with the same sampler, and the fine-tuned policy's KL from the raw base"
    else:
        rows, panels = plots.where(rows, of="tuned"), len(faceted)
    settings = f"{NAMES.get(y, y)} by {NAMES.get(x, x)}"
    return plots.figure(
        "heat_map",
        f"{settings[0].upper()}{settings[1:]}: {what}; below each value half the width of its interval.",
        rows,
        shown,
        lambda canvas, rows: _draw(canvas, rows, x, y),
        (style.FULL_WIDTH, 0.4 + (0.4 + 0.36 * len(plots.values_of(rows, y))) * -(-panels // 3)),
        axes={"x": x, "y": y},
    )


def _cells(title: str, group: Group, largest: int, names: Sequence[str]) -> plots.Rows:
    measured = {
        "tuned": (None, group.mean("tuned", "pass", "accuracy", 1)),
        "best_of_n": (largest, group.mean("base", "best_of_n", "accuracy", largest)),
        "kl": (None, group.mean("tuned", "policy", "kl", 1)),
    }
    cell = {name: group.settings[name] for name in names}
    best = best_of_n_name(group.runs).replace("-n", f"-{largest}")
    return [
        {"panel": title or PANELS[of].format(best=best), **cell, "of": of, "n": n, **tables.spread("value", estimate)}
        for of, (n, estimate) in measured.items()
    ]


def _draw(canvas: Any, rows: plots.Rows, x: str, y: str) -> None:
    titles = plots.values_of(rows, "panel")
    panels = plots.grid_of(canvas, len(titles), sharey=True, sharex=True)
    across, down = (sorted({row[name] for row in rows}, key=order_of) for name in (x, y))
    scales = {"kl": "nats", "accuracy": "accuracy"}
    scaled: dict[str, list[Any]] = {name: [] for name in scales}
    for axes, title in zip(panels, titles, strict=True):
        here = plots.where(rows, panel=title)
        scale = "kl" if here[0]["of"] == "kl" else "accuracy"
        values = [row["value"] for row in rows if (row["of"] == "kl") == (scale == "kl")]
        grid = np.full((len(down), len(across)), np.nan)
        for row in here:
            grid[down.index(row[y]), across.index(row[x])] = row["value"]
        ends = {"vmin": min(values), "vmax": max(*values, min(values) + 1e-9)}
        image = axes.imshow(grid, cmap="cividis", aspect="auto", **ends)
        scaled[scale].append((axes, image))
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(down)), down)
        axes.set_title(title)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    plots.name_axes(panels, NAMES.get(x, x), NAMES.get(y, y))
    for name, label in scales.items():
        if scaled[name]:
            shown, images = zip(*scaled[name], strict=True)
            bar = panels[0].get_figure().colorbar(images[-1], ax=shown, label=label)
            bar.outline.set_visible(False)
    style.lay_out(panels[0].get_figure(root=True))  # now the cells have their size
    for axes, image in (pair for pairs in scaled.values() for pair in pairs):
        for row in plots.where(rows, panel=axes.get_title()):
            at = across.index(row[x]), down.index(row[y])
            _write(axes, row, at, (len(across), len(down)), "w" if image.norm(row["value"]) < 0.5 else "k")


def _write(axes: Any, row: plots.Row, at: tuple[int, int], cells: tuple[int, int], colour: str) -> None:
    """Write a cell's value over half of its interval, in a size that fits; nothing where that is unreadable."""
    text = f"{row['value']:.2f}\n±{(row['value_high'] - row['value_low']) / 2:.2f}"
    size = style.legend_size() - 0.5
    room = np.array(axes.bbox.size) / axes.get_figure(root=True).dpi / cells * 0.9  # inches
    size *= min(1.0, room[0] / text_width(text, size), room[1] / (2.5 * size / 72))
    if size > SMALLEST:
        axes.text(*at, text, ha="center", va="center", fontsize=size, color=colour)
