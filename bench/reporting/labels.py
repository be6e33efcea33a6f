"""Words beside points, placed where they touch neither each other nor what is drawn."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.reporting.style import LABEL_SIZE

DISTANCES = (3.0, 5.0, 8.0, 12.0, 17.0, 23.0, 30.0, 38.0, 47.0, 57.0, 68.0)  # points between a label and its point
ANGLES = np.arange(0, 360, 22.5)
LEADER = 12.0  # points: from here a line leads from the label to its point
CROSSING = 200.0  # the cost of a leading line over another label, in points of distance
PADDING = 1.0  # points around a label that are left free
STEPS = 40  # along a leading line, of looking whether it crosses a label
ROUNDS = 4  # of placing every label again, given where the others are


@dataclass(frozen=True)
class Label:
    x: float  # data units
    y: float
    text: str
    colour: str


@dataclass(frozen=True)
class _Places:
    """C places where one label could stand, or the one where it does."""

    box: np.ndarray  # [C, 4] left, bottom, right, top in pixels
    way: np.ndarray  # [C, STEPS, 2] pixels along the line to the label's point; NaN where it needs none
    point: np.ndarray  # [2]
    distance: np.ndarray  # [C] points

    def at(self, index: int) -> "_Places":
        kept = slice(index, index + 1)
        return _Places(self.box[kept], self.way[kept], self.point, self.distance[kept])


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
    fixed = np.array([text.get_window_extent().extents for text in axes.texts if text.get_text()]).reshape(-1, 4)
    candidates = [_candidates(axes, label, scale) for label in labels]
    costs = [_costs(places, ink, panel, fixed, scale) for places in candidates]
    chosen: list[_Places | None] = [None] * len(labels)
    order = sorted(range(len(labels)), key=lambda i: -float(np.sort(costs[i])[:8].mean()))  # the most crowded first
    for _ in range(ROUNDS):
        for i in order:
            total = costs[i].copy()
            for j, other in enumerate(chosen):
                if other is not None and j != i:
                    total += _clash(candidates[i], other, scale)
            best = int(total.argmin())
            chosen[i] = candidates[i].at(best) if np.isfinite(total[best]) else None
    return [
        _annotate(axes, label, place, scale) for label, place in zip(labels, chosen, strict=True) if place is not None
    ]


def _candidates(axes: Any, label: Label, scale: float) -> _Places:
    half = np.array(_size(axes, label.text)) / 2
    point = axes.transData.transform((label.x, label.y))
    angles, distance = (grid.ravel() for grid in np.meshgrid(np.radians(ANGLES), np.array(DISTANCES)))
    towards = np.column_stack([np.cos(angles), np.sin(angles)])  # [C, 2]
    reach = (half / np.maximum(np.abs(towards), 1e-9)).min(axis=1)  # from the box's centre to its edge
    centre = point + (reach + distance * scale)[:, None] * towards
    way = point + np.linspace(0, 1, STEPS)[:, None] * (centre - point)[:, None]
    way[distance < LEADER] = np.nan
    return _Places(np.column_stack([centre - half, centre + half]), way, point, distance)


def _size(axes: Any, text: str) -> tuple[float, float]:
    trial = axes.text(0.5, 0.5, text, fontsize=LABEL_SIZE, transform=axes.transAxes)
    box = trial.get_window_extent()
    trial.remove()
    return box.width, box.height


def _costs(places: _Places, ink: np.ndarray, panel: np.ndarray, fixed: np.ndarray, scale: float) -> np.ndarray:
    """[C], infinite where the label would leave the panel or cover a text."""
    padded = _padded(places.box, scale)
    covered = np.array([_inside(ink, box).sum() for box in padded])
    outside = (places.box[:, :2] < panel[:2]).any(axis=1) | (places.box[:, 2:] > panel[2:]).any(axis=1)
    over_text = _overlap(padded[:, None], fixed).any(axis=1)
    return np.where(outside | over_text, np.inf, 4.0 * covered + places.distance)


def _clash(places: _Places, other: _Places, scale: float) -> np.ndarray:
    """[C]: infinite where two labels would overlap, much where the line of one would cross the other."""
    crossed = _inside(places.way, other.box[0]).any(axis=1)
    crossing = _inside(other.way[0], places.box[:, None]).any(axis=1)
    covered = _overlap(_padded(places.box, scale), other.box)
    return np.where(covered, np.inf, CROSSING * (crossed.astype(float) + crossing))


def _inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Whether points [..., 2] lie in the box [..., 4]."""
    return np.asarray(((points > box[..., :2]) & (points < box[..., 2:])).all(axis=-1))


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a[..., :2] < b[..., 2:]).all(axis=-1) & (b[..., :2] < a[..., 2:]).all(axis=-1))


def _padded(box: np.ndarray, scale: float) -> np.ndarray:
    return box + PADDING * scale * np.array([-1, -1, 1, 1])


def _annotate(axes: Any, label: Label, place: _Places, scale: float) -> Any:
    offset = ((place.box[0, :2] + place.box[0, 2:]) / 2 - place.point) / scale
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
        arrowprops=leader if place.distance[0] >= LEADER else None,
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
