"""The frontier: accuracy, or the scorer's own reward, against the measured KL from the raw base."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.collect import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, legend_above, line, named, samplers, where
from bench.reporting.groups import Group
from bench.reporting.labels import Label, place_labels
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, LOOKS, QUIET, sequence
from bench.reporting.tables.shared import all_runs, over_what, spread

FEW = 3  # groups: more of them are drawn as points alone, over the whole width
POINTS = {"tuned": "fine-tuned", "control": "random twin"}


def frontiers(groups: Sequence[Group]) -> list[Figure]:
    """The frontier in accuracy, and where the scorer is not gold the one in its reward."""
    made = [_frontier(groups, "accuracy")]
    if any(run.metrics.get("scorer/equals_gold", 1) != 1 for run in all_runs(groups)):
        made.append(_frontier(groups, "proxy"))
    return [figure for figure in made if figure is not None]


def _frontier(groups: Sequence[Group], metric: str) -> Figure | None:
    rows = _rows(groups, metric)
    if not rows:
        return None
    what = "Accuracy" if metric == "accuracy" else "The scorer's reward"
    methods = {row["method"] for row in rows}
    parts = [f"{what} on held-out prompts against the KL from the raw base. Best-of-n at its measured KL"]
    parts.append(", dashed where n is more than a quarter of the samples" * any(row["extrapolates"] for row in rows))
    parts.append("; dotted: the same accuracies where the log n bound would put them" * ("bound" in methods))
    parts.append("; soft Best-of-n at its temperatures" * ("soft_best_of_n" in methods))
    parts.append("; Best-of-n drawn from the fine-tuned policy" * ("tuned_best_of_n" in methods))
    return Figure(
        name="frontier" if metric == "accuracy" else "frontier_reward",
        caption=f"{''.join(parts)}. {over_what(groups)}.",
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _draw(drawn, rows, metric),
        width=COLUMN_WIDTH if len(groups) <= FEW else FULL_WIDTH,
        height=COLUMN_WIDTH * (0.95 if len(groups) <= FEW else 1.1),
    )


def _rows(groups: Sequence[Group], metric: str) -> Rows:
    few, ways = len(groups) <= FEW, samplers(groups)
    rows: Rows = []
    for name, group in ways:
        pool = min(run.metrics["best_of_n/pool_size"] for run in group.runs)
        kl = group.series("base", "best_of_n", "kl")
        rows += _curve(name, "best_of_n", group.series("base", "best_of_n", metric), kl, pool)
        if len(ways) == 1:
            bound = group.series("base", "best_of_n", "kl_bound")
            rows += _curve(name, "bound", group.series("base", "best_of_n", metric), bound, pool)
        if few and len(ways) == 1:
            rows += _soft(name, group, metric)
    for group in groups:
        for arm in ("tuned", "control") if group.controlled else ("tuned",):
            value = group.series(arm, *(("pass", "accuracy") if metric == "accuracy" else ("best_of_n", "proxy")))
            moved = group.series(arm, "policy", "kl")
            if 1 in value and 1 in moved:
                rows += _curve(named(group), arm, {1: value[1]}, moved)
        moved = group.series("tuned", "best_of_n", "kl")
        if few and len(moved) > 1:
            pool = max(moved)
            rows += _curve(named(group), "tuned_best_of_n", group.series("tuned", "best_of_n", metric), moved, pool)
    return rows


def _curve(
    series: str, method: str, values: dict[int, Estimate], kl: dict[int, Estimate], pool: int | None = None
) -> Rows:
    return [
        {
            "series": series,
            "method": method,
            "n": n,
            "temperature": None,
            "extrapolates": pool is not None and 4 * n > pool,
            **spread("kl", kl[n]),
            **spread("value", found),
        }
        for n, found in values.items()
        if n in kl
    ]


def _soft(series: str, group: Group, metric: str) -> Rows:
    """From the hardest, nearest to Best-of-n, to the softest."""
    methods = {key[1] for key in group.runs[0].curves if key[1].startswith("soft_best_of_n@")}
    rows: Rows = []
    for method in sorted(methods, key=lambda one: float(one.partition("@")[2])):
        values, kl = group.series("base", method, metric), group.series("base", method, "kl")
        rows += [
            row | {"temperature": float(method.partition("@")[2])}
            for row in _curve(series, "soft_best_of_n", values, kl)
        ]
    return rows


def _draw(drawn: Any, rows: Rows, metric: str) -> None:
    axes, labels = drawn.subplots(), []
    several = len(dict.fromkeys(row["series"] for row in where(rows, method="best_of_n"))) > 1
    labels += _best_of_n(axes, where(rows, method="best_of_n"), several)
    for method, title in (("bound", "log n bound on its KL"), ("soft_best_of_n", "soft Best-of-n")):
        if found := where(rows, method=method):
            bare = [{"kl": row["kl"], "value": row["value"]} for row in found] if method == "bound" else found
            line(axes, bare, "kl", "value", LOOKS[method], label=title, markersize=3, zorder=1.5)
    for number, series in enumerate(dict.fromkeys(row["series"] for row in where(rows, method="tuned_best_of_n"))):
        found = where(rows, method="tuned_best_of_n", series=series)
        look = LOOKS["tuned"]
        shown = {"label": "fine-tuned + Best-of-n"} if number == 0 else {}
        line(axes, found, "kl", "value", look, **shown, markersize=2.5, linewidth=0.8, alpha=0.75)
        if number == 0:
            labels += [Label(row["kl"], row["value"], f"n={row['n']}", look.colour) for row in found if row["n"] > 1]
    for arm, title in POINTS.items():
        found = where(rows, method=arm)
        look, crowded = LOOKS[arm], len(found) > FEW
        face = {"markerfacecolor": "white"} if arm == "control" else {}
        if found:
            bars = {"ecolor": (look.colour, 0.35), "elinewidth": 0.6} if crowded else {}
            line(axes, found, "kl", "value", look, label=title, linestyle="none", zorder=4, **face, **bars)
        if arm == "tuned" or not crowded:
            labels += [
                Label(row["kl"], row["value"], row["series"] or title, look.colour)
                for row in found
                if len(found) > 1 or row["series"]
            ]
    axes.set_xlabel("KL from the base (nats a sequence)")
    axes.set_ylabel("accuracy on held-out prompts" if metric == "accuracy" else "mean reward on held-out prompts")
    axes.margins(x=0.06, y=0.08)
    axes.set_xlim(left=min(-0.03, axes.get_xlim()[0]) if min(row["kl"] for row in rows) < 0.05 else None)
    legend_above(drawn, axes)
    place_labels(axes, labels)


def _best_of_n(axes: Any, rows: Rows, several: bool) -> list[Label]:
    """Each curve dashed beyond a quarter of its pool, and the labels of its points."""
    names = list(dict.fromkeys(row["series"] for row in rows))
    labels = []
    for name, look in zip(names, sequence(len(names)) if several else [LOOKS["best_of_n"]], strict=True):
        found = where(rows, series=name)
        trusted = [row for row in found if not row["extrapolates"]]
        title = f"Best-of-n, {name}" if name else "Best-of-n, measured KL"
        line(axes, trusted, "kl", "value", look, label=title, linestyle="-")
        beyond = found[max(len(trusted) - 1, 0) :]
        if len(beyond) > 1:
            line(axes, beyond, "kl", "value", look, linestyle=(0, (2, 1)), linewidth=0.8)
        labels += [
            Label(row["kl"], row["value"], f"n={row['n']}", look.colour if several else QUIET)
            for row in (found if not several else found[-1:] if len(names) <= FEW else [])
        ]
    return labels
