"""A scorer that is not the gold verifier: what it ranks, whether it is calibrated, where it misleads."""

from collections.abc import Sequence
from typing import Any

from bench.records.read import Run
from bench.reporting.exhibit import Figure
from bench.reporting.figures.shared import Rows, beside, guide, line, powers_axis, where
from bench.reporting.style import COLOURS, FULL_WIDTH, LOOKS, QUIET

KINDS = ("gold", "proxy", "auc", "reliability")


def reward_diagnostics(runs: Sequence[Run]) -> Figure | None:
    """Of the first of these runs whose scorer is not gold itself; None where there is none.

    Left: gold and proxy of Best-of-n, each on its own axis, and the n where gold is highest on one half of the prompts.
    Middle: the within-prompt AUC of every decidable prompt. Right: observed against expected share of correct.
    """
    import pyarrow.parquet as pq

    run = next((run for run in runs if run.metrics.get("scorer/equals_gold", 1) != 1), None)
    if run is None:
        return None
    found = pq.read_table(run.folder / "diagnostics.parquet").to_pylist()
    rows = [row for kind in KINDS for row in where(found, diagnostic=kind)]
    metrics = run.metrics
    scorer = run.config["scoring"]["_target_"].rsplit(".", 1)[-1]
    return Figure(
        name="reward_diagnostics",
        caption=(
            f"What the scorer {scorer} knows of gold (run {run.folder.name}, seed {run.config['seed']}): "
            f"{metrics['test/prompts']} held-out prompts, {metrics['best_of_n/pool_size']} samples each, "
            f"{metrics['scorer/unscored']} unscored; tie rate {_number(metrics['scorer/tie_rate'])}, rank correlation "
            f"with length {_number(metrics['scorer/length_correlation'])}. Left: gold (solid) and the proxy (dashed) "
            "of Best-of-n; dotted: the n where gold is highest on one half of the prompts. Middle: its AUC within each "
            "prompt that has right and wrong samples. Right: calibration. Bars: 95 % intervals over prompts."
        ),
        rows=rows,
        runs=[run],
        draw=lambda drawn: _draw(drawn, rows, metrics),
        width=FULL_WIDTH,
        height=2.3,
    )


def _draw(drawn: Any, rows: Rows, metrics: dict[str, Any]) -> None:
    left, middle, right = drawn.subplots(1, 3)
    _curves(left, where(rows, diagnostic="gold"), where(rows, diagnostic="proxy"), metrics)
    _ranking(middle, where(rows, diagnostic="auc"), metrics)
    _calibration(right, where(rows, diagnostic="reliability"), metrics)


def _curves(axes: Any, gold: Rows, proxy: Rows, metrics: dict[str, Any]) -> None:
    other = axes.twinx()
    line(axes, beside(_named(gold), "x", 0, 2), "x", "value", LOOKS["best_of_n"], markersize=3)
    dashed = {"marker": "s", "linestyle": "--"}
    line(other, beside(_named(proxy), "x", 1, 2), "x", "value", LOOKS["bound"], markersize=3, **dashed)
    other.spines["right"].set_visible(True)
    other.set_ylabel("mean proxy (dashed)", color=QUIET)
    powers_axis(axes, [row["x"] for row in gold], "n of Best-of-n")
    axes.set_ylabel("gold accuracy", color=COLOURS["best_of_n"])
    if "scorer/gold_peak_n" in metrics:
        guide(axes, x=metrics["scorer/gold_peak_n"])
    verdict = metrics["scorer/overoptimisation"].partition(":")[0]
    over = verdict == "over-optimised"
    axes.set_title(
        f"over-optimised beyond n = {metrics['scorer/gold_peak_n']}" if over else f"over-optimisation {verdict}"
    )


def _ranking(axes: Any, auc: Rows, metrics: dict[str, Any]) -> None:
    axes.hist([row["value"] for row in auc], bins=20, range=(0, 1), color=COLOURS["best_of_n"])
    guide(axes, x=0.5)
    axes.set_xlabel("AUC within a prompt")
    axes.set_ylabel("decidable prompts")
    mean, low, high = (_number(metrics[f"scorer/auc{end}"]) for end in ("", "_low", "_high"))
    axes.set_title(f"mean {mean} [{low}, {high}]")


def _calibration(axes: Any, bins: Rows, metrics: dict[str, Any]) -> None:
    axes.set_ylabel("observed share correct")
    if not bins:
        axes.set_xlabel("expected share correct")
        axes.text(0.5, 0.5, "not applicable", ha="center", va="center", transform=axes.transAxes, color=QUIET)
        return
    axes.set_xlabel(f"expected ({metrics['scorer/calibration'].removeprefix('of the ')})")
    axes.plot([0, 1], [0, 1], color=COLOURS["bound"], linestyle=":", linewidth=0.8)
    line(axes, _named(bins), "x", "value", LOOKS["best_of_n"], markersize=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"calibration error {_number(metrics['scorer/calibration_error'])}")


def _named(rows: Rows) -> Rows:
    """The ends of the intervals under the names that `line` looks for."""
    return [{"x": row["x"], "value": row["value"], "value_low": row["low"], "value_high": row["high"]} for row in rows]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
