"""Pessimism at inference beside Best-of-n: accuracy against n, where the scorer is not gold itself."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.contrasts import contrast, judged
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, beside, curve_rows, grid_of, legend_above, line, powers_axis, where
from bench.reporting.groups import Group
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, LOOKS, sequence
from bench.reporting.tables.shared import all_runs, over_what
from bench.reporting.ways import samplers

METHOD = "pessimism_of_n@"
MOST = 6  # samplers that one figure has room for


def pessimism_by_n(groups: Sequence[Group]) -> Figure | None:
    """A panel a sampler; None where no run has a scorer that is not gold."""
    rows: Rows = []
    for name, group in samplers(groups):
        if betas := _betas(group):
            curve = group.series("base", "best_of_n", "accuracy")
            rows += curve_rows(curve, "n", "accuracy", sampler=name, of="best_of_n", beta=None)
        for beta in betas:
            curve = group.series("base", f"{METHOD}{beta}", "accuracy")
            rows += curve_rows(curve, "n", "accuracy", sampler=name, of="pessimism", beta=float(beta))
    panels = len({row["sampler"] for row in rows})
    if not rows or panels > MOST:
        return None
    return Figure(
        name="pessimism_by_n",
        caption=(
            "Accuracy of one of n samples of the base, chosen by the scorer: the best of them, and by pessimism at "
            "inference, beta in units of the scorer's spread within a prompt. Means over subsets of each held-out "
            f"prompt's pool. {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _draw(drawn, rows),
        width=COLUMN_WIDTH if panels == 1 else FULL_WIDTH,
        height=COLUMN_WIDTH * (0.85 if panels < 4 else 1.4),
    )


def of_pessimism(group: Group) -> list[str]:
    """Pessimism against Best-of-n at the largest n, adjusted for the number of betas (Holm 1979)."""
    betas, n = _betas(group), max(group.series("base", "best_of_n", "accuracy"))
    if not betas or n == 1:
        return []
    best = group.per_prompt("base", "best_of_n", "accuracy", n)
    found = judged(
        {
            beta: contrast(group.per_prompt("base", f"{METHOD}{beta}", "accuracy", n), best, f"pessimism {beta}")
            for beta in betas
        }
    )
    parts = [
        f"{f'not resolved from it{one.adjustment}' if one.verdict == 'not resolved' else one.verdict} at beta = {beta} "
        f"({'+' if one.difference.value > 0 else ''}{one.difference}"
        f"{f'; {one.power}' if one.verdict == 'not resolved' else ''})"
        for beta, one in found.items()
    ]
    return [f"Against Best-of-{n}, pessimism with as many samples is {'; '.join(parts)}."]


def _betas(group: Group) -> list[str]:
    methods = {key[1] for key in group.runs[0].curves}
    return sorted((one.removeprefix(METHOD) for one in methods if one.startswith(METHOD)), key=float)


def _draw(drawn: Any, rows: Rows) -> None:
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    betas = sorted({row["beta"] for row in rows if row["beta"] is not None})
    panels = grid_of(drawn, len(names), sharey=True)
    for axes, name in zip(panels, names, strict=True):
        best = beside(where(rows, sampler=name, of="best_of_n"), "n", 0, 1 + len(betas))
        line(axes, best, "n", "accuracy", LOOKS["best_of_n"], label="Best-of-n")
        for place, (beta, look) in enumerate(zip(betas, sequence(len(betas)), strict=True), 1):
            if found := beside(where(rows, sampler=name, beta=beta), "n", place, 1 + len(betas)):
                line(axes, found, "n", "accuracy", look, label=f"pessimism, beta = {beta:g}", linewidth=0.8)
        powers_axis(axes, [row["n"] for row in where(rows, sampler=name)], "n samples of a prompt")
        axes.set_title(name)
    panels[0].set_ylabel("accuracy on held-out prompts")
    legend_above(drawn, panels)
