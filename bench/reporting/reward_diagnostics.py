"""The figure of a scorer that is not the gold verifier: what it ranks, whether it is calibrated, where it misleads."""

from pathlib import Path
from typing import Any

from bench.reporting.collect import Run
from bench.reporting.figures import save
from bench.reporting.style import COLOURS, figure


def reward_diagnostics(run: Run) -> list[Path]:
    """reward_diagnostics.png and .pdf in the run's folder; nothing where the scorer's scores are gold itself.

    Left: gold and proxy of Best-of-n, each on its own axis, and the n where gold is highest on one half of the prompts.
    Middle: the within-prompt AUC of every decidable prompt. Right: observed against expected share of correct.
    """
    import pyarrow.parquet as pq

    if run.metrics["scorer/equals_gold"] == 1:
        return []
    rows = pq.read_table(run.folder / "diagnostics.parquet").to_pylist()
    of = {name: [row for row in rows if row["diagnostic"] == name] for name in ("gold", "proxy", "auc", "reliability")}
    with figure(width=7.0, height=2.5) as (drawn, axes):
        axes.remove()
        left, middle, right = drawn.subplots(1, 3)
        _curves(left, of["gold"], of["proxy"], run.metrics)
        _ranking(middle, of["auc"], run.metrics)
        _calibration(right, of["reliability"], run.metrics)
        scorer = run.config["scoring"]["_target_"].rsplit(".", 1)[-1]
        note = (
            f"run {run.folder.name}; scorer {scorer}; {run.metrics['test/prompts']} prompts, "
            f"{run.metrics['best_of_n/pool_size']} samples each, {run.metrics['scorer/unscored']} unscored; "
            f"tie rate {_number(run.metrics['scorer/tie_rate'])}, correlation with length "
            f"{_number(run.metrics['scorer/length_correlation'])}; bars: 95 % intervals over prompts"
        )
        drawn.text(0.0, -0.02, note, fontsize=5, color="#666666", va="top")
        return save(drawn, run.folder / "reward_diagnostics")


def _curves(axes: Any, gold: list[dict], proxy: list[dict], metrics: dict[str, Any]) -> None:
    beside = axes.twinx()
    for drawn, rows, colour, marker in ((axes, gold, "best_of_n", "o"), (beside, proxy, "bound", "s")):
        drawn.errorbar(
            [row["x"] for row in rows],
            [row["value"] for row in rows],
            yerr=_bars(rows),
            color=COLOURS[colour],
            marker=marker,
            markersize=3,
            elinewidth=0.7,
            linestyle="-" if rows is gold else "--",
        )
    beside.spines["right"].set_visible(True)
    beside.set_ylabel("mean proxy (dashed)", color="#666666")
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["x"] for row in gold], [f"{row['x']:.0f}" for row in gold])
    axes.set_xlabel("n of Best-of-n")
    axes.set_ylabel("gold accuracy", color=COLOURS["best_of_n"])
    if "scorer/gold_peak_n" in metrics:
        axes.axvline(metrics["scorer/gold_peak_n"], color=COLOURS["base"], linewidth=0.6, linestyle=":")
    verdict = metrics["scorer/overoptimisation"].partition(":")[0]
    over = verdict == "over-optimised"
    axes.set_title(
        f"over-optimised beyond n = {metrics['scorer/gold_peak_n']}" if over else f"over-optimisation {verdict}"
    )


def _ranking(axes: Any, auc: list[dict], metrics: dict[str, Any]) -> None:
    axes.hist([row["value"] for row in auc], bins=20, range=(0, 1), color=COLOURS["best_of_n"])
    axes.axvline(0.5, color=COLOURS["bound"], linewidth=0.8, linestyle=":")
    axes.set_xlabel("AUC within a prompt")
    axes.set_ylabel("decidable prompts")
    mean, low, high = (_number(metrics[f"scorer/auc{end}"]) for end in ("", "_low", "_high"))
    axes.set_title(f"mean {mean} [{low}, {high}]")


def _calibration(axes: Any, bins: list[dict], metrics: dict[str, Any]) -> None:
    axes.set_xlabel(f"expected share correct ({metrics['scorer/calibration'].removeprefix('of the ')})")
    axes.set_ylabel("observed share correct")
    if not bins:
        axes.set_xlabel("expected share correct")
        axes.text(0.5, 0.5, "not applicable", ha="center", va="center", transform=axes.transAxes, color="#666666")
        return
    axes.plot([0, 1], [0, 1], color=COLOURS["bound"], linestyle=":", linewidth=0.8)
    axes.errorbar(
        [row["x"] for row in bins],
        [row["value"] for row in bins],
        yerr=_bars(bins),
        color=COLOURS["best_of_n"],
        marker="o",
        markersize=3,
        elinewidth=0.7,
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"calibration error {_number(metrics['scorer/calibration_error'])}")


def _bars(rows: list[dict]) -> list[list[float]]:
    """Lengths below and above the values."""
    return [
        [max(0.0, row["value"] - row["low"]) for row in rows],
        [max(0.0, row["high"] - row["value"]) for row in rows],
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
