"""One look for every figure: readable in a column, in grey, and without colour vision."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

Name = TypeVar("Name", bound=Hashable)
COLUMN_WIDTH = 3.35  # inches, one column of a two-column paper
FULL_WIDTH = 7.0  # inches, both columns
# Okabe and Ito's palette, by role
COLOURS = {"best_of_n": "#0072B2", "tuned": "#D55E00", "control": "#009E73", "base": "#000000", "bound": "#999999"}
QUIET = "#666666"  # notes and guides
LABEL_SIZE = 6  # points, of text inside a panel

RC: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures do not depend on the machine's fonts
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
    "text.parse_math": False,  # a $ in a setting is a $
    "svg.hashsalt": "bench",
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Look:
    """What tells one series from others: colour, and without colour marker and line."""

    colour: str
    marker: str
    line: Any = "-"


LOOKS = {
    "best_of_n": Look(COLOURS["best_of_n"], "o", "-"),
    "soft_best_of_n": Look("#CC79A7", "v", (0, (5, 1.5, 1, 1.5))),
    "tuned": Look(COLOURS["tuned"], "D", (0, (5, 1.5))),
    "control": Look(COLOURS["control"], "s", (0, (2.5, 1.5))),
    "base": Look(COLOURS["base"], "^", (0, (1, 1))),
    "bound": Look("#8C8C8C", "", (0, (1, 1.2))),
}
_MARKERS = "osD^vPX<>p"
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2.5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)))


def sequence(names: Sequence[Name]) -> dict[Name, Look]:
    """The looks of ordered series, from light to dark, so that the order shows in grey too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = [0.85 * (1 - i / (len(names) - 1)) for i in range(len(names))] if len(names) > 1 else [0.2]
    return {
        name: Look(to_hex(colormaps["viridis"](shade)), _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i, (name, shade) in enumerate(zip(names, shades, strict=False))
    }


@contextmanager
def blank(width: float, height: float) -> Iterator[Any]:
    """An empty matplotlib Figure of this size in inches; everything drawn and saved inside has this style.

    The machine's own matplotlibrc has no effect.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        canvas = Figure(figsize=(width, height))
        FigureCanvasAgg(canvas)
        yield canvas
