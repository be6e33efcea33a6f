"""Selection methods against their matched controls: a dot plot, and the paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.reporting.contrasts import contrast, judged
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, guide, in_panels, legend_above, line, named
from bench.reporting.groups import Group
from bench.reporting.style import FULL_WIDTH, LOOKS
from bench.reporting.tables.shared import over_what, spread

NUDGE = 0.13  # of a row, so that bars of equal length stay apart
TITLES = {"tuned": "fine-tuned", "control": "random twin"}


def selections(groups: Sequence[Group]) -> list[Figure]:
    """One figure for each setting of what else was swept; none where one method was used."""
    if "selection" not in groups[0].settings:
        return []
    return [_selection(title, found) for title, found in in_panels(groups, ("selection",)) if len(found) > 1]


def _selection(title: str, groups: Sequence[Group]) -> Figure:
    effects = judged(
        {
            group.label: contrast(_accuracy(group, "tuned"), _accuracy(group, "control"), group.label)
            for group in groups
            if group.controlled
        }
    )
    rows: Rows = []
    for group in groups:
        effect = effects.get(group.label)
        rows.append(
            {
                "method": named(group, ["selection"]),
                "seeds": len(group.runs),
                **spread("tuned", group.mean("tuned", "pass", "accuracy", 1)),
                **spread("control", group.mean("control", "pass", "accuracy", 1) if effect else None),
                **spread("difference", effect.difference if effect else None),
                "verdict": effect.verdict if effect else "no control",
            }
        )
    rows.sort(key=lambda row: row["tuned"])
    name = "_".join(["selection", *"".join(c if c.isalnum() else " " for c in title).split()])
    return Figure(
        name=name,
        caption=(
            f"Selection methods{f' at {title}' if title else ''}, by the accuracy of one sample of the policy that was "
            "fine-tuned on what each selected, with the policy tuned on as many random completions of the same "
            "prompts. Right: the paired difference with its own interval; hollow where, adjusted for the number of "
            "methods (Holm 1979), no difference is resolved. "
            f"{over_what(groups)}."
        ),
        rows=rows,
        runs=[run for group in groups for run in group.runs],
        draw=lambda drawn: _draw(drawn, rows),
        width=FULL_WIDTH,
        height=0.85 + 0.17 * len(rows),
    )


def _accuracy(group: Group, arm: str) -> np.ndarray:
    """[S, M] of one sample."""
    return group.per_prompt(arm, "pass", "accuracy", 1)


def _draw(drawn: Any, rows: Rows) -> None:
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    placed = [row | {"place": place} for place, row in enumerate(rows)]
    placed = [row | {"above": row["place"] + NUDGE, "below": row["place"] - NUDGE} for row in placed]
    line(left, placed, "tuned", "above", LOOKS["tuned"], linestyle="none", label=TITLES["tuned"])
    twins = [row for row in placed if row["control"] is not None]
    hollow = {"markerfacecolor": "white", "linestyle": "none"}
    if twins:
        line(left, twins, "control", "below", LOOKS["control"], label=TITLES["control"], **hollow)
        for row in twins:
            face = {"markerfacecolor": "white"} if row["verdict"] == "not resolved" else {}
            line(right, [row], "difference", "place", LOOKS["best_of_n"], linestyle="none", **face)
    guide(right, x=0.0)
    left.set_yticks(range(len(rows)), [row["method"] for row in rows])
    left.set_ylim(-0.7, len(rows) - 0.3)
    left.set_xlabel("accuracy on held-out prompts")
    right.set_xlabel("fine-tuned - random twin")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.4)
        axes.set_axisbelow(True)
    legend_above(drawn, left)
