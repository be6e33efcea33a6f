"""Labels beside points: clear of each other and of what is drawn, near their points, left out where no room is."""

import itertools

import numpy as np
import pytest

from bench.reporting.labels import LEADER, Label, place_labels
from bench.reporting.style import COLUMN_WIDTH, blank


def placed(points, texts, draw=None, *, height=2.6):
    """(extents of the labels, pixels of the points, texts that are shown)."""
    from matplotlib.text import Text

    with blank(COLUMN_WIDTH, height) as drawn:
        axes = drawn.subplots()
        axes.plot(*np.transpose(points), "o", markersize=4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        if draw:
            draw(axes)
        drawn.draw_without_rendering()
        made = place_labels(axes, [Label(*point, text, "k") for point, text in zip(points, texts, strict=True)])
        drawn.draw_without_rendering()
        extents = [np.array(Text.get_window_extent(text).extents) for text in made]  # without leading lines
        pixels = axes.transData.transform(points)
        return extents, pixels, [text.get_text() for text in made], axes.get_window_extent().extents


def overlap(a, b) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def test_close_points_get_labels_that_do_not_overlap():
    points = [(0.5 + 0.01 * i, 0.5 + 0.008 * (i % 3)) for i in range(10)]
    extents, pixels, texts, panel = placed(points, [f"method {i}" for i in range(10)])
    assert len(texts) == 10
    assert not any(overlap(a, b) for a, b in itertools.combinations(extents, 2))
    for box in extents:
        assert (box[:2] >= panel[:2] - 1e-6).all()
        assert (box[2:] <= panel[2:] + 1e-6).all()
        assert not any((box[:2] < point).all() and (point < box[2:]).all() for point in pixels)


def test_a_lone_label_is_beside_its_point():
    (box,), (point,), _, _ = placed([(0.5, 0.5)], ["n=2"])
    gap = np.maximum(np.maximum(box[:2] - point, point - box[2:]), 0)
    assert 2 < np.hypot(*gap) < LEADER * 100 / 72


def test_a_label_keeps_off_a_line_through_its_point():
    """The dotted curve of the frontier used to run through "n=2"."""

    def curve(axes):
        axes.plot([0, 1], [0.2, 0.8], ":")

    (box,), _, _, _ = placed([(0.5, 0.5)], ["n=2"], curve)
    with blank(COLUMN_WIDTH, 2.6) as drawn:
        axes = drawn.subplots()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        drawn.draw_without_rendering()
        x = np.linspace(0, 1, 2000)
        line = axes.transData.transform(np.column_stack([x, 0.2 + 0.6 * x]))
    assert not ((line > box[:2]) & (line < box[2:])).all(axis=1).any()


def test_a_label_keeps_off_bars():
    def bars(axes):
        axes.errorbar([0.5], [0.5], xerr=[[0.3], [0.3]], yerr=[[0.3], [0.3]], color="k")

    (box,), (point,), _, _ = placed([(0.5, 0.5)], ["tuned"], bars)
    assert not box[0] < point[0] < box[2]
    assert not box[1] < point[1] < box[3]


def test_what_has_no_room_is_left_out():
    points = [(0.5, 0.5)] * 60
    extents, _, texts, _ = placed(points, [f"a long label, number {i}" for i in range(60)], height=1.2)
    assert 0 < len(texts) < 60
    assert not any(overlap(a, b) for a, b in itertools.combinations(extents, 2))


def test_an_existing_text_is_not_covered():
    def note(axes):
        for up in (0.4, 0.45, 0.5, 0.55, 0.6):
            axes.text(0.52, up, "a note that was there before", fontsize=7)

    (box,), (point,), _, _ = placed([(0.5, 0.5)], ["new"], note)
    assert box[2] < point[0]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_axes_of_any_scale(scale):
    def scaled(axes):
        axes.set_xscale(scale)
        axes.set_xlim(0.01, 1)

    extents, pixels, texts, _ = placed([(0.1, 0.5), (0.9, 0.5)], ["left", "right"], scaled)
    assert texts == ["left", "right"]
    centres = [(box[0] + box[2]) / 2 for box in extents]
    assert abs(centres[0] - pixels[0][0]) < 40
    assert abs(centres[1] - pixels[1][0]) < 40
