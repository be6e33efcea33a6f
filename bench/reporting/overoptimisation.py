"""How far Best-of-n may be pushed against a learned reward: gold and proxy over √KL, their fit, and a claim in words.

    python -m bench.reporting.overoptimisation outputs/reward_overoptimisation/* --to FOLDER

In the form of Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization", Figure 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.estimators.overoptimisation import FitInterval, fit_interval, overoptimisation
from bench.estimators.uncertainty import bootstrap_interval
from bench.records.read import Estimate, Run
from bench.reporting.groups import Group, estimate, grouped
from bench.reporting.ways import order_of
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
    """One scorer on S seeds and M prompts: what Best-of-n of K ascending n has of it, of gold, and of KL."""

    name: str
    group: Group

    @cached_property
    def sizes(self) -> list[int]:
        first = self.group.runs[0]
        return [n for n in first.series("base", "best_of_n", "proxy") if n in first.series("base", "best_of_n", "kl")]

    @cached_property
    def measured(self) -> int:
        """How many of the sizes have at least four times as many samples a prompt in the pool."""
        pool = min(run.metrics["best_of_n/pool_size"] for run in self.group.runs)
        return sum(4 * n <= pool for n in self.sizes)

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
        """[S, M, K] the proxy as a share of its mean rise over the base under that seed, for models differ in scale."""
        whole = (self.proxy[..., -1:] - self.proxy[..., :1]).mean(axis=1, keepdims=True)
        return (self.proxy - self.proxy[..., :1]) / np.where(whole > 0, whole, 1.0)

    @cached_property
    def kl(self) -> np.ndarray:
        """[S, M, K] nats a sequence from the raw base."""
        return self._values("kl")

    @property
    def distance(self) -> np.ndarray:
        """[K] √KL of the mean over seeds and prompts."""
        return np.sqrt(np.maximum(self.kl.mean(axis=(0, 1)), 0))

    @cached_property
    def fit(self) -> FitInterval | None:
        """To the gold gain at the measured n; intervals over prompts at these seeds. None for fewer than three n."""
        if self.measured < 3:
            return None
        kept = slice(0, self.measured)
        gain = (self.gold - self.gold[..., :1]).mean(axis=0)
        return fit_interval(self.kl.mean(axis=0)[:, kept], gain[:, kept], self._rng("fit"))

    @cached_property
    def claim(self) -> Claim:
        """Over all seeds: intervals are for new seeds on new prompts, where there are several."""
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
            of_gold, of_proxy = (Estimate(one.mean, one.low, one.high) for one in (found.gold, found.proxy))
            made.append(Claim(self.sizes[found.peak], self.sizes[-1], of_gold, of_proxy, found.verdict))
        return made

    def gains(self, values: np.ndarray) -> list[Estimate]:
        """K gains over Best-of-1 in values [S, M, K]."""
        return [self.over_base(values[..., k], values) for k in range(values.shape[-1])]

    def over_base(self, values: np.ndarray, curve: np.ndarray) -> Estimate:
        """The mean of values [S, M] less the first point of the curve [S, M, K], paired."""
        gain = values - curve[..., 0]
        if len(gain) > 1:
            return estimate(gain)
        low, high = bootstrap_interval(gain[0], self._rng("gain"))
        return Estimate(float(gain.mean()), float(low), float(high))

    @property
    def tuned(self) -> tuple[Estimate, Estimate]:
        """KL, and gold gain over the base, of the policy that was fine-tuned on what the scorer selected."""
        gold = self.group.per_prompt("tuned", "pass" if self.measure == "accuracy" else "policy", self.measure, 1)
        return self.group.mean("tuned", "policy", "kl", 1), self.over_base(gold, self.gold)

    def _values(self, metric: str) -> np.ndarray:
        return np.stack([self.group.per_prompt("base", "best_of_n", metric, n) for n in self.sizes], axis=-1)

    def _rng(self, *parts: str | int) -> np.random.Generator:
        return generator(0, "reward overoptimisation", *parts)


def pushed(runs: Sequence[Run]) -> list[Pushed]:
    """The scorers of these runs that are not gold itself, one for all seeds, in order of their settings."""
    proxies = [run for run in runs if run.metrics["scorer/equals_gold"] != 1]
    groups = grouped(proxies) if proxies else []
    ordered = sorted(groups, key=lambda group: [order_of(value) for value in group.settings.values()])
    return [Pushed(_name(group), group) for group in ordered]


def sentences(runs: Sequence[Run]) -> list[str]:
    """The claim for each scorer over all of its seeds, in words."""
    return [f"{one.name}: {one.claim.sentence}" for one in pushed(runs)]


def _name(group: Group) -> str:
    """e.g. "pairs=100"; a lone scorer by its function."""
    if not group.settings:
        return str(group.runs[0].config["scoring"]["_target_"]).rsplit(".", 1)[-1]
    return " ".join(f"{name.rsplit('.', 1)[-1]}={value}" for name, value in group.settings.items())
