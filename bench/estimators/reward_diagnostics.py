"""Diagnose a proxy reward against the gold outcome: ranking, ties, length, calibration, and where gold turns down.

Quantities are per prompt, so that intervals are over prompts; a prompt that does not determine one has NaN.
"""

from dataclasses import dataclass

import numpy as np

from bench.estimators import arrays
from bench.estimators.bootstrap import RESAMPLES, resampled_means, units_of
from bench.estimators.curves import best_of_n
from bench.estimators.reward_curve import Overoptimisation, overoptimisation

__all__ = ["decidable", "rank_correlation", "reliability", "tie_rate", "turning_point", "within_prompt_auc"]


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities against outcomes in K bins of equal width; bins without a completion are NaN."""

    expected: np.ndarray  # [K] mean probability
    observed: np.ndarray  # [K] mean gold
    observed_low: np.ndarray  # [K] ends of the interval over prompts
    observed_high: np.ndarray  # [K]
    count: np.ndarray  # [K] completions
    error: float  # expected calibration error, in probability
    error_low: float
    error_high: float


@dataclass(frozen=True)
class TurningPoint:
    """The n with the highest gold, and whether gold falls beyond it while the proxy rises."""

    n: int  # chosen on one half of the prompts
    largest: int  # compared with n on the other half
    found: Overoptimisation


def midranks(values: np.ndarray) -> np.ndarray:
    """Return [M, N] ranks from 1 within each row; equal values share their mean rank, NaN stays NaN."""
    values = arrays.as_floats("values", values, "[M, N]")
    ranks = np.full(values.shape, np.nan)
    for block in arrays.sorted_rows(values):
        start, size = arrays.tie_groups(block.rewards)
        ranks[block.rows[:, None], block.order] = start + (size + 1) / 2
    return ranks


def within_prompt_auc(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return [M]: the share of pairs in which a correct completion outscores a wrong one; a tie counts half.

    The Mann-Whitney statistic over the pairs of a prompt: [Σ ranks of the correct − P(P + 1)/2] / (P Q), with P correct
    and Q wrong completions (Hanley and McNeil 1982). NaN where a prompt lacks either, so that nothing can be ranked.

    proxy: [M, N]. gold: [M, N] of 0 and 1. A cell that is NaN in either is left out. Raises ValueError for unequal
    shapes, other values of gold, or no cell with both.

    >>> within_prompt_auc([[0.9, 0.2, 0.1]], [[1, 0, 1]]).tolist()  # of two pairs, 0.9 > 0.2 is right
    [0.5]
    """
    proxy, gold = _scored(proxy, gold)
    positive, negative = (gold == 1).sum(axis=1), (gold == 0).sum(axis=1)
    above = np.nansum(np.where(gold == 1, midranks(proxy), 0), axis=1) - positive * (positive + 1) / 2
    return _ratio(above, positive * negative)


def decidable(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return [M]: 1 where a prompt has a scored correct and a scored wrong completion, else 0. proxy, gold: [M, N].

    >>> decidable([[0.9, 0.2], [0.1, 0.3]], [[1, 0], [1, 1]]).tolist()
    [1.0, 0.0]
    """
    proxy, gold = _scored(proxy, gold)
    return ((gold == 1).any(axis=1) & (gold == 0).any(axis=1)).astype(float)


def tie_rate(proxy: np.ndarray) -> np.ndarray:
    """Return [M]: the share of a prompt's pairs of scored completions with equal proxy; NaN with fewer than two.

    >>> tie_rate([[1, 1, 2]]).round(3).tolist()  # 1 of 3 pairs
    [0.333]
    """
    proxy = arrays.as_floats("proxy", proxy, "[M, N]")
    tied = np.full(len(proxy), np.nan)
    for block in arrays.sorted_rows(proxy):
        _, size = arrays.tie_groups(block.rewards)
        pairs = np.full(len(block.rows), block.size * (block.size - 1))
        tied[block.rows] = _ratio((size - 1).sum(axis=1), pairs)
    return tied


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return [M]: Spearman's ρ of each row, the correlation of midranks; NaN where a or b is constant in the row.

    a, b: [M, N], e.g. the proxy and the length in tokens. A cell that is NaN in either is left out.

    >>> rank_correlation([[1, 2, 3]], [[10, 20, 90]]).round(6).tolist()  # the same order
    [1.0]
    """
    a, b = arrays.as_equal_floats("[M, N]", a=a, b=b)
    missing = np.isnan(a) | np.isnan(b)
    if missing.all():
        return np.full(len(a), np.nan)
    x, y = (_centred(midranks(np.where(missing, np.nan, values))) for values in (a, b))
    return _ratio((x * y).sum(axis=1), np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))


def as_probabilities(proxy: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Return the proxy [M, N] as probabilities of being correct, and how it was read; None where neither reading fits.

    Scores within [0, 1] are taken as they are ("score"). Scores on both sides of 0 are taken as logits ("sigmoid of the
    score"), as a Bradley-Terry reward is trained to be, up to a constant for each prompt, which its calibration then
    shows. Other scores, such as lengths, have no reading.
    """
    proxy = arrays.as_floats("proxy", proxy, "[M, N]")
    low, high = np.nanmin(proxy), np.nanmax(proxy)
    if low >= 0 and high <= 1:
        return proxy, "score"
    if low < 0 < high:
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            return np.exp(-np.logaddexp(0, -proxy)), "sigmoid of the score"
    return None


def reliability(
    probability: np.ndarray,
    gold: np.ndarray,
    rng: np.random.Generator,
    *,
    bins: int = 10,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Reliability:
    """Return observed against expected outcomes, and the calibration error Σ_k n_k/n |observed_k − expected_k|.

    Bins have equal widths; a probability at an edge is in the upper bin. Intervals are percentiles over resampled
    prompts. With few completions per bin, noise adds to the error: that of a perfectly calibrated scorer is above 0.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    probability, gold: [M, N]; cells that are NaN in either are left out. Raises ValueError for a probability outside
    0 .. 1.

    >>> found = reliability(np.tile([0.2, 0.8], (10, 1)), np.tile([0, 1], (10, 1)), np.random.default_rng(0))
    >>> round(found.error, 6)  # expected 0.2 and 0.8, observed 0 and 1
    0.2
    """
    probability, gold = _scored(probability, gold)
    if np.nanmin(probability) < 0 or np.nanmax(probability) > 1:
        raise ValueError(
            f"probability {list(probability.shape)} holds {np.nanmin(probability):g} to {np.nanmax(probability):g}; "
            "it must lie between 0 and 1"
        )
    tail = arrays.tail_of(level)
    cells = ~np.isnan(probability)
    unit = units_of(len(gold), rng)
    units = int(unit.max()) + 1
    place = np.minimum((probability[cells] * bins).astype(int), bins - 1) + bins * unit[np.nonzero(cells)[0]]
    sums = [
        np.bincount(place, weights, minlength=units * bins).reshape(-1, bins)
        for weights in (None, probability[cells], gold[cells])
    ]
    count, expected, observed = (values.sum(axis=0).astype(float) for values in sums)  # [K]
    drawn = np.split(resampled_means(np.concatenate(sums, axis=1), rng, resamples=resamples), 3, axis=1)  # [B, K]
    drawn[0][drawn[0] < 0.5 / units] = 0  # rounding: this resample has no completion in the bin
    draws = _observed_and_error(*drawn)
    ends = np.full((2, bins), np.nan)
    ends[:, count > 0] = np.nanquantile(draws[0][:, count > 0], [tail, 1 - tail], axis=0)
    error_low, error_high = np.nanquantile(draws[1], [tail, 1 - tail])
    _, error = _observed_and_error(count[None], expected[None], observed[None])
    return Reliability(
        expected=_ratio(expected, count),
        observed=_ratio(observed, count),
        observed_low=ends[0],
        observed_high=ends[1],
        count=count.astype(int),
        error=float(error[0]),
        error_low=float(error_low),
        error_high=float(error_high),
    )


def turning_point(proxy: np.ndarray, gold: np.ndarray, sizes: list[int], rng: np.random.Generator) -> TurningPoint:
    """Return the n among `sizes` with the highest gold of Best-of-n, and whether gold falls from there to the largest.

    n̂* is chosen on a random half of the prompts and judged on the other by paired intervals (see `overoptimisation`),
    so that a peak by chance is not its own evidence.

    proxy, gold: [M, N]. sizes: ascending, at most N. Rows with fewer scored samples than the largest n are left out at
    every n, so that the whole curve has the same prompts. Raises ValueError where fewer than four are left.

    >>> found = turning_point(np.tile([0, 1], (40, 1)), np.tile([1, 0], (40, 1)), [1, 2], np.random.default_rng(0))
    >>> found.n, found.largest, found.found.verdict  # the higher proxy is always wrong
    (1, 2, 'over-optimised')
    """
    curve = {"proxy": best_of_n(proxy, sizes), "gold": best_of_n(proxy, sizes, gold)}  # [M, K]
    whole = ~np.isnan(curve["gold"]).any(axis=1)
    if whole.sum() < 4:
        raise ValueError(
            f"{whole.sum()} of {len(whole)} prompts have {max(sizes)} scored samples; at least 4 are expected"
        )
    found = overoptimisation(curve["proxy"][whole], curve["gold"][whole], rng)
    return TurningPoint(sizes[found.peak], sizes[-1], found)


def _scored(proxy: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both [M, N] as floats, with NaN in both where either has it."""
    proxy = arrays.as_floats("proxy", proxy, "[M, N]")
    gold = arrays.as_outcomes("gold", gold)
    arrays.check_same_shape(proxy=proxy, gold=gold)
    missing = np.isnan(proxy) | np.isnan(gold)
    if missing.all():
        raise ValueError(f"proxy and gold {list(proxy.shape)} have no cell with a number in both; one is expected")
    return np.where(missing, np.nan, proxy), np.where(missing, np.nan, gold)


def _centred(ranks: np.ndarray) -> np.ndarray:
    """Return ranks [M, N] minus their row's mean, 0 where missing."""
    present = ~np.isnan(ranks)
    mean = _ratio(np.nansum(ranks, axis=1), present.sum(axis=1))
    return np.where(present, ranks - mean[:, None], 0)


def _observed_and_error(count: np.ndarray, expected: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return [B, K] the mean gold of each bin and [B] the calibration error, from B tables of sums [B, K]."""
    gap = np.abs(observed - expected).sum(axis=1)
    return _ratio(observed, count), _ratio(gap, count.sum(axis=1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide elementwise; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)
