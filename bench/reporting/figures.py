"""Figures of one run, from its records."""

from pathlib import Path
from typing import Any

from bench.reporting.collect import Estimate, Run
from bench.reporting.style import COLOURS, figure
from bench.store import atomically


def frontier(run: Run) -> list[Path]:
    """Accuracy against KL from the raw base: the Best-of-N curve and the fine-tuned points, with 95 % intervals.

    Both axes are measured; the grey curve shows where the usual log n - (n-1)/n bound would put the same Best-of-N
    accuracies. Beyond a quarter of the pool Best-of-N's KL is extrapolating and is drawn dashed.
    """
    accuracy, kl, bound = (run.series("base", "best_of_n", metric) for metric in ("accuracy", "kl", "kl_bound"))
    solid = [n for n in kl if 4 * n <= run.metrics["best_of_n/pool_size"]]
    with figure() as (drawn, axes):
        y = [accuracy[n].value for n in kl]
        axes.plot(
            [bound[n].value for n in kl], y, color=COLOURS["bound"], linestyle=":", label="Best-of-N, log n bound"
        )
        axes.plot([kl[n].value for n in kl], y, color=COLOURS["best_of_n"], linestyle="--", linewidth=0.8)
        axes.plot(
            [kl[n].value for n in solid], y[: len(solid)], color=COLOURS["best_of_n"], label="Best-of-N, measured KL"
        )
        for n in kl:
            _cross(axes, kl[n], accuracy[n], COLOURS["best_of_n"], marker=".")
            _label(axes, kl[n], accuracy[n], f"n={n}", (4, -7), COLOURS["base"])
        markers = {"tuned": ("D", f"fine-tuned on {run.selection}"), "control": ("s", "on its random twin")}
        for arm, (marker, label) in markers.items():
            if arm == "control" and not run.controlled:
                continue
            point = run.series(arm, "policy", "kl")[1], run.series(arm, "pass", "accuracy")[1]
            _cross(axes, *point, COLOURS[arm], marker=marker)
            _label(axes, *point, label, (6, -2), COLOURS[arm])
        axes.set_xlabel("KL from the base (nats a sequence)")
        axes.set_ylabel("accuracy on held-out prompts")
        axes.set_xlim(left=min(-0.05, axes.get_xlim()[0]))
        drawn.legend(loc="outside upper center", ncols=2, columnspacing=1.0, handlelength=1.5)
        note = f"run {run.folder.name}; {run.metrics['test/prompts']} prompts; bars: 95 % intervals over prompts"
        drawn.text(0.0, -0.02, note, fontsize=5, color="#666666", va="top")
        return save(drawn, run.folder / "frontier")


def _cross(axes: Any, x: Estimate, y: Estimate, colour: str, *, marker: str) -> None:
    axes.errorbar(
        x.value,
        y.value,
        xerr=[[max(0.0, x.value - x.low)], [max(0.0, x.high - x.value)]],
        yerr=[[max(0.0, y.value - y.low)], [max(0.0, y.high - y.value)]],
        color=colour,
        marker=marker,
        markersize=4,
        elinewidth=0.7,
        linestyle="none",
    )


def _label(axes: Any, x: Estimate, y: Estimate, text: str, offset: tuple[int, int], colour: str) -> None:
    axes.annotate(text, (x.value, y.value), offset, textcoords="offset points", fontsize=6, color=colour)


def save(drawn: Any, stem: Path) -> list[Path]:
    """The figure as stem.png and stem.pdf, whole or not at all; equal records give equal bytes."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    for path in paths:
        undated = {"CreationDate": None} if path.suffix == ".pdf" else None  # same records, same bytes
        with atomically(path) as beside:
            drawn.savefig(beside, format=path.suffix[1:], bbox_inches="tight", metadata=undated)
    return paths
