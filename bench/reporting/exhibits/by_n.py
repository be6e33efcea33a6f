"""Curves over n: accuracy by sampler and by training N, the highest and the median reward, the KL and its bound."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bench.records.read import Estimate, short
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice, costs, fine_tuning_flops, query_flops
from bench.reporting.contrasts import contrast, contrasts, judged
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.exhibits.coverage import METHODS
from bench.reporting.exhibits.imported import accuracies
from bench.reporting.groups import Group
from bench.reporting.labels import Label
from bench.reporting.words import best_of_n_name, over_what

BESIDE = {  # pessimism at inference
    "best_of_n": ("Best-of-n (learned reward)", style.LOOKS["best_of_n"]),
    "pass": ("Best-of-n (oracle)", METHODS["pass"][1]),
    "weighted_majority": METHODS["weighted_majority"],
}
PESSIMISM = "pessimism_of_n@"
BIASED = (  # see bench.estimators.kl.best_of_n_kl_bias
    " Where no rewards tie, the estimate is too high by about 0.04 (n/N)^2 nats with N samples per prompt; its "
    "intervals extend down by as much."
)


@shows("figures", 70)
def accuracy_by_n(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """Best-of-n of each sampler against n, and the fine-tuned policies against the N that they were trained on.

    Over "flops": against the FLOPs of a query, and against those of fine-tuning. Of an imported pool, all its curves
    against n. None where there is no pool, one sampler and one N, unless FLOPs are asked for.
    """
    made_here, x = [group for group in groups if group.trained], choice("accuracy_by_n", axes, ["n", *costs(groups)])
    drawn_from = arrange.samplers(made_here) if made_here else []
    trained = [(name, panel) for name, panel in arrange.in_panels(groups, ("num_completions",)) if len(panel) > 1]
    rows = [row for name, curve in accuracies(groups) for row in plots.curve_rows(curve, "n", "accuracy", **name)]
    for name, group in drawn_from if len(drawn_from) > 1 or x == "flops" else ():
        curve = group.series("base", "best_of_n", "accuracy")
        points = plots.curve_rows(curve, "n", "accuracy", of="best_of_n", name=name)
        rows += [row | {x: query_flops(group, row["n"])} for row in points] if x == "flops" else points
    for name, group in ((name, group) for name, panel in trained for group in panel):
        for arm in group.arms:
            point = {int(group.settings["num_completions"]): group.mean(arm, "pass", "accuracy", 1)}
            points = plots.curve_rows(point, "n", "accuracy", of=arm, name=name)
            rows += [row | {x: fine_tuning_flops(group)} for row in points] if x == "flops" else points
    of = {row["of"] for row in rows}
    panels, hollow = len(of - {"control"}), "; hollow: its random control" * ("control" in of)
    return plots.figure(
        "accuracy_by_n",
        "Accuracy on held-out prompts."
        + " Imported: of the completions that were drawn elsewhere." * ("imported" in of)
        + f" {best_of_n_name(tables.all_runs(groups))}: the base's own samples, n of them per query."
        * ("best_of_n" in of)
        + f" Fine-tuned: one sample of the policy tuned on N samples per training prompt{hollow}." * bool(trained)
        + " FLOPs of fine-tuning include drawing and scoring the N samples." * (bool(trained) and x == "flops"),
        rows,
        groups,
        lambda canvas, rows: _accuracy(canvas, rows, x),
        (style.COLUMN_WIDTH if panels == 1 else style.FULL_WIDTH, style.COLUMN_WIDTH * 0.85),
        series="name",
        axes={"x": x},
    )


def _accuracy(canvas: Any, rows: plots.Rows, x: str) -> None:
    of = {row["of"] for row in rows}
    kinds = [kind for kind in ("imported", "best_of_n") if kind in of] + ["tuned"] * bool({"tuned", "control"} & of)
    panels, looks = plots.grid_of(canvas, len(kinds), sharey=True), style.sequence(plots.values_of(rows, "name"))
    in_flops = ("FLOPs per query of Best-of-n", "FLOPs of fine-tuning")
    best, tuned = in_flops if x == "flops" else ("n of Best-of-n", "N trained on")
    titles = {"imported": "n", "best_of_n": best, "tuned": tuned + " (hollow: random control)" * ("control" in of)}
    for axes, kind in zip(panels, kinds, strict=True):
        arms = [kind] + ["control"] * (kind == "tuned" and "control" in of)
        series = [
            (points, look, plots.HOLLOW | {"linewidth": 0.6} if arm == "control" else {"label": name or None})
            for name, look in looks.items()
            for arm in arms
            if (points := plots.where(rows, of=arm, name=name))
        ]
        if x == "flops":
            for points, look, more in series:
                plots.line(axes, points, x, "accuracy", look, **more)
            plots.flops_axis(axes, titles[kind])
        else:
            plots.side_by_side(axes, series, x, "accuracy", titles[kind])
    plots.name_axes(panels, y="accuracy on held-out prompts")


@shows("figures", 75)
def reward_by_n(groups: Sequence[Group]) -> Figure | None:
    """The highest and the median reward among n samples, in the form of Llama 2 (Touvron et al. 2023), Figure 7."""
    rows: plots.Rows = []
    for name, group in arrange.samplers(groups):
        for of, method in (("highest", "best_of_n"), ("median", "median_of_n")):
            rows += plots.curve_rows(group.series("base", method, "proxy"), "n", "reward", of=of, name=name)
    if not plots.where(rows, of="median"):
        return None
    filled = "The highest (filled) and the median reward (hollow) among n samples of a held-out prompt; "
    caption = f"{filled}exact means over all n-subsets of its pool."
    return plots.figure("reward_by_n", caption, rows, groups, _reward, series="name")


def _reward(canvas: Any, rows: plots.Rows) -> plots.Labels:
    axes, names = canvas.subplots(), plots.values_of(rows, "name")
    looks = style.sequence(names) if len(names) > 1 else {names[0]: style.LOOKS["best_of_n"]}
    kinds: dict[str, dict[str, Any]] = {"highest": {}, "median": plots.HOLLOW | {"linewidth": 0.7}}
    series = [
        (plots.where(rows, of=of, name=name), look, more or {"label": name or None})
        for name, look in looks.items()
        for of, more in kinds.items()
    ]
    plots.side_by_side(axes, series, "n", "reward", "n samples of a prompt")
    axes.set_ylabel("reward of the n samples")
    axes.margins(y=0.1)
    ends = [max(plots.where(rows, of=of), key=lambda row: (row["n"], row["reward"])) for of in kinds]
    colour = looks[names[0]].colour if len(names) == 1 else style.QUIET
    return [(axes, [Label(row["n"], row["reward"], row["of"], colour) for row in ends])]


@shows("figures", 80)
def pessimism_by_n(groups: Sequence[Group]) -> Figure | None:
    """A panel for each sampler; None where no run has a scorer that is not gold."""
    rows: plots.Rows = []
    for name, group in arrange.samplers(groups):
        betas, sizes = _betas(group), group.series("base", "best_of_n", "accuracy")
        for of in BESIDE if betas else ():
            curve = group.series("base" if of == "best_of_n" else "sampler", of, "accuracy")
            points = plots.curve_rows(curve, "n", "accuracy", sampler=name, of=of, beta=None)
            rows += [row for row in points if row["n"] in sizes]
        for beta in betas:
            curve = group.series("base", f"{PESSIMISM}{beta}", "accuracy")
            rows += plots.curve_rows(curve, "n", "accuracy", sampler=name, of="pessimism", beta=float(beta))
    looks = style.sequence(sorted({row["beta"] for row in rows if row["beta"] is not None}))

    def draw(axes: Any, here: plots.Rows) -> None:
        series: list[plots.Series] = [
            (plots.where(here, of=of), look, {"label": title}) for of, (title, look) in BESIDE.items()
        ]
        series += [
            (plots.where(here, beta=beta), look, {"label": f"pessimism, beta = {beta:g}", "linewidth": 0.8})
            for beta, look in looks.items()
        ]
        plots.side_by_side(axes, series, "n", "accuracy", "n samples of a prompt")

    return plots.faceted(
        "pessimism_by_n",
        "Accuracy of one of n samples of the base, chosen by the scorer: the best of them, and by pessimism at "
        "inference, beta in units of the scorer's spread within a prompt. Means over subsets of each held-out "
        "prompt's pool. Oracle: the verifier that judges also chooses.",
        rows,
        groups,
        draw,
        by="sampler",
        y="accuracy on held-out prompts",
    )


@shows("figures", 125)
def kl_by_n(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """Best-of-n's KL from the raw base: measured, at its largest for unsolved prompts, and by the log n bound."""
    x = choice("kl_by_n", axes, ["n", *costs(groups)])
    rows: plots.Rows = [
        {"name": name, "of": metric, "n": n, "extrapolates": 4 * n > group.pool_size, **tables.spread("kl", estimate)}
        | ({x: query_flops(group, n)} if x == "flops" else {})
        for name, group in arrange.samplers(groups)
        for metric in ("kl", "kl_sensitivity", "kl_bound")
        for n, estimate in group.series("base", "best_of_n", metric).items()
    ]
    sensitive = bool(plots.where(rows, of="kl_sensitivity"))
    return plots.faceted(
        "kl_by_n",
        "The KL of Best-of-n from the raw base: measured, ties included, and by log n - (n - 1)/n, which is exact only "
        "where no two rewards tie; both with the sampler's own distance added."
        + BIASED
        + " Small hollow points: n is more than a quarter of the samples." * any(row["extrapolates"] for row in rows)
        + " Crosses: with prompts that were never solved at the largest KL that their pools leave open." * sensitive,
        rows,
        groups,
        lambda axes, rows: _kl(axes, rows, x),
        by="name",
        y="KL (nats per sequence)",
        heights=(0.8, 1.4),
        axes={"x": x},
    )


def _kl(axes: Any, rows: plots.Rows, x: str) -> None:
    # at one x: they coincide where no rewards tie, and moved apart the measured one would seem lower there
    measured, bound = (plots.where(rows, of=of) for of in ("kl", "kl_bound"))
    plots.line(axes, [], x, "kl", style.LOOKS["bound"], label="log n bound", linewidth=2.2)  # no bar in the legend
    plots.line(axes, bound, x, "kl", style.LOOKS["bound"], linewidth=2.2)
    plots.line(axes, [], x, "kl", style.LOOKS["best_of_n"], label="measured")
    plots.line(axes, measured, x, "kl", style.LOOKS["best_of_n"], marker="")
    for row in plots.bare(measured, x, "kl", "extrapolates"):
        small = plots.HOLLOW | {"markersize": 2.5} if row["extrapolates"] else {}
        plots.line(axes, [row], x, "kl", style.LOOKS["best_of_n"], linestyle="none", **small)
    if unsolved := plots.bare(plots.where(rows, of="kl_sensitivity"), x, "kl"):
        more = {"markeredgewidth": 0.6, "label": "upper limit (unsolved prompts)"}
        plots.line(axes, unsolved, x, "kl", style.Look(style.COLOURS["base"], "x", "none"), **more)
    if x == "n":
        plots.powers_axis(axes, [row[x] for row in measured], "n of Best-of-n")
    else:
        plots.flops_axis(axes, "FLOPs per query of Best-of-n")
    plots.guide(axes, y=0.0)


class _Point(NamedTuple):
    group: Group
    n: int

    @property
    def prompts(self) -> int:  # with n scored samples under every seed
        return int(np.isfinite(self.group.per_prompt("base", "best_of_n", "accuracy", self.n)).all(axis=0).sum())


@shows("tables", 70)
def best_of_n(groups: Sequence[Group]) -> Table | None:
    """Every n of each distinct pool: configurations that differ only in what they train on share one."""
    longest = sorted(groups, key=lambda group: -len(group.series("base", "best_of_n", "accuracy")))
    pools, names = arrange.distinct(longest, _pool)
    pools.sort(key=groups.index)
    points = [_Point(group, n) for group in pools for n in group.series("base", "best_of_n", "accuracy")]
    whole = all(point.prompts == point.group.runs[0].metrics["test/prompts"] for point in points)

    def curve(key: str, heading: str | None) -> tables.Column:
        return tables.interval(key, heading, lambda point: point.group.series("base", "best_of_n", key).get(point.n))

    columns = [
        *tables.settings_columns(groups, names),
        tables.Column("n", "n", lambda point: point.n),
        curve("accuracy", "accuracy"),
        curve("proxy", None),
        curve("kl", "KL (nats)"),
        curve("kl_sensitivity", "KL, upper limit"),
        tables.interval("kl_bound", "log n bound", _bound),
        curve("win_rate", "win rate"),
        tables.interval("overstated", "bound - measured", lambda p: _overstated(p.group, p.n) if p.n > 1 else None),
        tables.SEEDS,
        tables.Column("prompts", None if whole else "prompts", lambda point: point.prompts),
    ]
    caption = (
        f"Best-of-n of the base, with the run's own sampler. {over_what(groups)}. KL is from the raw base, in nats per "
        "sequence. Upper limit: prompts that no sample solved count at the largest pass rate that fits them. The bound "
        "log n - (n - 1)/n is higher than the measured KL by the difference in the last column." + BIASED
    )
    made = tables.table("best_of_n", caption, points, columns, tables.all_runs(groups))
    last = ("kl", "kl_sensitivity", "kl_bound", "overstated")  # after the win rate, unlike in the CSV
    return made and replace(made, columns=dict(sorted(made.columns.items(), key=lambda column: column[0] in last)))


def _pool(group: Group) -> tuple[object, ...]:
    """Equal where one Best-of-n curve is the other's beginning: n = 1, 2 and 4 hold the whole pool's scores."""
    sizes = {1, 2, 4} & group.series("base", "best_of_n", "accuracy").keys()
    return group.key_of(("base", "best_of_n", metric, n) for metric in ("accuracy", "kl") for n in sorted(sizes))


def _bound(point: _Point) -> Estimate | float:
    """The bound without an interval where all prompts have the same: there the sampler is the raw base's own."""
    bound = point.group.series("base", "best_of_n", "kl_bound")[point.n]
    return bound.value if bound.high - bound.low < 1e-9 else bound


def _overstated(group: Group, n: int) -> Estimate:
    """By how much the log n bound on the KL of Best-of-n is above the measured KL."""
    kl, bound = (group.per_prompt("base", "best_of_n", metric, n) for metric in ("kl", "kl_bound"))
    return contrast(bound, kl, f"bound {n}").difference


def of_bound(group: Group) -> list[str]:
    """By how much the log n bound overstates the KL of the largest n, where it does."""
    n = max(group.series("base", "best_of_n", "accuracy"))
    over = _overstated(group, n)
    if n == 1 or not over.low > 0:
        return []
    measured = (group.per_prompt("base", "best_of_n", metric, n) for metric in ("kl", "kl_bound"))
    kl, bound = (short(float(np.nanmean(values))) for values in measured)
    return [f"The KL of Best-of-{n} from the base is {kl} nats; the log n bound, {bound}, is {over} higher."]


def of_pessimism(group: Group) -> list[str]:
    """Pessimism against Best-of-n at the largest n, adjusted for the number of betas (Holm 1979)."""
    betas, n = _betas(group), max(group.series("base", "best_of_n", "accuracy"))
    if not betas or n == 1:
        return []
    best = group.per_prompt("base", "best_of_n", "accuracy", n)
    sides = {beta: (group.per_prompt("base", f"{PESSIMISM}{beta}", "accuracy", n), best) for beta in betas}
    compared = judged(contrasts(sides, "pessimism {}")).items()
    parts = [f"at beta = {beta} {found.against(f'Best-of-{n}')}" for beta, found in compared]
    return [f"Pessimism at inference, with {n} samples per prompt, is {'; '.join(parts)}."]


def _betas(group: Group) -> list[str]:
    methods = {key[1] for key in group.runs[0].curves}
    return sorted((method.removeprefix(PESSIMISM) for method in methods if method.startswith(PESSIMISM)), key=float)
