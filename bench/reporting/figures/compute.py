"""What accuracy costs at inference, when fine-tuning has paid for itself, and where the seconds and tokens went."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.records.read import Run
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, legend_above, line, short, where
from bench.reporting.groups import Group
from bench.reporting.labels import Label, place_labels
from bench.reporting.style import FULL_WIDTH, LOOKS, QUIET
from bench.reporting.tables.shared import all_runs, over_what, spread
from bench.reporting.ways import named

MOST = 3  # configurations with a panel of their own


def break_even(groups: Sequence[Group]) -> Figure | None:
    """Accuracy against FLOPs a query, and FLOPs in total against queries; None for many groups or without records."""
    if len(groups) > MOST or not all("cost/tuned_query_flops" in run.metrics for run in all_runs(groups)):
        return None
    rows: Rows = []
    for group in groups:
        rows += _a_query(group) + _in_total(group)
    return Figure(
        name="break_even",
        caption=(
            "Left: accuracy on held-out prompts against the FLOPs of a query, of Best-of-n and of one sample of the "
            "fine-tuned policy. Right: FLOPs spent after so many queries, on Best-of-n at the n that matches the "
            "fine-tuned policy and on fine-tuning with all that it took; a diamond marks where a seed's lines cross, "
            "its bar the 95 % interval over prompts. Scoring by a verifier counts nothing, and decoding is bound by "
            f"memory, so that FLOPs flatter the fine-tuned policy. {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        draw=lambda drawn: _break_even(drawn, rows),
        width=FULL_WIDTH,
        height=2.5 * len(groups),
    )


def _row(group: Group, what: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """`numbers` of: seed, n, and flops, accuracy and queries with their intervals."""
    blank = {name: None for key in ("flops", "accuracy", "queries") for name in spread(key, None)}
    return {"name": named(group), "what": what, "seed": None, "n": None, **blank, **numbers}


def _a_query(group: Group) -> Rows:
    flops = {name: _mean(group.runs, f"cost/{name}_query_flops") for name in ("tuned", *_best_of(group))}
    tuned = group.mean("tuned", "pass", "accuracy", 1)
    rows = [_row(group, "tuned", {"flops": flops["tuned"], **spread("accuracy", tuned)})]
    for n, found in group.series("base", "best_of_n", "accuracy").items():
        rows.append(_row(group, "best_of_n", {"n": n, "flops": flops[f"best_of_{n}"], **spread("accuracy", found)}))
    return rows


def _best_of(group: Group) -> list[str]:
    return [f"best_of_{n}" for n in group.series("base", "best_of_n", "accuracy")]


def _mean(runs: Sequence[Run], name: str) -> float:
    return float(np.mean([run.metrics[name] for run in runs]))


def _in_total(group: Group) -> Rows:
    """Each seed's crossing, where there is one, and the two lines through the seeds' means up to beyond it."""
    rows, crossings = [], []
    for run in group.runs:
        at = {end: run.metrics[f"break_even/queries{end}"] for end in ("", "_low", "_high")}
        if at[""] is None:
            continue
        once, each = run.metrics["cost/fine_tuning_flops"], run.metrics["cost/tuned_query_flops"]
        interval = {f"queries{end}": at[""] if value is None else value for end, value in at.items()}
        n = run.metrics["break_even/n"]
        crossings.append((n, at[""]))
        found = {"seed": run.config["seed"], "n": n, "flops": once + at[""] * each, **interval}
        rows.append(_row(group, "crossing", found))
    if not crossings:
        return rows
    n, last = float(np.mean([n for n, _ in crossings])), 2 * max(queries for _, queries in crossings)
    once, each = _mean(group.runs, "cost/fine_tuning_flops"), _mean(group.runs, "cost/tuned_query_flops")
    one, two = (_mean(group.runs, f"cost/best_of_{k}_query_flops") for k in (1, 2))
    of_n = one + (n - 1) * (two - one)  # FLOPs rise by the same for every sample more
    for queries in (0, last):
        rows.append(_row(group, "total tuned", {"queries": queries, "flops": once + queries * each}))
        rows.append(_row(group, "total best_of_n", {"n": n, "queries": queries, "flops": queries * of_n}))
    return rows


def _break_even(drawn: Any, rows: Rows) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(dict.fromkeys(row["name"] for row in rows))
    panels = drawn.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        here = where(rows, name=name)
        curve, tuned = _without(where(here, what="best_of_n")), _without(where(here, what="tuned"))
        line(left, curve, "flops", "accuracy", LOOKS["best_of_n"], label="Best-of-n")
        line(left, tuned, "flops", "accuracy", LOOKS["tuned"], label="fine-tuned", linestyle="none", markersize=4.5)
        left.axhline(tuned[0]["accuracy"], color=LOOKS["tuned"].colour, linewidth=0.6, linestyle=":", zorder=0)
        left.set_xscale("log")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_minor_locator(NullLocator())
        left.xaxis.set_major_formatter(short)
        left.set_xlabel("FLOPs a query")
        left.set_ylabel("accuracy on held-out prompts")
        left.set_title(name, loc="left")
        left.margins(x=0.08, y=0.1)
        _totals(right, here)
        place_labels(left, [Label(row["flops"], row["accuracy"], f"n={row['n']:g}", QUIET) for row in curve])
    legend_above(drawn, panels)


def _totals(axes: Any, rows: Rows) -> None:
    for what in ("best_of_n", "tuned"):
        if ends := where(rows, what=f"total {what}"):
            look = LOOKS[what]
            x, y = [row["queries"] for row in ends], [row["flops"] for row in ends]
            axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.0)
            if what == "best_of_n":
                axes.set_title(f"Best-of-{ends[0]['n']:.3g}, as accurate as the fine-tuned", loc="left")
    if crossed := where(rows, what="crossing"):
        bare = [{key: row[key] for key in ("queries", "queries_low", "queries_high", "flops")} for row in crossed]
        line(axes, bare, "queries", "flops", LOOKS["base"], linestyle="none", marker="d", markersize=4)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(short)
        axes.yaxis.set_major_formatter(short)
    else:
        words = "no break-even:\nno n of Best-of-n costs more and is as good"
        axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=7, color=QUIET, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("queries")
    axes.set_ylabel("FLOPs in total")


def _without(rows: Rows) -> Rows:
    """The rows without intervals of what has none."""
    return [{key: value for key, value in row.items() if not key.startswith(("flops_", "queries"))} for row in rows]


def cost_by_stage(groups: Sequence[Group]) -> Figure | None:
    """Seconds and generated tokens by stage: of all artifacts once, and as if every run had made its own."""
    rows: Rows = []
    runs = all_runs(groups)
    once: dict[tuple[str, str, str], dict[str, Any]] = {}
    apart: dict[str, list[float]] = {}
    for run in runs:
        for entry in run.lineage:
            once[entry["stage"], entry["key"], entry["part"]] = entry
            total = apart.setdefault(entry["stage"], [0.0, 0.0])
            total[0] += entry["seconds"]
            total[1] += entry["counts"].get("generated_tokens", 0)
    for stage, (seconds, tokens) in apart.items():
        made = [entry for key, entry in once.items() if key[0] == stage]
        rows.append(
            {
                "stage": stage,
                "artifacts": len(made),
                "seconds": float(sum(entry["seconds"] for entry in made)),
                "generated_tokens": float(sum(entry["counts"].get("generated_tokens", 0) for entry in made)),
                "seconds_unshared": seconds,
                "generated_tokens_unshared": tokens,
            }
        )
    if not rows:
        return None
    rows.sort(key=lambda row: (row["seconds_unshared"], row["stage"]))
    shared = " Pale: what it would have been without a store, each run making its own." * (len(runs) > 1)
    return Figure(
        name="cost_by_stage",
        caption=(
            f"Seconds and generated tokens by stage, of every artifact behind {len(runs)} "
            f"run{'s' if len(runs) > 1 else ''} once, as measured when it was made.{shared}"
        ),
        rows=rows,
        runs=runs,
        draw=lambda drawn: _costs(drawn, rows),
        width=FULL_WIDTH,
        height=0.8 + 0.24 * len(rows),
    )


def _costs(drawn: Any, rows: Rows) -> None:
    panels = drawn.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))
    for axes, name, label in zip(panels, ("seconds", "generated_tokens"), ("seconds", "generated tokens"), strict=True):
        made, apart = ([row[f"{name}{end}"] for row in rows] for end in ("", "_unshared"))
        if made != apart:
            axes.barh(places, apart, height=0.72, color="#C9DCEB", label="if every run had made its own")
        axes.barh(places, made, height=0.4, color=LOOKS["best_of_n"].colour, label="made once for all runs")
        widest = max(*apart, 1e-9)
        for place, one, all_of in zip(places, made, apart, strict=True):
            if all_of:
                text = short(one) if one == all_of else f"{short(one)} of {short(all_of)}"
                axes.text(all_of + 0.015 * widest, place, text, va="center", fontsize=6)
        axes.set_xlim(0, widest * 1.3)
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(short)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [row["stage"] for row in rows])
    if any(row["seconds"] != row["seconds_unshared"] for row in rows):
        legend_above(drawn, panels)
