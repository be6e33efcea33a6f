"""How far Best-of-n may be pushed against a learned reward: gold and proxy over √KL, their fit, and a claim in words.

    python -m bench.reporting.overoptimisation outputs/reward_overoptimisation/* --to FOLDER

In the form of Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization", Figure 1.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.estimators.overoptimisation import FitInterval, fit_interval, overoptimisation
from bench.estimators.uncertainty import bootstrap_interval
from bench.reporting.collect import Estimate, Run, read_run
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group, estimate, grouped
from bench.reporting.tables import markdown
from bench.reporting.tables.shared import spread
from bench.seeds import generator
from bench.store import atomically


@dataclass(frozen=True)
class Claim:
    """From n̂*, chosen on one half of the prompts, to the largest n: differences on the other half, and the verdict."""

    chosen: int  # n̂*
    largest: int
    gold: Estimate  # accuracy at the largest n less that at n̂*
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
    def gold(self) -> np.ndarray:
        """[S, M, K] accuracy."""
        return self._values("accuracy")

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
        accuracy = self.group.per_prompt("tuned", "pass", "accuracy", 1)
        return self.group.mean("tuned", "policy", "kl", 1), self.over_base(accuracy, self.gold)

    def _values(self, metric: str) -> np.ndarray:
        return np.stack([self.group.per_prompt("base", "best_of_n", metric, n) for n in self.sizes], axis=-1)

    def _rng(self, *parts: str | int) -> np.random.Generator:
        return generator(0, "reward overoptimisation", *parts)


def pushed(runs: Sequence[Run]) -> list[Pushed]:
    """The scorers of these runs that are not gold itself, one for all seeds, in order of their settings."""
    proxies = [run for run in runs if run.metrics["scorer/equals_gold"] != 1]
    groups = grouped(proxies) if proxies else []
    ordered = sorted(groups, key=lambda group: [_in_order(value) for value in group.settings.values()])
    return [Pushed(_name(group), group) for group in ordered]


def overoptimisation_table(runs: Sequence[Run]) -> Table | None:
    """What each scorer's claim rests on; None where every scorer is gold itself."""
    found = pushed(runs)
    if not found:
        return None
    return Table(
        name="reward_overoptimisation_claims",
        caption="From n̂*, chosen on one half of the prompts, to the largest n, on the other half; 95 % intervals.",
        rows=[_summary(one) for one in found],
        runs=[run for one in found for run in one.group.runs],
        columns={
            "scorer": "scorer",
            "auc": "AUC",
            "length_correlation": "ρ with length",
            "chosen_n": "n̂*",
            "gold_at_chosen_n": "gold at n̂*",
            "gold_at_largest_n": "gold at largest n",
            "gold_change": "change of gold",
            "proxy_change": "change of proxy, of its rise",
            "verdict": "verdict",
            "seeds_alone": "seeds alone",
            "peak": "fitted peak d*",
            "tuned_gain": "tuned - base",
            "tuned_kl": "KL of tuned",
        },
    )


def sentences(runs: Sequence[Run]) -> list[str]:
    """The claim for each scorer, in words."""
    return [f"{one.name}: {one.claim.sentence}" for one in pushed(runs)]


def _name(group: Group) -> str:
    """e.g. "pairs=100"; a lone scorer by its function."""
    if not group.settings:
        return str(group.runs[0].config["scoring"]["_target_"]).rsplit(".", 1)[-1]
    return " ".join(f"{name.rsplit('.', 1)[-1]}={value}" for name, value in group.settings.items())


def _in_order(value: str) -> tuple[float, str]:
    """Numbers by size, before words by letters."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


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


def _summary(one: Pushed) -> dict[str, Any]:
    claim, (kl, tuned) = one.claim, one.tuned
    alone = sum(found.verdict == "over-optimised" for found in one.claims)
    mean = {name: float(np.mean([run.metrics[f"scorer/{name}"] for run in one.group.runs])) for name in AVERAGED}
    at = {n: float(one.gold[..., one.sizes.index(n)].mean()) for n in (claim.chosen, claim.largest)}
    fit = {name: _of_fit(one.fit, name) for name in ("alpha", "beta", "peak")}
    return {
        "scorer": one.name,
        "seeds": len(one.group.runs),
        **mean,
        "chosen_n": claim.chosen,
        "largest_n": claim.largest,
        "gold_of_base": float(one.gold[..., 0].mean()),
        "gold_at_chosen_n": at[claim.chosen],
        "gold_at_largest_n": at[claim.largest],
        **spread("gold_change", claim.gold),
        **spread("proxy_change", claim.proxy),
        "verdict": claim.verdict,
        "seeds_alone": f"{alone} of {len(one.claims)}",
        **{key: value for name, found in fit.items() for key, value in spread(name, found).items()},
        **spread("tuned_gain", tuned),
        **spread("tuned_kl", kl),
    }


AVERAGED = ("auc", "length_correlation", "tie_rate")


def _of_fit(fit: FitInterval | None, name: str) -> Estimate | None:
    return None if fit is None else Estimate(*(getattr(fit, f"{name}{end}") for end in ("", "_low", "_high")))


def write(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The figure in every format and the claims as CSV, each named for what it shows."""
    from bench.reporting.files import write_figure
    from bench.reporting.overoptimisation_figure import overoptimisation_figure

    shown, claimed = overoptimisation_figure(runs), overoptimisation_table(runs)
    if shown is None or claimed is None:
        raise BenchError("In every one of these runs the scorer is gold itself: there is nothing to over-optimise.")
    paths = [*write_figure(shown, folder), folder / f"{claimed.name}.csv"]
    with atomically(paths[-1]) as beside:
        beside.write_text(claimed.as_csv)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reporting.overoptimisation", description=CLAIMS)
    parser.add_argument("run", nargs="+", type=Path, help="a finished run's folder, outputs/<name>/<run id>")
    parser.add_argument("--to", type=Path, default=Path(), help="the folder to write to")
    arguments = parser.parse_args()
    try:
        runs = [read_run(folder) for folder in arguments.run if (folder / "metrics.json").is_file()]
        if not runs:
            raise BenchError(f"{arguments.run[0]} holds no finished run; give outputs/<name>/<run id> ...")
        paths = write(runs, arguments.to)
    except BenchError as error:
        sys.exit(f"error: {error}")
    table = overoptimisation_table(runs)
    assert table is not None
    print(markdown(table.texts), *sentences(runs), *map(str, paths), sep="\n")


CLAIMS = "Gold and proxy of Best-of-n under learned rewards, over √KL, and which of them are over-optimised."

if __name__ == "__main__":
    main()
