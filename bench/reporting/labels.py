"""Words beside points, placed where they touch neither each other nor what is drawn."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.reporting.style import LABEL_SIZE

DISTANCES = (3.0, 5.0, 8.0, 12.0, 17.0, 23.0, 30.0, 38.0)  # points between a label and its point
ANGLES = np.arange(0, 360, 22.5)
LEADER = 8.0  # points: from here a line leads from the label to its point
PADDING = 1.0  # points around a label that are left free
ROUNDS = 3  # of placing every label again, given where the others are


@dataclass(frozen=True)
class Label:
    x: float  # data units
    y: float
    text: str
    colour: str


@dataclass(frozen=True)
class _Place:
    box: np.ndarray  # [4] left, bottom, right, top in pixels
    point: np.ndarray  # [2]
    distance: float


def place_labels(axes: Any, labels: Sequence[Label]) -> list[Any]:
    """Annotate each point with its text, as near as there is room; the annotations, without those that found none.

    Near free places are taken first, then farther ones with a line that leads to the point. What is drawn (lines,
    markers, bars, texts) is avoided where it can be, other labels and the edges of the panel always: a label that has
    no such place is left out. Call it when everything else is drawn and the limits are final.
    """
    figure = axes.get_figure(root=True)
    figure.draw_without_rendering()
    scale = figure.dpi / 72  # pixels a point
    ink, panel = _ink(axes, scale), np.array(axes.get_window_extent().extents)
    fixed = [np.array(text.get_window_extent().extents) for text in axes.texts if text.get_text()]
    candidates = [_candidates(axes, label, scale) for label in labels]
    costs = [np.array([_cost(place, ink, panel, fixed, scale) for place in places]) for places in candidates]
    chosen: list[_Place | None] = [None] * len(labels)
    order = sorted(range(len(labels)), key=lambda i: -float(np.sort(costs[i])[:8].mean()))  # the most crowded first
    for _ in range(ROUNDS):
        for i in order:
            others = [place for j, place in enumerate(chosen) if j != i and place is not None]
            total = costs[i] + [_clash(place, others, scale) for place in candidates[i]]
            best = int(total.argmin())
            chosen[i] = candidates[i][best] if math.isfinite(total[best]) else None
    return [
        _annotate(axes, label, place, scale) for label, place in zip(labels, chosen, strict=True) if place is not None
    ]


def _candidates(axes: Any, label: Label, scale: float) -> list[_Place]:
    width, height = _size(axes, label.text)
    point = axes.transData.transform((label.x, label.y))
    places = []
    for distance in DISTANCES:
        for angle in np.radians(ANGLES):
            across, up = math.cos(angle), math.sin(angle)
            reach = min(width / 2 / max(abs(across), 1e-9), height / 2 / max(abs(up), 1e-9))  # to the box's own edge
            centre = point + (reach + distance * scale) * np.array([across, up])
            half = np.array([width, height]) / 2
            places.append(_Place(np.concatenate([centre - half, centre + half]), point, distance))
    return places


def _size(axes: Any, text: str) -> tuple[float, float]:
    trial = axes.annotate(text, (0, 0), (0, 0), textcoords="offset points", fontsize=LABEL_SIZE)
    box = trial.get_window_extent()
    trial.remove()
    return box.width, box.height


def _cost(place: _Place, ink: np.ndarray, panel: np.ndarray, fixed: Sequence[np.ndarray], scale: float) -> float:
    """Infinite where the label would leave the panel or cover a text."""
    box = _padded(place.box, scale)
    if (place.box[:2] < panel[:2]).any() or (place.box[2:] > panel[2:]).any():
        return math.inf
    if any(_overlap(box, text) for text in fixed):
        return math.inf
    covered = ((ink > box[:2]) & (ink < box[2:])).all(axis=1).sum()
    return 4.0 * float(covered) + place.distance


def _clash(place: _Place, others: Sequence[_Place], scale: float) -> float:
    """Infinite where two labels would overlap, or the line of one would cross the other."""
    for other in others:
        if _overlap(_padded(place.box, scale), other.box):
            return math.inf
        for one, two in ((place, other), (other, place)):
            if one.distance >= LEADER and _crosses(one, two.box):
                return math.inf
    return 0.0


def _crosses(place: _Place, box: np.ndarray) -> bool:
    way = np.linspace(place.point, (place.box[:2] + place.box[2:]) / 2, 40)
    return bool(((way > box[:2]) & (way < box[2:])).all(axis=1).any())


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def _padded(box: np.ndarray, scale: float) -> np.ndarray:
    return box + PADDING * scale * np.array([-1, -1, 1, 1])


def _annotate(axes: Any, label: Label, place: _Place, scale: float) -> Any:
    offset = ((place.box[:2] + place.box[2:]) / 2 - place.point) / scale
    leader = {"arrowstyle": "-", "linewidth": 0.4, "color": label.colour, "shrinkA": 0, "shrinkB": 2}
    made = axes.annotate(
        label.text,
        (label.x, label.y),
        tuple(offset),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=LABEL_SIZE,
        color=label.colour,
        arrowprops=leader if place.distance >= LEADER else None,
    )
    made.set_in_layout(False)
    return made


def _ink(axes: Any, scale: float) -> np.ndarray:
    """[K, 2] pixels along every line, bar and marker that is drawn."""
    paths = []
    for line in axes.lines:
        vertices = line.get_transform().transform(line.get_xydata())
        if line.get_linestyle() != "None":
            paths.append(_along(vertices))
        if line.get_marker() not in ("", "None", None):
            ring = line.get_markersize() / 2 * scale * np.column_stack([np.cos(_TURN), np.sin(_TURN)])
            paths.append((vertices[:, None] + ring).reshape(-1, 2))
            paths.append(vertices)
    for collection in axes.collections:
        transform = collection.get_transform()
        paths += [_along(transform.transform(path.vertices)) for path in collection.get_paths() if len(path.vertices)]
    found = np.concatenate([*paths, np.empty((0, 2))])
    return found[np.isfinite(found).all(axis=1)]


_TURN = np.linspace(0, 2 * np.pi, 8, endpoint=False)


def _along(vertices: np.ndarray) -> np.ndarray:
    """Points no more than two pixels apart."""
    parts = [vertices[:1]]
    for start, stop in itertools.pairwise(vertices):
        if np.isfinite([start, stop]).all():
            steps = max(1, min(5000, int(np.hypot(*(stop - start)) / 2)))
            parts.append(np.linspace(start, stop, steps + 1)[1:])
    return np.concatenate(parts)
