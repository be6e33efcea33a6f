"""The frontier: accuracy, or the scorer's own reward, against the measured KL from the raw base."""

from collections.abc import Sequence
from typing import Any

from bench.records.read import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, columns_of, grid_of, legend_above, line, where
from bench.reporting.groups import Group
from bench.reporting.labels import Label, place_labels
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, LOOKS, QUIET, Look, sequence
from bench.reporting.tables.shared import all_runs, over_what, spread
from bench.reporting.ways import in_order, named, sampler_settings, samplers

FEW = 3  # groups: more of them are drawn as points alone, over the whole width
CROWD = 4  # samplers: more of them, where they differ in two settings or more, get a panel for each value of one
NAMED = 30  # points in a panel: more of them can't be told by name
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
    panels, wide = len({row["panel"] for row in rows}), len(groups) > FEW
    return Figure(
        name="frontier" if metric == "accuracy" else "frontier_reward",
        caption=f"{''.join(parts)}. {over_what(groups)}.",
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _draw(drawn, rows, metric),
        width=FULL_WIDTH if wide else COLUMN_WIDTH,
        height=COLUMN_WIDTH
        * (0.95 if not wide else 1.1 if panels == 1 else 0.3 + 0.75 * -(-panels // columns_of(panels))),
    )


def _rows(groups: Sequence[Group], metric: str) -> Rows:
    """`series` is the sampler, within its panel; `label` what else sets a fine-tuned policy apart."""
    few, ways, split = len(groups) <= FEW, samplers(groups), sampler_settings(groups)
    apart = _panel_setting([group for _, group in ways], split) if len(ways) > CROWD else []
    rows: Rows = []
    for _, group in ways:
        place = {"panel": named(group, apart), "series": named(group, [name for name in split if name not in apart])}
        pool = min(run.metrics["best_of_n/pool_size"] for run in group.runs)
        values, kl = (group.series("base", "best_of_n", name) for name in (metric, "kl"))
        rows += _curve(place, "best_of_n", values, kl, pool)
        if len(ways) == 1:
            rows += _curve(place, "bound", values, group.series("base", "best_of_n", "kl_bound"), pool)
            rows += _soft(place, group, metric) if few else []
    for group in in_order(groups):
        place = {"panel": named(group, apart), "series": named(group, [name for name in split if name not in apart])}
        label = named(group, [name for name in group.settings if name not in split])
        for arm in ("tuned", "control") if group.controlled else ("tuned",):
            value = group.series(arm, *(("pass", "accuracy") if metric == "accuracy" else ("best_of_n", "proxy")))
            moved = group.series(arm, "policy", "kl")
            if 1 in value and 1 in moved:
                rows += _curve(place, arm, {1: value[1]}, moved, label=label)
        moved = group.series("tuned", "best_of_n", "kl")
        if few and len(moved) > 1:
            values = group.series("tuned", "best_of_n", metric)
            rows += _curve(place, "tuned_best_of_n", values, moved, max(moved), label=label)
    return rows


def _panel_setting(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """The setting of `names` with fewest values; none where there is but one setting."""
    if len(names) < 2:
        return []
    return [min(reversed(names), key=lambda name: len({group.settings[name] for group in groups}))]


def _curve(
    place: dict[str, str],
    method: str,
    values: dict[int, Estimate],
    kl: dict[int, Estimate],
    pool: int | None = None,
    *,
    label: str = "",
) -> Rows:
    return [
        {
            **place,
            "label": label,
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


def _soft(place: dict[str, str], group: Group, metric: str) -> Rows:
    """From the hardest, nearest to Best-of-n, to the softest."""
    methods = {key[1] for key in group.runs[0].curves if key[1].startswith("soft_best_of_n@")}
    rows: Rows = []
    for method in sorted(methods, key=lambda one: float(one.partition("@")[2])):
        values, kl = group.series("base", method, metric), group.series("base", method, "kl")
        softness = float(method.partition("@")[2])
        rows += [row | {"temperature": softness} for row in _curve(place, "soft_best_of_n", values, kl)]
    return rows


def _draw(drawn: Any, rows: Rows, metric: str) -> None:
    names = list(dict.fromkeys(row["panel"] for row in rows))
    series = list(dict.fromkeys(row["series"] for row in where(rows, method="best_of_n")))
    several = dict(zip(series, sequence(len(series)), strict=True)) if len(series) > 1 else {}
    panels = grid_of(drawn, len(names), sharex=True, sharey=True)
    labels = [_panel(axes, where(rows, panel=name), several) for axes, name in zip(panels, names, strict=True)]
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name)
        axes.margins(x=0.06, y=0.08)
        if min(row["kl"] for row in rows) < 0.05:
            axes.set_xlim(left=min(-0.03, axes.get_xlim()[0]))
    wide = columns_of(len(names))
    for axes in panels[-wide:]:
        axes.set_xlabel("KL from the base (nats a sequence)")
    for axes in panels[::wide]:
        axes.set_ylabel("accuracy on held-out prompts" if metric == "accuracy" else "mean reward on held-out prompts")
    legend_above(drawn, panels)
    for axes, wanted in zip(panels, labels, strict=True):
        place_labels(axes, wanted)


def _panel(axes: Any, rows: Rows, several: dict[str, Look]) -> list[Label]:
    """Draws one panel; the labels that its points ask for. several: the looks of samplers, where there are several."""
    labels = _best_of_n(axes, where(rows, method="best_of_n"), several)
    for method, title in (("bound", "log n bound on its KL"), ("soft_best_of_n", "soft Best-of-n")):
        if found := where(rows, method=method):
            bare = [{"kl": row["kl"], "value": row["value"]} for row in found] if method == "bound" else found
            line(axes, bare, "kl", "value", LOOKS[method], label=title, markersize=3, zorder=1.5)
    chains = where(rows, method="tuned_best_of_n")
    for number, key in enumerate(dict.fromkeys((row["series"], row["label"]) for row in chains)):
        found = where(chains, series=key[0], label=key[1])
        look = LOOKS["tuned"]
        shown = {"label": "fine-tuned + Best-of-n"} if number == 0 else {}
        line(axes, found, "kl", "value", look, **shown, markersize=2.5, linewidth=0.8, alpha=0.75)
        if number == 0:
            labels += [Label(row["kl"], row["value"], f"n={row['n']}", look.colour) for row in found if row["n"] > 1]
    for arm, title in POINTS.items():
        labels += _points(axes, where(rows, method=arm), LOOKS[arm], title, several)
    return labels


def _points(axes: Any, rows: Rows, look: Look, title: str, several: dict[str, Look]) -> list[Label]:
    """Policies, each in the colour of its sampler where there are several."""
    face = {"markerfacecolor": "white"} if look is LOOKS["control"] else {}
    crowded, labels = len(rows) > FEW, []
    for series in dict.fromkeys(row["series"] for row in rows):
        found = where(rows, series=series)
        colour = several[series].colour if several else look.colour
        bars = {"ecolor": (colour, 0.35), "elinewidth": 0.6} if crowded else {}
        line(axes, found, "kl", "value", look, linestyle="none", zorder=4, color=colour, **face, **bars)
        if not (crowded and face) and len(rows) <= NAMED:
            labels += [Label(row["kl"], row["value"], row["label"], colour) for row in found if row["label"]]
    shown = {"color": QUIET if several else look.colour, "linestyle": "none", "markersize": 3.5}
    if rows:
        axes.errorbar([], [], marker=look.marker, label=title, **face, **shown)
    return labels


def _best_of_n(axes: Any, rows: Rows, several: dict[str, Look]) -> list[Label]:
    """Each curve dashed beyond a quarter of its pool, and the labels of its points."""
    labels = []
    for name in dict.fromkeys(row["series"] for row in rows):
        found, look = where(rows, series=name), several.get(name, LOOKS["best_of_n"])
        trusted = [row for row in found if not row["extrapolates"]]
        title = f"Best-of-n, {name}" if name else "Best-of-n, measured KL"
        line(axes, trusted, "kl", "value", look, label=title, linestyle="-")
        beyond = found[max(len(trusted) - 1, 0) :]
        if len(beyond) > 1:
            line(axes, beyond, "kl", "value", look, linestyle=(0, (2, 1)), linewidth=0.8)
        shown = found if not several else found[-1:] if len(several) <= FEW else []
        colour = look.colour if several else QUIET
        labels += [Label(row["kl"], row["value"], f"n={row['n']}", colour) for row in shown]
    return labels
