"""What accuracy costs at inference, and when fine-tuning has paid for itself."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.evaluation.measures import AT_BEST
from bench.records.read import Estimate
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import costs, fine_tuning_flops, query_flops
from bench.reporting.contrasts import Contrast, of_groups
from bench.reporting.exhibit import Figure, shows
from bench.reporting.exhibits.coverage import METHODS
from bench.reporting.finish import wrapped
from bench.reporting.groups import Group, recorded
from bench.reporting.labels import Label
from bench.reporting.words import best_of_n_name, ended

MOST_GROUPS = 3  # configurations with a panel of their own
NONE = "no break-even"
WAYS = {  # to answer with the base, by their names in metrics.json
    "one_sample": "one sample at its best temperature",
    "majority": "majority vote",
    "weighted_majority": "weighted majority vote",
    "best_of_n": "",  # with who chooses: `best_of_n_name`
}


class Rival(NamedTuple):
    """The base's way to answer that is as accurate as the tuned policy, and against which training pays last.

    The tuned policy and one sample of the base are at the temperature that validation prompts chose, where they did.
    Votes and Best-of-n are at that of their pool.
    """

    way: str  # of WAYS
    prefix: str  # of its break-even in metrics.json
    verdict: str  # of the tuned policy against one sample of the base; "" where they were not compared
    reason: str  # why no break-even is given; "" where it is


@shows("figures", 130)
def break_even(groups: Sequence[Group]) -> Figure | None:
    """Accuracy against FLOPs per query, and total FLOPs against queries; None for many groups or without records."""
    if len(groups) > MOST_GROUPS or not costs(groups):
        return None
    looks = style.elsewhere(list(dict.fromkeys(name for group in groups for name in group.runs[0].elsewhere)))
    best = best_of_n_name(tables.all_runs(groups))
    return plots.figure(
        "break_even",
        "Left: accuracy on held-out prompts against the FLOPs of a query, for the base's ways to answer and for one "
        "sample of the fine-tuned policy. Single samples are at the temperature that validation prompts chose, where "
        "they did; Best-of-n and votes at that of their pool. Right: FLOPs spent after so many queries, by the way "
        "that is as accurate as the fine-tuned policy and against which training pays last, and by that policy with "
        "everything that its training took; a diamond marks where a seed's "
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
    policies = ["tuned", *group.runs[0].elsewhere]
    chosen = [policy for policy in ("base", *policies) if group.series(policy, AT_BEST, "accuracy")]
    for policy in dict.fromkeys([*chosen, *policies]):
        method = AT_BEST if policy in chosen else "pass"
        own = tables.spread("accuracy", group.mean(policy, method, "accuracy", 1))
        rows.append(_row(group, policy, flops=query_flops(group, 1, "tuned" if policy == "base" else policy), **own))
    for way in ("best_of_n", "majority", "weighted_majority"):
        for n, accuracy in _by_n(group, way).items():
            own = tables.spread("accuracy", accuracy)
            rows.append(_row(group, way, n=n, flops=_way_flops(group, way, n), **own))
    return rows


def _by_n(group: Group, way: str) -> dict[int, Estimate]:
    return group.series("base" if way == "best_of_n" else "sampler", way, "accuracy")


def _way_flops(group: Group, way: str, n: float) -> float:
    """Of a query that the base answers so with n samples, which are scored unless it is a vote without weights."""
    scoring = n * (query_flops(group, 1) - query_flops(group, 1, "tuned"))
    return query_flops(group, n) - scoring * (way == "majority")


def _in_total(group: Group, contrasts: Mapping[str, Contrast]) -> plots.Rows:
    """Each seed's crossing and the two lines through the seeds' means up to beyond it, or why none is given."""
    way, prefix, _, reason = rival(group, contrasts)
    if reason:
        return [_row(group, f"{NONE}: {reason}")]
    rows: plots.Rows = []
    for run in group.runs:
        at = {f"queries{end}": run.metrics[f"{prefix}/queries{end}"] for end in ("", "_low", "_high")}  # None: no end
        spent = run.metrics["cost/fine_tuning_flops"] + at["queries"] * run.metrics["cost/tuned_query_flops"]
        rows.append(_row(group, "crossing", seed=run.config["seed"], n=run.metrics[f"{prefix}/n"], flops=spent, **at))
    n, last = float(np.mean([row["n"] for row in rows])), 2 * max(row["queries"] for row in rows)
    once, each, of_n = fine_tuning_flops(group), query_flops(group, 1, "tuned"), _way_flops(group, way, n)
    for count in (0, last):
        rows.append(_row(group, "total tuned", queries=count, flops=once + count * each))
        rows.append(_row(group, f"total {way}", n=n, queries=count, flops=count * of_n))
    return rows


def _break_even(canvas: Any, rows: plots.Rows, best: str, looks: dict[str, style.Look]) -> plots.Labels:
    names, labels = plots.values_of(rows, "name"), []
    panels = canvas.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        here = plots.where(rows, name=name)
        keys = ("flops", "n", "accuracy", "accuracy_low", "accuracy_high")
        shown = {what: plots.bare(plots.where(here, what=what), *keys) for what in plots.values_of(here, "what")}
        curve = shown.get("best_of_n", [])
        plots.line(left, curve, "flops", "accuracy", style.LOOKS["best_of_n"], label=best)
        for vote in ("weighted_majority", "majority"):
            if points := shown.get(vote):
                title, look = METHODS[vote]
                plots.line(left, points, "flops", "accuracy", look, label=title, markersize=2.5, linewidth=0.8)
        for what, look in {"tuned": style.LOOKS["tuned"], "base": style.LOOKS["base"], **looks}.items():
            if points := shown.get(what):
                title = plots.TITLES.get(what, what) + ", at its best temperature" * ("base" in shown)
                size: dict[str, Any] = {} if what in looks else {"markersize": 4.5}
                plots.line(left, points, "flops", "accuracy", look, label=title, linestyle="none", **size)
        plots.guide(left, y=shown["tuned"][0]["accuracy"], color=style.LOOKS["tuned"].colour)
        plots.flops_axis(left)
        left.set_ylabel("accuracy on held-out prompts")
        left.set_title(name, loc="left")
        left.margins(x=0.08, y=0.1)
        _totals(right, here)
        named = [Label(row["flops"], row["accuracy"], f"n={row['n']:g}", style.QUIET) for row in curve]
        labels.append((left, named))
    return labels


def _totals(axes: Any, rows: plots.Rows) -> None:
    for what in dict.fromkeys(row["what"] for row in rows if row["what"].startswith("total ")):
        way = what.removeprefix("total ")
        ends = plots.where(rows, what=what)
        look = METHODS[way][1] if way in METHODS and way != "best_of_n" else style.LOOKS.get(way, style.LOOKS["base"])
        plots.line(axes, plots.bare(ends, "queries", "flops"), "queries", "flops", look, marker="")
        if way != "tuned":
            n = f"{ends[0]['n']:.3g}"
            name = f"{WAYS[way]}, n = {n}".capitalize() if WAYS[way] else f"Best-of-{n}"
            axes.set_title(f"{name}: as accurate", loc="left")
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
    """After how many queries fine-tuning is cheaper in FLOPs than the base's best way to be as accurate.

    Nothing is claimed where the comparison behind it is not resolved. Several seeds give a range, not an interval.
    """
    found = rival(group, contrasts)
    if not found.verdict or any(f"{found.prefix}/n" not in run.metrics for run in group.runs):
        return []
    if found.reason:
        lead = "Fine-tuning never pays for itself" if found.verdict == "worse" else "No break-even is given"
        return [f"{lead}: {found.reason}."]
    if len(group.runs) > 1:
        matched, queries = (
            sorted(run.metrics[f"{found.prefix}/{name}"] for run in group.runs) for name in ("n", "queries")
        )
        n, after = f"{matched[0]:.3g} to {matched[-1]:.3g}", f"{queries[0]:,} to {queries[-1]:,}"
        over = f" (range over {len(group.runs)} seeds)"
    else:
        n = ended(recorded(group.runs[0], f"{found.prefix}/n"), "{:.3g}".format, "below all", "above all")
        after = ended(recorded(group.runs[0], f"{found.prefix}/queries"), "{:,.0f}".format, "fewer", "never")
        over = ""
    at_best = " at its best temperature" * (AT_BEST in found.prefix)
    return [
        f"The base is as accurate as the tuned policy{at_best} by {WAYS[found.way] or best_of_n_name(group.runs)} at "
        f"n = {n}: fine-tuning pays after {after} queries{over}."
    ]


def rival(group: Group, contrasts: Mapping[str, Contrast]) -> Rival:
    """The way whose break-even is given, or why none is."""
    metrics = [run.metrics for run in group.runs]
    chosen = {way: f"break_even/{AT_BEST}/{way}" for way in WAYS}
    prefixes = {way: prefix for way, prefix in chosen.items() if f"{prefix}/n" in metrics[0]}
    against, one = f"tuned_vs_base/{AT_BEST}", "the base at its best temperature"
    if not prefixes:
        prefixes = {"best_of_n": "break_even"}
        against, one = f"tuned_vs_best_of_{min(_by_n(group, 'best_of_n'))}/accuracy", "one sample of the base"
    pays = {way: [own.get(f"{prefix}/queries") for own in metrics] for way, prefix in prefixes.items()}
    in_all = [way for way, queries in pays.items() if None not in queries]
    way = max(in_all or prefixes, key=lambda name: sum(queries or 0 for queries in pays[name]))
    verdict = contrasts[against].verdict if against in contrasts else ""
    if verdict == "worse":
        reason = f"{one} is more accurate"
    elif verdict == "not resolved":
        reason = f"the tuned policy is not shown to be better than {one}"
    else:
        reason = _unreached(group, prefixes) or ("" if in_all else "no way is as accurate under all seeds")
    return Rival(way, prefixes[way], verdict, reason)


def _unreached(group: Group, prefixes: Mapping[str, str]) -> str:
    """Under how many seeds no way of the base is as accurate, or one is that costs no more; "" where there is none."""
    votes = [n for way in prefixes if way.endswith("majority") for n in _by_n(group, way)]
    tried = {"Best-of-n": list(_by_n(group, "best_of_n")), "vote": votes}
    most = " and ".join(f"no {name} up to n = {max(ns)}" for name, ns in tried.items() if ns)
    none, one = f"{most} is as accurate", "one sample of the base is as accurate"
    dear = "fine-tuning saves no FLOPs per query"
    counts = dict.fromkeys((none, one, dear), 0)
    for run in group.runs:
        ends = [[run.metrics.get(f"{prefix}/{name}") for name in ("n", "queries")] for prefix in prefixes.values()]
        free = [n for n, queries in ends if n is not None and queries is None]
        if free:
            counts[one if min(free) < 1.001 else dear] += 1
        elif all(n is None for n, _ in ends):
            counts[none] += 1
    under = " under {} of " + f"{len(group.runs)} seeds" if len(group.runs) > 1 else ""
    return ", and ".join(f"{what}{under.format(count)}" for what, count in counts.items() if count)
