"""Methods of a sweep in order, each against its random twin and against the first, over training seeds and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.estimators.uncertainty import bootstrap_interval, winners_curse
from bench.records.read import Estimate, Run
from bench.reporting.contrasts import Contrast, contrast, judged, of_group, primary_of
from bench.reporting.groups import Group, estimate
from bench.seeds import generator


@dataclass(frozen=True)
class Ranked:
    """One method: means over S seeds and M prompts, with 95 % intervals for new prompts (and seeds, where S > 1)."""

    name: str
    seeds: int
    tuned: Estimate  # pass@1
    control: Estimate | None  # of its random twin
    effect: Contrast | None  # tuned less control; adjusted for the number of methods
    ahead: Contrast | None  # the first method less this one, likewise; None for the first
    kl: Estimate  # nats a sequence from the raw base

    @property
    def effect_verdict(self) -> str:
        return self.effect.verdict if self.effect else "no control"

    @property
    def ahead_verdict(self) -> str:
        return self.ahead.verdict if self.ahead else "first"


def rank(methods: Mapping[str, Sequence[Run]]) -> list[Ranked]:
    """From each method's runs, one a seed and the same seeds for all, on the same test prompts; best pass@1 first.

    Two families of comparisons, each adjusted for their number (Holm 1979): every method against its control, and
    every other method against the first. The first was chosen by what is compared, so its lead is flattered
    (`flattery`).
    """
    tuned = {name: _scores(runs, "tuned") for name, runs in methods.items()}
    order = sorted(methods, key=lambda name: -float(tuned[name].mean()))
    controls = {name: _scores(methods[name], "control") for name in order if all(r.controlled for r in methods[name])}
    effects = judged({name: contrast(tuned[name], controls[name], f"{name} effect") for name in controls})
    ahead = judged({name: contrast(tuned[order[0]], tuned[name], f"{name} ahead") for name in order[1:]})
    return [
        Ranked(
            name=name,
            seeds=len(methods[name]),
            tuned=_mean(tuned[name], name),
            control=_mean(controls[name], f"{name} control") if name in controls else None,
            effect=effects.get(name),
            ahead=ahead.get(name),
            kl=_kl(methods[name], name),
        )
        for name in order
    ]


def primary_of_first(ranked: Sequence[Ranked], groups: dict[str, Group]) -> Contrast:
    """The primary comparison of the first, adjusted for those of the other configurations."""
    first = ranked[0]
    if first.effect is not None:
        return first.effect
    uncontrolled = {name: group for name, group in groups.items() if not group.controlled}
    return judged({name: of_group(group)[primary_of(group)] for name, group in uncontrolled.items()})[first.name]


def flattery(methods: Mapping[str, Sequence[Run]]) -> tuple[float, float] | None:
    """What the first method scores on prompts that it was not chosen on, and what choosing added to its score.

    The methods' means over seeds are compared on one half of the prompts and the best is scored on the other half, both
    ways round. None for fewer than three methods or eight prompts.
    """
    scores = np.stack([_scores(runs, "tuned").mean(axis=0) for runs in methods.values()], axis=1)  # [M, methods]
    if scores.shape[1] < 3 or len(scores) < 8:
        return None
    halves = scores[0::2], scores[1::2]
    found = [winners_curse(*pair, generator(0, "flattery")) for pair in (halves, halves[::-1])]
    return float(np.mean([one.test for one in found])), float(np.mean([one.gap for one in found]))


def shared_seeds(methods: Mapping[str, Sequence[Run]]) -> tuple[dict[str, list[Run]], list[int]]:
    """Each method's runs under the seeds that all methods have, and the seeds left out."""
    seeds = {name: {run.config["seed"] for run in runs} for name, runs in methods.items()}
    common = set.intersection(*seeds.values())
    left_out = sorted(set.union(*seeds.values()) - common)
    return {name: [run for run in runs if run.config["seed"] in common] for name, runs in methods.items()}, left_out


def _scores(runs: Sequence[Run], arm: str) -> np.ndarray:
    """[S, M] pass@1, seeds in order."""
    ordered = sorted(runs, key=lambda run: run.config["seed"])
    return np.stack([run.per_prompt(arm, "pass", "accuracy", 1) for run in ordered])


def _mean(values: np.ndarray, name: str) -> Estimate:
    """values: [S, M] accuracies."""
    if len(values) > 1:
        return estimate(values, shares=True)
    low, high = bootstrap_interval(values[0], generator(0, "mean", name), shares=True)
    return Estimate(float(np.nanmean(values)), float(low), float(high))


def _kl(runs: Sequence[Run], name: str) -> Estimate:
    points = [run.series("tuned", "policy", "kl")[1] for run in runs]
    if len(runs) == 1:
        return points[0]
    return estimate(np.stack([run.per_prompt("tuned", "policy", "kl", 1) for run in runs]))
