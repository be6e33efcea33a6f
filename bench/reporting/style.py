"""One look for every figure: readable in a column, in grey, and without colour vision."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import BenchError, did_you_mean

Name = TypeVar("Name", bound=Hashable)
COLUMN_WIDTH = 3.25  # inches, one column of a two-column paper
FULL_WIDTH = 6.75  # inches, both columns
# Okabe and Ito's palette, by role
COLOURS = {"best_of_n": "#0072B2", "tuned": "#D55E00", "control": "#009E73", "base": "#000000", "bound": "#999999"}
QUIET = "#666666"  # notes and guides

SHEETS = Path(__file__).parent  # of paper.mplstyle and talk.mplstyle
PAPER = SHEETS / "paper.mplstyle"


@dataclass(frozen=True)
class Look:
    """What tells one series from others: colour, and without colour marker and line."""

    colour: str
    marker: str
    line: Any = "-"


LOOKS = {
    "best_of_n": Look(COLOURS["best_of_n"], "o", "-"),
    "oracle": Look("#56B4E9", "h", (0, (4, 1, 1, 1, 1, 1))),
    "soft_best_of_n": Look("#CC79A7", "v", (0, (5, 1.5, 1, 1.5))),
    "tuned": Look(COLOURS["tuned"], "D", (0, (5, 1.5))),
    "control": Look(COLOURS["control"], "s", (0, (2.5, 1.5))),
    "base": Look(COLOURS["base"], "^", (0, (1, 1))),
    "bound": Look("#8C8C8C", "", (0, (1, 1.2))),
}
_MARKERS = "osD^vPX<>p"
_OTHERS = ("#E69F00", "#56B4E9", "#7A5195", "#8B4513")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2.5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)))


def sequence(names: Sequence[Name]) -> dict[Name, Look]:
    """The looks of ordered series, from light to dark, so that the order shows in grey too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = [0.85 * (1 - i / (len(names) - 1)) for i in range(len(names))] if len(names) > 1 else [0.2]
    return _looks(names, [to_hex(colormaps["viridis"](shade)) for shade in shades], _MARKERS)


def elsewhere(names: Sequence[Name]) -> dict[Name, Look]:
    """The looks of policies from elsewhere, in colours that no other role has."""
    return _looks(names, _OTHERS, _MARKERS[::-1])


def _looks(names: Sequence[Name], colours: Sequence[str], markers: str) -> dict[Name, Look]:
    return dict(zip(names, map(Look, cycle(colours), cycle(markers), cycle(_LINES)), strict=False))


def sheet_of(style: str) -> Path:
    """Return the style sheet: "paper", "talk", or the path of a matplotlib style sheet. BenchError for others."""
    import matplotlib

    ours = sorted(path.stem for path in SHEETS.glob("*.mplstyle"))
    path = SHEETS / f"{style}.mplstyle" if style in ours else Path(style)
    try:
        matplotlib.rc_params_from_file(path, use_default_template=False)
    except (OSError, ValueError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        allowed = f"{', '.join(ours)} or the path of a style sheet of matplotlib"
        raise BenchError(
            f"style={style} can't be read ({reason}); give {allowed}{did_you_mean(style, ours) or '.'}"
        ) from error
    return path


def text_size(sheet: Path) -> float:
    """Return the size of its text in points."""
    import matplotlib

    return float(matplotlib.rc_params_from_file(sheet)["font.size"])


def legend_size() -> float:
    """Return the size of a legend's text in the current style, in points; text inside a panel is a point smaller."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size=rcParams["legend.fontsize"]).get_size_in_points())


@contextmanager
def styled(sheet: Path = PAPER) -> Iterator[None]:
    """Everything drawn and saved inside has this style; the machine's own matplotlibrc has no effect."""
    from matplotlib import style

    with style.context(sheet, after_reset=True):
        yield


@contextmanager
def blank(width: float, height: float, sheet: Path = PAPER) -> Iterator[Any]:
    """An empty matplotlib Figure of this size in inches, `styled`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled(sheet):
        canvas = Figure(figsize=(width, height))
        FigureCanvasAgg(canvas)
        yield canvas


def lay_out(figure: Any) -> None:
    """Give every panel its size, as drawing does, without drawing; a figure without a layout engine has it already."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
