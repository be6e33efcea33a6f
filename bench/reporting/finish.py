"""Finish what a figure drew: blocks of at most six series, axes and cut bars, words, legends, labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.reporting.labels import Label, place_labels
from bench.reporting.style import FULL_WIDTH, QUIET, lay_out, legend_size

Labels = Sequence[tuple[Any, Sequence[Label]]]  # the labels of points, by panel

MOST = 6  # entries of a legend
MOST_WORDS = 12  # of a legend's series
LONG, MANY = 28, 140  # letters of one label, and of all: beyond them points are numbered, with a key below
KEY = 6.5  # points
HANDLE = 2.4  # the length of a legend's lines, in its font's size
TALLEST = 3.0  # how far bars may widen an axis, in bars of the shorter quarter
OF_TWO_SEEDS = 0.5  # likewise, where every interval rests on two seeds: t(1) is 12.7 standard errors


def blocks(names: Sequence[str], room: int = MOST) -> list[list[str]]:
    """The series in as few legends as hold `room` of them and twelve words; those of one first word together if so."""

    def fits(part: Sequence[str]) -> bool:
        return len(part) == 1 or (len(part) <= room and sum(len(name.split()) for name in part) <= MOST_WORDS)

    if not names or fits(names):
        return [list(names)]
    first = dict.fromkeys(name.split()[0] for name in names)
    heads = [[name for name in names if name.split()[0] == word] for word in first]
    if 1 < len(heads) <= len(names) / 2 and all(map(fits, heads)):
        return heads
    for count in range(2, len(names)):
        parts = [part.tolist() for part in np.array_split(np.array(names, object), count)]
        if all(map(fits, parts)):
            return parts
    return [[name] for name in names]


def finish(canvases: Sequence[Any], labels: Sequence[Labels], texts: Mapping[str, str], *, two_seeds: bool) -> set[str]:
    """Finish each block of one figure, on limits that they share. Returns those of `texts` that were replaced."""
    limits([[axes for axes in canvas.axes if axes.axison] for canvas in canvases], two_seeds=two_seeds)
    replaced: set[str] = set()
    wanted: list[tuple[Any, Sequence[Label]]] = []
    for canvas, found in zip(canvases, labels, strict=True):
        wanted += _numbered(canvas, reworded(canvas, found, texts, replaced) if texts else found)
        legend_above(canvas)
    lay_out(canvases[0].get_figure(root=True))  # now every panel has its size
    for canvas in canvases:
        _fit(canvas)
    if wanted:
        lay_out(canvases[0].get_figure(root=True))
    for axes, points in wanted:
        place_labels(axes, points)
    return replaced


def _fit(canvas: Any) -> None:
    """Break titles and names of axes that are longer than their panel, and leave out ticks that have no room."""
    for axes in canvas.axes:
        _thin(axes)
        width, height = np.array(axes.bbox.size) / canvas.get_figure(root=True).dpi
        rooms = {axes.title: width, axes._left_title: width, axes.xaxis.label: width, axes.yaxis.label: 1.1 * height}
        for text, room in rooms.items():
            if text_width(text.get_text(), text.get_fontsize()) > room:
                text.set_text(wrapped(text.get_text(), max(room, 0.5), text.get_fontsize()))


def _thin(axes: Any) -> None:
    """Keep the numbers below an axis apart."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    end, names = -np.inf, []
    for tick in axes.get_xticklabels():
        box = tick.get_window_extent()
        has_room = box.x0 > end + box.height / 3
        names.append(tick.get_text() if has_room else "")
        end = box.x1 if has_room and tick.get_text() else end
    if not any(names):
        return  # the panel below it, which shares its axis, has the numbers
    if isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        axes.set_xticks(axes.get_xticks(), names)
    elif "" in names and isinstance(axes.xaxis.get_major_locator(), MaxNLocator):
        axes.locator_params(axis="x", nbins=3)


def texts_of(canvas: Any) -> list[str]:
    """The words on a figure that was drawn, once each."""
    from matplotlib.text import Text

    found = (text.get_text() for text in canvas.get_figure(root=True).findobj(Text) if text.get_visible())
    return list(dict.fromkeys(text for text in found if re.search("[a-zA-Z]", text)))


def reworded(canvas: Any, labels: Labels, texts: Mapping[str, str], replaced: set[str]) -> Labels:
    """Replace texts, where they stand as whole words, in legends, titles, names of axes and ticks, and labels."""
    names = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.-])(?:{names})(?![\w.-])")

    def new(text: str) -> str:
        replaced.update(pattern.findall(text))
        return pattern.sub(lambda found: str(texts[found[0]]), text)

    for axes in canvas.axes:
        for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts):
            text.set_text(new(text.get_text()))
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handle.set_label(new(label))
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [tick.get_text() for tick in axis.get_ticklabels()]
            if any(new(tick) != tick for tick in ticks):
                axis.set_ticks(axis.get_ticklocs(), [new(tick) for tick in ticks])
    return [(axes, [replace(label, text=new(label.text)) for label in wanted]) for axes, wanted in labels]


def limits(panels: Sequence[Sequence[Any]], *, two_seeds: bool) -> None:
    """Let values set the axes, and bars only as far as they are alike; an arrow marks the end of a bar that is cut.

    A bar may widen an axis by the values' own range or by three bars of the shorter quarter, whichever is more. An
    axis that is named KL ends at 0. panels: of each block; axes of one name in several blocks have the same limits.
    """
    for along in "xy":
        shared: dict[tuple[str, int], list[Any]] = {}
        for block in panels:
            known: list[str] = []
            for axes in block:
                siblings = getattr(axes, f"get_shared_{along}_axes")().get_siblings(axes)
                together = [other for other in block if other in siblings]
                if together[0] is axes:
                    name = next(filter(None, (getattr(other, f"get_{along}label")() for other in together)), "")
                    shared.setdefault((name, known.count(name)), []).extend(together)
                    known.append(name)
        for together in shared.values():
            _limit(together, along, len(panels) > 1, OF_TWO_SEEDS if two_seeds else TALLEST)


def _limit(together: Sequence[Any], along: str, several: bool, tallest: float) -> None:
    """together: panels that share the axis `along`."""
    column = "xy".index(along)
    is_kl = any(getattr(axes, f"get_{along}label")().startswith("KL") for axes in together)
    bars = [(axes, found) for axes in together for found in _bars(axes, column)]
    for line in (line for axes in together if is_kl for line in axes.lines if _in_data(axes, line)):
        points = np.array(line.get_xydata())
        points[:, column] = np.maximum(points[:, column], 0)
        line.set(data=points.T, clip_on=False)  # markers at 0 are whole
    if not bars and not is_kl and not several:
        return
    logarithmic = getattr(together[0], f"get_{along}scale")() == "log"
    move, back = (np.log10, lambda x: 10.0**x) if logarithmic else (np.asarray, float)
    values = [line.get_xydata()[:, column] for axes in together for line in axes.lines if _in_data(axes, line)]
    known = np.concatenate([*values, np.empty(0)])
    known = move(known[np.isfinite(known) & ((known > 0) | (not logarithmic))])
    if not len(known):
        return
    ends = np.array([end for _, (found, _) in bars for end in found[:, :, column]]).reshape(-1, 2)
    ends = np.maximum(ends, 1e-300) if logarithmic else ends
    ends = move(ends[np.isfinite(ends).all(axis=1)])
    lengths = np.ptp(ends, axis=1) / 2 if len(ends) else np.zeros(1)
    lengths = lengths[lengths > 0] if (lengths > 0).any() else np.zeros(1)
    reach = max(np.ptp(known), tallest * np.quantile(lengths, 0.25))
    low = max(min(known.min(), ends.min(initial=np.inf)), known.min() - reach)
    high = min(max(known.max(), ends.max(initial=-np.inf)), known.max() + reach)
    margin = getattr(together[0], f"get_{along}margin")() * (high - low or 1e-3 + abs(high) / 10)
    low, high = back(low - margin), back(high + margin)
    if is_kl and not logarithmic and low < 0.25 * high:
        low = 0.0
    if all(getattr(axes, f"get_autoscale{along}_on")() for axes in together):
        for axes in together:
            getattr(axes, f"set_{along}lim")(low, high)
    for axes, (found, colour) in bars:
        _arrows(axes, np.maximum(found, 0) if is_kl and low == 0 else found, column, colour)


def _bars(axes: Any, column: int) -> list[tuple[np.ndarray, Any]]:
    """([B, 2 ends, 2], colour) of the bars along x (column 0) or y of each series of a panel."""
    found = []
    for container in axes.containers:
        if getattr(container, "has_xerr", False) or getattr(container, "has_yerr", False):
            parts = list(container.lines[2])
            part = parts[0] if column == 0 else parts[-1]
            whole = [segment for segment in part.get_segments() if len(segment) == 2]  # else an end is NaN
            if (container.has_xerr, container.has_yerr)[column] and whole:
                found.append((np.array(whole), part.get_color()[0]))
    return found


def _in_data(axes: Any, line: Any) -> bool:
    return bool(line.get_transform() == axes.transData) and len(line.get_xydata()) > 0


def _arrows(axes: Any, bars: np.ndarray, column: int, colour: Any) -> None:
    """An arrow where an end of a bar lies beyond the axis."""
    low, high = (axes.get_xlim, axes.get_ylim)[column]()
    for side, limit, marker in ((0, low, "<v"[column]), (1, high, ">^"[column])):
        beyond = bars[:, side, column] < low if side == 0 else bars[:, side, column] > high
        if beyond.any():
            points = bars[beyond, side].copy()
            points[:, column] = limit
            axes.plot(*points.T, marker, color=colour, markersize=3, markeredgewidth=0, clip_on=False, zorder=5)


def key_height(names: Sequence[str]) -> float:
    """Inches that the key to these labels takes below a figure of full width; 0 where they are short and few."""
    names = list(dict.fromkeys(names))
    if not _are_numbered(names):
        return 0.0
    columns = max(1, int(FULL_WIDTH / (0.3 + max(text_width(name, KEY) for name in names))))
    return 0.1 + 0.13 * -(-len(names) // columns)


def _are_numbered(names: Sequence[str]) -> bool:
    return len(names) > 1 and (max(map(len, names)) > LONG or sum(map(len, names)) > MANY)


def _numbered(canvas: Any, labels: Labels) -> Labels:
    """Numbers in the place of labels that are too long or too many, and a key to them below the figure."""
    names = list(dict.fromkeys(label.text for _, wanted in labels for label in wanted))
    if not _are_numbered(names):
        return labels
    long = [name for name in names if not re.fullmatch(r"\w+=\d+", name)]
    numbers = {name: str(place) for place, name in enumerate(long, 1)}
    from matplotlib.lines import Line2D

    entries = {f"{number}  {name}": Line2D([], [], linestyle="none") for name, number in numbers.items()}
    _legend(canvas, entries, "outside lower center", 0.0, legend_size() - 0.5)
    return [(axes, [replace(label, text=numbers.get(label.text, label.text)) for label in w]) for axes, w in labels]


def legend_above(canvas: Any) -> None:
    """One legend for all panels, of its labelled series row by row, in as many columns as it has room for."""
    handles: dict[str, Any] = {}
    for panel in canvas.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        _legend(canvas, handles, "outside upper center", HANDLE, legend_size())


def _legend(canvas: Any, handles: Mapping[str, Any], loc: str, handle: float, size: float) -> None:
    """handle: the length of its lines in the size of its text, 0 for none."""
    room = canvas.bbox.width / canvas.get_figure(root=True).dpi - 0.15  # inches
    rest = (handle + 1.8) * size / 72
    labels = [wrapped(label, room - rest, size) for label in handles]

    def width(columns: int) -> float:
        return sum(max(text_width(label, size) for label in labels[i::columns]) + rest for i in range(columns))

    columns = next(wide for wide in range(len(labels), 0, -1) if wide == 1 or width(wide) <= room)
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]  # matplotlib fills columns
    shown = list(handles.values())
    canvas.legend(
        [shown[i] for i in order],
        [labels[i] for i in order],
        loc=loc,
        ncols=columns,
        columnspacing=1.0,
        handlelength=handle,
        handletextpad=0.6 if handle else 0.0,
        labelspacing=0.35,
        fontsize=size,
        labelcolor=None if handle else QUIET,
    )


def text_width(text: str, size: float) -> float:
    """Inches of the widest line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    return max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")) / 72


def wrapped(text: str, room: float, size: float) -> str:
    """The text in lines of `room` inches, broken at spaces, and within words that are longer after a sign."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        is_long = text_width(word.rstrip(), size) > room
        for part in re.findall(r"[^_=,/-]*[_=,/-]*", word) if is_long else [word]:
            if lines[-1] and text_width((lines[-1] + part).rstrip(), size) > room:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)
