"""The figure of over-optimisation: gold and proxy of Best-of-n over √KL, with the fitted curves and their peaks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.records.read import Estimate, Run
from bench.reporting.exhibit import Figure
from bench.reporting.overoptimisation import Pushed, pushed
from bench.reporting.style import COLUMN_WIDTH
from bench.reporting.tables.shared import spread

MARKERS = "os^DvPX<>"
CAPTION = (
    "Best-of-n against a learned reward: gold (top) and the proxy itself (bottom), both as gains over the base, at the "
    "square root of the measured KL. Curves: gold = d(α − βd), dashed where n > N/4 of N samples; "
    "stars: their peaks; hollow: policies fine-tuned on the best of the largest n. Bars: 95 % intervals{over}."
)


def overoptimisation_figure(runs: Sequence[Run]) -> Figure | None:
    """Gold and proxy over √KL; None where every scorer is gold itself."""
    found = pushed(runs)
    if not found:
        return None
    several = len(found[0].group.runs) > 1
    return Figure(
        name="reward_overoptimisation",
        caption=CAPTION.format(over=" for new seeds on new prompts" if several else " over prompts"),
        rows=[row for one in found for row in rows(one)],
        runs=[run for one in found for run in one.group.runs],
        draw=lambda drawn: _draw(drawn, found),
        width=COLUMN_WIDTH,
        height=1.35 * COLUMN_WIDTH,
    )


def rows(one: Pushed) -> list[dict[str, Any]]:
    """The points of the figure: Best-of-n at each n, then the tuned policy; gains over the base with intervals."""
    gold, proxy = one.gains(one.gold), one.gains(one.proxy)
    kl, tuned = one.tuned
    points: list[tuple[str, int, float, float, bool, Estimate, Estimate | None]] = [
        ("best_of_n", n, float(d) ** 2, float(d), k < one.measured, gold[k], proxy[k])
        for k, (n, d) in enumerate(zip(one.sizes, one.distance, strict=True))
    ]
    points.append(("tuned", one.sizes[-1], kl.value, math.sqrt(max(kl.value, 0.0)), True, tuned, None))
    return [
        {"scorer": one.name, "policy": policy, "n": n, "kl": nats, "distance": d, "measured": measured}
        | spread("gold_gain", of_gold)
        | spread("proxy_gain", of_proxy)
        for policy, n, nats, d, measured, of_gold, of_proxy in points
    ]


def _draw(drawn: Any, found: Sequence[Pushed]) -> None:
    """Two panels over one axis. Lightness falls from the first scorer to the last, so that grey keeps the order."""
    from matplotlib import colormaps

    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    shades = colormaps["viridis"](np.linspace(0.88, 0.05, len(found)) if len(found) > 1 else [0.3])
    farthest = max(float(one.distance[-1]) for one in found)
    for place, (one, shade) in enumerate(zip(found, shades, strict=True)):
        look = {"color": shade, "marker": MARKERS[place % len(MARKERS)], "markersize": 3.5, "elinewidth": 0.7}
        gold, proxy = one.gains(one.gold), one.gains(one.proxy)
        above.errorbar(one.distance, [g.value for g in gold], yerr=_bars(gold), linestyle="none", **look)
        _fitted(above, one, shade, farthest)
        kl, tuned = one.tuned
        hollow = look | {"markerfacecolor": "white", "markersize": 4.5}
        above.errorbar(math.sqrt(max(kl.value, 0.0)), tuned.value, yerr=_bars([tuned]), linestyle="none", **hollow)
        below.errorbar(one.distance, [p.value for p in proxy], yerr=_bars(proxy), label=one.name, linewidth=0.8, **look)
    above.axhline(0, color="#999999", linewidth=0.6, zorder=0)
    rewards = {one.measure for one in found} == {"gold_reward"}
    above.set_ylabel("gold model's reward over the base's" if rewards else "gold: accuracy over the base's")
    below.set_ylabel(f"proxy: gain, {_unit(found)}")
    below.set_xlabel("√KL from the base (KL in nats a sequence)")
    counts = above.secondary_xaxis("top")
    ticks = np.mean([one.distance for one in found], axis=0) if len({len(one.sizes) for one in found}) == 1 else []
    counts.set_xticks(ticks, [str(n) for n in found[0].sizes[: len(ticks)]])
    counts.set_xlabel("n of Best-of-n")
    drawn.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=1.5)


def _unit(found: Sequence[Pushed]) -> str:
    """Bradley-Terry scores are log-odds of being preferred; of other scores no unit is known."""
    targets = {str(run.config["scoring"]["_target_"]) for one in found for run in one.group.runs}
    return "log-odds" if all(target.endswith(".trained_reward_model") for target in targets) else "its own unit"


def _fitted(axes: Any, one: Pushed, shade: Any, farthest: float) -> None:
    fit = one.fit
    if fit is None:
        return
    end, last = one.distance[one.measured - 1], one.distance[-1]
    for start, stop, line in ((0.0, end, "-"), (end, last, "--")):
        grid = np.linspace(start, stop, 100)
        axes.plot(grid, grid * (fit.alpha - fit.beta * grid), color=shade, linestyle=line, linewidth=0.9)
    if 0 < fit.peak <= farthest:
        axes.plot(fit.peak, fit.peak_gain, "*", color=shade, markeredgecolor="black", markeredgewidth=0.4, markersize=8)


def _bars(found: Sequence[Estimate]) -> list[list[float]]:
    return [[max(0.0, one.value - one.low) for one in found], [max(0.0, one.high - one.value) for one in found]]
