"""The figures of a report on axes of your own.

    runs = bench.load("outputs/selection_methods/*")
    axes = bench.plot.frontier(runs)                                          # a figure of its own, in our style
    bench.plot.frontier(runs, ax=axes, curves=["best_of_n", "tuned"])         # on any matplotlib axes, in their style
    axes.rows                                                                 # the numbers behind it, a pandas frame

Every function takes finished runs (`bench.load`, a `Run` or several) and draws what `python -m bench.report` draws.

ax: matplotlib axes whose place the figure takes; None makes a new pyplot figure of the report's size.
curves: the curves to draw, by their names in the rows' column `method`, `of` or `arm`; None draws all.
label: the setting whose values name series and points, e.g. "selection"; None names all settings that differ.
labels: text -> the text to write in its place, e.g. {"top_per_prompt": "best per prompt", "T=0.7": "cold"}.
x: what stands on the x axis, where this can be chosen (see each function); y: likewise, of heat_map.
size: width and height of a new figure in inches.

Each returns the axes, or a list of axes where the figure has several panels. Raises BenchError where the runs do not
hold the numbers of the figure, or a curve, label or axis is not possible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from bench.errors import BenchError
from bench.records.frames import dotted
from bench.records.read import Run
from bench.reporting.exhibit import Figure
from bench.reporting.exhibits import made
from bench.reporting.figure_settings import shaped
from bench.reporting.finish import texts_of
from bench.reporting.groups import grouped
from bench.reporting.style import styled

SAME: Mapping[str, str] = MappingProxyType({})
Runs = Sequence[Run]


def frontier(runs: Runs, ax: Any = None, *, metric: str = "accuracy", **shown: Any) -> Any:
    """Accuracy against the KL from the raw base, in nats per sequence: Best-of-n and fine-tuned policies on one axis.

    metric: "accuracy", or "reward" of a scorer that is not the verifier. x: "kl", "n" (samples per query), or "flops"
    (per query).
    """
    if metric not in ("accuracy", "reward"):
        raise BenchError(f"metric={metric!r} is not allowed: it must be accuracy or reward.")
    return figure("frontier" if metric == "accuracy" else "frontier_reward", runs, ax, **shown)


def accuracy_by_n(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Accuracy of Best-of-n against n, and of fine-tuned policies against the N that they were trained on.

    x: "n", or "flops": of a query with Best-of-n, and of fine-tuning with the pool that it takes.
    """
    return figure("accuracy_by_n", runs, ax, **shown)


def kl_by_n(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """The KL of Best-of-n from the raw base against n: measured, and by the log n bound. x: "n", or "flops"."""
    return figure("kl_by_n", runs, ax, **shown)


def selection(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Selection methods with their random controls, and the paired differences.

    x: "accuracy" of one sample, or "greedy_accuracy".
    """
    return figure("selection", runs, ax, **shown)


def heat_map(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Temperature by top-p: accuracy of the fine-tuned policy and of Best-of-n, and the KL.

    x, y: any two settings in which the runs differ, e.g. x="num_completions" and y="temperature".
    """
    return figure("heat_map", runs, ax, **shown)


def overoptimisation(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Gold and proxy reward over the square root of the KL, with the fit of Gao et al. 2022.

    x: "distance" (the square root), or "kl".
    """
    return figure("reward_overoptimisation", runs, ax, **shown)


def rounds(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """Accuracy, KL and entropy after each round. x: "round", or "kl" from the base."""
    return figure("rounds", runs, ax, **shown)


def coverage(runs: Runs, ax: Any = None, **shown: Any) -> Any:
    """The share of prompts that k samples solve, and what a scorer or a vote picks of it. x: "k", or "flops"."""
    return figure("coverage", runs, ax, **shown)


def figure(
    name: str,
    runs: Runs,
    ax: Any = None,
    *,
    x: str | None = None,
    y: str | None = None,
    curves: Sequence[str] | None = None,
    label: str | None = None,
    labels: Mapping[str, str] = SAME,
    size: tuple[float, float] | None = None,
) -> Any:
    """Draw the report's figure of this name, e.g. "reward_by_n", or one of your own modules'."""
    given: list[Any] = [runs] if isinstance(runs, Run) else list(runs)
    if not given or not all(isinstance(run, Run) for run in given):
        raise BenchError("bench.plot draws one or more finished runs, as bench.load('outputs/default/*') gives them.")
    if ax is not None and not hasattr(ax, "tick_params"):
        raise BenchError(f"ax of type {type(ax).__name__} is not allowed: it must be the axes of one panel.")
    if isinstance(curves, str) or (curves is not None and not len(curves)):
        raise BenchError(f"curves={curves!r} is not allowed: it must be a list of curves, e.g. ['best_of_n', 'tuned'].")
    groups, others = grouped(given), []
    is_shared = label in groups[0].runs[0].config or label in dotted(groups[0].runs[0].config)  # it names nothing then
    if label is not None and label not in groups[0].settings and not is_shared:
        differing = ", ".join(groups[0].settings) or "no setting"
        raise BenchError(f"label={label} is not a setting in which these runs differ: they differ in {differing}.")
    axes = {axis: value for axis, value in (("x", x), ("y", y)) if value is not None}
    for wanted in made("figures", Figure, [replace(group, named_by=label) for group in groups], axes={name: axes}):
        if wanted.name == name:
            break
        others.append(wanted.name)
    else:
        raise BenchError(f"These runs do not hold the numbers of {name}; they hold those of {', '.join(others)}.")
    drawn = shaped(wanted, curves=curves, labels=labels, axes=axes)
    if ax is not None:
        return _draw(drawn, _Place(ax), labels)

    import matplotlib.pyplot as plt

    with styled():
        return _draw(drawn, plt.figure(figsize=size or (wanted.width, wanted.height)), labels)


def _draw(drawn: Figure, canvas: Any, labels: Mapping[str, str]) -> Any:
    import pandas as pd

    replaced = drawn.draw(canvas)
    if unused := set(labels) - (replaced or set()):
        texts = "; ".join(texts_of(canvas))
        raise BenchError(f"labels: {sorted(unused)[0]} is not a text of {drawn.name}; its texts are {texts}.")
    panels = [axes for axes in canvas.axes if axes.get_label() != "<colorbar>" and axes.axison]
    for axes in panels:
        axes.rows = pd.DataFrame(list(drawn.rows))
    return panels[0] if len(panels) == 1 else panels


class _Place:
    """The place of some axes as a Figure: one panel is these axes, several stand in a subfigure in their place."""

    def __init__(self, ax: Any) -> None:
        self._ax, self._whole = ax, ax  # whole: what is drawn on

    @property
    def axes(self) -> list[Any]:
        if self._whole is self._ax:
            return [self._ax]
        return [axes for part in (self._whole, *self._whole.subfigs) for axes in part.axes]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def subplots(self, rows: int = 1, columns: int = 1, *, squeeze: bool = True, **how: Any) -> Any:
        import numpy as np

        if rows == columns == 1:
            return self._ax if squeeze else np.array([[self._ax]])
        return self._divided().subplots(rows, columns, squeeze=squeeze, **how)

    def subfigures(self, rows: int, columns: int) -> Any:
        return self._divided().subfigures(rows, columns)

    def _divided(self) -> Any:
        from matplotlib.gridspec import GridSpec

        figure, box = self._ax.get_figure(), self._ax.get_position()
        edges = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
        self._ax.set_axis_off()
        self._whole = figure.add_subfigure(self._ax.get_subplotspec() or GridSpec(1, 1, figure, **edges)[0])
        return self._whole

    def legend(self, handles: list[Any], labels: list[str], *, loc: str, **how: Any) -> None:
        """Within one panel, the key of numbers below it; of several, as in a figure of its own."""
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "borderaxespad": 0.0}
        if self._whole is not self._ax:
            self._whole.legend(handles, labels, loc=loc, **how)
        elif "upper" in loc:
            self._ax.add_artist(self._ax.legend(handles, labels))
        else:
            self._ax.legend(handles, labels, **how, **below)
