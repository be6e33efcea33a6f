"""Paired comparisons over training seeds and prompts: difference, interval, detectable difference, verdict."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from bench.estimators.distributions import t_quantile
from bench.estimators.training_seeds import SeedInterval, seed_intervals
from bench.estimators.uncertainty import holm, paired_contrast, sign_flip_p_values
from bench.evaluation.measures import AT_BEST
from bench.evaluation.measures import Measure as Point
from bench.records.metrics import PRIMARY, SIGNIFICANCE, WITHOUT_CONTROL, compared, pairs_of
from bench.records.read import Estimate, Run, short
from bench.reporting.groups import Group, recorded
from bench.reporting.words import ARMS
from bench.seeds import generator

IN_WORDS = {"better": "better than", "not resolved": "not shown to differ from", "worse": "worse than"}
METRICS = dict.fromkeys(("pass@1", "accuracy"), "sampled accuracy")
METRICS |= {"greedy_accuracy": "greedy accuracy", AT_BEST: "accuracy at its best temperature"}
SAMPLED = ("pass", "accuracy", 1)  # method, metric and n of sampled accuracy
GREEDY = ("greedy", "accuracy", 1)
DECODED = {"pass@1": "greedy_accuracy", "greedy_accuracy": "pass@1"}  # the same comparison, decoded the other way
Key = TypeVar("Key", bound=Hashable)
Measure = tuple[str, str, int]  # method, metric, n
Sides = tuple[np.ndarray, np.ndarray]  # ours and theirs, [S, M] each


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
    freedom: float | None = None  # degrees of freedom of the t interval; None of one seed
    decoded: str = "sampled"  # or greedy
    other: str = ""  # the verdict of the same comparison decoded the other way; "" where there is none

    @property
    def scope(self) -> str:
        """Where the verdict does not hold both sampled and greedy, how far it does; else ""."""
        if self.other in ("", self.verdict):
            return ""
        if self.verdict != "not resolved" == self.other:
            return f"{self.decoded} only"
        return f"{'greedy' if self.decoded == 'sampled' else 'sampled'}: {self.other}"

    @property
    def scoped(self) -> str:
        """The verdict for a table, e.g. "better (sampled only)"."""
        return f"{self.verdict} ({self.scope})" if self.scope else self.verdict

    def against(self, whom: str) -> str:
        """The verdict for a sentence, e.g. "better than the base (+0.21 [0.17, 0.24])".

        Where it is not resolved, this says which difference is detectable, and whether only the adjustment for
        several comparisons leaves it open.
        """
        signed = f"{'+' if self.difference.value > 0 else ''}{self.difference}"
        scope = f"; {self.scope}" if self.scope else ""
        if self.verdict != "not resolved":
            return f"{self.verdict} than {whom} ({signed}{scope})"
        alone = self.difference.low > 0 or self.difference.high < 0
        adjusted = f" after adjustment for {self.family} comparisons" if alone and self.family > 1 else ""
        power = "" if self.detectable is None else f"; detectable: {short(self.detectable)}"
        if self.detectable is not None and math.isnan(self.detectable):
            power = "; too little varies to say which difference is detectable"
        return f"{IN_WORDS['not resolved']} {whom}{adjusted} ({signed}{power}{scope})"


def contrast(ours: np.ndarray, theirs: np.ndarray, name: str) -> Contrast:
    """Compare two arrays [S, M] with one value per seed and prompt. The verdict is that of a single comparison.

    Several seeds: the two-way interval of `seed_interval`, and the detectable difference (t_{0.975} + t_{0.8}) · SE at
    its degrees of freedom. One seed: the bootstrap over prompts (`paired_contrast`), which does not cover new seeds.
    In both, the sign-flip test of the prompts (of their means over seeds) has to agree: the p-value is the larger of
    the two, and the interval is extended to 0 where that test leaves 0 open, as it does where few prompts differ.
    """
    return contrasts({name: (ours, theirs)})[name]


def contrasts(sides: Mapping[Key, Sides], name: str = "{}") -> dict[Key, Contrast]:
    """Compare each pair as `contrast` does, with one variance between seeds for those of equally many seeds.

    The pairs are the cells of one family: the same comparison in several configurations (`seed_intervals`). Each
    verdict is that of a single comparison. name: of each comparison's random numbers, {} stands for its key.
    """
    differences = {key: _usable(ours - theirs) for key, (ours, theirs) in sides.items()}
    over_seeds: dict[Key, SeedInterval] = {}
    for seeds in {len(values) for values in differences.values()} - {1}:
        cells = {key: values for key, values in differences.items() if len(values) == seeds and values.shape[1] > 1}
        over_seeds |= zip(cells, seed_intervals([*cells.values()]), strict=True) if cells else {}
    return {key: _compared(values, over_seeds.get(key), name.format(key)) for key, values in differences.items()}


def _usable(values: np.ndarray) -> np.ndarray:
    return values[:, ~np.isnan(values).any(axis=0)]


def _compared(usable: np.ndarray, over_seeds: SeedInterval | None, name: str) -> Contrast:
    seeds, prompts = usable.shape
    if prompts < 2:
        nan = float("nan")
        return Contrast(Estimate(nan, nan, nan), 1.0, nan, seeds, prompts, "not resolved")
    if over_seeds is None:
        paired = paired_contrast(usable[0], np.zeros(prompts), generator(0, "contrast", name))
        difference = Estimate(paired.mean, paired.low, paired.high)
        return Contrast(difference, paired.p_value, paired.minimum_detectable_effect, 1, prompts, paired.verdict)
    detectable = two_quantiles(over_seeds.freedom) * over_seeds.error  # NaN of equal differences
    flipped = float(sign_flip_p_values(usable.mean(axis=0)[:, None], generator(0, "sign flips", name))[0])
    difference = Estimate(over_seeds.mean, over_seeds.low, over_seeds.high)
    if flipped > SIGNIFICANCE:
        difference = Estimate(over_seeds.mean, min(over_seeds.low, 0.0), max(over_seeds.high, 0.0))
    p_value = max(over_seeds.p_value, flipped)
    verdict = verdict_of(difference, p_value)
    return Contrast(difference, p_value, detectable, seeds, prompts, verdict, freedom=over_seeds.freedom)


def in_both_ways(
    sides_of: Callable[[Measure], Mapping[Key, Sides]], name: str, *, pooled: bool = True
) -> dict[Key, Contrast]:
    """A family in sampled accuracy, each with its verdict in greedy accuracy; adjusted for their number (Holm 1979).

    sides_of: the pairs in one of the two. pooled: whether they are of the same seeds, with one variance between them.
    """

    def compared(sides: Mapping[Key, Sides]) -> dict[Key, Contrast]:
        families = [sides] if pooled else [{key: pair} for key, pair in sides.items()]
        return judged({key: found for family in families for key, found in contrasts(family, name).items()})

    sampled, greedy = (compared(sides_of(measure)) for measure in (SAMPLED, GREEDY))
    return {key: replace(found, other=greedy[key].verdict) for key, found in sampled.items()}


def two_quantiles(freedom: float) -> float:
    """Standard errors of the smallest difference that a two-sided test at 5 % finds with a power of 80 %."""
    return t_quantile(0.975, freedom) + t_quantile(0.8, freedom)


def judged(family: Mapping[Key, Contrast]) -> dict[Key, Contrast]:
    """The same comparisons with p-values and verdicts adjusted for their number (Holm 1979)."""
    if not family:
        return {}
    adjusted = map(float, holm(np.array([found.p_value for found in family.values()])))
    return {
        name: replace(found, p_value=p, verdict=verdict_of(found.difference, p), family=len(family))
        for (name, found), p in zip(family.items(), adjusted, strict=True)
    }


def shared_seeds(groups: Mapping[Key, Group]) -> tuple[dict[Key, Group], list[int]]:
    """Each group's runs under the seeds that all groups have, maybe none, and the seeds left out."""
    seeds = [set(group.seeds) for group in groups.values()]
    common = set.intersection(*seeds)
    kept = {
        name: replace(group, runs=tuple(run for run in group.runs if run.config["seed"] in common))
        for name, group in groups.items()
    }
    return kept, sorted(set.union(*seeds) - common)


def tuned_contrasts(pairs: Mapping[Key, tuple[Group, Group]], name: str) -> dict[Key, Contrast]:
    """The tuned policies of each two groups, `in_both_ways`, under the seeds that both have; without any, left out."""
    shared = {key: shared_seeds(dict(enumerate(pair)))[0] for key, pair in pairs.items()}

    def sides_of(measure: Measure) -> dict[Key, Sides]:
        return {
            key: (pair[0].per_prompt("tuned", *measure), pair[1].per_prompt("tuned", *measure))
            for key, pair in shared.items()
            if pair[0].runs
        }

    return in_both_ways(sides_of, name)


def of_group(group: Group) -> dict[str, Contrast]:
    """`of_groups` of one group: no variance is pooled."""
    return of_groups([group])[0]


def of_groups(groups: Sequence[Group]) -> list[dict[str, Contrast]]:
    """Every comparison of each group's runs, by the name it has in metrics.json, over the group's seeds.

    The same comparison of several groups is one family with one variance between seeds (`contrasts`). In each group the
    primary comparison is judged alone and the others are adjusted for their number, as in each run's metrics.json.
    Those of a single seed are read from there.
    """
    points = [_points(group) for group in groups]
    made: list[dict[str, Contrast]] = [{} for _ in groups]
    for name in dict.fromkeys(name for own in points for name in own):
        sides: dict[int, Sides] = {}
        for place, group in enumerate(groups):
            if name in points[place] and len(group.runs) == 1:
                made[place][name] = _recorded(group, name, *points[place][name])
            elif name in points[place]:
                ours, theirs = points[place][name]
                sides[place] = group.per_prompt(*ours), group.per_prompt(*theirs)
        for place, found in contrasts(sides, name).items():
            made[place][name] = found
    for place, (group, names) in enumerate(zip(groups, points, strict=True)):
        own = made[place] = {name: made[place][name] for name in names}
        if len(group.runs) > 1:
            own |= judged({name: found for name, found in own.items() if name != primary_of(group)})
        for name, found in own.items():
            pair, _, metric = name.partition("/")
            if other := own.get(f"{pair}/{DECODED.get(metric)}"):
                decoded = "greedy" if metric == "greedy_accuracy" else "sampled"
                own[name] = replace(found, decoded=decoded, other=other.verdict)
    return made


def primary_of(group: Group) -> str:
    """The name of the primary comparison: with the control or, where there is none, with the base."""
    return PRIMARY if group.controlled else WITHOUT_CONTROL


def in_words(name: str) -> tuple[str, str, str]:
    """(ours, theirs, metric) in words, from a comparison's name in metrics.json."""
    pair, _, metric = name.partition("/")
    ours, theirs = (ARMS.get(side, side.replace("best_of_", "Best-of-")) for side in pair.split("_vs_"))
    return ours, theirs, METRICS[metric]


def _points(group: Group) -> dict[str, tuple[Point, Point]]:
    """The two sides of every comparison that all runs of the group have recorded."""
    first = group.runs[0]
    sides = compared({Point(*curve): () for curve in first.curves}, [*first.elsewhere])
    order = ["_vs_".join(pair) for pair in pairs_of(())]

    def place(name: str) -> tuple[int, int, bool, str]:
        pair = name.partition("/")[0]
        return order.index(pair) if pair in order else len(order), sides[name][1].n, "greedy" in name, name

    known = [name for name in sides if all(f"{name}/verdict" in run.metrics for run in group.runs)]
    return {name: sides[name] for name in sorted(known, key=place)}


def _recorded(group: Group, name: str, ours: Point, theirs: Point) -> Contrast:
    (run,) = group.runs
    detectable, p_value = (recorded(run, f"{name}/{key}").value for key in ("minimum_detectable", "p_adjusted"))
    prompts = _usable(group.per_prompt(*ours) - group.per_prompt(*theirs)).shape[1]
    is_primary = name == primary_of(group)
    difference = recorded(run, f"{name}/difference")
    verdict = verdict_of(difference, _reachable(prompts) if is_primary else p_value)
    return Contrast(difference, p_value, detectable, 1, prompts, verdict, 1 if is_primary else len(_points(group)) - 1)


def recorded_primary(run: Run) -> tuple[Estimate, str]:
    """A run's tuned less control in sampled accuracy, and the verdict of these numbers (not of the recorded words)."""
    difference, greedy = recorded(run, f"{PRIMARY}/difference"), "tuned_vs_control/greedy_accuracy"
    verdict = verdict_of(difference, _reachable(int(run.metrics["test/prompts"])))
    other = verdict_of(recorded(run, f"{greedy}/difference"), recorded(run, f"{greedy}/p_adjusted").value)
    return difference, Contrast(difference, math.nan, None, 1, 0, verdict, other=other).scoped


def _reachable(prompts: int) -> float:
    """The smallest p-value that so many paired differences can have: a sign test of equal signs."""
    return 2.0 ** (1 - prompts)


def verdict_of(difference: Estimate, p_value: float) -> str:
    """better or worse where both the p-value and the 95 % interval say so, else not resolved."""
    if not p_value <= SIGNIFICANCE or not (difference.low > 0 or difference.high < 0):
        return "not resolved"
    return "better" if difference.low > 0 else "worse"
