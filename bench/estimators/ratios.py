"""A ratio of two paired means, e.g. the share of Best-of-n's gain that a policy keeps, where it is defined at all."""

from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import as_floats, check_same_shape
from bench.estimators.bootstrap import RESAMPLES, resampled_means, tail_of
from bench.estimators.distributions import normal_cdf, t_quantile
from bench.estimators.training_seeds import seed_interval

WIDEST = 2.0**40  # as far as an end of an interval is looked for, in widths of the denominator's own uncertainty
HALVINGS = 80


class Ratio(NamedTuple):
    """All NaN where the denominator is not resolved from 0: a ratio to it could be anything."""

    value: float
    low: float
    high: float


UNDEFINED = Ratio(float("nan"), float("nan"), float("nan"))


def ratio_of_means(
    numerator: np.ndarray,
    denominator: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    resamples: int = RESAMPLES,
) -> Ratio:
    """mean(numerator) / mean(denominator) over the same prompts, its interval by resampling prompts for both at once.

    The ends are quantiles of the resampled ratios (Efron and Tibshirani 1993, ch. 13), their tails those of
    t(M - 1) as in `bench.estimators.bootstrap`. Undefined where the denominator's mean is not resolved from 0, which
    is where Fieller's interval (see `fieller`) has no ends.
    numerator, denominator: [M]; a prompt with a NaN in one is left out. ValueError for infinities or unequal shapes.
    """
    pairs = _pairs(numerator, denominator)
    if not _resolved(pairs[:, 1], level):
        return UNDEFINED
    means = resampled_means(pairs, rng, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples without a gain to divide by have no ratio
        ratios = means[:, 0] / means[:, 1]
    tail = _expanded_tail(len(pairs), level)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    top, bottom = pairs.mean(axis=0)
    return Ratio(float(top / bottom), float(low), float(high))


def fieller(numerator: np.ndarray, denominator: np.ndarray, level: float = 0.95) -> Ratio:
    """The same ratio with the ends of Fieller's interval: all r for which mean(numerator - r denominator) may be 0.

    That is a t-test with M - 1 degrees of freedom, exact for normal values (Fieller 1954). Undefined where the set has
    no ends, as above.
    """
    pairs = _pairs(numerator, denominator)
    if not _resolved(pairs[:, 1], level):
        return UNDEFINED
    top, bottom = pairs.mean(axis=0)
    (a, both), (_, b) = np.cov(pairs, rowvar=False) / len(pairs) * t_quantile(1 - tail_of(level), len(pairs) - 1) ** 2
    square, middle = bottom**2 - b, top * bottom - both
    half = np.sqrt(max(middle**2 - square * (top**2 - a), 0.0))
    return Ratio(float(top / bottom), float((middle - half) / square), float((middle + half) / square))


def ratio_over_seeds(numerator: np.ndarray, denominator: np.ndarray, level: float = 0.95) -> Ratio:
    """The ratio of means over S training seeds and M prompts, its interval for new seeds on new prompts.

    Fieller's argument with the two-way interval of `seed_interval` as the test: the ends are where
    numerator - r denominator is just resolved from 0. numerator, denominator: [S, M], S > 1; a prompt with a NaN under
    any seed is left out. Undefined where the denominator is not resolved from 0.
    """
    numerator = as_floats("numerator", numerator, 2, shape="[S, M]")
    denominator = as_floats("denominator", denominator, 2, shape="[S, M]")
    check_same_shape(numerator=numerator, denominator=denominator)
    usable = ~np.isnan(numerator + denominator).any(axis=0)
    numerator, denominator = numerator[:, usable], denominator[:, usable]
    below = seed_interval(denominator, level)
    if below.low <= 0 <= below.high:
        return UNDEFINED
    value = float(numerator.mean() / denominator.mean())

    def excluded(ratio: float) -> bool:
        found = seed_interval(numerator - ratio * denominator, level)
        return not found.low <= 0 <= found.high

    def end(sign: int) -> float:
        step = sign * max(abs(value), 1.0) * 1e-6
        while not excluded(value + step):
            step *= 2
            if abs(step) > WIDEST:
                return float(sign * np.inf)
        inside, outside = value + step / 2, value + step
        if abs(step) < 2e-6 * max(abs(value), 1.0):
            inside = value
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
        return inside

    return Ratio(value, end(-1), end(1))


def _pairs(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """[M, 2] without the prompts that lack one."""
    numerator = as_floats("numerator", numerator, 1, shape="[M]")
    denominator = as_floats("denominator", denominator, 1, shape="[M]")
    check_same_shape(numerator=numerator, denominator=denominator)
    pairs = np.stack([numerator, denominator], axis=1)
    return pairs[~np.isnan(pairs).any(axis=1)]


def _resolved(values: np.ndarray, level: float) -> bool:
    """Whether the mean's t-interval leaves 0 out."""
    if len(values) < 2:
        return False
    error = values.std(ddof=1) / np.sqrt(len(values))
    return bool(abs(values.mean()) > t_quantile(1 - tail_of(level), len(values) - 1) * error)


def _expanded_tail(prompts: int, level: float) -> float:
    """The tail of the normal distribution beyond t(M - 1) * sqrt(M / (M - 1)): what Hesterberg 2015 expands by."""
    wide = t_quantile(1 - tail_of(level), prompts - 1) * np.sqrt(prompts / (prompts - 1))
    return float(1 - normal_cdf(wide))
