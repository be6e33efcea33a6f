"""What k samples solve, how much of it a scorer or a vote can pick, and how many ways of solving there are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bench.estimators.crossing import crossover
from bench.estimators.curves import fit_coverage
from bench.records.read import Estimate
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice, costs, query_flops
from bench.reporting.contrasts import contrast
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.words import ARMS, for_what_new, listed, over_what
from bench.seeds import generator

FIT = "power law"
LAW = style.Look(style.COLOURS["tuned"], "", (0, (4, 2)))
METHODS = {
    "pass": ("coverage, Best-of-k (oracle)", style.Look(style.COLOURS["base"], "^", "-")),
    "best_of_n": ("Best-of-k (learned reward)", style.LOOKS["best_of_n"]),
    "weighted_majority": ("weighted majority", style.Look("#CC79A7", "v", (0, (5, 1.5, 1, 1.5)))),
    "majority": ("majority", style.Look(style.COLOURS["control"], "s", (0, (2.5, 1.5)))),
}
PICKED = {"best_of_n": "the scorer", "majority": "majority vote", "weighted_majority": "weighted majority vote"}
PLACES = (2, 1, 3, 4)  # of METHODS among five: coverage in the middle, at k itself, where the law through it is


@shows("figures", 85)
def coverage(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """Coverage, Best-of-k and votes against k, with the exponentiated power law of Brown et al. 2024 through coverage.

    Over "flops": against the FLOPs of k samples, scored. None where the whole pool was not recorded.
    """
    x = choice("coverage", axes, ["k", *costs(groups)])
    rows: plots.Rows = []
    for name, group in arrange.samplers(groups):
        curves: plots.Rows = []
        for method in METHODS:
            curve = group.series("sampler", method, "accuracy")
            if any(point.value > 0 for point in curve.values()):  # a task without answers to vote on has no majority
                curves += plots.curve_rows(curve, "k", "accuracy", name=name, method=method)
        if gold_chooses(curves):  # then Best-of-k is right wherever one of k is
            curves = [row for row in curves if row["method"] != "best_of_n"]
        curves += _law(name, plots.where(curves, method="pass"))
        rows += [row | {x: query_flops(group, row["k"])} for row in curves] if x == "flops" else curves
    alone = len(plots.values_of(rows, "name")) == 1
    drawn = {row["method"].partition(":")[0] for row in rows}
    picked = [words for method, words in PICKED.items() if method in drawn]
    below = f"; below, the accuracy of picking one of the k by {listed(picked)}" if picked else ""
    return plots.faceted(
        "coverage",
        f"Share of held-out prompts that k samples of the base solve{below}; exact means over all k-subsets."
        + " Dashed: coverage = exp(-a k^-b), fitted by weighted least squares." * (FIT in drawn),
        rows,
        groups,
        lambda axes, here: _coverage(axes, here, alone, x),
        by="name",
        y="share of held-out prompts",
        heights=(0.9, 1.5),
        axes={"x": x},
    )


def gold_chooses(rows: plots.Rows) -> bool:
    """Whether Best-of-k is as good as coverage at every k: the scorer is gold itself."""
    best, solved = ([row["accuracy"] for row in plots.where(rows, method=method)] for method in ("best_of_n", "pass"))
    return len(best) == len(solved) and np.allclose(best, solved, rtol=0, atol=1e-12)


def _law(name: str, rows: plots.Rows) -> plots.Rows:
    """The fitted law at and between the k of `rows`; nothing where too few points have a slope."""
    k, c = np.array([row["k"] for row in rows]), np.array([row["accuracy"] for row in rows])
    if ((c > 0) & (c < 1)).sum() < 3:
        return []
    law = fit_coverage(k, c)
    grid = np.geomspace(k[0], k[-1], 4 * (len(k) - 1) + 1)
    points = {float(x): float(law(x)) for x in grid}
    return plots.curve_rows(points, "k", "accuracy", name=name, method=f"{FIT}: a={law.a:.3g}, b={law.b:.3g}")


def _coverage(axes: Any, rows: plots.Rows, alone: bool, x: str) -> None:
    """alone: the only panel, where the legend has room for the fitted law."""
    series = [(plots.where(rows, method=method), look, {"label": title}) for method, (title, look) in METHODS.items()]
    if x == "k":
        plots.side_by_side(axes, series, x, "accuracy", "k samples", PLACES, len(PLACES) + 1)
    else:
        for place, (points, look, title) in enumerate(series):
            if points:
                plots.line(axes, points, x, "accuracy", look, **title, **plots.nested(place, len(series)))
        plots.flops_axis(axes, "FLOPs of k samples per query")
    if fitted := [row for row in rows if row["method"].startswith(FIT)]:
        more = {"label": fitted[0]["method"] if alone else FIT, "linewidth": 0.9, "zorder": 5}
        plots.line(axes, plots.bare(fitted, x, "accuracy"), x, "accuracy", LAW, **more)
    axes.set_ylim(0, 1.02)


@shows("figures", 86)
def paths(groups: Sequence[Group]) -> Figure | None:
    """Distinct correct paths of reasoning among k samples, and accuracy after training on N of them (Yuan et al. 2023).

    None where paths were not recorded.
    """
    curves = [("base", name, group) for name, group in arrange.samplers(groups)]
    if len(groups) <= 2:
        curves += [(arm, arrange.named(g), g) for arm in ("tuned", "control") for g in groups if arm in g.arms]
    rows: plots.Rows = []
    for arm, name, group in curves:
        curve = group.series("sampler" if arm == "base" else arm, "distinct", "correct_paths")
        rows += plots.curve_rows(curve, "k", "value", of=arm, name=name)
    sampled = len(rows)
    for name, panel in arrange.in_panels(groups, ("num_completions",)) if sampled else ():
        for group in panel if len(panel) > 1 else ():
            point = {int(group.settings["num_completions"]): group.mean("tuned", "pass", "accuracy", 1)}
            rows += plots.curve_rows(point, "k", "value", of="trained", name=name)
    if not plots.where(rows, of="base"):
        return None
    trained = len(rows) > sampled
    return plots.figure(
        "paths",
        "Distinct correct paths of reasoning among k samples of a held-out prompt (exact means over all k-subsets)"
        + "; beside it, accuracy of the policy that was fine-tuned on k samples per prompt" * trained
        + ".",
        rows,
        groups,
        _paths,
        (style.FULL_WIDTH if trained else style.COLUMN_WIDTH, style.COLUMN_WIDTH * 0.85),
        series="name",
    )


def _paths(canvas: Any, rows: plots.Rows) -> None:
    trained = plots.where(rows, of="trained")
    panels = plots.grid_of(canvas, 2 if trained else 1)
    names = {of: plots.values_of(plots.where(rows, of=of), "name") for of in ("base", "trained")}
    by_name = style.sequence(list(dict.fromkeys([*names["base"], *names["trained"]])))
    alone, arms = len(names["base"]) == 1, {row["of"] for row in rows} - {"trained"}
    tuned_on = plots.values_of([row for row in rows if row["of"] in ("tuned", "control")], "name")
    curves = []
    for of, name in dict.fromkeys((row["of"], row["name"]) for row in rows if row["of"] != "trained"):
        look = style.LOOKS[of] if alone or of != "base" else by_name[name]
        label = " ".join(filter(None, [of, name])) if len(arms) > 1 or alone else name
        more: dict[str, Any] = {"label": label}
        if of != "base" and tuned_on.index(name) > 0:  # configurations of one arm: each has its own marker and line
            look, more = replace(look, marker={"tuned": "P", "control": "X"}[of], line="-"), more | plots.HOLLOW
        curves.append((plots.where(rows, of=of, name=name), look, more))
    plots.side_by_side(panels[0], curves, "k", "value", "k samples")
    panels[0].set_ylabel("distinct correct paths" if alone or len(arms) > 1 else "distinct correct paths, base")
    panels[0].set_ylim(bottom=0)
    if trained:
        looks = {"": style.LOOKS["tuned"]} if names["trained"] == [""] else by_name
        series = [(plots.where(trained, name=name), looks[name], {"label": name}) for name in names["trained"]]
        plots.side_by_side(panels[1], series, "k", "value", "N samples per training prompt")
        panels[1].set_ylabel("accuracy, fine-tuned")


class _Policy(NamedTuple):
    """A policy in the table, and the settings that set it apart: those of a base are its sampler's."""

    arm: str
    group: Group
    settings: Sequence[str]


@shows("tables", 85)
def coverage_table(groups: Sequence[Group]) -> Table | None:
    """pass@k of every policy at the powers of two, and its majority vote at the largest k."""
    sizes = sorted({k for group in groups for k in group.series("base", "pass", "accuracy")})

    def base_of(group: Group) -> tuple[object, ...]:
        return group.key_of(("base", "pass", "accuracy", n) for n in group.series("base", "pass", "accuracy"))

    bases, names = arrange.distinct(groups, base_of)
    policies = [_Policy("base", group, names) for group in bases]
    policies += [
        _Policy(arm, group, list(group.settings)) for group in groups for arm in (*group.arms, *group.runs[0].elsewhere)
    ]
    votes = sorted({votes for policy in policies if (votes := _votes(policy))})

    def setting(name: str) -> tables.Column:
        return tables.Column(f"config.{name}", name, lambda p: p.group.settings[name] if name in p.settings else "")

    def solved(k: int) -> tables.Column:
        return tables.interval(f"pass@{k}", f"pass@{k}", lambda p: p.group.series(p.arm, "pass", "accuracy").get(k))

    return tables.table(
        "coverage",
        f"Share of prompts that k samples solve (pass@k), and accuracy of their majority vote. {over_what(groups)}. "
        "The base's samples are those of its evaluation. Best-of-n is from another pool, drawn with the run's sampler: "
        "the two differ at equal n even where the verifier chooses. A policy is ahead of the base or behind it where a "
        f"simultaneous 95 % band over all k, {for_what_new(groups)}, excludes 0.",
        policies,
        [
            *map(setting, groups[0].settings),
            tables.Column("arm", "policy", lambda policy: ARMS.get(policy.arm, policy.arm)),
            *map(solved, sizes),
            tables.Column("against_base", "pass@k against the base", _against_base),
            tables.interval("majority", f"majority vote{f' of {votes[0]}' if len(votes) == 1 else ''}", _majority),
            tables.Column("votes", None, _votes),
            tables.SEEDS,
            tables.PROMPTS,
        ],
        tables.all_runs(groups),
    )


def _against_base(policy: _Policy) -> str | None:
    """The k at which the policy's pass@k is above the base's, below it, or neither.

    None for the base itself, and of a single prompt.
    """
    group = policy.group
    sizes = [k for k in group.series(policy.arm, "pass", "accuracy") if k in group.series("base", "pass", "accuracy")]
    if policy.arm == "base" or len(sizes) < 2 or group.runs[0].metrics["test/prompts"] < 2:
        return None
    ours, theirs = (
        np.stack([group.per_prompt(arm, "pass", "accuracy", k) for k in sizes], axis=-1) for arm in (policy.arm, "base")
    )  # [S, M, K]
    found = crossover(ours, theirs, sizes, generator(0, "pass@k against the base"))
    words = []
    for leader, word in ((1, "ahead"), (-1, "behind"), (0, "open")):
        spans = [f"{first}" if first == last else f"{first} to {last}" for first, last in found.where(leader)]
        words += [f"{word} at {listed(spans)}"] if spans else []
    return ", ".join(words)


def _votes(policy: _Policy) -> int | None:
    return max(policy.group.series(policy.arm, "majority", "accuracy"), default=None)


def _majority(policy: _Policy) -> Estimate | None:
    return policy.group.series(policy.arm, "majority", "accuracy").get(_votes(policy) or 0)


@shows("sentences", 0)
def of_nothing_right(groups: Sequence[Group]) -> list[str]:
    """A base that is never right: more often it answers in another form than asked for than that it can do nothing."""
    coverage = [group.series("base", "pass", "accuracy") for group in groups if group.trained]
    if not coverage or any(of_k[max(of_k)].value > 0 for of_k in coverage):
        return []
    return ["No sample of the base is correct: see in samples.parquet whether answers have the form that is asked for."]


def of_coverage(group: Group) -> list[str]:
    """What fine-tuning does to the share of prompts that the most samples measured solve: one comparison of its own."""
    k = max(group.series("tuned", "pass", "accuracy"))
    if k == 1:
        return []
    tuned, base = (group.per_prompt(arm, "pass", "accuracy", k) for arm in ("tuned", "base"))
    return [f"In pass@{k}, the tuned policy is {contrast(tuned, base, f'pass@{k}').against('the base')}."]
