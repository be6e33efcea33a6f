"""What accuracy costs at inference, when fine-tuning has paid for itself, and where the seconds and tokens went."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.records.read import Run
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import costs, fine_tuning_flops, query_flops
from bench.reporting.contrasts import Contrast, of_groups
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.exhibits.coverage import METHODS
from bench.reporting.finish import wrapped
from bench.reporting.groups import Group, recorded
from bench.reporting.labels import Label
from bench.reporting.words import best_of_n_name, counted, ended

Entry = dict[str, Any]  # an artifact of a lineage

VOTES = ("weighted_majority", "majority")
MOST_GROUPS = 3  # configurations with a panel of their own
NONE = "no break-even"


@shows("figures", 130)
def break_even(groups: Sequence[Group]) -> Figure | None:
    """Accuracy against FLOPs per query, and total FLOPs against queries; None for many groups or without records."""
    if len(groups) > MOST_GROUPS or not costs(groups):
        return None
    looks = style.elsewhere(list(dict.fromkeys(name for group in groups for name in group.runs[0].elsewhere)))
    best = best_of_n_name(tables.all_runs(groups))
    return plots.figure(
        "break_even",
        "Left: accuracy on held-out prompts against the FLOPs of a query, for Best-of-n and for one sample of the "
        "fine-tuned policy. Right: FLOPs spent after so many queries, on Best-of-n at the n that matches the "
        "fine-tuned policy, and on that policy with everything that its training took; a diamond marks where a seed's "
        "lines cross, its bar the 95 % interval over prompts. Scoring by a verifier counts nothing, and decoding is "
        "bound by memory, so that FLOPs flatter the fine-tuned policy. Oracle: the verifier that judges also chooses. "
        "Votes: of the base's samples."
        + " What the training of policies from elsewhere took is unknown, so that they have no break-even."
        * bool(looks),
        [row for own in zip(groups, of_groups(groups), strict=True) for row in (*_per_query(own[0]), *_in_total(*own))],
        groups,
        lambda canvas, rows: _break_even(canvas, rows, best, looks),
        (style.FULL_WIDTH, 2.5 * len(groups)),
    )


def _row(group: Group, what: str, **numbers: Any) -> dict[str, Any]:
    """numbers: seed, n, and flops, accuracy and queries with their intervals; what is not given is None."""
    blank = {name: None for key in ("flops", "accuracy", "queries") for name in tables.spread(key, None)}
    return {"name": arrange.named(group), "what": what, "seed": None, "n": None, **blank, **numbers}


def _per_query(group: Group) -> plots.Rows:
    rows: plots.Rows = []
    for policy in ("tuned", *group.runs[0].elsewhere):
        own = tables.spread("accuracy", group.mean(policy, "pass", "accuracy", 1))
        rows.append(_row(group, policy, flops=query_flops(group, 1, policy), **own))
    for n, accuracy in group.series("base", "best_of_n", "accuracy").items():
        flops = query_flops(group, n)
        rows.append(_row(group, "best_of_n", n=n, flops=flops, **tables.spread("accuracy", accuracy)))
        scoring = n * (query_flops(group, 1) - query_flops(group, 1, "tuned"))
        for vote, cost in (("majority", flops - scoring), ("weighted_majority", flops)):
            if found := group.series("sampler", vote, "accuracy").get(n):
                rows.append(_row(group, vote, n=n, flops=cost, **tables.spread("accuracy", found)))
    return rows


def _in_total(group: Group, contrasts: Mapping[str, Contrast]) -> plots.Rows:
    """Each seed's crossing and the two lines through the seeds' means up to beyond it, or why none is given."""
    if reason := _no_break_even(group, contrasts)[1]:
        return [_row(group, f"{NONE}: {reason}")]
    rows: plots.Rows = []
    for run in group.runs:
        at = {f"queries{end}": run.metrics[f"break_even/queries{end}"] for end in ("", "_low", "_high")}  # None: no end
        spent = run.metrics["cost/fine_tuning_flops"] + at["queries"] * run.metrics["cost/tuned_query_flops"]
        rows.append(_row(group, "crossing", seed=run.config["seed"], n=run.metrics["break_even/n"], flops=spent, **at))
    n, last = float(np.mean([row["n"] for row in rows])), 2 * max(row["queries"] for row in rows)
    once, each, of_n = fine_tuning_flops(group), query_flops(group, 1, "tuned"), query_flops(group, n)
    for count in (0, last):
        rows.append(_row(group, "total tuned", queries=count, flops=once + count * each))
        rows.append(_row(group, "total best_of_n", n=n, queries=count, flops=count * of_n))
    return rows


def _break_even(canvas: Any, rows: plots.Rows, best: str, looks: dict[str, style.Look]) -> plots.Labels:
    names, labels = plots.values_of(rows, "name"), []
    panels = canvas.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        here = plots.where(rows, name=name)
        keys = ("flops", "n", "accuracy", "accuracy_low", "accuracy_high")
        curve, tuned = (plots.bare(plots.where(here, what=what), *keys) for what in ("best_of_n", "tuned"))
        plots.line(left, curve, "flops", "accuracy", style.LOOKS["best_of_n"], label=best)
        for vote in VOTES:
            if points := plots.bare(plots.where(here, what=vote), *keys):
                title, look = METHODS[vote]
                plots.line(left, points, "flops", "accuracy", look, label=title, markersize=2.5, linewidth=0.8)
        diamond = {"label": "fine-tuned", "linestyle": "none", "markersize": 4.5}
        plots.line(left, tuned, "flops", "accuracy", style.LOOKS["tuned"], **diamond)
        for what, look in looks.items():
            if own := plots.bare(plots.where(here, what=what), *keys):
                plots.line(left, own, "flops", "accuracy", look, label=what, linestyle="none")
        plots.guide(left, y=tuned[0]["accuracy"], color=style.LOOKS["tuned"].colour)
        plots.flops_axis(left)
        left.set_ylabel("accuracy on held-out prompts")
        left.set_title(name, loc="left")
        left.margins(x=0.08, y=0.1)
        _totals(right, here)
        named = [Label(row["flops"], row["accuracy"], f"n={row['n']:g}", style.QUIET) for row in curve]
        labels.append((left, named))
    return labels


def _totals(axes: Any, rows: plots.Rows) -> None:
    for what in ("best_of_n", "tuned"):
        if ends := plots.where(rows, what=f"total {what}"):
            plots.line(axes, plots.bare(ends, "queries", "flops"), "queries", "flops", style.LOOKS[what], marker="")
            if what == "best_of_n":
                axes.set_title(f"Best-of-{ends[0]['n']:.3g}, as accurate as the fine-tuned", loc="left")
    if crossed := plots.where(rows, what="crossing"):
        diamonds = plots.bare(crossed, "queries", "queries_low", "queries_high", "flops")
        last = max(row[key] or 0 for row in rows for key in ("queries", "queries_high"))
        beyond = {"queries_low": -1, "queries_high": 2 * last}  # of the axis: arrows mark intervals without an end
        ends = [row | {key: end for key, end in beyond.items() if row[key] is None} for row in diamonds]
        plots.line(axes, ends, "queries", "flops", style.LOOKS["base"], linestyle="none", marker="d", markersize=4)
        axes.set_xlim(0, None if ends == diamonds else 1.05 * last)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(plots.short)
        axes.yaxis.set_major_formatter(plots.short)
    else:
        size = style.legend_size() - 1
        room = min(1.8, 0.3 * axes.get_figure(root=True).get_figwidth())
        (words,) = (wrapped(row["what"], room, size) for row in rows if row["what"].startswith(NONE))
        axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=size, color=style.QUIET, transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="queries", ylabel="FLOPs in total")


def of_break_even(group: Group, contrasts: Mapping[str, Contrast]) -> list[str]:
    """After how many queries fine-tuning is cheaper in FLOPs than the Best-of-n that is as accurate.

    Nothing is claimed where the comparison behind it is not resolved. Several seeds give a range, not an interval.
    """
    metrics = [run.metrics for run in group.runs]
    verdict, reason = _no_break_even(group, contrasts)
    if any("break_even/n" not in own for own in metrics) or not verdict:
        return []
    if reason:
        lead = "Fine-tuning never pays for itself" if verdict == "worse" else "No break-even is given"
        return [f"{lead}: {reason}."]
    if len(metrics) > 1:
        queries, matched = (sorted(own[f"break_even/{name}"] for own in metrics) for name in ("queries", "n"))
        return [
            f"The tuned policy is as accurate as Best-of-{matched[0]:.3g} to {matched[-1]:.3g}. Its training included, "
            f"it costs fewer FLOPs after {queries[0]:,} to {queries[-1]:,} queries "
            f"(range over {len(metrics)} seeds)."
        ]
    n = ended(recorded(group.runs[0], "break_even/n"), "{:.3g}".format, "below all", "above all")
    after = ended(recorded(group.runs[0], "break_even/queries"), "{:,.0f}".format, "fewer", "never")
    return [
        f"The tuned policy is as accurate as Best-of-{n}. Its training included, it costs fewer FLOPs after {after} "
        "queries."
    ]


def _no_break_even(group: Group, contrasts: Mapping[str, Contrast]) -> tuple[str, str]:
    """The verdict against one sample of the base, and why no break-even is given; "" for what there is not."""
    sizes = group.series("base", "best_of_n", "accuracy")
    first = contrasts.get(f"tuned_vs_best_of_{min(sizes)}/accuracy")
    verdict = first.verdict if first else ""
    if verdict == "worse":
        return verdict, "one sample of the base is more accurate"
    if verdict == "not resolved":
        return verdict, "the tuned policy is not shown to be better than one sample of the base"
    missing = [run.metrics for run in group.runs if run.metrics.get("break_even/queries", 0) is None]
    equal = sum((metrics["break_even/n"] or 2) < 1.001 for metrics in missing)  # None: no n is as accurate
    counts = {f"no Best-of-n up to n = {max(sizes)}": len(missing) - equal, "one sample of the base": equal}
    under = " under {} of " + f"{len(group.runs)} seeds" if len(group.runs) > 1 else ""
    return verdict, ", and ".join(f"{who} is as accurate{under.format(n)}" for who, n in counts.items() if n)


def _by_stage(runs: Sequence[Run], *, total: bool = False) -> dict[str, tuple[list[Entry], list[Entry]]]:
    """stage -> its artifacts counted once for all runs, and once for each run that needs them.

    total: with those of all stages under "all".
    """
    shared: dict[Hashable, Entry] = {}
    alone: dict[Hashable, Entry] = {}
    for run in runs:
        for entry in run.lineage:
            key = entry["stage"], entry["key"], entry["part"]
            shared[key] = alone[run.folder, key] = entry
    stages = [*dict.fromkeys(entry["stage"] for entry in alone.values()), *(["all"] if total else [])]

    def of(stage: str, entries: Mapping[Hashable, Entry]) -> list[Entry]:
        return [entry for entry in entries.values() if stage in (entry["stage"], "all")]

    return {stage: (of(stage, shared), of(stage, alone)) for stage in stages}


def _total(entries: Iterable[Entry], *names: str) -> float:
    return float(sum(sum(entry["counts"].get(name, 0) for entry in entries) for name in names))


def _seconds(entries: Iterable[Entry]) -> float:
    return float(sum(entry["seconds"] for entry in entries))


@shows("figures", 135)
def cost_by_stage(groups: Sequence[Group]) -> Figure | None:
    """Seconds and generated tokens by stage: of all artifacts once, and as if every run had made its own."""
    runs = tables.all_runs(groups)
    rows = [
        {
            "stage": stage,
            "artifacts": len(shared),
            "seconds": _seconds(shared),
            "generated_tokens": _total(shared, "generated_tokens"),
            "seconds_unshared": _seconds(alone),
            "generated_tokens_unshared": _total(alone, "generated_tokens"),
        }
        for stage, (shared, alone) in _by_stage(runs).items()
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (row["seconds_unshared"], row["stage"]))
    pale = " Pale: what it would have been without a store, each run making its own."
    caption = (
        f"Seconds and generated tokens by stage, of every artifact behind {counted(len(runs), 'run')} once, as "
        f"measured when it was made.{pale * any(row['seconds'] != row['seconds_unshared'] for row in rows)}"
    )
    size = style.FULL_WIDTH, 0.8 + 0.24 * len(rows)
    return plots.figure("cost_by_stage", caption, rows, groups, _costs, size, over="")


def _costs(canvas: Any, rows: plots.Rows) -> None:
    panels = plots.grid_of(canvas, 2, sharey=True)
    places = np.arange(len(rows))
    for axes, name in zip(panels, ("seconds", "generated_tokens"), strict=True):
        made, apart = ([row[f"{name}{end}"] for row in rows] for end in ("", "_unshared"))
        several = made != apart
        if several:
            axes.barh(places, apart, height=0.72, color="#C9DCEB", label="if every run had made its own")
        once = "made once for all runs" if several else None
        axes.barh(places, made, height=0.4, color=style.LOOKS["best_of_n"].colour, label=once)
        widest = max(*apart, 1e-9)
        for place, once, every in zip(places, made, apart, strict=True):
            if every:
                text = plots.short(once) if once == every else f"{plots.short(once)} of {plots.short(every)}"
                axes.text(every + 0.015 * widest, place, text, va="center", fontsize=style.legend_size() - 1)
        axes.set_xlim(0, widest * 1.5)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(plots.short)
        axes.set_xlabel(name.replace("_", " "))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [row["stage"] for row in rows])


@shows("tables", 130)
def cost(groups: Sequence[Group]) -> Table | None:
    """Every ancestor of these runs once, by stage, beside what each run would have cost alone."""
    runs = tables.all_runs(groups)
    unshared = "without sharing" if len(runs) > 1 else None
    caption = (
        f"What {counted(len(runs), 'run')} cost by stage, each artifact in their lineage counted once, in "
        f"tokens, FLOPs and seconds{'. Without sharing: as if each run had made its own' if unshared else ''}."
    )

    def tokens(key: str, heading: str | None, name: str, entries: int = 1) -> tables.Column:
        return tables.Column(key, heading, lambda item: int(_total(item[entries], name)))

    return tables.table(
        "cost",
        caption,
        [(stage, *entries) for stage, entries in _by_stage(runs, total=True).items()],
        [
            tables.Column("stage", "stage", lambda item: item[0]),
            tables.Column("artifacts", "artifacts", lambda item: len(item[1])),
            tokens("generated_tokens", "generated tokens", "generated_tokens"),
            tokens("train_tokens", "trained tokens", "train_tokens"),
            tables.Column("flops", "FLOPs", lambda item: _total(item[1], "flops", "train_flops")),
            tables.Column("seconds", "seconds", lambda item: _seconds(item[1])),
            tokens("generated_tokens_alone", unshared and f"tokens {unshared}", "generated_tokens", 2),
            tables.Column("seconds_alone", unshared and f"seconds {unshared}", lambda item: _seconds(item[2])),
        ],
        runs,
    )
