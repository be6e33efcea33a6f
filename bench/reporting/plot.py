"""The figures of a report on axes of your own.

    runs = bench.load("outputs/selection_methods/*")
    axes = bench.plot.frontier(runs)                                          # a figure of its own, in our style
    bench.plot.frontier(runs, ax=axes, curves=["best_of_n", "tuned"])         # on any matplotlib axes, in their style
    axes.rows                                                                 # the numbers behind it, a pandas frame

Every function takes finished runs (`bench.load`, or `Run`s) and draws what `python -m bench.report` draws.

ax: matplotlib axes whose place the figure takes; None makes a new pyplot figure of the report's size.
curves: the curves to draw, by their names in the rows' column `method`, `of` or `arm`; None draws all.
labels: text -> the text to write in its place, e.g. {"top_per_prompt": "best per prompt", "T=0.7": "cold"}.
size: width and height of a new figure in inches.

Each returns the axes, or a list of axes where the figure has several panels. Raises BenchError where the runs do not
hold the numbers of the figure, or a curve is not among its curves.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.errors import BenchError
from bench.records.read import Run
from bench.reporting.exhibit import Figure
from bench.reporting.exhibits import made
from bench.reporting.figure_settings import shaped
from bench.reporting.groups import grouped
from bench.reporting.style import styled

SAME: Mapping[str, str] = MappingProxyType({})
Runs = Sequence[Run]


def frontier(runs: Runs, ax: Any = None, *, metric: str = "accuracy", **shown: Any) -> Any:
    """Accuracy against the KL from the raw base, in nats per sequence: Best-of-n and fine-tuned policies on one axis.

    metric: "accuracy", or "reward" of a scorer that is not the verifier.
    """
    if metric not in ("accuracy", "reward"):
        raise BenchError(f"metric={metric!r} is not allowed: it must be accuracy or reward.")
    return figure("frontier" if metric == "accuracy" else "frontier_reward", runs, ax, **shown)


def accuracy_by_n(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Accuracy of Best-of-n against n, and of fine-tuned policies against the N that they were trained on."""
    return figure("accuracy_by_n", runs, ax, **shown)


def kl_by_n(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """The KL of Best-of-n from the raw base against n: measured, and by the log n bound."""
    return figure("kl_by_n", runs, ax, **shown)


def selection(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Selection methods with their random controls, and the paired differences."""
    return figure("selection", runs, ax, **shown)


def heat_map(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Temperature by top-p: accuracy of the fine-tuned policy and of Best-of-n, and the KL."""
    return figure("heat_map", runs, ax, **shown)


def overoptimisation(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Gold and proxy reward over the square root of the KL, with the fit of Gao et al. 2022."""
    return figure("overoptimisation", runs, ax, **shown)


def rounds(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Accuracy, KL and entropy after each round."""
    return figure("rounds", runs, ax, **shown)


def coverage(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """The share of prompts that k samples solve, and what a scorer or a vote picks of it."""
    return figure("coverage", runs, ax, **shown)


def figure(
    name: str,
    runs: Runs,
    ax: Any = None,
    *,
    curves: Sequence[str] | None = None,
    labels: Mapping[str, str] = SAME,
    size: tuple[float, float] | None = None,
) -> Any:
    """Draw the report's figure of this name, e.g. "reward_by_n", or one of your own modules'."""
    others = []
    for wanted in made("figures", Figure, grouped(list(runs))):
        if wanted.name == name:
            break
        others.append(wanted.name)
    else:
        raise BenchError(f"These runs do not hold the numbers of {name}; they hold those of {', '.join(others)}.")
    drawn = shaped(wanted, curves=curves, labels=labels)
    if ax is not None:
        return _draw(drawn, _Place(ax))

    import matplotlib.pyplot as plt

    with styled():
        return _draw(drawn, plt.figure(figsize=size or (wanted.width, wanted.height)))


def _draw(drawn: Figure, canvas: Any) -> Any:
    import pandas as pd

    drawn.draw(canvas)
    for axes in canvas.axes:
        axes.rows = pd.DataFrame(list(drawn.rows))
    return canvas.axes[0] if len(canvas.axes) == 1 else list(canvas.axes)


class _Place:
    """The place of some axes as a Figure: one panel is these axes, several divide their place."""

    def __init__(self, ax: Any) -> None:
        self._ax = ax
        self.axes: list[Any] = []

    def subplots(self, rows: int = 1, columns: int = 1, *, squeeze: bool = True, **how: Any) -> Any:
        import numpy as np

        if rows == columns == 1:
            self.axes = [self._ax]
            return np.array([[self._ax]]) if not squeeze else self._ax
        ratios = {name: how.pop(name) for name in ("width_ratios", "height_ratios") if name in how}
        self._ax.set_axis_off()
        divided = self._ax.get_subplotspec().subgridspec(rows, columns, **ratios)
        panels = divided.subplots(squeeze=squeeze, **how)
        self.axes = list(np.ravel(panels))
        return panels

    def get_figwidth(self) -> float:
        box = self._ax.get_position()
        return float(self._ax.get_figure(root=True).get_figwidth() * box.width)

    def legend(self, handles: list[Any], labels: list[str], **_: Any) -> None:
        self.axes[0].legend(handles, labels)
