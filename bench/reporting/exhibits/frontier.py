"""The frontier: accuracy, or the scorer's own reward, against the measured KL from the raw base."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bench.evaluation.measures import AT
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice, costs, query_flops
from bench.reporting.exhibit import Figure, shows
from bench.reporting.exhibits.temperatures import temperatures_of
from bench.reporting.finish import key_height
from bench.reporting.groups import Group, is_learned
from bench.reporting.labels import Label
from bench.reporting.words import best_of_n_name, checkpoint_words

FEW = 3  # groups: more of them are drawn as points alone, over the whole width
CROWD = plots.MOST - 2  # samplers beside the two arms in a legend: more get a panel for each value of one setting
NAMED = 30  # points in a panel: more of them can't be told by name
ORACLE = "Best-of-n (oracle)"
OVER = {"kl": "KL from the base (nats per sequence)", "n": "samples per query", "flops": "FLOPs per query"}


@shows("figures", 10)
@shows("of_one_run", 10)
def frontiers(groups: Sequence[Group], axes: Wanted = NONE) -> list[Figure | None]:
    """The frontier in accuracy and, where the scorer is not gold, the one in its reward."""
    names = {"frontier": "accuracy"}
    if any(map(is_learned, tables.all_runs(groups))):
        names["frontier_reward"] = "proxy"
    xs = {name: choice(name, axes, ["kl", "n", *costs(groups)]) for name in names}
    return [_frontier(groups, metric, name, xs[name]) for name, metric in names.items()]


def _frontier(groups: Sequence[Group], metric: str, name: str, x: str) -> Figure | None:
    rows, spare = (_over(x, found) for found in _rows(groups, metric))
    methods = {row["method"] for row in rows}
    what = "Accuracy" if metric == "accuracy" else "The scorer's reward"
    parts = [f"{what} on held-out prompts against the KL from the raw base. Best-of-n at its measured KL"]
    if x != "kl":
        parts = [f"{what} on held-out prompts against the {OVER[x]}. Best-of-n"]
    parts.append(", dashed where n is more than a quarter of the samples" * any(row["extrapolates"] for row in rows))
    parts.append("; dotted: the same accuracies at the KL of the log n bound" * ("bound" in methods))
    parts.append("; soft Best-of-n at its temperatures" * ("soft_best_of_n" in methods))
    parts.append("; Best-of-n drawn from the fine-tuned policy" * ("tuned_best_of_n" in methods))
    parts.append("; black: one sample of the base over its temperatures" * ("base_temperature" in methods))
    looks = style.elsewhere([*dict.fromkeys(arm for group in groups for arm, *_ in group.runs[0].elsewhere.values())])
    thin = ", each with Best-of-n drawn from it" * any(f"{arm}_best_of_n" in methods for arm in looks)
    parts.append(f"; trained elsewhere: {', '.join(looks)}{thin}" * bool(methods & looks.keys()))
    parts.append("; thin line: one sample of the fine-tuned policy over its own" * ("tuned_temperature" in methods))
    best = best_of_n_name(tables.all_runs(groups))
    parts.append("; oracle: the verifier that judges also chooses" * (best == ORACLE or "oracle" in methods))
    panels, wide = len(plots.values_of(rows, "panel")), len(groups) > FEW
    tall = 0.3 + 0.75 * plots.rows_of(panels) if panels > 1 else 1.1
    if panels == 1 and len(plots.values_of(plots.where(rows, method="best_of_n"), "series")) > CROWD:
        wide = False  # two blocks beside each other
    key = key_height([row["label"] for row in rows if row["method"] == "tuned"]) if wide else 0.0
    made = plots.figure(
        name,
        f"{''.join(parts)}.",
        rows,
        groups,
        lambda canvas, rows: _draw(canvas, rows, metric, x, best, looks),
        (style.FULL_WIDTH if wide else style.COLUMN_WIDTH, style.COLUMN_WIDTH * (tall if wide else 0.95) + key),
        series="series",
        room=CROWD,
        axes={"x": x},
    )
    return made and replace(made, spare=spare)


def _over(x: str, rows: plots.Rows) -> plots.Rows:
    """The rows as the CSV has them; without curves that differ in their KL alone where x is another."""
    shown = [row for row in rows if x == "kl" or row["method"] not in ("bound", "soft_best_of_n")]
    for row in shown:
        group, policy, _ = row.pop("group"), row.pop("policy", "best_of_n"), row.pop("pool")
        row |= {x: query_flops(group, row["n"], policy)} if x == "flops" else {}
    return shown


def _rows(groups: Sequence[Group], metric: str) -> tuple[plots.Rows, plots.Rows]:
    """The rows, and spare ones: `series` is the sampler within its panel; `label` sets a fine-tuned policy apart.

    Each has its `group`, the sampler's or the policy's, the `pool` behind it, and the point of a policy its `policy`.
    """
    few, drawn_from, apart = len(groups) <= FEW, arrange.samplers(groups), arrange.sampler_settings(groups)
    paneled = arrange.panel_setting([group for _, group in drawn_from], apart) if len(drawn_from) > CROWD else []

    def place(group: Group) -> plots.Row:
        rest = [name for name in apart if name not in paneled]
        sampler = {"panel": arrange.named(group, paneled), "series": arrange.named(group, rest)}
        return {"group": group, "pool": np.inf, **sampler, "label": "", "method": "", "n": 0, "temperature": None}

    judged = [group for _, group in drawn_from if temperatures_of(group, "base")]
    rows: plots.Rows = []
    for _, group in drawn_from:
        at = place(group) | {"pool": group.pool_size}
        rows += _curve(at, "best_of_n", "base", "best_of_n", metric)
        if len(drawn_from) == 1:
            rows += _curve(at, "bound", "base", "best_of_n", metric, kl=("best_of_n", "kl_bound"))
            rows += _soft(place(group), metric) if few else []
            rows += _curve(at, "oracle", "base", "oracle_of_n", metric)
    for same in arrange.alike((group for _, group in drawn_from), partial(arrange.but_temperature, names=apart)):
        for group in same if len(same) > 1 and "temperature" not in paneled and not judged else ():
            name = arrange.named(group, [name for name in apart if name not in (*paneled, "temperature")])
            at = place(group) | {"series": "", "label": name, "temperature": float(group.settings["temperature"])}
            rows += _curve(at, "base_temperature", "base", "best_of_n", metric)[:1]
    bases = arrange.alike(judged, lambda group: (place(group)["panel"], _of_base(group, metric)))
    for group, *_ in bases:
        label = place(group)["series"] if len(bases) > 1 else ""
        rows += _over_temperatures(place(group) | {"series": "", "label": label}, "base", metric)
    elsewhere: set[object] = set()
    for group in arrange.in_order(groups):
        at = place(group)
        own = at | {"label": arrange.named(group, [name for name in group.settings if name not in apart])}
        for arm in group.arms:
            rows += _point(own, arm, arm, metric)
        for name, (arm, _, updates) in group.runs[0].elsewhere.items():
            key = name, at["panel"], group.key_of([(name, "pass", "accuracy", 1)])
            if key in elsewhere:  # configurations that differ in their training share it
                continue
            elsewhere.add(key)
            rows += _point(at | {"label": checkpoint_words(group.runs[0].elsewhere, name)}, name, arm, metric)
            if few and updates is None:
                rows += _on_top(at, arm, metric)
        rows += _over_temperatures(own, "tuned", metric)
        rows += _on_top(own, "tuned", metric) if few else []
    spare: plots.Rows = []
    for _, group in drawn_from if not plots.where(rows, method="base_temperature") else ():
        at = place(group) | {"temperature": group.runs[0].config.get("temperature")}
        spare += _curve(at, "base_temperature", "base", "best_of_n", metric)[:1]
    return rows, spare


def _curve(
    at: plots.Row, name: str, policy: str, method: str, metric: str, kl: tuple[str, str] = ("", "kl")
) -> plots.Rows:
    """A row for each n that has a KL. name: the method as the figure calls it."""
    values, moved = at["group"].series(policy, method, metric), at["group"].series(policy, kl[0] or method, kl[1])
    return [
        at
        | {"method": name, "n": n, "extrapolates": 4 * n > at["pool"]}
        | tables.spread("kl", moved[n])
        | tables.spread("value", estimate)
        for n, estimate in values.items()
        if n in moved
    ]


def _over_temperatures(at: plots.Row, arm: str, metric: str) -> plots.Rows:
    """One sample of a policy over evaluation.temperatures, in rising order."""
    rows: plots.Rows = []
    for temperature in temperatures_of(at["group"], arm):
        here = at | {"temperature": float(temperature)}
        rows += _curve(here, f"{arm}_temperature", arm, f"{AT}{temperature}", metric)
    return rows


def _soft(at: plots.Row, metric: str) -> plots.Rows:
    """Soft Best-of-n from the hardest, which is nearest to Best-of-n, to the softest."""
    methods = {key[1] for key in at["group"].runs[0].curves if key[1].startswith("soft_best_of_n@")}
    rows: plots.Rows = []
    for softness, method in sorted((float(method.partition("@")[2]), method) for method in methods):
        rows += _curve(at | {"temperature": softness}, "soft_best_of_n", "base", method, metric)
    return rows


def _on_top(at: plots.Row, policy: str, metric: str) -> plots.Rows:
    """Best-of-n drawn from a policy other than the base; nothing where it has one n."""
    sizes = at["group"].series(policy, "best_of_n", "kl")
    here = at | {"pool": max(sizes, default=0)}
    return _curve(here, f"{policy}_best_of_n", policy, "best_of_n", metric) if len(sizes) > 1 else []


def _point(at: plots.Row, policy: str, name: str, metric: str) -> plots.Rows:
    """One sample of a policy; no row where it has no KL."""
    method = "pass" if metric == "accuracy" else "best_of_n"
    return _curve(at | {"policy": policy}, name, policy, method, metric, kl=("policy", "kl"))


def _of_base(group: Group, metric: str) -> tuple[object, ...]:
    """Equal for groups whose base was judged on the same samples at the same temperatures, by the same scorer."""
    points = [("base", f"{AT}{temperature}", metric, 1) for temperature in temperatures_of(group, "base")]
    return group.key_of(point for point in points if point in group.runs[0].curves)


def _draw(canvas: Any, rows: plots.Rows, metric: str, x: str, best: str, looks: dict[str, style.Look]) -> plots.Labels:
    if x != "kl":  # `kl` is what stands on the x axis
        rows = [{key: row[key] for key in row if not key.startswith("kl")} | {"kl": row[x]} for row in rows]
    names, series = plots.values_of(rows, "panel"), plots.values_of(plots.where(rows, method="best_of_n"), "series")
    several = style.sequence(series) if len(series) > 1 else {}
    panels = plots.grid_of(canvas, len(names), sharex=True, sharey=True)
    labels = [
        [*_panel(axes, here, several, best), *_elsewhere(axes, here, looks)]
        for axes, name in zip(panels, names, strict=True)
        for here in [plots.where(rows, panel=name)]
    ]
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name)
        axes.margins(x=0.06, y=0.08)
        if x == "n":
            plots.powers_axis(axes, [row["n"] for row in rows], "")
        elif x == "flops":
            plots.flops_axis(axes)
    plots.name_axes(panels, OVER[x], f"{'accuracy' if metric == 'accuracy' else 'mean reward'} on held-out prompts")
    return list(zip(panels, labels, strict=True))


def _panel(axes: Any, rows: plots.Rows, several: dict[str, style.Look], best: str) -> list[Label]:
    """Draw one panel and return the labels of its points. several: the looks of samplers, where there are several."""
    labels = _best_of_n(axes, plots.where(rows, method="best_of_n"), several, best)
    for method, title in (("bound", "log n bound"), ("soft_best_of_n", "soft Best-of-n"), ("oracle", None)):
        if points := plots.where(rows, method=method):
            shown = plots.bare(points, "kl", "value") if method == "bound" else points
            plots.line(axes, shown, "kl", "value", style.LOOKS[method], label=title, markersize=3, zorder=1.5)
            labels += [Label(points[-1]["kl"], points[-1]["value"], ORACLE, style.QUIET)] * (title is None)
    chains, look = plots.where(rows, method="tuned_best_of_n"), style.LOOKS["tuned"]
    for number, (series, label) in enumerate(dict.fromkeys((row["series"], row["label"]) for row in chains)):
        points = plots.where(chains, series=series, label=label)
        title = None if number else "fine-tuned + Best-of-n"
        plots.line(axes, points, "kl", "value", look, label=title, markersize=2.5, linewidth=0.8, alpha=0.75)
        if number == 0:
            labels += [Label(row["kl"], row["value"], f"n={row['n']}", look.colour) for row in points if row["n"] > 1]
    base, moved = (plots.where(rows, method=f"{arm}_temperature") for arm in ("base", "tuned"))
    has_room = len(several) < CROWD  # in the legend
    for number, label in enumerate(plots.values_of(base, "label")):
        shown = plots.bare(sorted(plots.where(base, label=label), key=lambda row: row["temperature"]), "kl", "value")
        named = {"label": "base, one sample"} if has_room and number == 0 else {}
        named |= {"linestyle": "none"} if len(shown) < 3 else {}  # a line of two would lie below the concave curve
        plots.line(axes, shown, "kl", "value", style.LOOKS["base"], **named, markersize=2, linewidth=0.8, zorder=3)
        unnamed = [] if number or has_room else shown[-1:]
        labels += [Label(row["kl"], row["value"], "one sample", style.COLOURS["base"]) for row in unnamed]
    for series, label in dict.fromkeys((row["series"], row["label"]) for row in moved):
        shown = plots.bare(plots.where(moved, series=series, label=label), "kl", "value")
        own = replace(look, colour=several[series].colour) if several else look
        plots.line(axes, shown, "kl", "value", own, markersize=2, linewidth=0.8, alpha=0.75)
    for arm, points in (("base", base), ("tuned", [] if several else moved)):
        coldest = sorted(points, key=lambda row: row["temperature"])[:1]
        labels += [Label(row["kl"], row["value"], f"T={row['temperature']:g}", style.COLOURS[arm]) for row in coldest]
    for arm, title in plots.TITLES.items():
        labels += _points(axes, plots.where(rows, method=arm), style.LOOKS[arm], title, several)
    return labels


def _elsewhere(axes: Any, rows: plots.Rows, looks: dict[str, style.Look]) -> list[Label]:
    """Draw the policies from elsewhere; a line joins the checkpoints of one training in their order."""
    labels = []
    for arm, look in looks.items():
        on_top = plots.bare(plots.where(rows, method=f"{arm}_best_of_n"), "kl", "value")
        plots.line(axes, on_top, "kl", "value", look, markersize=2, linewidth=0.6, alpha=0.75)
        if points := plots.where(rows, method=arm):
            joined = {"linewidth": 0.8} if len(points) > 1 else {"linestyle": "none"}
            plots.line(axes, points, "kl", "value", look, label=arm, zorder=4, **joined)
            labels += [Label(row["kl"], row["value"], row["label"], look.colour) for row in points if row["label"]]
    return labels


def _points(axes: Any, rows: plots.Rows, look: style.Look, title: str, several: dict[str, style.Look]) -> list[Label]:
    """Draw policies, each in the colour of its sampler where there are several."""
    face = plots.HOLLOW if look is style.LOOKS["control"] else {}
    crowded, labels = len(rows) > FEW, []
    for series in plots.values_of(rows, "series"):
        points = plots.where(rows, series=series)
        colour = several[series].colour if several else look.colour
        bars = {"ecolor": (colour, 0.35), "elinewidth": 0.6} if crowded else {}
        plots.line(axes, points, "kl", "value", look, linestyle="none", zorder=4, color=colour, **face, **bars)
        if not (crowded and face) and len(rows) <= NAMED:
            labels += [Label(row["kl"], row["value"], row["label"], colour) for row in points if row["label"]]
    if rows:
        named = replace(look, line="none", colour=style.QUIET if several else look.colour)
        plots.line(axes, [], "kl", "value", named, label=title, **face)
    return labels


def _best_of_n(axes: Any, rows: plots.Rows, several: dict[str, style.Look], best: str) -> list[Label]:
    """Draw each curve, dashed beyond a quarter of its pool, and return the labels of its points."""
    labels = []
    for name in plots.values_of(rows, "series"):
        points, look = plots.where(rows, series=name), several.get(name, style.LOOKS["best_of_n"])
        trusted = plots.where(points, extrapolates=False)
        plots.line(axes, trusted, "kl", "value", look, label=f"{best}, {name}" if name else best, linestyle="-")
        if len(beyond := points[max(len(trusted) - 1, 0) :]) > 1:
            plots.line(axes, beyond, "kl", "value", look, linestyle=(0, (2, 1)), linewidth=0.8)
        shown = points if not several else points[-1:] if len(several) <= FEW else []
        colour = look.colour if several else style.QUIET
        labels += [Label(row["kl"], row["value"], f"n={row['n']}", colour) for row in shown]
    return labels
