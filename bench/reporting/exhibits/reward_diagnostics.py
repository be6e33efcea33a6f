"""A scorer that is not the gold verifier: what it ranks, whether it is calibrated, where it misleads."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.records.read import DIAGNOSTICS, Run, short
from bench.reporting import arrange, plots, style, tables
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group, is_learned, recorded
from bench.reporting.words import function_name, split

CHANCE, WEAK = 0.5, 0.6  # AUC within a prompt
KINDS = ("gold", "proxy", "auc", "reliability")
MOST_SCORERS = 6  # that one figure has room for
DIAGNOSED = {
    "auc": "AUC in a prompt",
    "decidable": "decidable",
    "tie_rate": "ties",
    "length_correlation": "with length",
    "calibration_error": "calibration error",
}


@shows("figures", 100)
@shows("of_one_run", 100)
def reward_diagnostics(groups: Sequence[Group]) -> Figure | None:
    """A row of panels for each scorer that is not gold itself, by its first seed; None where there is none.

    Left: gold and proxy of Best-of-n, each on its own axis, and the n where gold is highest on one half of the prompts.
    Middle: the within-prompt AUC of every decidable prompt. Right: observed against expected share of correct.
    """
    learned = [(name, group) for name, group in arrange.samplers(groups) if is_learned(group.runs[0])]
    found = learned[:MOST_SCORERS]
    if not found:
        return None
    first = found[0][1].runs[0]
    metrics, scorers = first.metrics, dict.fromkeys(function_name(g.runs[0].config["scoring"]) for _, g in found)
    of_one = (
        f", {metrics['scorer/unscored']} unscored; tie rate {_number(metrics['scorer/tie_rate'])}, rank "
        f"correlation with length {_number(metrics['scorer/length_correlation'])}"
    )
    caption = (
        f"What the scorer {' or '.join(scorers)} knows of gold (run {first.folder.name}, seed {first.config['seed']}"
        f"{', and the first seed of the others' * (len(found) > 1)}): {metrics['test/prompts']} held-out prompts, "
        f"{metrics['best_of_n/pool_size']} samples each{of_one * (len(found) == 1)}. Left: gold (solid) and the proxy "
        "(dashed) of Best-of-n; dotted: the n where gold is highest on one half of the prompts. Middle: its AUC within "
        "each prompt that has right and wrong samples. Right: calibration. Bars: 95 % intervals over prompts."
        + f" The first {len(found)} of {len(learned)} scorers; the table has all."
        * (len(learned) > len(found))
    )
    rows = [
        {"scorer": name} | row
        for name, group in found
        for kind in KINDS
        for row in plots.where(group.runs[0].rows(DIAGNOSTICS), diagnostic=kind)
    ]
    measured = {name: group.runs[0].metrics for name, group in found}
    size = style.FULL_WIDTH, 2.3 * len(found)
    shown = [group for _, group in found]
    return plots.figure("reward_diagnostics", caption, rows, shown, lambda c, r: _draw(c, r, measured), size, over="")


def _draw(canvas: Any, rows: plots.Rows, metrics: Mapping[str, dict[str, Any]]) -> None:
    names = plots.values_of(rows, "scorer")
    wide = 3 if plots.ems(canvas) > 3 * plots.NARROWEST else 1
    panels = canvas.subplots(3 * len(names) // wide, wide, squeeze=False).reshape(-1, 3)
    for name, (left, middle, right) in zip(names, panels, strict=True):
        here = {kind: plots.where(rows, scorer=name, diagnostic=kind) for kind in KINDS}
        _curves(left, here["gold"], here["proxy"], metrics[name])
        _ranking(middle, here["auc"], metrics[name])
        _calibration(right, here["reliability"], metrics[name])
        if name:
            left.set_title(f"{name}: {left.get_title()}")


def _curves(axes: Any, gold: plots.Rows, proxy: plots.Rows, metrics: dict[str, Any]) -> None:
    other, grey = axes.twinx(), style.Look(style.LOOKS["bound"].colour, "s", "--")
    plots.line(axes, plots.beside(_named(gold), "x", 0, 2), "x", "value", style.LOOKS["best_of_n"], markersize=3)
    plots.line(other, plots.beside(_named(proxy), "x", 1, 2), "x", "value", grey, markersize=3)
    other.spines["right"].set_visible(True)
    other.set_ylabel("mean proxy (dashed)", color=style.QUIET)
    plots.powers_axis(axes, [row["x"] for row in gold], "n of Best-of-n")
    axes.set_ylabel("gold accuracy", color=style.COLOURS["best_of_n"])
    if "scorer/gold_peak_n" in metrics:
        plots.guide(axes, x=metrics["scorer/gold_peak_n"])
    verdict = metrics["scorer/overoptimisation"].partition(":")[0]
    beyond = f"over-optimised beyond n = {metrics.get('scorer/gold_peak_n')}"
    axes.set_title(beyond if verdict == "over-optimised" else f"over-optimisation {verdict}")


def _ranking(axes: Any, auc: plots.Rows, metrics: dict[str, Any]) -> None:
    axes.hist([row["value"] for row in auc], bins=20, range=(0, 1), color=style.COLOURS["best_of_n"])
    plots.guide(axes, x=0.5)
    axes.set(xlabel="AUC within a prompt", ylabel="decidable prompts")
    mean, low, high = (_number(metrics[f"scorer/auc{end}"]) for end in ("", "_low", "_high"))
    axes.set_title(f"mean {mean} [{low}, {high}]")


def _calibration(axes: Any, bins: plots.Rows, metrics: dict[str, Any]) -> None:
    axes.set_ylabel("observed share correct")
    if not bins:
        axes.set_xlabel("expected share correct")
        axes.text(0.5, 0.5, "not applicable", ha="center", va="center", transform=axes.transAxes, color=style.QUIET)
        return
    axes.set_xlabel(f"expected ({metrics['scorer/calibration'].removeprefix('of the ')})")
    axes.plot([0, 1], [0, 1], color=style.COLOURS["bound"], linestyle=":", linewidth=0.8)
    plots.line(axes, _named(bins), "x", "value", style.LOOKS["best_of_n"], markersize=3)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), title=f"calibration error {_number(metrics['scorer/calibration_error'])}")


def _named(rows: plots.Rows) -> plots.Rows:
    """The ends of the intervals under the names that `line` looks for."""
    return [{"x": row["x"], "value": row["value"], "value_low": row["low"], "value_high": row["high"]} for row in rows]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


class _Scorer(NamedTuple):
    run: Run
    group: Group


@shows("tables", 93)
def scorer_table(groups: Sequence[Group]) -> Table | None:
    """What each distinct scorer knows of gold on the held-out pool; None where all scores are gold itself."""
    learned = [_Scorer(run, group) for group in groups for run in group.runs if is_learned(run)]
    columns = [
        tables.Column("scorer", "scorer", lambda scorer: function_name(scorer.run.config["scoring"])),
        tables.Column("seed", "seed", lambda scorer: scorer.run.config["seed"]),
        *itertools.starmap(_recorded, DIAGNOSED.items()),
        tables.Column("unscored", "unscored", lambda scorer: scorer.run.metrics["scorer/unscored"]),
        tables.Column("gold_peak", "gold highest at n", _gold_peak),
        tables.Column("overoptimisation", "over-optimisation", lambda scorer: _overoptimised(scorer.run)),
    ]
    distinct = [same[0] for same in arrange.alike(learned, lambda s: str([column.read(s) for column in columns]))]
    apart = [name for name in groups[0].settings if len({scorer.group.settings[name] for scorer in distinct}) > 1]
    settings = [
        column if column.heading in apart else tables.Column(column.key, None, column.read)
        for column in tables.settings_columns(groups)
    ]
    return tables.table(
        "scorer",
        f"What the scorer knows of gold on Best-of-n's pool of {split(groups)} prompts: AUC within a prompt, the share "
        "of prompts with right and wrong completions (decidable), the share of pairs that it ties, its correlation "
        "with length, its calibration error, and the n after which gold falls. 95 % intervals over prompts.",
        distinct,
        [*settings, *columns],
        tables.all_runs(groups),
    )


def _recorded(key: str, heading: str) -> tables.Column:
    name = f"scorer/{key}"
    return tables.interval(key, heading, lambda s: None if s.run.metrics.get(name) is None else recorded(s.run, name))


def _overoptimised(run: Run) -> str:
    return str(run.metrics.get("scorer/overoptimisation", ""))


def _gold_peak(scorer: _Scorer) -> str | None:
    peak, largest = (scorer.run.metrics.get(f"scorer/gold_{name}") for name in ("peak_n", "largest_n"))
    return None if peak is None else f"{peak} of {largest}"


@shows("sentences", 93)
def sentences(groups: Sequence[Group]) -> list[str]:
    """Sentences on each scorer that is not gold: its AUC within a prompt, over-optimisation, unscored completions."""
    lines = []
    for name, group in arrange.samplers(groups):
        runs = [run for run in group.runs if is_learned(run)]
        if not runs:
            continue
        scorer = f"The scorer {function_name(runs[0].config['scoring'])}{f' ({name})' if name else ''}"
        lines.append(f"{scorer} {_judged(runs)}")
        if _overoptimised(runs[0]).startswith("over-optimised") and len(groups) == len(group.runs) == 1:
            peak, largest = (runs[0].metrics.get(f"scorer/gold_{n}") for n in ("peak_n", "largest_n"))
            lines.append(f"{scorer} is over-optimised: gold is highest at n = {peak} and lower at n = {largest}.")
        if unscored := sum(run.metrics.get("scorer/unscored") or 0 for run in runs):
            lines.append(f"{scorer} left {unscored:,} held-out completions unscored.")
    return lines


def _judged(runs: Sequence[Run]) -> str:
    """What the AUC says, of one run with its interval, of several with their range."""
    aucs = [run.metrics["scorer/auc"] for run in runs if run.metrics.get("scorer/auc") is not None]
    if not aucs:
        return "can't be judged: no prompt has both right and wrong completions that it scored."
    if len(aucs) > 1:
        return (
            f"has an AUC within a prompt of {short(float(np.mean(aucs)))} in the mean of {len(aucs)} seeds "
            f"({short(min(aucs))} to {short(max(aucs))})."
        )
    auc = recorded(runs[0], "scorer/auc")
    if auc.low <= CHANCE <= auc.high:
        verdict = "is not shown to rank right completions above wrong ones any better than chance"
    elif auc.high < CHANCE:
        verdict = "ranks wrong completions above right ones"
    else:
        verdict = f"{'hardly ' if auc.value < WEAK else ''}ranks right completions above wrong ones"
    return f"{verdict} (AUC within a prompt {auc})."
