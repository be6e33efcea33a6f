"""How a user wants the figures of a report: which of them, their curves, words and size, and their style.

figures.only=[frontier,selection] figures.size=[3.25,2.4] style=talk   without a height, [3.25], it follows
figures.labels={top_per_prompt: best of N}          words to write in the place of others
figures.frontier.curves=[best_of_n,tuned]           for one figure: curves, labels, size, x (and y of the heat map)
figures=reports/paper_figures.yaml                  the same in a file, for all figures of a paper
style=my.mplstyle                                   a style sheet of matplotlib in the place of paper or talk
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bench.config import rules
from bench.errors import BenchError, did_you_mean
from bench.reporting.axes import AXES
from bench.reporting.exhibit import Figure
from bench.reporting.finish import texts_of
from bench.reporting.style import PAPER, blank, sheet_of, text_size
from bench.reporting.words import listed

SMALLEST = (6.0, 5.0)  # width and height of a panel that can be read, in the size of the text
GENERAL = ("only", "size", "labels")  # settings of all figures
CURVE = ("method", "of", "arm")  # the first of these columns that a figure's rows have names the curve of a row


@dataclass(frozen=True)
class FigureSettings:
    """only: the figures to make; None makes all. style: "paper", "talk" or a style sheet. own: settings by figure."""

    only: Sequence[str] | None = None
    size: Sequence[float] | None = None  # width in inches, and height
    labels: Mapping[str, str] = field(default_factory=dict)
    style: str = "paper"
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, figures: Sequence[Figure]) -> list[Figure]:
        """Return the wanted figures as they are wanted. BenchError where a named one is not among them."""
        names = [figure.name for figure in figures]
        for name in (*(self.only or ()), *self.own):
            if name not in names:
                near = did_you_mean(name, names) or "."
                raise BenchError(f"figures: {name} is not a figure of these runs; they have {', '.join(names)}{near}")
        shown = [self._shaped(figure) for figure in figures if self.only is None or figure.name in self.only]
        if self.labels or self.own or self.size:
            self._try(shown)
        return shown

    def _shaped(self, figure: Figure) -> Figure:
        own = self.own.get(figure.name, {})
        labels = {**self.labels, **own.get("labels", {})}
        made = shaped(figure, curves=own.get("curves"), labels=labels, axes=self.axes.get(figure.name, {}))
        sheet = sheet_of(self.style)
        scale = text_size(sheet) / text_size(PAPER)  # so that a text takes the same share of the figure
        width, *given = own.get("size") or self.size or (figure.width * scale, figure.height * scale)
        # a narrower figure has its panels below each other
        height = given[0] if given else figure.height * scale * max(1.0, figure.width * scale / width)
        return replace(made, width=width, height=height, sheet=sheet)

    def _try(self, figures: Sequence[Figure]) -> None:
        """Draw the figures and discard them. BenchError where a text to replace is in none, or a panel has no room."""
        unused, texts = set(self.labels), list[str]()
        for figure in figures:
            with (
                blank(figure.width, figure.height, figure.sheet) as canvas,
                warnings.catch_warnings(record=True) as said,
            ):
                warnings.simplefilter("always")
                replaced = figure.draw(canvas) or set()
                canvas.draw_without_rendering()
                ems = canvas.dpi * text_size(figure.sheet) / 72  # pixels
                sizes = [
                    axes.bbox.size / ems for axes in canvas.axes if axes.axison and axes.get_label() != "<colorbar>"
                ]
            unused -= replaced
            if others := set(self.own.get(figure.name, {}).get("labels", {})) - replaced:
                raise BenchError(
                    f"figures.{figure.name}.labels: {sorted(others)[0]} is not a text of this figure; its texts are "
                    f"{'; '.join(texts_of(canvas))}."
                )
            texts += texts_of(canvas)
            is_given = self.size or "size" in self.own.get(figure.name, {})
            if is_given and (said or any((size < SMALLEST).any() for size in sizes)):
                raise BenchError(
                    f"figures: {figure.name} has no room in {figure.width:g} x {figure.height:g} inches for text of "
                    f"{text_size(figure.sheet):g} points; give a larger figures.{figure.name}.size, or style=paper."
                )
        if unused:
            allowed = "; ".join(dict.fromkeys(texts))
            raise BenchError(f"figures.labels: {sorted(unused)[0]} is not a text of any figure; texts are {allowed}.")

    @property
    def axes(self) -> dict[str, dict[str, str]]:
        """What is wanted on the axes of figures, by the figure's name."""
        return {name: {axis: own[axis] for axis in AXES if axis in own} for name, own in self.own.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """What `settings_of` makes equal settings of."""
        general: dict[str, Any] = {name: getattr(self, name) for name in GENERAL if getattr(self, name)}
        return {"figures": general | dict(self.own), "style": self.style}


def shaped(
    figure: Figure, *, curves: Sequence[str] | None, labels: Mapping[str, str], axes: Mapping[str, str]
) -> Figure:
    """Return the figure with these curves alone and these words replaced.

    axes: what was asked for on its axes. BenchError where that can't be chosen, or where a curve is not among its.
    """
    for axis, value in axes.items():
        if axis not in figure.axes:
            can = f"; {listed(list(figure.axes))} can be" if figure.axes else ""
            raise BenchError(f"{axis}={value} is not possible: {axis} of {figure.name} can't be chosen{can}.")
    is_own = "texts" not in inspect.signature(figure.draw).parameters  # a user's
    if curves is None and (is_own or not labels):
        return figure
    rows = list(figure.rows)
    if curves is not None:
        if is_own:
            raise BenchError(f"curves={curves[0]} can't be chosen: {figure.name} is drawn by a function of your own.")
        rows += figure.spare
        column = next((name for name in CURVE if name in rows[0]), None)
        known = list(dict.fromkeys(row[column] for row in rows)) if column else []
        if unknown := [curve for curve in curves if curve not in known]:
            allowed = f"it has {', '.join(known)}" if known else "it has no curves to choose among"
            raise BenchError(f"curves={unknown[0]} is not a curve of {figure.name}: {allowed}.")
        rows = [row for row in rows if row[column or ""] in curves]
    return replace(figure, rows=rows, draw=partial(figure.draw, shown=rows, texts=dict(labels)))


def read(words: Sequence[str]) -> FigureSettings:
    """Return what these words of a command line, such as figures.size=[3.25,2.4], ask for."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    files = [word for word in words if word.startswith("figures=")]
    try:
        parts = [OmegaConf.load(word.partition("=")[2]) for word in files]
        parts.append(OmegaConf.from_dotlist([word for word in words if word not in files]))
        merged: Any = OmegaConf.to_container(OmegaConf.merge(*parts), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException, ValueError) as error:
        raise BenchError(f"{' '.join(words)} can't be read: {' '.join(str(error).split())}") from error
    return settings_of(merged)


def settings_of(settings: Mapping[str, Any]) -> FigureSettings:
    """Return the checked settings. BenchError where one is not known or has another type."""
    given = settings.get("figures") or {}
    if not isinstance(given, dict) or not set(settings) <= {"figures", "style"}:
        raise BenchError(
            "the settings of figures are `figures`, with settings by name, and `style`; see reports/README.md."
        )
    own = {name: value for name, value in given.items() if name not in GENERAL}
    _check("figures", {name: value for name, value in given.items() if name in GENERAL}, GENERAL)
    for name, value in own.items():
        if not isinstance(value, dict) and (near := did_you_mean(name, GENERAL)):
            raise BenchError(f"figures.{name} is not known{near}")
        _check(f"figures.{name}", value, ("curves", "size", "labels", *AXES))
    style = str(settings.get("style", "paper"))
    sheet_of(style)  # refused now, not when it is drawn
    return FigureSettings(given.get("only"), given.get("size"), given.get("labels") or {}, style, own)


def _check(place: str, settings: Any, allowed: Sequence[str]) -> None:
    known = f"is not known: a setting of {place} is {', '.join(allowed)}"
    if not isinstance(settings, dict):
        raise BenchError(f"{place} {known}.")
    for name, value in settings.items():
        if name not in allowed:
            raise BenchError(f"{place}.{name} {known}{did_you_mean(str(name), allowed) or '.'}")
        if not ALLOWED[name].allows(value):
            raise BenchError(f"{place}.{name}={value} is not allowed: it must be {ALLOWED[name].description}.")


NAME, INCHES = rules.text(r"(?s).*", "a name"), rules.list_of(rules.number(0.5, 50), empty=False)
ALLOWED = {
    "only": rules.list_of(NAME, "a list of figures, e.g. [frontier,selection]", empty=False),
    "curves": rules.list_of(NAME, "a list of curves, e.g. [best_of_n,tuned]", empty=False),
    "size": rules.Rule(
        lambda value: INCHES.allows(value) and len(value) <= 2,
        "width in inches and perhaps height, each 0.5 to 50, e.g. [3.25,2.4]",
    ),
    **dict.fromkeys(AXES, rules.text(r"(?s).+", "a name, e.g. flops")),
    "labels": rules.Rule(
        lambda value: isinstance(value, dict) and all(isinstance(text, str | int | float) for text in value.values()),
        "texts by the text that they replace, e.g. {top_per_prompt: best of N}",
    ),
}
