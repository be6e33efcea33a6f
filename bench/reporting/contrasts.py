"""Paired comparisons over training seeds and prompts: difference, interval, what could be detected, verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from bench.estimators.distributions import t_cdf, t_quantile
from bench.estimators.uncertainty import holm, paired_difference, seed_interval, sign_flip_p_values
from bench.records.read import Estimate, Run, short
from bench.reporting.groups import Group
from bench.seeds import generator

SIGNIFICANCE = 0.05
METRICS = {"pass@1": "sampled accuracy", "greedy_accuracy": "greedy accuracy", "accuracy": "sampled accuracy"}
PRIMARY = "tuned_vs_control/pass@1"
Key = TypeVar("Key")
Point = tuple[str, str, str, int]  # policy, method, metric, n


@dataclass(frozen=True)
class Contrast:
    """One mean less another on the same prompts under the same seeds."""

    difference: Estimate  # with its 95 % interval: for new prompts and, where there are several seeds, for new seeds
    p_value: float  # two-sided, of no difference; adjusted where it is one of a family (see `verdict`)
    detectable: float  # the difference that as many seeds and prompts find with a power of 80 %
    seeds: int
    prompts: int  # with a value on both sides under every seed
    verdict: str = ""  # better, worse, not resolved
    family: int = 1  # comparisons that the p-value and the verdict are adjusted for; nothing else of it is

    @property
    def power(self) -> str:
        """For a sentence on a comparison that is not resolved: which difference would be."""
        if math.isnan(self.detectable):  # where the difference does not vary, nothing says how it would
            return "too little varies to say what would be found"
        return f"{short(self.detectable)} would be found"

    @property
    def adjustment(self) -> str:
        """For a sentence: that the adjustment leaves open what this comparison alone would not; else nothing."""
        alone = self.difference.low > 0 or self.difference.high < 0
        if self.verdict != "not resolved" or not alone or self.family == 1:
            return ""
        return f" after adjustment for {self.family} comparisons"


def contrast(ours: np.ndarray, theirs: np.ndarray, name: str) -> Contrast:
    """ours, theirs: [S, M], a value a seed and prompt. The verdict is that of a single comparison.

    Several seeds: the two-way interval of `seed_interval`, and the detectable difference (t_{.975} + t_{.8}) · SE at
    its degrees of freedom. One seed: the bootstrap over prompts (`paired_difference`), which says nothing of others.
    In both, the sign-flip test of the prompts (of their means over seeds) has to agree: the p-value is the larger of
    the two, and the interval is extended to 0 where it leaves 0 open, as where few prompts differ.
    """
    values = ours - theirs
    usable = values[:, ~np.isnan(values).any(axis=0)]
    seeds, prompts = usable.shape
    if prompts < 2:
        nan = float("nan")
        return Contrast(Estimate(nan, nan, nan), 1.0, nan, seeds, prompts, "not resolved")
    if seeds == 1:
        one = paired_difference(usable[0], np.zeros(prompts), generator(0, "contrast", name))
        estimate = Estimate(one.mean, one.low, one.high)
        return Contrast(estimate, one.p_value, one.minimum_detectable_effect, 1, prompts, one.verdict)
    found = seed_interval(usable)
    p_value, detectable = 1.0 if found.mean == 0 else 0.0, float("nan")  # equal differences
    if found.error > 0:
        p_value = 2 * (1 - t_cdf(abs(found.mean) / found.error, found.freedom))
        detectable = (t_quantile(0.975, found.freedom) + t_quantile(0.8, found.freedom)) * found.error
    flipped = float(sign_flip_p_values(usable.mean(axis=0)[:, None], generator(0, "sign flips", name))[0])
    estimate = Estimate(found.mean, found.low, found.high)
    if flipped > SIGNIFICANCE:
        estimate = Estimate(found.mean, min(found.low, 0.0), max(found.high, 0.0))
    p_value = max(p_value, flipped)
    return Contrast(estimate, p_value, detectable, seeds, prompts, verdict_of(estimate, p_value))


def judged(family: Mapping[Key, Contrast]) -> dict[Key, Contrast]:
    """The same comparisons with p-values and verdicts adjusted for their number (Holm 1979)."""
    if not family:
        return {}
    adjusted = holm(np.array([one.p_value for one in family.values()]))
    return {
        name: replace(one, p_value=float(p), verdict=verdict_of(one.difference, float(p)), family=len(family))
        for (name, one), p in zip(family.items(), adjusted, strict=True)
    }


def of_group(group: Group) -> dict[str, Contrast]:
    """Every comparison of a run, by the name it has in metrics.json, over the group's seeds.

    The primary one is judged on its own, the others are adjusted for their number, as in each run's own metrics.json,
    where those of a single seed are read.
    """
    points = _points(group)
    if len(group.runs) == 1:
        return {name: _recorded(group, name, ours) for name, (ours, _) in points.items()}
    found = {
        name: contrast(group.per_prompt(*ours), group.per_prompt(*theirs), name)
        for name, (ours, theirs) in points.items()
    }
    primary = primary_of(group)
    secondary = judged({name: one for name, one in found.items() if name != primary})
    return {name: secondary.get(name, one) for name, one in found.items()}


def primary_of(group: Group) -> str:
    return PRIMARY if group.controlled else "tuned_vs_base/pass@1"


def said(name: str) -> tuple[str, str, str]:
    """(ours, theirs, of what) of a comparison's name in metrics.json, in words."""
    pair, _, metric = name.partition("/")
    ours, _, theirs = pair.partition("_vs_")
    return ours, theirs.replace("best_of_", "Best-of-"), METRICS[metric]


def _points(group: Group) -> dict[str, tuple[Point, Point]]:
    """The two sides of every comparison that all runs of the group have recorded."""
    sides: dict[str, tuple[Point, Point]] = {}
    for name in group.runs[0].metrics:
        if not name.endswith("/verdict") or not all(name in run.metrics for run in group.runs):
            continue
        name = name.removesuffix("/verdict")
        pair, _, metric = name.partition("/")
        if metric not in METRICS:  # of other tasks' prompts, see bench.reporting.transfer
            continue
        ours, _, theirs = pair.partition("_vs_")
        method = "greedy" if metric == "greedy_accuracy" else "pass"
        n = theirs.removeprefix("best_of_")
        other: Point = ("base", "best_of_n", "accuracy", int(n)) if n.isdecimal() else (theirs, method, "accuracy", 1)
        sides[name] = (ours, method, "accuracy", 1), other
    order = ("tuned_vs_control", "tuned_vs_base", "control_vs_base")
    return dict(sorted(sides.items(), key=lambda one: (_place(one[0], order), one[1][1][3], "greedy" in one[0])))


def _place(name: str, order: Sequence[str]) -> int:
    pair = name.partition("/")[0]
    return order.index(pair) if pair in order else len(order)


def _recorded(group: Group, name: str, ours: Point) -> Contrast:
    (run,) = group.runs
    estimate = Estimate(*(_number(run, f"{name}/difference{end}") for end in ("", "_low", "_high")))
    detectable, p_value = (_number(run, f"{name}/{key}") for key in ("minimum_detectable", "p_adjusted"))
    prompts = int(np.isfinite(group.per_prompt(*ours)).all(axis=0).sum())
    is_primary = name == primary_of(group)
    family = 1 if is_primary else len(_points(group)) - 1
    judged_by = _reachable(prompts) if is_primary else p_value
    return Contrast(estimate, p_value, detectable, 1, prompts, verdict_of(estimate, judged_by), family)


def recorded_primary(run: Run) -> tuple[Estimate, str]:
    """A single run's tuned less control in sampled accuracy, and the verdict of these numbers.

    metrics.json has the verdict in words too; its numbers go before them.
    """
    difference = Estimate(*(_number(run, f"{PRIMARY}/difference{end}") for end in ("", "_low", "_high")))
    return difference, verdict_of(difference, _reachable(int(run.metrics["test/prompts"])))


def _number(run: Run, name: str) -> float:
    value = run.metrics[name]
    return float("nan") if value is None else float(value)


def _reachable(prompts: int) -> float:
    """The smallest p-value that so many paired differences can have: a sign test of equal signs."""
    return 2.0 ** (1 - prompts)


def verdict_of(difference: Estimate, p_value: float) -> str:
    """better or worse where both the p-value and the 95 % interval say so, else not resolved."""
    if not p_value <= SIGNIFICANCE or not (difference.low > 0 or difference.high < 0):
        return "not resolved"
    return "better" if difference.low > 0 else "worse"
