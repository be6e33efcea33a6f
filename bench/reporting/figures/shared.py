"""What figures share: whose Best-of-n curve is whose, rows with intervals, and how a series of rows is drawn."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.records.read import Estimate
from bench.reporting.groups import Group
from bench.reporting.style import QUIET, Look
from bench.reporting.tables.shared import spread
from bench.reporting.ways import in_order, named

Rows = list[dict[str, Any]]

MOST_TICKS = 7  # named on an axis
DODGE = 0.06  # octaves between the points of two series at one x
WIDEST = 0.4  # octaves from the first to the last of them


def rest_of(group: Group, names: Sequence[str]) -> dict[str, str]:
    """A group's settings but those in `names`."""
    return {name: value for name, value in group.settings.items() if name not in names}


def in_panels(groups: Sequence[Group], names: Sequence[str]) -> list[tuple[str, list[Group]]]:
    """(title, groups that differ in nothing but the settings in `names`), in order of the other settings."""
    alike: dict[Hashable, list[Group]] = {}
    for group in in_order(groups):
        alike.setdefault(str(rest_of(group, names)), []).append(group)
    return [(named(found[0], list(rest_of(found[0], names))), found) for found in alike.values()]


def curve_rows(curve: Mapping[int, Estimate], x: str, y: str, **labels: Any) -> Rows:
    """A row for each n of a curve: labels, n under the name `x`, and the value under `y` with its interval."""
    return [{**labels, x: n, **spread(y, found)} for n, found in curve.items()]


def where(rows: Sequence[dict[str, Any]], **wanted: Any) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def line(axes: Any, rows: Sequence[dict[str, Any]], x: str, y: str, look: Look, **more: Any) -> Any:
    """The rows as points with bars where they have intervals, joined by the look's line; `more` goes to errorbar."""
    settings: dict[str, Any] = {
        "color": look.colour,
        "marker": look.marker,
        "linestyle": look.line,
        "markersize": 3.5,
        "linewidth": 1.0,
        "elinewidth": 0.7,
    }
    return axes.errorbar(
        [row[x] for row in rows],
        [row[y] for row in rows],
        xerr=_bars(rows, x),
        yerr=_bars(rows, y),
        **(settings | more),
    )


def _bars(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray | None:
    """[2, rows] lengths below and above the values; None where these have no intervals."""
    if not rows or f"{name}_low" not in rows[0]:
        return None
    ends = np.array([[row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]] for row in rows], float)
    return np.maximum(ends.T, 0)  # rounding may put an end beyond the value


def beside(rows: Sequence[dict[str, Any]], x: str, place: int, count: int) -> Rows:
    """The rows moved a little along a logarithmic x, to their series' place among `count` of them.

    Points of several series at one x then stand side by side around it, and their bars can be told apart.
    """
    apart = min(DODGE, WIDEST / max(count - 1, 1))
    factor = 2.0 ** (apart * (place - (count - 1) / 2))
    return [row | {x: row[x] * factor} for row in rows]


def powers_axis(axes: Any, sizes: Sequence[int], label: str) -> None:
    """x in powers of two, each named where there is room for all."""
    shown = sorted(set(sizes))
    every = -(-len(shown) // MOST_TICKS)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown, ["" if i % every else f"{n:g}" for i, n in enumerate(shown)])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)


def columns_of(count: int) -> int:
    """Of so many panels: two for two or four, else three."""
    return min(count, 2 if count == 4 else 3)


def grid_of(drawn: Any, count: int, **sharing: Any) -> list[Any]:
    """`count` panels, row by row in `columns_of(count)`; the rest of the last row stays empty."""
    wide = columns_of(count)
    panels = list(np.ravel(drawn.subplots(-(-count // wide), wide, squeeze=False, **sharing)))
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[:count][-wide:]:
        panel.tick_params(labelbottom=True)  # with a shared axis only the last row would have numbers
    return panels[:count]


def legend_above(drawn: Any, axes: Any) -> None:
    """One legend for the whole figure, of the labelled series of `axes` (one panel or several), row by row.

    In as many columns as its width has room for.
    """
    found: dict[str, Any] = {}
    for panel in np.ravel(axes):
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    labels, room = list(found), drawn.get_figwidth() - 0.1
    columns = next(wide for wide in range(len(labels), 0, -1) if wide == 1 or _legend_width(labels, wide) <= room)
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]  # matplotlib fills columns
    drawn.legend(
        [found[labels[i]] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.0,
        handlelength=HANDLE,
        fontsize=LEGEND_SIZE,
    )


HANDLE = 2.4  # the length of a legend's lines, in its font's size
LEGEND_SIZE = 7  # points


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Inches of a legend whose labels fill its rows one after another."""
    longest = [max(len(label) for label in labels[column::columns]) for column in range(columns)]
    return sum(0.54 * letters + HANDLE + 1.8 for letters in longest) * LEGEND_SIZE / 72


def short(number: float, _: object = None) -> str:
    """1234567 as 1.23M; also a formatter of ticks."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def guide(axes: Any, *, x: float | None = None, y: float | None = None) -> None:
    """A thin line to read positions against."""
    look = {"color": QUIET, "linewidth": 0.6, "linestyle": ":", "zorder": 0}
    if x is not None:
        axes.axvline(x, **look)
    if y is not None:
        axes.axhline(y, **look)
