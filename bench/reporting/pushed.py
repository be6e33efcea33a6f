"""A learned reward under Best-of-n: gold, proxy and KL over n, the fit to them, and whether gold falls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bench.estimators.reward_curve import FitInterval, fit_interval, overoptimisation
from bench.records.read import Estimate
from bench.reporting import arrange
from bench.reporting.groups import Group, estimate, grouped, is_learned
from bench.reporting.ranking import mean_of
from bench.reporting.words import function_name
from bench.seeds import generator


@dataclass(frozen=True)
class Claim:
    """From n̂*, chosen on one half of the prompts, to the largest n: differences on the other half, and the verdict."""

    chosen: int  # n̂*
    largest: int
    gold: Estimate  # at the largest n less that at n̂*: accuracy, or the gold model's reward
    proxy: Estimate  # likewise, as a share of its whole rise from n = 1 to the largest
    verdict: str  # over-optimised, not resolved

    @property
    def sentence(self) -> str:
        so = "over-optimised" if self.verdict == "over-optimised" else "over-optimisation is not resolved"
        return (
            f"{so}: from n = {self.chosen}, chosen on other prompts, to {self.largest} gold changes by {self.gold}, "
            f"and the proxy by {self.proxy} of its whole rise."
        )


@dataclass(frozen=True)
class Pushed:
    """One scorer on S seeds and M prompts: gold, proxy and KL of Best-of-n at K ascending n.

    The prompts are those with values at every n under every seed, so that all points of a curve are of the same ones.
    """

    name: str
    group: Group

    @cached_property
    def sizes(self) -> list[int]:
        """Those n at which at least half of the prompts with values at the smallest still have them."""
        proxy, kl = (self.group.runs[0].series("base", "best_of_n", metric) for metric in ("proxy", "kl"))
        both = [n for n in proxy if n in kl]
        return [n for n in both if 2 * self._known(n).sum() >= self._known(both[0]).sum()]

    @cached_property
    def measured(self) -> int:
        """How many of the sizes have at least four times as many samples per prompt in the pool."""
        return sum(4 * n <= self.group.pool_size for n in self.sizes)

    @cached_property
    def measure(self) -> str:
        """What gold is: the gold model's reward, where the task has one and it is known throughout; else accuracy."""
        offered = all(run.series("base", "best_of_n", "gold_reward") for run in self.group.runs)
        return "gold_reward" if offered and not np.isnan(self._values("gold_reward")).any() else "accuracy"

    @cached_property
    def gold(self) -> np.ndarray:
        """[S, M, K] of `measure`."""
        return self._values(self.measure)

    @cached_property
    def proxy(self) -> np.ndarray:
        """[S, M, K] in the scorer's own units: log-odds for a Bradley-Terry model."""
        return self._values("proxy")

    @property
    def rise(self) -> np.ndarray:
        """[S, M, K] the proxy as a share of its mean rise from n = 1 under that seed, as models differ in scale."""
        whole = (self.proxy[..., -1:] - self.proxy[..., :1]).mean(axis=1, keepdims=True)
        return (self.proxy - self.proxy[..., :1]) / np.where(whole > 0, whole, 1.0)

    @cached_property
    def kl(self) -> np.ndarray:
        """[S, M, K] nats per sequence from the raw base."""
        return self._values("kl")

    @property
    def distance(self) -> np.ndarray:
        """[K] √KL of the mean over seeds and prompts."""
        return np.sqrt(np.maximum(self.kl.mean(axis=(0, 1)), 0))

    @property
    def is_raw(self) -> bool:
        """Whether the sampler is the raw base, from which KL is measured. Any other lies at a distance from it."""
        config = self.group.runs[0].config
        return _is_raw(config) and not config.get("generation", {}).get("top_k")

    @cached_property
    def base(self) -> np.ndarray | None:
        """[S, M] gold of the raw base: of its Best-of-1, or as it was evaluated; None where neither is the raw base."""
        if self.is_raw:
            return self.gold[..., 0]
        return self._evaluated("base") if _is_raw(self.group.runs[0].config["evaluation"]) else None

    @property
    def start(self) -> np.ndarray:
        """[S, M] what gains of gold are over: gold of the raw base; of the sampler's Best-of-1 where it is unknown."""
        return self.gold[..., 0] if self.base is None else self.base

    @cached_property
    def fit(self) -> FitInterval | None:
        """To the gold gain at the measured n; intervals over prompts at these seeds.

        None for fewer than three n, without a KL, or without gold of the raw base, where the curve begins.
        """
        if self.measured < 3 or self.base is None or np.isnan(self.kl).any():
            return None
        kl, gain = self.kl.mean(axis=0), (self.gold - self.base[..., None]).mean(axis=0)
        kl = kl - np.minimum(kl.mean(axis=0), 0)  # an estimate of a KL near 0 may lie below it
        return fit_interval(kl[:, : self.measured], gain[:, : self.measured], self._rng("fit"))

    @cached_property
    def claim(self) -> Claim:
        """Over all seeds. Where there are several, the intervals are for new seeds on new prompts."""
        if len(self.gold) == 1:
            return self.claims[0]
        order = self._rng("halves").permutation(self.gold.shape[1])
        half = len(order) // 2
        chosen = int(self.gold[:, order[:half]].mean(axis=(0, 1)).argmax())
        gold, proxy = (
            estimate((values[..., -1] - values[..., chosen])[:, order[half:]]) for values in (self.gold, self.rise)
        )
        resolved = gold.high < 0 < proxy.low
        return Claim(self.sizes[chosen], self.sizes[-1], gold, proxy, "over-optimised" if resolved else "not resolved")

    @cached_property
    def claims(self) -> list[Claim]:
        """Of each seed's model alone; intervals are for new prompts."""
        made = []
        for seed, gold, proxy in zip(self.group.seeds, self.gold, self.rise, strict=True):
            found = overoptimisation(proxy, gold, self._rng("halves", seed))
            of_gold, of_proxy = (Estimate(part.mean, part.low, part.high) for part in (found.gold, found.proxy))
            made.append(Claim(self.sizes[found.peak], self.sizes[-1], of_gold, of_proxy, found.verdict))
        return made

    def gains(self, values: np.ndarray, start: np.ndarray | None = None) -> list[Estimate]:
        """K gains in values [S, M, K] over start [S, M], or over their Best-of-1, paired."""
        start = values[..., 0] if start is None else start
        return [mean_of(values[..., k] - start, self._rng("gain")) for k in range(values.shape[-1])]

    @cached_property
    def tuned(self) -> tuple[Estimate, Estimate]:
        """KL, and gold gain, of the policy that was fine-tuned on what the scorer selected."""
        (gain,) = self.gains(self._evaluated("tuned")[..., None], self.start)
        return self.group.mean("tuned", "policy", "kl", 1), gain

    @property
    def notes(self) -> list[str]:
        """For captions: what gains are over where the sampler is not the raw base, and how many prompts are left."""
        kept, drawn, notes = int(self._whole.sum()), len(self._whole), []
        if self.base is None:
            notes += ["Gains are over Best-of-1 of the sampler, and nothing is fitted: the raw base was not evaluated."]
        elif not self.is_raw:
            notes += ["Gains of gold are over the raw base, those of the proxy over Best-of-1 of the sampler."]
        return notes + [f"{self.name}: {kept} of {drawn} prompts have values at every n."] * (kept < drawn)

    def _evaluated(self, policy: str) -> np.ndarray:
        """[S, M] gold of one sample of a policy as it was evaluated."""
        method = "pass" if self.measure == "accuracy" else "policy"
        return self.group.per_prompt(policy, method, self.measure, 1)[:, self._whole]

    def _known(self, n: int) -> np.ndarray:
        """[M] whether a prompt has its values at n under every seed, among them the KL where that is measured."""
        measured = np.isfinite(self.group.runs[0].curves["base", "best_of_n", "kl", 1].value)
        metrics = ("accuracy", "proxy", "kl") if measured else ("accuracy", "proxy")
        values = [self.group.per_prompt("base", "best_of_n", metric, n) for metric in metrics]
        return np.logical_and.reduce(np.isfinite(values), axis=(0, 1))

    @cached_property
    def _whole(self) -> np.ndarray:
        return np.logical_and.reduce([self._known(n) for n in self.sizes])

    def _values(self, metric: str) -> np.ndarray:
        values = [self.group.per_prompt("base", "best_of_n", metric, n) for n in self.sizes]
        return np.stack(values, axis=-1)[:, self._whole]

    def _rng(self, *parts: str | int) -> np.random.Generator:
        return generator(0, "reward overoptimisation", *parts)


def _is_raw(settings: Mapping[str, Any]) -> bool:
    return settings.get("temperature", 1) == 1 == settings.get("top_p", 1)


def pushed(groups: Sequence[Group]) -> list[Pushed]:
    """The scorers of these groups that are not gold itself, one for all seeds, in order of their settings."""
    scorers = [run for _, group in arrange.samplers(groups) for run in group.runs]  # one for each scorer and seed
    learned = grouped([run for run in scorers if is_learned(run) and run.trained])

    def name(group: Group) -> str:
        settings = [f"{setting.rsplit('.', 1)[-1]}={value}" for setting, value in group.settings.items()]
        return " ".join(settings) or function_name(group.runs[0].config["scoring"])

    return [Pushed(name(group), group) for group in arrange.in_order(learned)]
