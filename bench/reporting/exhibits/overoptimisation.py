"""How far Best-of-n may be pushed against a learned reward: gold and proxy over √KL, their fit, and a claim in words.

In the form of Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization", Figure 1.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.records.read import Estimate
from bench.reporting import plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.pushed import Pushed, pushed

MARKERS = "os^DvPX<>"
OVER = {"distance": "√KL from the base (KL in nats per sequence)", "kl": "KL from the base (nats per sequence)"}


@shows("figures", 95)
def overoptimisation_figure(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """Gold and proxy over √KL, or over the KL; None where every scorer is gold itself."""
    found, x = pushed(groups), choice("reward_overoptimisation", axes, list(OVER))
    new = " for new seeds on new prompts" if found and len(found[0].group.runs) > 1 else " over prompts"
    over = " over the base" * all(scorer.is_raw for scorer in found)
    caption = (
        f"Best-of-n against a learned reward: gold (top) and the proxy (bottom), both as gains{over}, at the "
        f"measured {OVER[x].partition(' ')[0]}. Curves: gold = d(α − βd) in d = √KL, dashed where n > N/4; "
        f"stars: their peaks; hollow: policies tuned on the best of the largest n. Bars: 95 % intervals{new}."
        f"{_notes(found)}"
    )
    return plots.figure(
        "reward_overoptimisation",
        caption,
        [row for scorer in found for row in rows(scorer)],
        [scorer.group for scorer in found],
        lambda canvas, rows: _draw(canvas, rows, found, x),
        (style.COLUMN_WIDTH, 1.35 * style.COLUMN_WIDTH),
        series="scorer",
        over="",
        axes={"x": x},
    )


def _notes(found: Sequence[Pushed]) -> str:
    return "".join(f" {note}" for note in dict.fromkeys(note for scorer in found for note in scorer.notes))


def rows(scorer: Pushed) -> plots.Rows:
    """The points of the figure: Best-of-n at each n, then the tuned policy; gains with intervals."""
    gold, proxy, (kl, tuned) = scorer.gains(scorer.gold, scorer.start), scorer.gains(scorer.proxy), scorer.tuned
    d = scorer.distance.tolist()
    best = [("best_of_n", n, d[k] ** 2, d[k], k < scorer.measured) for k, n in enumerate(scorer.sizes)]
    last = ("tuned", scorer.sizes[-1], kl.value, math.sqrt(max(kl.value, 0.0)), True)
    keys = ("policy", "n", "kl", "distance", "measured")
    return [
        {"scorer": scorer.name, **dict(zip(keys, point, strict=True))}
        | tables.spread("gold_gain", of_gold)
        | tables.spread("proxy_gain", of_proxy)
        for point, of_gold, of_proxy in zip([*best, last], [*gold, tuned], [*proxy, None], strict=True)
    ]


def _draw(canvas: Any, rows: plots.Rows, scorers: Sequence[Pushed], x: str) -> None:
    """Two panels over one axis. Lightness falls from the first scorer to the last, so that grey keeps the order."""
    from matplotlib import colormaps

    found, power = [scorer for scorer in scorers if plots.where(rows, scorer=scorer.name)], 1 if x == "distance" else 2
    above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    shades = colormaps["viridis"](np.linspace(0.88, 0.05, len(found)) if len(found) > 1 else [0.3])
    farthest = max(float(scorer.distance[-1]) for scorer in found)
    for place, (scorer, shade) in enumerate(zip(found, shades, strict=True)):
        look, points = style.Look(shade, MARKERS[place % len(MARKERS)]), plots.where(rows, scorer=scorer.name)
        best = plots.where(points, policy="best_of_n")
        plots.line(above, best, x, "gold_gain", look, linestyle="none")
        _fitted(above, scorer, shade, farthest, power)
        tuned = plots.HOLLOW | {"linestyle": "none", "markersize": 4.5}
        plots.line(above, plots.where(points, policy="tuned"), x, "gold_gain", look, **tuned)
        plots.line(below, best, x, "proxy_gain", look, label=scorer.name, linewidth=0.8)
    above.axhline(0, color="#999999", linewidth=0.6, zorder=0)
    rewards = {scorer.measure for scorer in found} == {"gold_reward"}
    gold = "gold model's reward" if rewards else "gold: accuracy"
    above.set_ylabel(f"{gold} over {'the base' if all(scorer.base is not None for scorer in found) else 'Best-of-1'}'s")
    below.set(ylabel=f"proxy: gain, {_unit(found)}", xlabel=OVER[x])
    counts = above.secondary_xaxis("top")
    alike = len({len(scorer.sizes) for scorer in found}) == 1
    ticks = np.mean([scorer.distance**power for scorer in found], axis=0) if alike else []
    counts.set(xlabel="n of Best-of-n", xticks=ticks, xticklabels=[str(n) for n in found[0].sizes[: len(ticks)]])


def _unit(found: Sequence[Pushed]) -> str:
    """Bradley-Terry scores are log-odds of being preferred; of other scores no unit is known."""
    targets = [str(run.config["scoring"]["_target_"]) for run in tables.all_runs([scorer.group for scorer in found])]
    return "log-odds" if all(target.endswith(".trained_reward_model") for target in targets) else "its own unit"


def _fitted(axes: Any, scorer: Pushed, shade: Any, farthest: float, power: int) -> None:
    if (fit := scorer.fit) is None:
        return
    end, last = scorer.distance[scorer.measured - 1], scorer.distance[-1]
    for start, stop, dashes in ((0.0, end, "-"), (end, last, "--")):
        grid = np.linspace(start, stop, 100)
        axes.plot(grid**power, grid * (fit.alpha - fit.beta * grid), color=shade, linestyle=dashes, linewidth=0.9)
    if 0 < fit.peak <= farthest:
        edge: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.4}
        axes.plot(fit.peak**power, fit.peak_gain, "*", color=shade, markersize=8, **edge)


@shows("tables", 95)
def overoptimisation_table(groups: Sequence[Group]) -> Table | None:
    """What each scorer's claim rests on; None where every scorer is gold itself."""

    def gold(scorer: Pushed, n: int) -> float:
        return float(scorer.gold[..., scorer.sizes.index(n)].mean())

    def alone(scorer: Pushed) -> str:
        return f"{sum(claim.verdict == 'over-optimised' for claim in scorer.claims)} of {len(scorer.claims)}"

    found = pushed(groups)
    return tables.table(
        "reward_overoptimisation",
        "From n̂*, chosen on one half of the prompts, to the largest n, on the other half; 95 % intervals."
        + _notes(found),
        found,
        [
            tables.Column("scorer", "scorer", lambda scorer: scorer.name),
            tables.Column("seeds", None, lambda scorer: len(scorer.group.runs)),
            _averaged("auc", "AUC"),
            _averaged("length_correlation", "ρ with length"),
            _averaged("tie_rate", None),
            tables.Column("chosen_n", "n̂*", lambda scorer: scorer.claim.chosen),
            tables.Column("largest_n", None, lambda scorer: scorer.claim.largest),
            tables.Column("gold_of_base", None, lambda scorer: float(scorer.start.mean())),
            tables.Column("gold_at_chosen_n", "gold at n̂*", lambda scorer: gold(scorer, scorer.claim.chosen)),
            tables.Column("gold_at_largest_n", "gold at largest n", lambda scorer: gold(scorer, scorer.claim.largest)),
            tables.interval("gold_change", "change of gold", lambda scorer: scorer.claim.gold),
            tables.interval("proxy_change", "change of proxy, of its rise", lambda scorer: scorer.claim.proxy),
            tables.Column("verdict", "verdict", lambda scorer: scorer.claim.verdict),
            tables.Column("seeds_alone", "seeds that show it", alone),
            _of_fit("alpha", None),
            _of_fit("beta", None),
            _of_fit("peak", "fitted peak d*"),
            tables.interval("tuned_gain", "tuned - base", lambda scorer: scorer.tuned[1]),
            tables.interval("tuned_kl", "KL of tuned", lambda scorer: scorer.tuned[0]),
        ],
    )


def _averaged(key: str, heading: str | None) -> tables.Column:
    """The mean over the seeds for which it is defined."""

    def read(scorer: Pushed) -> float | None:
        values = [run.metrics.get(f"scorer/{key}") for run in scorer.group.runs]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return tables.Column(key, heading, read)


def _of_fit(key: str, heading: str | None) -> tables.Column:
    ends = (key, f"{key}_low", f"{key}_high")
    return tables.interval(key, heading, lambda s: s.fit and Estimate(*(getattr(s.fit, end) for end in ends)))


@shows("sentences", 95)
def sentences(groups: Sequence[Group]) -> list[str]:
    """The claim for each scorer over all of its seeds; a single run's own record is in the scorer's sentences."""
    several = len(tables.all_runs(groups)) > 1
    return [f"{scorer.name}: {scorer.claim.sentence}" for scorer in (pushed(groups) if several else ())]
