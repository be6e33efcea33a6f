"""Paired comparisons over training seeds and prompts: difference, interval, detectable difference, verdict."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from bench.estimators.bootstrap import bootstrap_interval
from bench.estimators.distributions import t_cdf, t_quantile
from bench.estimators.training_seeds import seed_interval
from bench.estimators.uncertainty import holm, paired_contrast, sign_flip_p_values
from bench.evaluation.measures import AT_BEST
from bench.records.read import Estimate, Run, short
from bench.reporting.groups import Group, estimate, recorded
from bench.reporting.words import ARMS
from bench.seeds import generator

SIGNIFICANCE = 0.05
IN_WORDS = {"better": "better than", "not resolved": "not shown to differ from", "worse": "worse than"}
METRICS = {"pass@1": "sampled accuracy", "greedy_accuracy": "greedy accuracy", "accuracy": "sampled accuracy"}
METRICS[AT_BEST] = "accuracy at its best temperature"
PRIMARY = "tuned_vs_control/pass@1"
SAMPLED = ("pass", "accuracy", 1)  # method, metric and n of sampled accuracy
Key = TypeVar("Key", bound=Hashable)
Point = tuple[str, str, str, int]  # policy, method, metric, n


@dataclass(frozen=True)
class Contrast:
    """One mean less another on the same prompts under the same seeds."""

    difference: Estimate  # with its 95 % interval: for new prompts and, where there are several seeds, for new seeds
    p_value: float  # two-sided, for no difference; adjusted where the comparison is one of a family (see `judged`)
    detectable: float | None  # the difference found with a power of 80 %; NaN: nothing varies; None: not recorded
    seeds: int
    prompts: int  # with a value on both sides under every seed
    verdict: str = ""  # better, worse, not resolved
    family: int = 1  # comparisons that the p-value and the verdict are adjusted for; intervals are not adjusted

    def against(self, whom: str) -> str:
        """The verdict for a sentence, e.g. "better than the base (+0.21 [0.17, 0.24])".

        Where it is not resolved, this says which difference is detectable, and whether only the adjustment for
        several comparisons leaves it open.
        """
        signed = f"{'+' if self.difference.value > 0 else ''}{self.difference}"
        if self.verdict != "not resolved":
            return f"{self.verdict} than {whom} ({signed})"
        alone = self.difference.low > 0 or self.difference.high < 0
        adjusted = f" after adjustment for {self.family} comparisons" if alone and self.family > 1 else ""
        return f"{IN_WORDS['not resolved']} {whom}{adjusted} ({signed}{self._power})"

    @property
    def _power(self) -> str:
        if self.detectable is None:
            return ""
        if math.isnan(self.detectable):
            return "; too little varies to say which difference is detectable"
        return f"; detectable: {short(self.detectable)}"


def contrast(ours: np.ndarray, theirs: np.ndarray, name: str) -> Contrast:
    """Compare two arrays [S, M] with one value per seed and prompt. The verdict is that of a single comparison.

    Several seeds: the two-way interval of `seed_interval`, and the detectable difference (t_{0.975} + t_{0.8}) · SE at
    its degrees of freedom. One seed: the bootstrap over prompts (`paired_contrast`), which does not cover new seeds.
    In both, the sign-flip test of the prompts (of their means over seeds) has to agree: the p-value is the larger of
    the two, and the interval is extended to 0 where that test leaves 0 open, as it does where few prompts differ.
    """
    values = ours - theirs
    usable = values[:, ~np.isnan(values).any(axis=0)]
    seeds, prompts = usable.shape
    if prompts < 2:
        nan = float("nan")
        return Contrast(Estimate(nan, nan, nan), 1.0, nan, seeds, prompts, "not resolved")
    if seeds == 1:
        paired = paired_contrast(usable[0], np.zeros(prompts), generator(0, "contrast", name))
        difference = Estimate(paired.mean, paired.low, paired.high)
        return Contrast(difference, paired.p_value, paired.minimum_detectable_effect, 1, prompts, paired.verdict)
    over_seeds = seed_interval(usable)
    p_value, detectable = 1.0 if over_seeds.mean == 0 else 0.0, float("nan")  # equal differences
    if over_seeds.error > 0:
        p_value = 2 * (1 - t_cdf(abs(over_seeds.mean) / over_seeds.error, over_seeds.freedom))
        detectable = _two_quantiles(over_seeds.freedom) * over_seeds.error
    flipped = float(sign_flip_p_values(usable.mean(axis=0)[:, None], generator(0, "sign flips", name))[0])
    difference = Estimate(over_seeds.mean, over_seeds.low, over_seeds.high)
    if flipped > SIGNIFICANCE:
        difference = Estimate(over_seeds.mean, min(over_seeds.low, 0.0), max(over_seeds.high, 0.0))
    p_value = max(p_value, flipped)
    return Contrast(difference, p_value, detectable, seeds, prompts, verdict_of(difference, p_value))


def of_seeds(differences: np.ndarray) -> Contrast:
    """Compare by one difference per seed [S], for new seeds on the same prompts: Student's t with S - 1 degrees."""
    seeds, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1) / math.sqrt(seeds))
    if error == 0:  # a few prompts more or less, by chance alike under every seed: no spread to judge by
        return Contrast(Estimate(mean, min(mean, 0.0), max(mean, 0.0)), 1.0, math.nan, seeds, 0)
    half = t_quantile(0.975, seeds - 1) * error
    p_value = 2 * (1 - t_cdf(abs(mean) / error, seeds - 1))
    return Contrast(Estimate(mean, mean - half, mean + half), p_value, _two_quantiles(seeds - 1) * error, seeds, 0)


def _two_quantiles(freedom: float) -> float:
    """Standard errors of the smallest difference that a two-sided test at 5 % finds with a power of 80 %."""
    return t_quantile(0.975, freedom) + t_quantile(0.8, freedom)


def mean_of(values: np.ndarray, rng: np.random.Generator, *, shares: bool = False) -> Estimate:
    """The mean of values [S, M] with its interval over seeds and prompts; for one seed, the bootstrap's over prompts.

    shares: the values lie in [0, 1].
    """
    if len(values) > 1:
        return estimate(values, shares=shares)
    low, high = bootstrap_interval(values[0], rng, shares=shares)
    return Estimate(float(np.nanmean(values)), float(low), float(high))


def judged(family: Mapping[Key, Contrast]) -> dict[Key, Contrast]:
    """The same comparisons with p-values and verdicts adjusted for their number (Holm 1979)."""
    if not family:
        return {}
    adjusted = map(float, holm(np.array([found.p_value for found in family.values()])))
    return {
        name: replace(found, p_value=p, verdict=verdict_of(found.difference, p), family=len(family))
        for (name, found), p in zip(family.items(), adjusted, strict=True)
    }


def shared_seeds(methods: Mapping[Key, Sequence[Run]]) -> tuple[dict[Key, list[Run]], list[int]]:
    """Each method's runs under the seeds that all methods have, and the seeds left out."""
    seeds = [{run.config["seed"] for run in runs} for runs in methods.values()]
    common = set.intersection(*seeds)
    kept = {name: [run for run in runs if run.config["seed"] in common] for name, runs in methods.items()}
    return kept, sorted(set.union(*seeds) - common)


def tuned_contrast(ours: Group, theirs: Group, name: str) -> Contrast | None:
    """Two groups' tuned policies in sampled accuracy, under the seeds that both have; None where there are none."""
    runs, _ = shared_seeds({"ours": ours.runs, "theirs": theirs.runs})
    if not all(runs.values()):
        return None
    sides = [Group({}, tuple(runs[side])).per_prompt("tuned", *SAMPLED) for side in ("ours", "theirs")]
    return contrast(sides[0], sides[1], name)


def of_group(group: Group) -> dict[str, Contrast]:
    """Every comparison of a run, by the name it has in metrics.json, over the group's seeds.

    The primary comparison is judged alone and the others are adjusted for their number, as in each run's metrics.json.
    Those of a single seed are read from there.
    """
    points = _points(group)
    if len(group.runs) == 1:
        return {name: _recorded(group, name, ours) for name, (ours, _) in points.items()}
    made = {
        name: contrast(group.per_prompt(*ours), group.per_prompt(*theirs), name)
        for name, (ours, theirs) in points.items()
    }
    primary = primary_of(group)
    return made | judged({name: found for name, found in made.items() if name != primary})


def primary_of(group: Group) -> str:
    """The name of the primary comparison: with the control or, where there is none, with the base."""
    return PRIMARY if group.controlled else "tuned_vs_base/pass@1"


def in_words(name: str) -> tuple[str, str, str]:
    """(ours, theirs, metric) in words, from a comparison's name in metrics.json."""
    pair, _, metric = name.partition("/")
    ours, theirs = (ARMS.get(side, side.replace("best_of_", "Best-of-")) for side in pair.split("_vs_"))
    return ours, theirs, METRICS[metric]


def _points(group: Group) -> dict[str, tuple[Point, Point]]:
    """The two sides of every comparison that all runs of the group have recorded."""
    sides: dict[str, tuple[Point, Point]] = {}
    for name in group.runs[0].metrics:
        if not name.endswith("/verdict") or not all(name in run.metrics for run in group.runs):
            continue
        name = name.removesuffix("/verdict")
        pair, _, metric = name.partition("/")
        if metric not in METRICS:  # those of other tasks' prompts are in bench.reporting.exhibits.harness
            continue
        ours, _, theirs = pair.partition("_vs_")
        method = {"greedy_accuracy": "greedy", AT_BEST: AT_BEST}.get(metric, "pass")
        n = theirs.removeprefix("best_of_")
        other: Point = ("base", "best_of_n", "accuracy", int(n)) if n.isdecimal() else (theirs, method, "accuracy", 1)
        sides[name] = (ours, method, "accuracy", 1), other
    order = ("tuned_vs_control", "tuned_vs_base", "control_vs_base")

    def place(name: str) -> tuple[int, int, bool]:
        pair = name.partition("/")[0]
        return order.index(pair) if pair in order else len(order), sides[name][1][3], "greedy" in name

    return {name: sides[name] for name in sorted(sides, key=place)}


def _recorded(group: Group, name: str, ours: Point) -> Contrast:
    (run,) = group.runs
    detectable, p_value = (recorded(run, f"{name}/{key}").value for key in ("minimum_detectable", "p_adjusted"))
    prompts = int(np.isfinite(group.per_prompt(*ours)).all(axis=0).sum())
    is_primary = name == primary_of(group)
    difference = recorded(run, f"{name}/difference")
    verdict = verdict_of(difference, _reachable(prompts) if is_primary else p_value)
    return Contrast(difference, p_value, detectable, 1, prompts, verdict, 1 if is_primary else len(_points(group)) - 1)


def recorded_primary(run: Run) -> tuple[Estimate, str]:
    """A single run's tuned less control in sampled accuracy, and the verdict of these numbers.

    metrics.json has the verdict in words too; its numbers take precedence.
    """
    difference = recorded(run, f"{PRIMARY}/difference")
    return difference, verdict_of(difference, _reachable(int(run.metrics["test/prompts"])))


def _reachable(prompts: int) -> float:
    """The smallest p-value that so many paired differences can have: a sign test of equal signs."""
    return 2.0 ** (1 - prompts)


def verdict_of(difference: Estimate, p_value: float) -> str:
    """better or worse where both the p-value and the 95 % interval say so, else not resolved."""
    if not p_value <= SIGNIFICANCE or not (difference.low > 0 or difference.high < 0):
        return "not resolved"
    return "better" if difference.low > 0 else "worse"


def interpolate(x: float, xs: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """[M] at x, linear between the rows of values [K, M] at ascending xs [K]; None outside of them."""
    if x < xs[0] or x > xs[-1]:
        return None
    if (xs == x).any():
        return values[xs == x].mean(axis=0)
    after = int(np.searchsorted(xs, x))
    part = (x - xs[after - 1]) / (xs[after] - xs[after - 1])
    return (1 - part) * values[after - 1] + part * values[after]
