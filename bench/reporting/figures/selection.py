"""Selection methods against their matched controls: a dot plot, and the paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.reporting.contrasts import Contrast, contrast, judged
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, columns_of, grid_of, guide, in_panels, legend_above, line, where
from bench.reporting.groups import Group
from bench.reporting.style import FULL_WIDTH, LOOKS
from bench.reporting.tables.shared import over_what, spread
from bench.reporting.ways import named

NUDGE = 0.13  # of a row, so that bars of equal length stay apart
NUDGE = 0.13  # of a row, so that bars of equal length stay apart
MOST = 24  # panels
TITLES = {"tuned": "fine-tuned", "control": "random twin"}


def selection(groups: Sequence[Group]) -> Figure | None:
    """Methods and, where nothing else was swept, their paired differences; else a panel for each setting of the rest.

    None where one method was used.
    """
    if "selection" not in groups[0].settings:
        return None
    panels = [(title, found) for title, found in in_panels(groups, ("selection",)) if len(found) > 1]
    if not 0 < len(panels) <= MOST:
        return None
    shown = [group for _, found in panels for group in found]
    effects = judged(
        {
            group.label: contrast(_accuracy(group, "tuned"), _accuracy(group, "control"), group.label)
            for group in shown
            if group.controlled
        }
    )
    rows = [_row(title, group, effects.get(group.label)) for title, found in panels for group in found]
    methods = _methods(rows)
    rows.sort(key=lambda row: methods.index(row["method"]))
    alone = len(panels) == 1
    differences = (
        " Right: the paired difference with its own interval; hollow where, adjusted for the number of methods (Holm "
        "1979), no difference is resolved."
    )
    return Figure(
        name="selection",
        caption=(
            "Selection methods, by the accuracy of one sample of the policy that was fine-tuned on what each selected, "
            "with the policy tuned on as many random completions of the same prompts."
            + differences * alone
            + f" {over_what(shown)}."
        ),
        rows=rows,
        runs=[run for group in shown for run in group.runs],
        draw=lambda drawn: _draw(drawn, rows, [title for title, _ in panels]),
        width=FULL_WIDTH,
        height=0.6 + (0.25 + 0.17 * len(methods)) * (1 if alone else -(-len(panels) // columns_of(len(panels)))),
    )


def _row(title: str, group: Group, effect: Contrast | None) -> dict[str, Any]:
    return {
        "panel": title,
        "method": named(group, ["selection"]),
        "seeds": len(group.runs),
        **spread("tuned", group.mean("tuned", "pass", "accuracy", 1)),
        **spread("control", group.mean("control", "pass", "accuracy", 1) if effect else None),
        **spread("difference", effect.difference if effect else None),
        "verdict": effect.verdict if effect else "no control",
    }


def _methods(rows: Rows) -> list[str]:
    """From the lowest accuracy to the highest, on the mean of their panels."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(names, key=lambda name: float(np.mean([row["tuned"] for row in where(rows, method=name)])))


def _accuracy(group: Group, arm: str) -> np.ndarray:
    """[S, M] of one sample."""
    return group.per_prompt(arm, "pass", "accuracy", 1)


def _draw(drawn: Any, rows: Rows, titles: Sequence[str]) -> None:
    methods, alone = _methods(rows), len(titles) == 1
    if alone:
        panels = list(drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2)))
        _differences(panels[1], _placed(rows, methods))
    else:
        panels = grid_of(drawn, len(titles), sharex=True, sharey=True)
    for axes, title in zip(panels, titles, strict=False):
        _accuracies(axes, _placed(where(rows, panel=title), methods))
        axes.set_title(title)
    wide = 1 if alone else columns_of(len(titles))
    for axes in panels[:1] if alone else panels[-wide:]:
        axes.set_xlabel("accuracy on held-out prompts" if wide == 1 else "accuracy")
    for axes in panels:
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(-0.7, len(methods) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.4)
        axes.set_axisbelow(True)
    legend_above(drawn, panels[0])


def _placed(rows: Rows, methods: Sequence[str]) -> Rows:
    places = [methods.index(row["method"]) for row in rows]
    return [
        row | {"place": place, "above": place + NUDGE, "below": place - NUDGE}
        for row, place in zip(rows, places, strict=True)
    ]


def _accuracies(axes: Any, rows: Rows) -> None:
    line(axes, rows, "tuned", "above", LOOKS["tuned"], linestyle="none", label=TITLES["tuned"])
    twins, hollow = [row for row in rows if row["control"] is not None], {"markerfacecolor": "white"}
    if twins:
        line(axes, twins, "control", "below", LOOKS["control"], label=TITLES["control"], linestyle="none", **hollow)


def _differences(axes: Any, rows: Rows) -> None:
    for row in rows:
        if row["difference"] is not None:
            face = {"markerfacecolor": "white"} if row["verdict"] == "not resolved" else {}
            line(axes, [row], "difference", "place", LOOKS["best_of_n"], linestyle="none", **face)
    guide(axes, x=0.0)
    axes.set_xlabel("fine-tuned - random twin")
