"""What figures share: figures from rows, rows of curves, series with intervals, panels, axes and legends."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.records.read import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.finish import MOST, Labels, blocks, finish, text_width, wrapped
from bench.reporting.groups import Group
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, QUIET, Look, legend_size
from bench.reporting.tables import all_runs, spread
from bench.reporting.words import over_what

Row = dict[str, Any]
Rows = list[Row]
Series = tuple[Rows, Look, dict[str, Any]]  # points, how they look, and more settings of `line`

MOST_PANELS = 24  # that one figure has room for
NARROWEST = 14  # of a panel, in the size of the text
NAMES = 0.3  # of a figure's width, at most, for the names of rows
DODGE = 0.06  # octaves between the points of two series at one x
WIDEST = 0.4  # octaves from the first to the last of them
MANTISSAS = (1, 2, 5, 3, 1.5, 4, 7, *np.arange(1.1, 10, 0.1).round(1), *np.arange(1.01, 10, 0.01).round(2))  # of ticks
HOLLOW = {"markerfacecolor": "white"}
TITLES = {"tuned": "fine-tuned", "control": "random control"}  # in legends


def figure(
    name: str,
    caption: str,
    rows: Rows,
    groups: Sequence[Group],
    draw: Callable[[Any, Rows], Labels | None],
    size: tuple[float, float] = (COLUMN_WIDTH, COLUMN_WIDTH * 0.8),
    *,
    series: str = "",
    room: int = MOST,
    over: str | None = None,
    axes: Mapping[str, str] = MappingProxyType({}),
) -> Figure | None:
    """A figure of `rows`, drawn by `draw(canvas, rows)`; None without rows. Its caption says what intervals mean.

    draw gets copies of the rows, to which it may add positions that the CSV does not have. It may return the labels
    of points by panel. They are placed last, after the legend. size: width and height in inches. series: the column
    that names the series; more of them than a legend has `room` for are drawn in blocks, each with its own legend.
    Rows without a series are in every block. over: what intervals hold for, where it is not the groups' own.
    axes: what stands on those of its axes that can be chosen.
    """
    if not rows:
        return None
    two_seeds = all(len(group.runs) == 2 for group in groups)

    def parts(shown: Sequence[Row]) -> list[Rows]:
        names = blocks([name for name in values_of(shown, series) if name], room) if series else [[]]
        return [[dict(row) for row in shown if not series or row[series] in ("", None, *part)] for part in names]

    def drawn(canvas: Any, shown: Sequence[Row] = rows, texts: Mapping[str, str] = MappingProxyType({})) -> set[str]:
        """Draw these rows. texts: what is written -> what to write in its place; returns those that were there."""
        found = parts(shown)
        wide = 2 if len(found) > 1 and size[0] == COLUMN_WIDTH and ems(canvas) > 4 * NARROWEST else 1
        places = [canvas] if len(found) == 1 else list(np.ravel(canvas.subfigures(-(-len(found) // wide), wide)))
        places = places[: len(found)]
        labels = [draw(place, part) or () for place, part in zip(places, found, strict=True)]
        return finish(places, labels, texts, two_seeds=two_seeds)

    count, (width, height) = len(parts(rows)), size
    if count > 1:
        width, height = FULL_WIDTH, height * (-(-count // 2) if width == COLUMN_WIDTH else count)
    said = caption if over == "" else f"{caption} {over or over_what(groups)}."
    return Figure(name, said, rows, all_runs(groups), drawn, width, height, axes=axes)


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
    **more: Any,
) -> Figure | None:
    """A figure with a panel for each value of the column `by`, drawn by `panel(axes, its rows)`; None for too many.

    y: the label of the axis that the panels share. heights: of the figure with one row of panels and with two, in
    columns' widths; every further row adds as much. more: settings of `figure`.
    """
    titles = values_of(rows, by)
    if not 0 < len(titles) <= MOST_PANELS:
        return None

    def draw(canvas: Any, rows: Rows) -> None:
        titles = values_of(rows, by)
        panels = grid_of(canvas, len(titles), sharey=True)
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title)
            panel(axes, where(rows, **{by: title}))
        name_axes(panels, panels[0].get_xlabel(), y)

    high = heights[0] + (heights[1] - heights[0]) * (rows_of(len(titles)) - 1)
    width = COLUMN_WIDTH if len(titles) == 1 else FULL_WIDTH
    return figure(name, caption, rows, groups, draw, (width, COLUMN_WIDTH * high), **more)


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
    """Draw the rows as points, with bars where they have intervals. more: settings of matplotlib's errorbar."""
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
    axes: Any, series: Sequence[Series], x: str, y: str, label: str, places: Sequence[int] = (), count: int = 0
) -> None:
    """Draw series whose points at one x stand beside each other, on an x in powers of two with this label.

    places, count: the series' places among `count` series, where these are not all of them.
    """
    for place, (rows, look, more) in zip(places or range(len(series)), series, strict=True):
        if rows:
            line(axes, beside(rows, x, place, count or len(series)), x, y, look, **more)
    powers_axis(axes, [row[x] for rows, *_ in series for row in rows], label)


def beside(rows: Sequence[Row], x: str, place: int, count: int) -> Rows:
    """The rows moved a little along a logarithmic x, so that points of `count` series at one x stand side by side."""
    apart = min(DODGE, WIDEST / max(count - 1, 1))
    factor = 2.0 ** (apart * (place - (count - 1) / 2))
    return [row | {x: row[x] * factor} for row in rows]


def nested(place: int, count: int) -> dict[str, Any]:
    """Settings of `line` that tell bars at one measured x apart: the first series' are widest and palest."""
    behind = (count - 1 - place) / max(count - 1, 1)
    return {"elinewidth": 0.7 + 1.5 * behind, "zorder": 2 + place / count}


def nudge(place: int, count: int, apart: float) -> float:
    """Likewise, how far along a linear axis, `apart` between neighbours."""
    return apart * (place - (count - 1) / 2)


def powers_axis(axes: Any, sizes: Sequence[int], label: str) -> None:
    """x in powers of two; in the end those are named that have room."""
    shown = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown, [f"{n:g}" for n in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)


def flops_axis(axes: Any, label: str = "FLOPs per query") -> None:
    """A logarithmic x with ticks such as 2M, the roundest of those that have room."""
    from matplotlib.ticker import Locator, NullLocator

    class Roundest(Locator):
        def __call__(self) -> list[float]:
            low, high = axes.get_xlim()
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
            kept: dict[float, float] = {}  # tick -> its place in inches
            for mantissa, tick in ((mantissa, mantissa * 10.0**decade) for mantissa in MANTISSAS for decade in decades):
                if not low <= tick <= high or (len(kept) > 2 and mantissa not in (1, 2, 5)):
                    continue
                at = axes.transData.transform((tick, 1))[0] / axes.get_figure(root=True).dpi
                room = text_width(f"{short(tick)}M", legend_size())
                if all(abs(at - other) > room for other in kept.values()):
                    kept[tick] = at
            return list(kept)

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(Roundest())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(short)
    axes.set_xlabel(label)


def columns_of(count: int) -> int:
    """How many of `count` panels stand in a row of a figure of full width: two of two or four, else three."""
    return min(count, 2 if count == 4 else 3)


def rows_of(count: int) -> int:
    """How many rows `count` panels fill."""
    return -(-count // columns_of(count))


def ems(canvas: Any) -> float:
    """The width in the size of the text."""
    from matplotlib import rcParams

    return float(canvas.bbox.width / canvas.get_figure(root=True).dpi * 72 / rcParams["font.size"])


def grid_of(canvas: Any, count: int, width_ratios: Sequence[float] = (), **sharing: Any) -> list[Any]:
    """`count` panels, row by row in as many columns as have room; the rest of the last row stays empty."""
    wide = max(1, min(columns_of(count), int(ems(canvas) / NARROWEST)))
    ratios = {"width_ratios": width_ratios} if len(width_ratios) == wide else {}
    panels = list(np.ravel(canvas.subplots(-(-count // wide), wide, squeeze=False, **sharing, **ratios)))
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[:count][-wide:]:
        panel.tick_params(labelbottom=True)  # with a shared axis only the last row would have numbers
    return panels[:count]


def name_axes(panels: Sequence[Any], x: str | None = None, y: str | None = None) -> None:
    """Name x below the lowest panel of each column, and y beside the first of each row."""
    wide = panels[0].get_subplotspec().get_gridspec().ncols if len(panels) > 1 else 1
    for place, axes in enumerate(panels):
        if x is not None:
            axes.set_xlabel(x if place + wide >= len(panels) else "")
        if y is not None and place % wide == 0:
            axes.set_ylabel(y)


def row_height(names: Sequence[str]) -> float:
    """Inches of each row of panels whose y is a list of these names."""
    lines = max(wrapped(name, NAMES * FULL_WIDTH, 7).count("\n") for name in names)
    return 0.17 + 0.12 * lines


def named_rows(canvas: Any, panels: Sequence[Any], names: Sequence[str]) -> None:
    """Panels whose y is a list of names, with thin lines to follow the rows."""
    share = NAMES if ems(canvas) > 3 * NARROWEST else 1.4 * NAMES
    room = share * canvas.bbox.width / canvas.get_figure(root=True).dpi
    for axes in panels:
        axes.set_yticks(range(len(names)), [wrapped(name, room, legend_size()) for name in names])
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.4)
        axes.set_axisbelow(True)


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
