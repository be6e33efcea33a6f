"""What k samples of the base solve, and how much of it a scorer or a vote can pick; how many ways of solving it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.estimators.best_of_n import fit_coverage
from bench.records.read import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import (
    Rows,
    beside,
    curve_rows,
    grid_of,
    in_panels,
    legend_above,
    line,
    powers_axis,
    where,
)
from bench.reporting.groups import Group
from bench.reporting.style import COLOURS, COLUMN_WIDTH, FULL_WIDTH, LOOKS, Look, sequence
from bench.reporting.tables.shared import all_runs, over_what, spread
from bench.reporting.ways import named, samplers

MOST = 6  # panels, or curves, that one figure has room for
FIT = "power law"
LAW = Look(COLOURS["tuned"], "", (0, (4, 2)))
METHODS = {
    "pass": ("coverage (pass@k)", Look(COLOURS["base"], "^", "-")),
    "best_of_n": ("Best-of-k by the scorer", LOOKS["best_of_n"]),
    "weighted_majority": ("majority weighted by it", Look("#CC79A7", "v", (0, (5, 1.5, 1, 1.5)))),
    "majority": ("majority", Look(COLOURS["control"], "s", (0, (2.5, 1.5)))),
}
PLACES = (2, 1, 3, 4)  # of METHODS among five: coverage in the middle, at k itself, where the law through it is


def coverage(groups: Sequence[Group]) -> Figure | None:
    """Coverage, Best-of-k and votes against k, with the exponentiated power law of Brown et al. 2024 through coverage.

    None where the whole pool was not recorded.
    """
    rows: Rows = []
    for name, group in samplers(groups):
        found: Rows = []
        for method in METHODS:
            curve = group.series("sampler", method, "accuracy")
            if any(point.value > 0 for point in curve.values()):  # a task without answers to vote on has no majority
                found += curve_rows(curve, "k", "accuracy", name=name, method=method)
        if gold_chooses(found):  # then Best-of-k is right wherever one of k is
            found = [row for row in found if row["method"] != "best_of_n"]
        rows += found + _law(name, where(found, method="pass"))
    panels = len({row["name"] for row in rows})
    if not rows or panels > MOST:
        return None
    votes = "; below, what picking one of the k by the scorer or by majority vote gets"
    return Figure(
        name="coverage",
        caption=(
            f"Share of held-out prompts that k samples of the base solve{votes}. Dashed: coverage = exp(-a k^-b), "
            f"fitted by weighted least squares. Exact means over all k-subsets of the pool. {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _coverage(drawn, rows),
        width=COLUMN_WIDTH if panels == 1 else FULL_WIDTH,
        height=COLUMN_WIDTH * (0.9 if panels < 4 else 1.5),
    )


def gold_chooses(rows: Rows) -> bool:
    """Whether Best-of-k is as good as coverage at every k: the scorer is gold itself."""
    best, solved = ([row["accuracy"] for row in where(rows, method=method)] for method in ("best_of_n", "pass"))
    return len(best) == len(solved) and np.allclose(best, solved, rtol=0, atol=1e-12)


def _law(name: str, rows: Rows) -> Rows:
    """The fitted law at and between the k of `rows`; nothing where too few points have a slope."""
    k, c = np.array([row["k"] for row in rows]), np.array([row["accuracy"] for row in rows])
    if ((c > 0) & (c < 1)).sum() < 3:
        return []
    law = fit_coverage(k, c)
    grid = np.geomspace(k[0], k[-1], 4 * (len(k) - 1) + 1)
    labels = {"name": name, "method": f"{FIT}: a={law.a:.3g}, b={law.b:.3g}"}
    return [{**labels, "k": float(x), **spread("accuracy", None), "accuracy": float(law(x))} for x in grid]


def _coverage(drawn: Any, rows: Rows) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    panels = grid_of(drawn, len(names), sharey=True)
    for axes, name in zip(panels, names, strict=True):
        for place, (method, (title, look)) in zip(PLACES, METHODS.items(), strict=True):
            found = beside(where(rows, name=name, method=method), "k", place, len(PLACES) + 1)
            if found:
                line(axes, found, "k", "accuracy", look, label=title)
        for row in (fitted := [row for row in where(rows, name=name) if row["method"].startswith(FIT)])[:1]:
            bare = [{"k": one["k"], "accuracy": one["accuracy"]} for one in fitted]
            title = FIT if len(names) > 1 else row["method"]
            line(axes, bare, "k", "accuracy", LAW, label=title, linewidth=0.9, zorder=5)
        powers_axis(axes, [row["k"] for row in where(rows, name=name, method="pass")], "k samples")
        axes.set_title(name)
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("share of held-out prompts")
    legend_above(drawn, panels)


def paths(groups: Sequence[Group]) -> Figure | None:
    """Distinct correct paths of reasoning among k samples, and accuracy after training on N of them (Yuan et al. 2023).

    None where paths were not recorded, or for more configurations than one panel has room for.
    """
    rows: Rows = []
    for name, group in samplers(groups):
        rows += _distinct("base", name, group.series("sampler", "distinct", "correct_paths"))
    tuned = [("tuned", group) for group in groups] + [("control", group) for group in groups if group.controlled]
    if len(groups) <= 2:
        for arm, group in tuned:
            rows += _distinct(arm, named(group), group.series(arm, "distinct", "correct_paths"))
    sampled = len(rows)
    for name, found in in_panels(groups, ("num_completions",)) if sampled else ():
        for group in found if len(found) > 1 else ():
            n = int(group.settings["num_completions"])
            rows += curve_rows({n: group.mean("tuned", "pass", "accuracy", 1)}, "k", "value", of="trained", name=name)
    if (
        not where(rows, of="base")
        or max(len({row["name"] for row in where(rows, of=of)}) for of in ("base", "trained")) > MOST
    ):
        return None
    return Figure(
        name="paths",
        caption=(
            "Distinct correct paths of reasoning among k samples of a held-out prompt (exact means over all k-subsets)"
            + "; beside it, accuracy of the policy that was fine-tuned on k samples a prompt" * (len(rows) > sampled)
            + f". {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _paths(drawn, rows),
        width=FULL_WIDTH if len(rows) > sampled else COLUMN_WIDTH,
        height=COLUMN_WIDTH * 0.85,
    )


def _distinct(of: str, name: str, curve: dict[int, Estimate]) -> Rows:
    return curve_rows(curve, "k", "value", of=of, name=name)


def _paths(drawn: Any, rows: Rows) -> None:
    trained = where(rows, of="trained")
    panels = grid_of(drawn, 2 if trained else 1)
    names = {of: list(dict.fromkeys(row["name"] for row in where(rows, of=of))) for of in ("base", "trained")}
    every = list(dict.fromkeys([*names["base"], *names["trained"]]))
    by_name = dict(zip(every, sequence(len(every)), strict=True))
    alone = len(names["base"]) == 1
    series = list(dict.fromkeys((row["of"], row["name"]) for row in rows if row["of"] != "trained"))
    for place, (of, name) in enumerate(series):
        look = LOOKS[of] if alone or of != "base" else by_name[name]
        shown = name if not alone else " ".join(filter(None, [of, name]))
        found = beside(where(rows, of=of, name=name), "k", place, len(series))
        line(panels[0], found, "k", "value", look, label=shown)
    powers_axis(panels[0], [row["k"] for row in rows if row["of"] != "trained"], "k samples")
    panels[0].set_ylabel("distinct correct paths" if alone else "distinct correct paths, base")
    panels[0].set_ylim(bottom=0)
    if trained:
        for place, name in enumerate(names["trained"]):
            look = LOOKS["tuned"] if names["trained"] == [""] else by_name[name]
            found = beside(where(trained, name=name), "k", place, len(names["trained"]))
            line(panels[1], found, "k", "value", look, label=name)
        powers_axis(panels[1], [row["k"] for row in trained], "N samples a training prompt")
        panels[1].set_ylabel("accuracy, fine-tuned")
    legend_above(drawn, panels[0] if len(panels) == 1 or names["trained"] == [""] else panels)
