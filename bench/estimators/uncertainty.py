"""Intervals over prompts, paired comparisons with a verdict, tests, power. The unit is the prompt, never a sample."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from bench.estimators.arrays import as_floats, check_same_shape
from bench.estimators.bootstrap import (
    RESAMPLES,
    Bootstrap,
    bootstrap_interval,
    intervals_and_bands,
    resampled_means,
    simultaneous_band,
    tail_of,
)
from bench.estimators.distributions import normal_quantile
from bench.estimators.power import (
    WinnersCurse,
    expected_maximum,
    gap_if_equal,
    minimum_detectable_effect,
    prompts_needed,
    unpaired_difference,
    winners_curse,
)
from bench.estimators.significance import holm, mcnemar
from bench.estimators.training_seeds import SeedInterval, seed_interval

__all__ = [
    "PairedDifference",
    "SeedInterval",
    "Verdict",
    "WinnersCurse",
    "bootstrap_interval",
    "expected_maximum",
    "gap_if_equal",
    "holm",
    "intervals_and_bands",
    "mcnemar",
    "minimum_detectable_effect",
    "paired_difference",
    "paired_differences",
    "prompts_needed",
    "resampled_means",
    "seed_interval",
    "simultaneous_band",
    "unpaired_difference",
    "winners_curse",
]

Verdict: TypeAlias = Literal["better", "worse", "not resolved"]


@dataclass(frozen=True)
class PairedDifference:
    """a − b over the same prompts, and what it resolves about a."""

    mean: float
    low: float
    high: float
    p_value: float  # two-sided, of a mean difference of zero
    minimum_detectable_effect: float  # that this many prompts find with the stated power
    prompts: int  # with both values
    verdict: Verdict  # a is better or worse than b, or neither is shown


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    power: float = 0.8,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """The mean of a − b over the same M prompts, its interval, and whether a is better, worse, or not resolved.

    Interval: `bootstrap_interval` of the differences; the p-value inverts it. "better" and "worse" need an interval
    without 0 and a level that the exact sign-flip test could reach too, 2^(1 − M), so that fewer than six prompts
    resolve nothing at .05. Minimum detectable effect: (z_{1 − α/2} + z_power) · SE (Miller 2024, eq. 9), NaN for equal
    differences.
    a, b: [M], higher is better; for a quantity where lower is better, swap them. A prompt with a NaN on either side is
    left out and `prompts` counts the others. ValueError for unequal shapes, infinities, or no prompt with both.
    """
    a = as_floats("a", a, 1, shape="[M]")
    b = as_floats("b", b, 1, shape="[M]")
    check_same_shape(a=a, b=b)
    return paired_differences(a[:, None], b[:, None], rng, level, power=power, resamples=resamples)[0]


def paired_differences(
    a: np.ndarray,
    b: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    power: float = 0.8,
    resamples: int = RESAMPLES,
) -> list[PairedDifference]:
    """`paired_difference` of each column of a and b [M, K], from the same resamples of prompts."""
    a = as_floats("a", a, 2, shape="[M, K]")
    b = as_floats("b", b, 2, shape="[M, K]")
    check_same_shape(a=a, b=b)
    tail = tail_of(level)
    difference = (a - b)[~np.isnan(a - b).all(axis=1)]
    prompts = (~np.isnan(difference)).sum(axis=0)  # [K]
    if not prompts.all():
        raise ValueError(f"a and b {list(a.shape)} have no prompt with a number in both; at least one is expected")
    boot = Bootstrap(difference, rng, resamples)
    low, high = boot.quantile(tail), boot.quantile(1 - tail)
    z = float(normal_quantile(1 - tail) + normal_quantile(power))
    found = []
    for column, count in enumerate(prompts.tolist()):
        reachable = 2.0 ** (1 - count)
        verdict: Verdict = "not resolved"
        if reachable <= 2 * tail and low[column] > 0:
            verdict = "better"
        elif reachable <= 2 * tail and high[column] < 0:
            verdict = "worse"
        error = float(boot.error[column]) or float("nan")  # equal differences say nothing of what could be detected
        found.append(
            PairedDifference(
                mean=float(boot.mean[column]),
                low=float(low[column]),
                high=float(high[column]),
                p_value=max(boot.p_value_of_zero(column), reachable) if count > 1 else 1.0,
                minimum_detectable_effect=z * error,
                prompts=count,
                verdict=verdict,
            )
        )
    return found
