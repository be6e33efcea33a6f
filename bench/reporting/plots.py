"""What figures share: figures from rows, rows of curves, series with intervals, panels, axes and legends."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.records.read import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.groups import Group
from bench.reporting.labels import Label, place_labels
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, QUIET, Look, legend_size
from bench.reporting.tables import all_runs, spread
from bench.reporting.words import over_what

Row = dict[str, Any]
Rows = list[Row]
Labels = Sequence[tuple[Any, Sequence[Label]]]  # the labels of points, by panel
Series = tuple[Rows, Look, dict[str, Any]]  # points, how they look, and more settings of `line`

MOST = 6  # panels, or curves, that one figure has room for
MOST_TICKS = 7  # named on an axis
DODGE = 0.06  # octaves between the points of two series at one x
WIDEST = 0.4  # octaves from the first to the last of them
HOLLOW = {"markerfacecolor": "white"}
HANDLE = 2.4  # the length of a legend's lines, in its font's size


def figure(
    name: str,
    caption: str,
    rows: Rows,
    groups: Sequence[Group],
    draw: Callable[[Any, Rows], Labels | None],
    size: tuple[float, float] = (COLUMN_WIDTH, COLUMN_WIDTH * 0.8),
) -> Figure | None:
    """A figure of `rows`, drawn by `draw(canvas, rows)`; None without rows. Its caption says what intervals mean.

    draw gets copies of the rows, to which it may add positions that the CSV does not have. It may return the labels
    of points by panel. They are placed last, after the legend. size: width and height in inches.
    """
    if not rows:
        return None

    def finish(canvas: Any, shown: Sequence[Row] = rows, texts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Draw these rows of the figure. texts: what is written -> what is to be written in its place."""
        labels = draw(canvas, [dict(row) for row in shown]) or ()
        if texts:
            labels = _reworded(canvas, labels, texts)
        legend_above(canvas)
        for axes, wanted in labels:
            place_labels(axes, wanted)

    return Figure(name, f"{caption} {over_what(groups)}.", rows, all_runs(groups), finish, *size)


def _reworded(canvas: Any, labels: Labels, texts: Mapping[str, str]) -> Labels:
    """Replace texts, where they stand as whole words, in legends, titles, names of axes and ticks, and labels."""
    names = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.])(?:{names})(?![\w.])")

    def new(text: str) -> str:
        return pattern.sub(lambda found: texts[found[0]], text)

    for axes in canvas.axes:
        axes.set(title=new(axes.get_title()), xlabel=new(axes.get_xlabel()), ylabel=new(axes.get_ylabel()))
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handle.set_label(new(label))
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [tick.get_text() for tick in axis.get_ticklabels()]
            if any(new(tick) != tick for tick in ticks):
                axis.set_ticks(axis.get_ticklocs(), [new(tick) for tick in ticks])
    return [(axes, [replace(label, text=new(label.text)) for label in wanted]) for axes, wanted in labels]


def faceted(
    name: str,
    caption: str,
    rows: Rows,
    groups: Sequence[Group],
    panel: Callable[[Any, Rows], None],
    *,
    by: str,
    y: str,
    heights: tuple[float, float] = (0.85, 1.4),
) -> Figure | None:
    """A figure with a panel for each value of the column `by`, drawn by `panel(axes, its rows)`; None for too many.

    y: the label of the axis that the panels share. heights: of the figure with one row of panels and with two, in
    columns' widths.
    """
    titles = values_of(rows, by)
    if len(titles) > MOST:
        return None

    def draw(canvas: Any, rows: Rows) -> None:
        panels = grid_of(canvas, len(titles), sharey=True)
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title)
            panel(axes, where(rows, **{by: title}))
        panels[0].set_ylabel(y)

    width = COLUMN_WIDTH if len(titles) == 1 else FULL_WIDTH
    return figure(name, caption, rows, groups, draw, (width, COLUMN_WIDTH * heights[len(titles) > 3]))


def curve_rows(curve: Mapping[Any, Estimate | float], x: str, y: str, **labels: Any) -> Rows:
    """A row for each n of a curve: labels, n under the name `x`, and the value under `y` with its interval."""
    return [{**labels, x: n, **spread(y, point)} for n, point in curve.items()]


def where(rows: Sequence[Row], **wanted: Any) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def values_of(rows: Sequence[Row], key: str) -> list[Any]:
    """The distinct values of a key, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def bare(rows: Sequence[Row], *keys: str) -> Rows:
    """The rows with these keys alone, so that `line` draws no intervals."""
    return [{key: row[key] for key in keys} for row in rows]


def line(axes: Any, rows: Sequence[Row], x: str, y: str, look: Look, **more: Any) -> Any:
    """Draw the rows as points with bars where they have intervals, joined by the look's line.

    more: settings of matplotlib's errorbar.
    """
    settings: dict[str, Any] = {
        "color": look.colour,
        "marker": look.marker,
        "linestyle": look.line,
        "markersize": 3.5,
        "linewidth": 1.0,
        "elinewidth": 0.7,
    }
    across, up = ([row[name] for row in rows] for name in (x, y))
    return axes.errorbar(across, up, xerr=_bars(rows, x), yerr=_bars(rows, y), **(settings | more))


def _bars(rows: Sequence[Row], name: str) -> np.ndarray | None:
    """[2, rows] lengths below and above the values; None where these have no intervals."""
    if not rows or f"{name}_low" not in rows[0]:
        return None
    ends = np.array([[row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]] for row in rows], float)
    return np.maximum(ends.T, 0)  # rounding may put an end beyond the value


def side_by_side(
    axes: Any, series: Sequence[Series], x: str, y: str, places: Sequence[int] = (), count: int = 0
) -> None:
    """Draw series whose points at one x stand beside each other, on a logarithmic x.

    places, count: the series' places among `count` series, where these are not all of them.
    """
    for place, (rows, look, more) in zip(places or range(len(series)), series, strict=True):
        if rows:
            line(axes, beside(rows, x, place, count or len(series)), x, y, look, **more)


def beside(rows: Sequence[Row], x: str, place: int, count: int) -> Rows:
    """The rows moved a little along a logarithmic x, to their series' place among `count` of them.

    Points of several series at one x then stand side by side around it, and their bars can be told apart.
    """
    apart = min(DODGE, WIDEST / max(count - 1, 1))
    factor = 2.0 ** (apart * (place - (count - 1) / 2))
    return [row | {x: row[x] * factor} for row in rows]


def nudge(place: int, count: int, apart: float) -> float:
    """How far series `place` of `count` is moved along a linear axis, `apart` between neighbours."""
    return apart * (place - (count - 1) / 2)


def powers_axis(axes: Any, sizes: Sequence[int], label: str) -> None:
    """x in powers of two, each named where there is room for all."""
    shown = sorted(set(sizes))
    every = -(-len(shown) // MOST_TICKS)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown, ["" if i % every else f"{n:g}" for i, n in enumerate(shown)])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)


def columns_of(count: int) -> int:
    """How many of `count` panels stand in a row: two of two or four, else three."""
    return min(count, 2 if count == 4 else 3)


def rows_of(count: int) -> int:
    """How many rows `count` panels fill."""
    return -(-count // columns_of(count))


def grid_of(canvas: Any, count: int, **sharing: Any) -> list[Any]:
    """`count` panels, row by row in `columns_of(count)`; the rest of the last row stays empty."""
    wide = columns_of(count)
    panels = list(np.ravel(canvas.subplots(rows_of(count), wide, squeeze=False, **sharing)))
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[:count][-wide:]:
        panel.tick_params(labelbottom=True)  # with a shared axis only the last row would have numbers
    return panels[:count]


def lined_rows(panels: Sequence[Any]) -> None:
    """Thin lines to follow the rows of panels whose y is a list of names."""
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.4)
        axes.set_axisbelow(True)


def legend_above(canvas: Any) -> None:
    """One legend for the whole figure, of its labelled series row by row, in as many columns as it has room for."""
    handles: dict[str, Any] = {}
    for panel in canvas.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    labels, room = list(handles), canvas.get_figwidth() - 0.1
    columns = next(wide for wide in range(len(labels), 0, -1) if wide == 1 or _legend_width(labels, wide) <= room)
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]  # matplotlib fills columns
    canvas.legend(
        [handles[labels[i]] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.0,
        handlelength=HANDLE,
        fontsize=legend_size(),
    )


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Inches of a legend whose labels fill its rows one after another."""
    longest = [max(len(label) for label in labels[column::columns]) for column in range(columns)]
    return sum(0.54 * letters + HANDLE + 1.8 for letters in longest) * legend_size() / 72


def short(number: float, _: object = None) -> str:
    """1234567 as 1.23M; also a formatter of ticks."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def guide(axes: Any, *, x: float | None = None, y: float | None = None, color: str = QUIET) -> None:
    """A thin line to read positions against."""
    look = {"color": color, "linewidth": 0.6, "linestyle": ":", "zorder": 0}
    if x is not None:
        axes.axvline(x, **look)
    if y is not None:
        axes.axhline(y, **look)
