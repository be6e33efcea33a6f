"""Curves over n: accuracy by sampler and by training N, the highest and the median reward, the KL and its bound."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import (
    Rows,
    beside,
    curve_rows,
    grid_of,
    guide,
    in_panels,
    legend_above,
    line,
    powers_axis,
    where,
)
from bench.reporting.groups import Group
from bench.reporting.labels import Label, place_labels
from bench.reporting.style import COLOURS, COLUMN_WIDTH, FULL_WIDTH, LOOKS, QUIET, Look, sequence
from bench.reporting.tables.shared import all_runs, over_what, spread
from bench.reporting.ways import samplers

MOST = 6  # curves, or panels, that one figure has room for


def accuracy_by_n(groups: Sequence[Group]) -> Figure | None:
    """Best-of-n of each sampler against n, and the fine-tuned policies against the N that they were trained on.

    None where there is one sampler and one N; each part only where it has room for all curves.
    """
    drawn_from = samplers(groups)
    trained = [(name, found) for name, found in in_panels(groups, ("num_completions",)) if len(found) > 1]
    rows: Rows = []
    if 1 < len(drawn_from) <= MOST:
        for name, group in drawn_from:
            rows += curve_rows(
                group.series("base", "best_of_n", "accuracy"), "n", "accuracy", of="best_of_n", name=name
            )
    for name, found in trained if len(trained) <= MOST else ():
        for group in found:
            n = int(group.settings["num_completions"])
            for arm in ("tuned", "control") if group.controlled else ("tuned",):
                one = {n: group.mean(arm, "pass", "accuracy", 1)}
                rows += curve_rows(one, "n", "accuracy", of=arm, name=name)
    if not rows:
        return None
    panels = len({row["of"] == "best_of_n" for row in rows})
    return Figure(
        name="accuracy_by_n",
        caption=(
            "Accuracy on held-out prompts against n. Best-of-n: the base's own samples, n of them a query. Fine-tuned: "
            "one sample a query of the policy that was tuned on N samples a training prompt; hollow: its random twin. "
            f"{over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _accuracy(drawn, rows),
        width=COLUMN_WIDTH if panels == 1 else FULL_WIDTH,
        height=COLUMN_WIDTH * 0.85,
    )


def _accuracy(drawn: Any, rows: Rows) -> None:
    kinds = [kind for kind in ("best_of_n", "tuned") if where(rows, of=kind)]
    panels = grid_of(drawn, len(kinds), sharey=True)
    names = list(dict.fromkeys(row["name"] for row in rows))
    looks = dict(zip(names, sequence(len(names)), strict=True))
    for axes, kind in zip(panels, kinds, strict=True):
        arms = [kind] + ["control"] * (kind == "tuned" and bool(where(rows, of="control")))
        series = [(name, arm) for name in names for arm in arms if where(rows, of=arm, name=name)]
        for place, (name, arm) in enumerate(series):
            found = beside(where(rows, of=arm, name=name), "n", place, len(series))
            hollow = {"markerfacecolor": "white", "linewidth": 0.6} if arm == "control" else {"label": name or None}
            line(axes, found, "n", "accuracy", looks[name], **hollow)
        shown = [row["n"] for row in rows if row["of"] in ((kind,) if kind == "best_of_n" else ("tuned", "control"))]
        powers_axis(axes, shown, "n of Best-of-n" if kind == "best_of_n" else "N trained on (hollow: random twin)")
    panels[0].set_ylabel("accuracy on held-out prompts")
    legend_above(drawn, panels)


def reward_by_n(groups: Sequence[Group]) -> Figure | None:
    """The highest and the median reward among n samples, in the form of Llama 2 (Touvron et al. 2023), Figure 7.

    None where the median was not recorded.
    """
    rows: Rows = []
    ways = samplers(groups)
    for name, group in ways:
        rows += curve_rows(group.series("base", "best_of_n", "proxy"), "n", "reward", of="highest", name=name)
        rows += curve_rows(group.series("base", "median_of_n", "proxy"), "n", "reward", of="median", name=name)
    if not where(rows, of="median") or len(ways) > MOST:
        return None
    return Figure(
        name="reward_by_n",
        caption=(
            "The highest (filled) and the median reward (hollow) among n samples of a held-out prompt; exact means "
            f"over all n-subsets of its pool. {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _reward(drawn, rows),
    )


def _reward(drawn: Any, rows: Rows) -> None:
    axes = drawn.subplots()
    names = list(dict.fromkeys(row["name"] for row in rows))
    looks = sequence(len(names)) if len(names) > 1 else [LOOKS["best_of_n"]]
    for place, (name, look) in enumerate(zip(names, looks, strict=True)):
        highest, median = (
            beside(where(rows, of=of, name=name), "n", 2 * place + i, 2 * len(names))
            for i, of in enumerate(("highest", "median"))
        )
        line(axes, highest, "n", "reward", look, label=name or None)
        line(axes, median, "n", "reward", look, markerfacecolor="white", linewidth=0.7)
    powers_axis(axes, [row["n"] for row in rows], "n samples of a prompt")
    axes.set_ylabel("reward of the n samples")
    axes.margins(y=0.1)
    legend_above(drawn, axes)
    ends = [max(where(rows, of=of), key=lambda row: (row["n"], row["reward"])) for of in ("highest", "median")]
    colour = LOOKS["best_of_n"].colour if len(names) == 1 else QUIET
    place_labels(axes, [Label(row["n"], row["reward"], row["of"], colour) for row in ends])


def kl_by_n(groups: Sequence[Group]) -> Figure | None:
    """Best-of-n's KL from the raw base: measured, at its largest for unsolved prompts, and by the log n bound."""
    rows: Rows = []
    for name, group in samplers(groups):
        pool = min(run.metrics["best_of_n/pool_size"] for run in group.runs)
        for metric in ("kl", "kl_sensitivity", "kl_bound"):
            curve = group.series("base", "best_of_n", metric)
            rows += [
                {"name": name, "of": metric, "n": n, "extrapolates": 4 * n > pool, **spread("kl", found)}
                for n, found in curve.items()
            ]
    panels = len({row["name"] for row in rows})
    if not rows or panels > MOST:
        return None
    sensitive = any(row["of"] == "kl_sensitivity" for row in rows)
    return Figure(
        name="kl_by_n",
        caption=(
            "The KL of Best-of-n from the raw base: measured, ties included, and by log n - (n - 1)/n, which is exact "
            "only where no two rewards tie; both with the sampler's own distance added. Small hollow points: n is more "
            "than a quarter of the samples."
            + " Crosses: with prompts that were never solved at the largest KL that their pools leave open." * sensitive
            + f" {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _kl(drawn, rows),
        width=COLUMN_WIDTH if panels == 1 else FULL_WIDTH,
        height=COLUMN_WIDTH * (0.8 if panels < 4 else 1.4),
    )


def _kl(drawn: Any, rows: Rows) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    panels = grid_of(drawn, len(names), sharey=True)
    cross = Look(COLOURS["base"], "x", "none")
    for axes, name in zip(panels, names, strict=True):
        # at one x: they coincide where no rewards tie, and moved apart the measured one would seem lower there
        bound, measured = where(rows, name=name, of="kl_bound"), where(rows, name=name, of="kl")
        line(axes, bound, "n", "kl", LOOKS["bound"], label="log n bound", linewidth=2.2)
        line(axes, measured, "n", "kl", LOOKS["best_of_n"], label="measured", marker="")
        for row in measured:
            small = {"markersize": 2.5, "markerfacecolor": "white"} if row["extrapolates"] else {}
            line(axes, [row], "n", "kl", LOOKS["best_of_n"], linestyle="none", **small)
        if found := where(rows, name=name, of="kl_sensitivity"):
            bare = [{"n": row["n"], "kl": row["kl"]} for row in found]
            line(axes, bare, "n", "kl", cross, markersize=3.5, markeredgewidth=0.6, label="unsolved prompts at most")
        powers_axis(axes, [row["n"] for row in measured], "n of Best-of-n")
        axes.set_title(name)
        guide(axes, y=0.0)
    panels[0].set_ylabel("KL (nats a sequence)")
    legend_above(drawn, panels)
