"""Intervals over prompts, paired comparisons with a verdict, tests, power. The unit is the prompt, never a sample."""

import copy
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
from bench.estimators.significance import holm, mcnemar, sign_flip_p_values
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
    "sign_flip_p_values",
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

    Two tests have to agree that there is a difference. The bootstrap's takes any distribution of differences with
    mean 0 for no difference, but sees no spread where few prompts differ: three in 40, all the same way, would be
    p = .03. The sign-flip test (`sign_flip_p_values`) is exact for those (.25), for arms that are alike. The p-value
    is the larger of the two, and the interval, `bootstrap_interval` of the differences, is extended to 0 where the
    sign-flip test leaves 0 open: "better" and "worse" say that the interval is without 0. So fewer than six prompts
    that differ resolve nothing at .05. Minimum detectable effect: (z_{1 − α/2} + z_power) · SE (Miller 2024, eq. 9),
    NaN for equal differences.
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
    # From a copy: how many prompts differ, and so whether signs are drawn, must not change what the caller draws next.
    flipped = sign_flip_p_values(difference, copy.deepcopy(rng))
    low, high = boot.quantile(tail), boot.quantile(1 - tail)
    open_at_zero = flipped > 2 * tail
    low, high = np.where(open_at_zero, np.minimum(low, 0), low), np.where(open_at_zero, np.maximum(high, 0), high)
    z = float(normal_quantile(1 - tail) + normal_quantile(power))
    found = []
    for column, count in enumerate(prompts.tolist()):
        verdict: Verdict = "better" if low[column] > 0 else "worse" if high[column] < 0 else "not resolved"
        error = float(boot.error[column]) or float("nan")  # equal differences say nothing of what could be detected
        found.append(
            PairedDifference(
                mean=float(boot.mean[column]),
                low=float(low[column]),
                high=float(high[column]),
                p_value=max(boot.p_value_of_zero(column), float(flipped[column])) if count > 1 else 1.0,
                minimum_detectable_effect=z * error,
                prompts=count,
                verdict=verdict,
            )
        )
    return found
