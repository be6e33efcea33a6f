"""Curves over n: accuracy by sampler and by training N, the highest and the median reward, the KL and its bound."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bench.records.read import Estimate, short
from bench.reporting.contrasts import Contrast, contrast
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.labels import Label, place_labels
from bench.reporting.plots import (
    HOLLOW,
    MOST,
    Rows,
    bare,
    curve_rows,
    figure,
    grid_of,
    guide,
    legend_above,
    line,
    panels_of,
    powers_axis,
    side_by_side,
    values_of,
    where,
)
from bench.reporting.samplers import distinct, in_panels, samplers
from bench.reporting.style import COLOURS, COLUMN_WIDTH, FULL_WIDTH, LOOKS, QUIET, Look, sequence
from bench.reporting.tables import PROMPTS, SEEDS, Column, all_runs, interval, settings_columns, spread, table
from bench.reporting.words import over_what


@shows("figures", 70)
def accuracy_by_n(groups: Sequence[Group]) -> Figure | None:
    """Best-of-n of each sampler against n, and the fine-tuned policies against the N that they were trained on.

    None where there is one sampler and one N; each part only where it has room for all curves.
    """
    drawn_from = samplers(groups)
    trained = [(name, panel) for name, panel in in_panels(groups, ("num_completions",)) if len(panel) > 1]
    rows: Rows = []
    for name, group in drawn_from if 1 < len(drawn_from) <= MOST else ():
        rows += curve_rows(group.series("base", "best_of_n", "accuracy"), "n", "accuracy", of="best_of_n", name=name)
    for name, panel in trained if len(trained) <= MOST else ():
        for group in panel:
            for arm in ("tuned", "control") if group.controlled else ("tuned",):
                point = {int(group.settings["num_completions"]): group.mean(arm, "pass", "accuracy", 1)}
                rows += curve_rows(point, "n", "accuracy", of=arm, name=name)
    panels = len({row["of"] == "best_of_n" for row in rows})
    return figure(
        "accuracy_by_n",
        "Accuracy on held-out prompts against n. Best-of-n: the base's own samples, n of them per query. Fine-tuned: "
        "one sample per query of the policy that was tuned on N samples per training prompt; hollow: its random "
        "control.",
        rows,
        groups,
        _accuracy,
        width=COLUMN_WIDTH if panels == 1 else FULL_WIDTH,
        height=COLUMN_WIDTH * 0.85,
    )


def _accuracy(canvas: Any, rows: Rows) -> None:
    kinds = [kind for kind in ("best_of_n", "tuned") if where(rows, of=kind)]
    panels = grid_of(canvas, len(kinds), sharey=True)
    names = values_of(rows, "name")
    looks = dict(zip(names, sequence(len(names)), strict=True))
    for axes, kind in zip(panels, kinds, strict=True):
        arms = [kind] + ["control"] * (kind == "tuned" and bool(where(rows, of="control")))
        side_by_side(
            axes,
            [
                (points, looks[name], HOLLOW | {"linewidth": 0.6} if arm == "control" else {"label": name or None})
                for name in names
                for arm in arms
                if (points := where(rows, of=arm, name=name))
            ],
            "n",
            "accuracy",
        )
        shown = [row["n"] for row in rows if row["of"] in arms]
        powers_axis(axes, shown, "n of Best-of-n" if kind == "best_of_n" else "N trained on (hollow: random control)")
    panels[0].set_ylabel("accuracy on held-out prompts")
    legend_above(canvas, panels)


@shows("figures", 75)
def reward_by_n(groups: Sequence[Group]) -> Figure | None:
    """The highest and the median reward among n samples, in the form of Llama 2 (Touvron et al. 2023), Figure 7.

    None where the median was not recorded.
    """
    rows: Rows = []
    for name, group in samplers(groups):
        for of, method in (("highest", "best_of_n"), ("median", "median_of_n")):
            rows += curve_rows(group.series("base", method, "proxy"), "n", "reward", of=of, name=name)
    if not where(rows, of="median") or len(values_of(rows, "name")) > MOST:
        return None
    caption = (
        "The highest (filled) and the median reward (hollow) among n samples of a held-out prompt; exact means over "
        "all n-subsets of its pool."
    )
    return figure("reward_by_n", caption, rows, groups, _reward)


def _reward(canvas: Any, rows: Rows) -> None:
    axes = canvas.subplots()
    names = values_of(rows, "name")
    looks = sequence(len(names)) if len(names) > 1 else [LOOKS["best_of_n"]]
    styles = {"highest": {}, "median": HOLLOW | {"linewidth": 0.7}}
    side_by_side(
        axes,
        [
            (where(rows, of=of, name=name), look, more | ({"label": name or None} if of == "highest" else {}))
            for name, look in zip(names, looks, strict=True)
            for of, more in styles.items()
        ],
        "n",
        "reward",
    )
    powers_axis(axes, [row["n"] for row in rows], "n samples of a prompt")
    axes.set_ylabel("reward of the n samples")
    axes.margins(y=0.1)
    legend_above(canvas, axes)
    ends = [max(where(rows, of=of), key=lambda row: (row["n"], row["reward"])) for of in styles]
    colour = LOOKS["best_of_n"].colour if len(names) == 1 else QUIET
    place_labels(axes, [Label(row["n"], row["reward"], row["of"], colour) for row in ends])


@shows("figures", 125)
def kl_by_n(groups: Sequence[Group]) -> Figure | None:
    """Best-of-n's KL from the raw base: measured, at its largest for unsolved prompts, and by the log n bound."""
    rows: Rows = [
        {"name": name, "of": metric, "n": n, "extrapolates": 4 * n > _pool_size(group), **spread("kl", estimate)}
        for name, group in samplers(groups)
        for metric in ("kl", "kl_sensitivity", "kl_bound")
        for n, estimate in group.series("base", "best_of_n", metric).items()
    ]
    panels = len(values_of(rows, "name"))
    if panels > MOST:
        return None
    sensitive = bool(where(rows, of="kl_sensitivity"))
    return figure(
        "kl_by_n",
        "The KL of Best-of-n from the raw base: measured, ties included, and by log n - (n - 1)/n, which is exact only "
        "where no two rewards tie; both with the sampler's own distance added. Small hollow points: n is more than a "
        "quarter of the samples."
        + " Crosses: with prompts that were never solved at the largest KL that their pools leave open."
        * sensitive,
        rows,
        groups,
        _kl,
        width=COLUMN_WIDTH if panels == 1 else FULL_WIDTH,
        height=COLUMN_WIDTH * (0.8 if panels < 4 else 1.4),
    )


def _kl(canvas: Any, rows: Rows) -> None:
    cross = Look(COLOURS["base"], "x", "none")
    panels = panels_of(canvas, rows, "name")
    for axes, _, here in panels:
        # at one x: they coincide where no rewards tie, and moved apart the measured one would seem lower there
        measured = where(here, of="kl")
        line(axes, where(here, of="kl_bound"), "n", "kl", LOOKS["bound"], label="log n bound", linewidth=2.2)
        line(axes, measured, "n", "kl", LOOKS["best_of_n"], label="measured", marker="")
        for row in measured:
            small = HOLLOW | {"markersize": 2.5} if row["extrapolates"] else {}
            line(axes, [row], "n", "kl", LOOKS["best_of_n"], linestyle="none", **small)
        if unsolved := bare(where(here, of="kl_sensitivity"), "n", "kl"):
            more = {"markersize": 3.5, "markeredgewidth": 0.6, "label": "unsolved prompts at most"}
            line(axes, unsolved, "n", "kl", cross, **more)
        powers_axis(axes, [row["n"] for row in measured], "n of Best-of-n")
        guide(axes, y=0.0)
    panels[0][0].set_ylabel("KL (nats per sequence)")
    legend_above(canvas, [axes for axes, _, _ in panels])


class _Point(NamedTuple):
    group: Group
    n: int


@shows("tables", 70)
def best_of_n(groups: Sequence[Group]) -> Table | None:
    """Every n of each distinct pool: configurations that differ only in what they train on share one."""
    longest = sorted(groups, key=lambda group: -len(group.series("base", "best_of_n", "accuracy")))
    pools, names = distinct(longest, _pool)
    order = {id(group): i for i, group in enumerate(groups)}
    points = [
        _Point(group, n)
        for group in sorted(pools, key=lambda group: order[id(group)])
        for n in group.series("base", "best_of_n", "accuracy")
    ]

    def curve(key: str, heading: str | None) -> Column:
        return interval(key, heading, lambda point: point.group.series("base", "best_of_n", key).get(point.n))

    columns = [
        *settings_columns(groups, names),
        Column("n", "n", lambda point: point.n),
        curve("accuracy", "accuracy"),
        curve("proxy", None),
        curve("kl", "KL (nats)"),
        curve("kl_sensitivity", "KL at most"),
        interval("kl_bound", "log n bound", _bound),
        curve("win_rate", "win rate"),
        interval("overstated", "bound - measured", _overstated),
        SEEDS,
        PROMPTS,
    ]
    caption = (
        f"Best-of-n of the base, with the run's own sampler. {over_what(groups)}. KL is from the raw base, in nats per "
        "sequence: measured; with unsolved prompts at the largest pass rate that fits them; and by the bound "
        "log n - (n - 1)/n, which overstates it by the difference in the last column."
    )
    made = table("best_of_n", caption, points, columns, all_runs(groups))
    if made is None:
        return None
    last = dict.fromkeys(("kl", "kl_sensitivity", "kl_bound", "overstated"))  # after the win rate, unlike in the CSV
    shown = [*(key for key in made.columns if key not in last), *last]
    return replace(made, columns={key: made.columns[key] for key in shown})


def _pool(group: Group) -> tuple[object, ...]:
    """Equal where one Best-of-n curve is the other's beginning: n = 1, 2 and 4 hold the whole pool's scores."""
    points = [(metric, n) for metric in ("accuracy", "kl") for n in (1, 2, 4)]
    held = group.series("base", "best_of_n", "accuracy")
    values = [group.per_prompt("base", "best_of_n", metric, n) for metric, n in points if n in held]
    return group.seeds, *(np.ascontiguousarray(value, dtype=float).tobytes() for value in values)


def _pool_size(group: Group) -> int:
    return min(run.metrics["best_of_n/pool_size"] for run in group.runs)


def _bound(point: _Point) -> Estimate | float:
    """The bound without an interval where all prompts have the same: there the sampler is the raw base's own."""
    bound = point.group.series("base", "best_of_n", "kl_bound")[point.n]
    return bound.value if bound.high - bound.low < 1e-9 else bound


def _overstated(point: _Point) -> Estimate | None:
    return bound_contrast(point.group, point.n).difference if point.n > 1 else None


def bound_contrast(group: Group, n: int) -> Contrast:
    """The log n bound on the KL of Best-of-n less the measured KL."""
    kl, bound = (group.per_prompt("base", "best_of_n", metric, n) for metric in ("kl", "kl_bound"))
    return contrast(bound, kl, f"bound {n}")


def of_bound(group: Group) -> list[str]:
    """By how much the log n bound overstates the KL of the largest n, where it does."""
    n = max(group.series("base", "best_of_n", "accuracy"))
    over = bound_contrast(group, n).difference
    if n == 1 or not over.low > 0:
        return []
    kl, bound = (
        short(float(np.nanmean(group.per_prompt("base", "best_of_n", metric, n)))) for metric in ("kl", "kl_bound")
    )
    return [f"The log n bound puts Best-of-{n} at {bound} nats from the base, {over} more than the {kl} measured."]
