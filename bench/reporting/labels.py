"""Place the labels of points where they touch neither each other nor what is drawn."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.reporting.style import legend_size

DISTANCES = (3.0, 5.0, 8.0, 12.0, 17.0, 23.0, 30.0, 38.0, 47.0, 57.0, 68.0)  # points between a label and its point
ANGLES = np.arange(0, 360, 22.5)
LEADER = 12.0  # points: from this distance on, a line leads from the label to its point
CROSSING = 200.0  # the cost of a leader that crosses another label, in points of distance
PADDING = 1.5  # points around a label that stay free
STEPS = 40  # positions along a leader that are tested for crossings
ROUNDS = 4  # how often every label is placed again, given the places of the others
RING = np.linspace(0, 2 * np.pi, 8, endpoint=False)  # angles of the outline of a marker


@dataclass(frozen=True)
class Label:
    x: float  # data units
    y: float
    text: str
    colour: str


@dataclass(frozen=True)
class _Places:
    """C places where a label could stand."""

    box: np.ndarray  # [C, 4] left, bottom, right, top in pixels
    leader: np.ndarray  # [C, STEPS, 2] pixels along the line to the label's point; NaN where there is none
    point: np.ndarray  # [2] pixels
    distance: np.ndarray  # [C] points


def place_labels(axes: Any, labels: Sequence[Label]) -> list[Any]:
    """Annotate each point with its text, as near as there is room; returns the annotations.

    A label never covers another label or a text, and never leaves the panel: without such a place it is left out. It
    covers lines, markers and bars only where it must. Call this when everything else is laid out.
    """
    scale = axes.get_figure(root=True).dpi / 72  # pixels per point
    ink, panel = _ink(axes, scale), np.array(axes.get_window_extent().extents)
    texts = np.array([text.get_window_extent().extents for text in axes.texts if text.get_text()]).reshape(-1, 4)
    candidates = [_candidates(axes, label, scale) for label in labels]
    costs = [_costs(places, ink, panel, texts, scale) for places in candidates]
    chosen: list[int | None] = [None] * len(labels)
    order = sorted(range(len(labels)), key=lambda i: -float(np.sort(costs[i])[:8].mean()))  # the most crowded first
    for _ in range(ROUNDS):
        for i in order:
            total = costs[i].copy()
            for j, at in enumerate(chosen):
                if at is not None and j != i:
                    total += _clash(candidates[i], candidates[j], at, scale)
            best = int(total.argmin())
            chosen[i] = best if np.isfinite(total[best]) else None
    return [
        _annotate(axes, label, places, at, scale)
        for label, places, at in zip(labels, candidates, chosen, strict=True)
        if at is not None
    ]


def _candidates(axes: Any, label: Label, scale: float) -> _Places:
    """Places all around the label's point, at every distance."""
    trial = axes.text(0.5, 0.5, label.text, fontsize=legend_size() - 1, transform=axes.transAxes)
    half = np.array(trial.get_window_extent().size) / 2
    trial.remove()
    point = axes.transData.transform((label.x, label.y))
    angles, distance = (grid.ravel() for grid in np.meshgrid(np.radians(ANGLES), np.array(DISTANCES)))
    towards = np.column_stack([np.cos(angles), np.sin(angles)])  # [C, 2]
    reach = (half / np.maximum(np.abs(towards), 1e-9)).min(axis=1)  # from the box's centre to its edge
    centre = point + (reach + distance * scale)[:, None] * towards
    leader = point + np.linspace(0, 1, STEPS)[:, None] * (centre - point)[:, None]
    leader[distance < LEADER] = np.nan
    return _Places(np.column_stack([centre - half, centre + half]), leader, point, distance)


def _costs(places: _Places, ink: np.ndarray, panel: np.ndarray, texts: np.ndarray, scale: float) -> np.ndarray:
    """[C]: the cost of each place, whatever the other labels do; infinite off the panel or over a text."""
    padded = _padded(places.box, scale)
    covered = np.array([_inside(ink, box).sum() for box in padded])
    outside = (places.box[:, :2] < panel[:2]).any(axis=1) | (places.box[:, 2:] > panel[2:]).any(axis=1)
    over_text = _overlap(padded[:, None], texts).any(axis=1)
    return np.where(outside | over_text, np.inf, 4.0 * covered + places.distance)


def _clash(places: _Places, other: _Places, at: int, scale: float) -> np.ndarray:
    """[C]: the cost of each place beside the other's place `at`; infinite where the labels overlap."""
    crossed = _inside(places.leader, other.box[at]).any(axis=1)
    crossing = _inside(other.leader[at], places.box[:, None]).any(axis=1)
    covered = _overlap(_padded(places.box, scale), other.box[at])
    return np.where(covered, np.inf, CROSSING * (crossed.astype(float) + crossing))


def _inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Whether points [..., 2] lie in the box [..., 4]."""
    within = (points > box[..., :2]) & (points < box[..., 2:])
    return np.asarray(within[..., 0] & within[..., 1])


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a[..., :2] < b[..., 2:]).all(axis=-1) & (b[..., :2] < a[..., 2:]).all(axis=-1))


def _padded(box: np.ndarray, scale: float) -> np.ndarray:
    return box + PADDING * scale * np.array([-1, -1, 1, 1])


def _annotate(axes: Any, label: Label, places: _Places, at: int, scale: float) -> Any:
    offset = (places.box[at].reshape(2, 2).sum(axis=0) / 2 - places.point) / scale
    arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": label.colour, "shrinkA": 0, "shrinkB": 2}
    annotation = axes.annotate(
        label.text,
        (label.x, label.y),
        tuple(offset),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=legend_size() - 1,
        color=label.colour,
        arrowprops=arrow if places.distance[at] >= LEADER else None,
    )
    annotation.set_in_layout(False)
    return annotation


def _ink(axes: Any, scale: float) -> np.ndarray:
    """[K, 2]: pixels along every line, bar and marker that is drawn."""
    pixels = [np.empty((0, 2))]
    for line in axes.lines:
        vertices = line.get_transform().transform(line.get_xydata())
        if line.get_linestyle() != "None":
            pixels.append(_along(vertices))
        if line.get_marker() not in ("", "None", None):
            ring = line.get_markersize() / 2 * scale * np.column_stack([np.cos(RING), np.sin(RING)])
            pixels += [(vertices[:, None] + ring).reshape(-1, 2), vertices]
    for collection in axes.collections:
        transform = collection.get_transform()
        pixels += [_along(transform.transform(path.vertices)) for path in collection.get_paths() if len(path.vertices)]
    ink = np.concatenate(pixels)
    return ink[np.isfinite(ink).all(axis=1)]


def _along(vertices: np.ndarray) -> np.ndarray:
    """Points along a polyline, at most two pixels apart."""
    parts = [vertices[:1]]
    for start, stop in itertools.pairwise(vertices):
        if np.isfinite([start, stop]).all():
            steps = max(1, min(5000, int(np.hypot(*(stop - start)) / 2)))
            parts.append(np.linspace(start, stop, steps + 1)[1:])
    return np.concatenate(parts)
