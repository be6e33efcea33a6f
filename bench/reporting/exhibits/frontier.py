"""The frontier: accuracy, or the scorer's own reward, against the measured KL from the raw base."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.evaluation.measures import AT
from bench.records.read import Estimate
from bench.reporting import arrange, plots, style, tables
from bench.reporting.exhibit import Figure, shows
from bench.reporting.exhibits.temperatures import temperatures_of
from bench.reporting.finish import key_height
from bench.reporting.groups import Group, is_learned
from bench.reporting.labels import Label

FEW = 3  # groups: more of them are drawn as points alone, over the whole width
CROWD = plots.MOST - 2  # samplers beside the two arms in a legend: more get a panel for each value of one setting
NAMED = 30  # points in a panel: more of them can't be told by name
POINTS = {"tuned": "fine-tuned", "control": "random control"}
Curve = Mapping[int, Estimate]


@shows("figures", 10)
@shows("of_one_run", 10)
def frontiers(groups: Sequence[Group]) -> list[Figure | None]:
    """The frontier in accuracy and, where the scorer is not gold, the one in its reward."""
    learned = any(map(is_learned, tables.all_runs(groups)))
    return [_frontier(groups, metric) for metric in ("accuracy", *(["proxy"] if learned else []))]


def _frontier(groups: Sequence[Group], metric: str) -> Figure | None:
    rows = _rows(groups, metric)
    methods = {row["method"] for row in rows}
    what = "Accuracy" if metric == "accuracy" else "The scorer's reward"
    parts = [f"{what} on held-out prompts against the KL from the raw base. Best-of-n at its measured KL"]
    parts.append(", dashed where n is more than a quarter of the samples" * any(row["extrapolates"] for row in rows))
    parts.append("; dotted: the same accuracies at the KL of the log n bound" * ("bound" in methods))
    parts.append("; soft Best-of-n at its temperatures" * ("soft_best_of_n" in methods))
    parts.append("; Best-of-n drawn from the fine-tuned policy" * ("tuned_best_of_n" in methods))
    parts.append("; black: one sample of the base over its temperatures" * ("base_temperature" in methods))
    parts.append("; thin line: one sample of the fine-tuned policy over its own" * ("tuned_temperature" in methods))
    parts.append("; oracle: the verifier that judges also chooses" * _is_oracle(groups))
    panels, wide = len(plots.values_of(rows, "panel")), len(groups) > FEW
    tall = 0.3 + 0.75 * plots.rows_of(panels) if panels > 1 else 1.1
    if panels == 1 and len(plots.values_of(plots.where(rows, method="best_of_n"), "series")) > CROWD:
        wide = False  # two blocks beside each other
    key = key_height([row["label"] for row in rows if row["method"] == "tuned"]) if wide else 0.0
    return plots.figure(
        "frontier" if metric == "accuracy" else "frontier_reward",
        f"{''.join(parts)}.",
        rows,
        groups,
        lambda canvas, rows: _draw(canvas, rows, metric, "Best-of-n" + " (oracle)" * _is_oracle(groups)),
        (style.FULL_WIDTH if wide else style.COLUMN_WIDTH, style.COLUMN_WIDTH * (tall if wide else 0.95) + key),
        series="series",
        room=CROWD,
    )


def _is_oracle(groups: Sequence[Group]) -> bool:
    """Whether Best-of-n is chosen by the verifier that judges it too: no user has that one at test time."""
    return not any(map(is_learned, tables.all_runs(groups)))


def _over_temperatures(group: Group, arm: str, metric: str, place: dict[str, str], label: str) -> plots.Rows:
    """One sample of a policy over evaluation.temperatures, in rising order."""
    rows: plots.Rows = []
    for temperature in temperatures_of(group, arm):
        values, kl = (group.series(arm, f"{AT}{temperature}", name) for name in (metric, "kl"))
        at = _curve(place, f"{arm}_temperature", values, kl, label=label)
        rows += [row | {"temperature": float(temperature)} for row in at]
    return rows


def _rows(groups: Sequence[Group], metric: str) -> plots.Rows:
    """`series` is the sampler within its panel; `label` is what else sets a fine-tuned policy apart."""
    few, drawn_from, apart = len(groups) <= FEW, arrange.samplers(groups), arrange.sampler_settings(groups)
    paneled = _panel_setting([group for _, group in drawn_from], apart) if len(drawn_from) > CROWD else []

    def place(group: Group) -> dict[str, str]:
        rest = [name for name in apart if name not in paneled]
        return {"panel": arrange.named(group, paneled), "series": arrange.named(group, rest)}

    judged = [group for _, group in drawn_from if temperatures_of(group, "base")]
    rows: plots.Rows = []
    for _, group in drawn_from:
        values, kl, bound = (group.series("base", "best_of_n", name) for name in (metric, "kl", "kl_bound"))
        rows += _curve(place(group), "best_of_n", values, kl, group.pool_size)
        if len(drawn_from) == 1:
            rows += _curve(place(group), "bound", values, bound, group.pool_size)
            rows += _soft(place(group), group, metric) if few else []
    for same in arrange.alike((group for _, group in drawn_from), lambda group: str(_but_temperature(group, apart))):
        for group in same if len(same) > 1 and "temperature" not in paneled and not judged else ():
            first = {1: group.series("base", "best_of_n", metric)[1]}
            name = arrange.named(group, [name for name in apart if name not in (*paneled, "temperature")])
            at = place(group) | {"series": ""}
            (row,) = _curve(at, "base_temperature", first, group.series("base", "best_of_n", "kl"), label=name)
            rows.append(row | {"temperature": float(group.settings["temperature"])})
    for group, *_ in arrange.alike(judged, lambda group: (place(group)["panel"], _of_base(group))):
        rows += _over_temperatures(group, "base", metric, place(group) | {"series": ""}, "")
    for group in arrange.in_order(groups):
        label = arrange.named(group, [name for name in group.settings if name not in apart])
        for arm in group.arms:
            value = group.series(arm, *(("pass", "accuracy") if metric == "accuracy" else ("best_of_n", "proxy")))
            first = {n: estimate for n, estimate in value.items() if n == 1}
            rows += _curve(place(group), arm, first, group.series(arm, "policy", "kl"), label=label)
        rows += _over_temperatures(group, "tuned", metric, place(group), label)
        moved = group.series("tuned", "best_of_n", "kl")
        if few and len(moved) > 1:
            values = group.series("tuned", "best_of_n", metric)
            rows += _curve(place(group), "tuned_best_of_n", values, moved, max(moved), label=label)
    return rows


def _of_base(group: Group) -> tuple[object, ...]:
    """Equal for groups whose base was judged on the same samples at the same temperatures."""
    return group.key_of(("base", f"{AT}{temperature}", "accuracy", 1) for temperature in temperatures_of(group, "base"))


def _but_temperature(group: Group, names: Sequence[str]) -> list[str]:
    """Equal for samplers that differ in nothing else; every other sampler's own."""
    rest = [group.settings[name] for name in names if name != "temperature"]
    return rest if "temperature" in names else [*rest, group.label]


def _panel_setting(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """The setting of `names` with fewest values; none where there is only one setting."""
    if len(names) < 2:
        return []
    return [min(reversed(names), key=lambda name: len({group.settings[name] for group in groups}))]


def _curve(
    place: dict[str, str], method: str, values: Curve, kl: Curve, pool: int | None = None, *, label: str = ""
) -> plots.Rows:
    return [
        {
            **place,
            "label": label,
            "method": method,
            "n": n,
            "temperature": None,
            "extrapolates": pool is not None and 4 * n > pool,
            **tables.spread("kl", kl[n]),
            **tables.spread("value", estimate),
        }
        for n, estimate in values.items()
        if n in kl
    ]


def _soft(place: dict[str, str], group: Group, metric: str) -> plots.Rows:
    """Soft Best-of-n from the hardest, which is nearest to Best-of-n, to the softest."""
    methods = {key[1] for key in group.runs[0].curves if key[1].startswith("soft_best_of_n@")}
    rows: plots.Rows = []
    for softness, method in sorted((float(method.partition("@")[2]), method) for method in methods):
        values, kl = group.series("base", method, metric), group.series("base", method, "kl")
        rows += [row | {"temperature": softness} for row in _curve(place, "soft_best_of_n", values, kl)]
    return rows


def _draw(canvas: Any, rows: plots.Rows, metric: str, best: str) -> plots.Labels:
    names, series = plots.values_of(rows, "panel"), plots.values_of(plots.where(rows, method="best_of_n"), "series")
    several = style.sequence(series) if len(series) > 1 else {}
    panels = plots.grid_of(canvas, len(names), sharex=True, sharey=True)
    labels = [
        _panel(axes, plots.where(rows, panel=name), several, best) for axes, name in zip(panels, names, strict=True)
    ]
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name)
        axes.margins(x=0.06, y=0.08)
    what = "accuracy" if metric == "accuracy" else "mean reward"
    plots.name_axes(panels, "KL from the base (nats per sequence)", f"{what} on held-out prompts")
    return list(zip(panels, labels, strict=True))


def _panel(axes: Any, rows: plots.Rows, several: dict[str, style.Look], best: str) -> list[Label]:
    """Draw one panel and return the labels of its points. several: the looks of samplers, where there are several."""
    labels = _best_of_n(axes, plots.where(rows, method="best_of_n"), several, best)
    for method, title in (("bound", "log n bound"), ("soft_best_of_n", "soft Best-of-n")):
        if points := plots.where(rows, method=method):
            shown = plots.bare(points, "kl", "value") if method == "bound" else points
            plots.line(axes, shown, "kl", "value", style.LOOKS[method], label=title, markersize=3, zorder=1.5)
    chains, look = plots.where(rows, method="tuned_best_of_n"), style.LOOKS["tuned"]
    for number, (series, label) in enumerate(dict.fromkeys((row["series"], row["label"]) for row in chains)):
        points = plots.where(chains, series=series, label=label)
        named = {} if number else {"label": "fine-tuned + Best-of-n"}
        plots.line(axes, points, "kl", "value", look, **named, markersize=2.5, linewidth=0.8, alpha=0.75)
        if number == 0:
            labels += [Label(row["kl"], row["value"], f"n={row['n']}", look.colour) for row in points if row["n"] > 1]
    for label in plots.values_of(base := plots.where(rows, method="base_temperature"), "label"):
        points = sorted(plots.where(base, label=label), key=lambda row: row["temperature"])
        shown = plots.bare(points, "kl", "value")
        plots.line(axes, shown, "kl", "value", style.LOOKS["base"], markersize=2, linewidth=0.8, zorder=3)
        labels.append(Label(shown[-1]["kl"], shown[-1]["value"], "one sample", style.LOOKS["base"].colour))
    for label in plots.values_of(moved := plots.where(rows, method="tuned_temperature"), "label"):
        shown = plots.bare(plots.where(moved, label=label), "kl", "value")
        plots.line(axes, shown, "kl", "value", style.LOOKS["tuned"], markersize=2, linewidth=0.8, alpha=0.75)
    for points in (base, moved) if len({row["series"] for row in moved}) <= 1 else ():
        coldest = [row for row in points if row["temperature"] == min(row["temperature"] for row in points)]
        colour = style.LOOKS["base" if points is base else "tuned"].colour
        labels += [Label(row["kl"], row["value"], f"T={row['temperature']:g}", colour) for row in coldest[:1]]
    for arm, title in POINTS.items():
        labels += _points(axes, plots.where(rows, method=arm), style.LOOKS[arm], title, several)
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
        colour = style.QUIET if several else look.colour
        plots.line(axes, [], "kl", "value", look, linestyle="none", color=colour, label=title, **face)
    return labels


def _best_of_n(axes: Any, rows: plots.Rows, several: dict[str, style.Look], best: str) -> list[Label]:
    """Draw each curve, dashed beyond a quarter of its pool, and return the labels of its points."""
    labels = []
    for name in plots.values_of(rows, "series"):
        points, look = plots.where(rows, series=name), several.get(name, style.LOOKS["best_of_n"])
        trusted = plots.where(points, extrapolates=False)
        title = f"{best}, {name}" if name else best
        plots.line(axes, trusted, "kl", "value", look, label=title, linestyle="-")
        beyond = points[max(len(trusted) - 1, 0) :]
        if len(beyond) > 1:
            plots.line(axes, beyond, "kl", "value", look, linestyle=(0, (2, 1)), linewidth=0.8)
        shown = points if not several else points[-1:] if len(several) <= FEW else []
        colour = look.colour if several else style.QUIET
        labels += [Label(row["kl"], row["value"], f"n={row['n']}", colour) for row in shown]
    return labels
