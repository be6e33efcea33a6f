"""Methods of a sweep in order, each against its random control and against the first, over seeds and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.estimators.bootstrap import bootstrap_interval
from bench.estimators.power import winners_curse
from bench.records.read import Estimate
from bench.reporting.contrasts import SAMPLED, Contrast, Measure, in_both_ways, judged, of_groups, primary_of
from bench.reporting.groups import Group, estimate
from bench.seeds import generator


@dataclass(frozen=True)
class Ranked:
    """One method: means over S seeds and M prompts, with 95 % intervals for new prompts (and seeds, where S > 1)."""

    name: str
    seeds: int
    tuned: Estimate  # pass@1
    control: Estimate | None  # pass@1 of its random control
    effect: Contrast | None  # tuned less control, adjusted for the number of methods
    ahead: Contrast | None  # the first method less this one, adjusted likewise; None for the first and where not shared
    kl: Estimate  # nats per sequence from the raw base
    shared: bool = True  # whether all methods have the same seeds: only then are they compared with the first

    @property
    def effect_verdict(self) -> str:
        return self.effect.scoped if self.effect else "no control"

    @property
    def ahead_verdict(self) -> str:
        return self.ahead.scoped if self.ahead else "first" if self.shared else ""


def rank(groups: Mapping[str, Group], *, shared: bool = True) -> list[Ranked]:
    """Rank methods by pass@1, best first, from their runs: the same seeds for all, on the same test prompts.

    Two families of comparisons (`in_both_ways`): every method against its control, and every other method against the
    first. The first was chosen by what is compared, so its lead is too large by what `flattery` estimates.
    shared: False where not all methods have the same seeds. Then none is compared with the first, and each has its own
    variance between seeds.
    """
    tuned = {name: group.per_prompt("tuned", *SAMPLED) for name, group in groups.items()}  # [S, M] each
    order = sorted(groups, key=lambda name: -float(tuned[name].mean()))
    controls = [name for name in order if groups[name].controlled]

    def arm(name: str, arm: str, measure: Measure) -> np.ndarray:
        return groups[name].per_prompt(arm, *measure)

    def mean(values: np.ndarray, name: str) -> Estimate:
        return mean_of(values, generator(0, "mean", name), shares=True)

    others = order[1:] if shared else []
    effects = in_both_ways(
        lambda by: {n: (arm(n, "tuned", by), arm(n, "control", by)) for n in controls}, "{} effect", pooled=shared
    )
    ahead = in_both_ways(lambda by: {n: (arm(order[0], "tuned", by), arm(n, "tuned", by)) for n in others}, "{} ahead")
    return [
        Ranked(
            name=name,
            seeds=len(groups[name].runs),
            tuned=mean(tuned[name], name),
            control=mean(arm(name, "control", SAMPLED), f"{name} control") if name in controls else None,
            effect=effects.get(name),
            ahead=ahead.get(name),
            kl=groups[name].mean("tuned", "policy", "kl", 1),
            shared=shared,
        )
        for name in order
    ]


def primary_of_first(ranked: Sequence[Ranked], groups: Mapping[str, Group]) -> Contrast:
    """The primary comparison of the first method, adjusted for those of the other methods."""
    first = ranked[0]
    if first.effect is not None:
        return first.effect
    uncontrolled = {name: group for name, group in groups.items() if not group.controlled}
    found = of_groups([*uncontrolled.values()])
    primary = {name: own[primary_of(group)] for own, (name, group) in zip(found, uncontrolled.items(), strict=True)}
    return judged(primary)[first.name]


def flattery(groups: Mapping[str, Group]) -> tuple[float, float] | None:
    """The first method's score on prompts that it was not chosen on, and what the choice added to its score.

    The methods' means over seeds are compared on one half of the prompts and the best is scored on the other half, in
    both directions. None for fewer than three methods or eight prompts.
    """
    tuned = [group.per_prompt("tuned", *SAMPLED).mean(axis=0) for group in groups.values()]
    scores = np.stack(tuned, axis=1)  # [M, methods]
    if scores.shape[1] < 3 or len(scores) < 8:
        return None
    halves = scores[0::2], scores[1::2]
    chosen = [winners_curse(*pair, generator(0, "flattery")) for pair in (halves, halves[::-1])]
    return float(np.mean([half.test for half in chosen])), float(np.mean([half.gap for half in chosen]))


def mean_of(values: np.ndarray, rng: np.random.Generator, *, shares: bool = False) -> Estimate:
    """The `estimate` of values [S, M]; for one seed, with the interval of the bootstrap over prompts."""
    if len(values) > 1:
        return estimate(values, shares=shares)
    low, high = bootstrap_interval(values[0], rng, shares=shares)
    return Estimate(float(np.nanmean(values)), float(low), float(high))
