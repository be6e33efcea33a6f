"""Selection methods against their matched controls: a dot plot, and the paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice
from bench.reporting.contrasts import SAMPLED, contrasts, judged
from bench.reporting.exhibit import Figure, shows
from bench.reporting.groups import Group

NUDGE = 0.13  # of a row, so that bars of equal length stay apart
OVER: dict[str, tuple[tuple[str, str, int], str, str]] = {  # x -> method, metric and n; in a caption; below an axis
    "accuracy": (SAMPLED, "accuracy of one sample", "sampled accuracy"),
    "greedy_accuracy": (("greedy", "accuracy", 1), "greedy accuracy", "greedy accuracy"),
}


@shows("figures", 20)
def selection(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """Methods and, where nothing else was swept, their paired differences; else a panel for each setting of the rest.

    None where one method was used.
    """
    if "selection" not in groups[0].settings:
        return None
    x = choice("selection", axes, list(OVER))
    point, in_caption, _ = OVER[x]
    panels = [(title, panel) for title, panel in arrange.in_panels(groups, ("selection",)) if len(panel) > 1]
    if not 0 < len(panels) <= plots.MOST_PANELS:
        return None
    shown = [group for _, panel in panels for group in panel]
    arms = {
        group.label: (group.per_prompt("tuned", *point), group.per_prompt("control", *point))
        for group in shown
        if group.controlled
    }
    effects = judged(contrasts(arms))
    rows: plots.Rows = [
        {
            "panel": title,
            "method": arrange.named(group, ["selection"]),
            "seeds": len(group.runs),
            **tables.spread("tuned", group.mean("tuned", *point)),
            **tables.spread("control", group.mean("control", *point) if effect else None),
            **tables.spread("difference", effect.difference if effect else None),
            "verdict": effect.verdict if effect else "no control",
        }
        for title, panel in panels
        for group in panel
        for effect in [effects.get(group.label)]
    ]
    methods = _methods(rows)
    rows.sort(key=lambda row: methods.index(row["method"]))
    high = 0.25 + plots.row_height(methods) * len(methods)
    controls = ", with the policy tuned on as many random completions of the same prompts" * bool(arms)
    differences = (
        " Right: the paired difference with its own interval; hollow where, adjusted for the number of methods (Holm "
        "1979), no difference is resolved."
    )
    return plots.figure(
        "selection",
        f"Selection methods, by the {in_caption} of the policy that was fine-tuned on what each selected{controls}."
        + differences * _is_compared(rows),
        rows,
        shown,
        lambda canvas, rows: _draw(canvas, rows, [title for title, _ in panels], OVER[x][2]),
        (style.FULL_WIDTH, 0.6 + high * (1 if len(panels) == 1 else plots.rows_of(len(panels)))),
        axes={"x": x},
    )


def _methods(rows: plots.Rows) -> list[str]:
    """From the lowest accuracy to the highest, on the mean of their panels."""
    names = plots.values_of(rows, "method")
    return sorted(names, key=lambda name: float(np.mean([row["tuned"] for row in plots.where(rows, method=name)])))


def _is_compared(rows: plots.Rows) -> bool:
    """Whether there are differences to a control, and one panel, beside which they have room."""
    return len(plots.values_of(rows, "panel")) == 1 and any(row["difference"] is not None for row in rows)


def _draw(canvas: Any, rows: plots.Rows, titles: Sequence[str], name: str) -> None:
    """name: of what is shown along x."""
    methods = _methods(rows)
    for row in rows:
        place = methods.index(row["method"])
        row |= {"place": place, "above": place + NUDGE, "below": place - NUDGE}
    if _is_compared(rows):
        panels = plots.grid_of(canvas, 2, (3, 2), sharey=True)
        for row in (row for row in rows if row["difference"] is not None):
            face = plots.HOLLOW if row["verdict"] == "not resolved" else {}
            plots.line(panels[1], [row], "difference", "place", style.LOOKS["best_of_n"], linestyle="none", **face)
        plots.guide(panels[1], x=0.0)
        panels[1].set_xlabel("fine-tuned - random control")
        panels[0].set_xlabel(f"{name} on held-out prompts")
    else:
        panels = plots.grid_of(canvas, len(titles), sharex=True, sharey=True)
        plots.name_axes(panels, name)
    controls, named = plots.HOLLOW | {"label": plots.TITLES["control"]}, {"label": plots.TITLES["tuned"]}
    for axes, title in zip(panels, titles, strict=False):
        here = plots.where(rows, panel=title)
        plots.line(axes, here, "tuned", "above", style.LOOKS["tuned"], linestyle="none", **named)
        if known := [row for row in here if row["control"] is not None]:
            plots.line(axes, known, "control", "below", style.LOOKS["control"], linestyle="none", **controls)
        axes.set_title(title)
    plots.named_rows(canvas, panels, methods)
