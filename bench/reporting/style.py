"""One look for every figure: readable in a column, in grey, and without colour vision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLUMN_WIDTH = 3.35  # inches, one column of a two-column paper
# Okabe and Ito's palette, by role
COLOURS = {"best_of_n": "#0072B2", "tuned": "#D55E00", "control": "#009E73", "base": "#000000", "bound": "#999999"}

RC: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.hashsalt": "bench",
    "savefig.dpi": 300,
}


@contextmanager
def figure(width: float = COLUMN_WIDTH, height: float = COLUMN_WIDTH * 0.8) -> Iterator[tuple[Any, Any]]:
    """(figure, axes) in this style, closed at the end; width and height in inches."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context(RC):
        drawn, axes = pyplot.subplots(figsize=(width, height))
        try:
            yield drawn, axes
        finally:
            pyplot.close(drawn)
