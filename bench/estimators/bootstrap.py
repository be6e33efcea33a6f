"""Bootstrap over whole prompts: pointwise intervals (BCa), simultaneous bands, and ratios of means.

The unit of resampling is the prompt, above 20,000 prompts a random group of them; never a sample.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import as_equal_floats, as_floats, as_generator, tail_of
from bench.estimators.distributions import normal_cdf, normal_quantile, t_cdf, t_quantile

__all__ = ["bootstrap_interval", "ratio_of_means", "simultaneous_band"]
RESAMPLES = 10_000
MOST_UNITS = 20_000  # that are resampled: more prompts are put into so many groups
_BLOCK = 2**22  # prompts drawn at once, over all resamples of a block


class Ratio(NamedTuple):
    """A ratio of means and its interval; all NaN where the denominator is not resolved from 0."""

    value: float
    low: float
    high: float


UNDEFINED = Ratio(float("nan"), float("nan"), float("nan"))


def bootstrap_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    shares: bool | np.ndarray = False,
) -> tuple[float, float] | tuple[np.ndarray, np.ndarray]:
    """Return (low, high) of the mean over prompts, by resampling whole prompts: the BCa bootstrap at t-expanded levels.

    BCa corrects for bias and skewness. Replacing the normal quantile by t(M − 1) · √(M / (M − 1)) compensates for the
    bootstrap's narrowness at small M. Sources: Efron and Tibshirani 1993, eq. 14.10; Hesterberg 2015 (expansion).

    values: [M], one number per prompt -> two floats; or [M, K], e.g. a curve -> two arrays [K], pointwise intervals
    from the same resamples. NaN is left out column by column, so the interval belongs to np.nanmean(values, axis=0); a
    column with fewer than two numbers gives NaN. Equal numbers give an interval without width, whatever their count.
    shares: whether all columns, or which [K], hold values in [0, 1]; `share_ends` then sets the ends.
    Raises ValueError for infinities, an array of only NaN, or a level outside 0 .. 1.

    >>> low, high = bootstrap_interval(np.arange(40) % 4, np.random.default_rng(0))
    >>> f"{low:.2f} to {high:.2f}"
    '1.12 to 1.85'
    """
    single = np.ndim(values) != 2
    values = as_floats("values", values, "[M]" if single else "[M, K]")
    values = values.reshape(len(values), -1)
    tail = tail_of(level)
    boot = Bootstrap(values, rng, resamples)
    low, high = boot.share_ends(boot.quantile(tail), boot.quantile(1 - tail), shares, level)
    return (float(low[0]), float(high[0])) if single else (low, high)


def simultaneous_band(
    values: np.ndarray, rng: np.random.Generator, level: float = 0.95, *, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Return (low [K], high [K]): a band that holds the whole curve of means over prompts with probability `level`.

    Mean ± c · SE, with c the quantile of the maximum over columns of |resampled mean − mean| / SE. Source: Montiel Olea
    and Plagborg-Møller 2019, §3 (sup-t bands). values: [M, K]; NaN and errors as in `bootstrap_interval`.

    >>> low, high = simultaneous_band([[0, 0], [1, 2], [2, 4]], np.random.default_rng(0))
    >>> ((low + high) / 2).round(6).tolist()  # the means
    [1.0, 2.0]
    """
    values = as_floats("values", values, "[M, K]")
    return Bootstrap(values, rng, resamples).band(np.arange(values.shape[1]), tail_of(level))


def intervals_and_bands(
    values: np.ndarray,
    curves: Sequence[Sequence[int]],
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    shares: bool | np.ndarray = False,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return (low [K], high [K], (band low [K], band high [K])) of values [M, K], from the same resamples of prompts.

    curves: the columns of each curve that gets a simultaneous band; columns of no curve have NaN.
    shares: whether all columns, or which [K], hold values in [0, 1]; `share_ends` sets the ends of their intervals and
    bands. See `bootstrap_interval` and `simultaneous_band`.
    """
    values = as_floats("values", values, "[M, K]")
    tail = tail_of(level)
    boot = Bootstrap(values, rng, RESAMPLES)
    band_low, band_high = np.full((2, values.shape[1]), np.nan)
    for members in curves:
        columns = np.asarray(members)
        band_low[columns], band_high[columns] = boot.band(columns, tail)
    low, high = boot.share_ends(boot.quantile(tail), boot.quantile(1 - tail), shares, level)
    return low, high, boot.share_ends(band_low, band_high, shares, level)


def share_ends(
    low: np.ndarray, high: np.ndarray, least: np.ndarray, most: np.ndarray, count: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval ends [K] for means of values in [0, 1], within 0 .. 1 and never without width.

    Values that are all 0 have no spread to resample. Their upper end is the mean at which M prompts would all be 0 with
    probability 1 − level: 1 − (1 − level)^(1/M), 0.0099 for 300 prompts at 0.95. Likewise the lower end of values that
    are all 1. Exact for 0/1 outcomes, which spread the most, and conservative for others.
    Sources: Clopper and Pearson 1934; Hanley and Lippman-Hand 1983 (no event in n trials).

    low, high: [K], NaN stays NaN. least, most, count: [K] the smallest and largest value, and the number of values.
    """
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    away = 1 - (1 - level) ** (1 / np.maximum(count, 1))
    high = np.where((most == 0) & ~np.isnan(high), away, high)
    low = np.where((least == 1) & ~np.isnan(low), 1 - away, low)
    return low, high


def resampled_means(values: np.ndarray, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> np.ndarray:
    """Return [B, K]: the means of values [M, K] over B resamples of whole rows, for intervals of functions of means.

    NaN is left out column by column; a resample that holds no number of a column gives NaN there.
    """
    return Bootstrap(as_floats("values", values, "[M, K]"), rng, resamples).means


def units_of(prompts: int, rng: np.random.Generator) -> np.ndarray:
    """Return [M]: the number from 0 of what each prompt is resampled with, itself or a random group of prompts.

    For sums that are resampled: where M is large, those of groups take less memory.
    """
    if prompts <= MOST_UNITS:
        return np.arange(prompts)
    return rng.permutation(np.arange(prompts) * MOST_UNITS // prompts)


def ratio_of_means(
    numerator: np.ndarray,
    denominator: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    resamples: int = RESAMPLES,
) -> Ratio:
    """Return mean(numerator) / mean(denominator) over the same prompts, with an interval by resampling prompts.

    The ends are quantiles of the resampled ratios (Efron and Tibshirani 1993, ch. 13) at the t-expanded levels of
    `bootstrap_interval`. Undefined where a t-interval of the denominator's mean contains 0: exactly there, Fieller's
    interval (Fieller 1954) has no ends.

    numerator, denominator: [M]; a prompt with a NaN in one is left out. Raises ValueError for infinities or unequal
    shapes.

    >>> round(ratio_of_means(np.arange(1, 9), 2 * np.arange(1, 9), np.random.default_rng(0)).value, 6)
    0.5
    """
    pairs = np.stack(as_equal_floats("[M]", numerator=numerator, denominator=denominator), axis=1)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    tail, prompts = tail_of(level), len(pairs)
    if prompts < 2:
        return UNDEFINED
    top, bottom = pairs.mean(axis=0)
    critical = t_quantile(1 - tail, prompts - 1)
    if not abs(bottom) > critical * (pairs[:, 1].std(ddof=1) / np.sqrt(prompts)):
        return UNDEFINED
    means = resampled_means(pairs, rng, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resampled denominator of 0 has no ratio
        ratios = means[:, 0] / means[:, 1]
    tail = float(1 - normal_cdf(critical * np.sqrt(prompts / (prompts - 1))))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Ratio(float(top / bottom), float(low), float(high))


class Bootstrap:
    """Means of K columns over B resamples of M rows, and the quantities that BCa needs."""

    def __init__(self, values: np.ndarray, rng: np.random.Generator, resamples: int) -> None:
        rng, present = as_generator(rng), ~np.isnan(values)
        self.count = present.sum(axis=0)  # [K]
        self.least = values.min(axis=0, where=present, initial=np.inf)  # [K]
        self.most = values.max(axis=0, where=present, initial=-np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.mean = np.where(present, values, 0.0).sum(axis=0) / self.count
            centred = np.where(present, values - self.mean, 0.0)
            # Rounding in a mean of equal numbers is no spread.
            centred[np.abs(centred) <= 1e-14 * np.abs(self.mean)] = 0.0
            squares = (centred**2).sum(axis=0)
            self.error = np.sqrt(squares / (self.count - 1) / self.count)
            self.skew = np.where(squares > 0, (centred**3).sum(axis=0) / (6 * squares**1.5), 0.0)  # [K] BCa's a
        complete, sums = bool(present.all()) and len(values) <= MOST_UNITS, centred
        if len(values) > MOST_UNITS:  # groups of prompts at random: equally valid, and the time no longer grows with M
            order, starts = rng.permutation(len(values)), np.arange(MOST_UNITS) * len(values) // MOST_UNITS
            sums, present = (np.add.reduceat(each[order], starts, dtype=float) for each in (centred, present))
        self.means = np.empty((resamples, values.shape[1]))  # [B, K]
        for start, drawn in _resample_counts(len(sums), resamples, rng):
            total = drawn @ sums
            with np.errstate(invalid="ignore"):
                self.means[start : start + len(drawn)] = total / (len(values) if complete else drawn @ present)
            del drawn  # before the next ones are made
        # Centred sums are exact zeros where a column is constant and keep ties of 0/1 outcomes within 1e-12.
        self.slack = slack = 1e-12 * np.sqrt(squares / np.maximum(self.count, 1))
        drawn_any = (~np.isnan(self.means)).sum(axis=0)
        share = ((self.means < -slack).sum(axis=0) + (self.means <= slack).sum(axis=0)) / (2 * np.maximum(drawn_any, 1))
        self.bias = normal_quantile(np.clip(share, 1 / (resamples + 1), resamples / (resamples + 1)))  # [K] BCa's z₀
        self.means += self.mean

    def quantile(self, p: float) -> np.ndarray:
        """Return [K]: the end of the interval that the true mean falls below with probability p."""
        ends = np.full(len(self.mean), np.nan)
        for column in np.flatnonzero(self.count >= 2):
            if self.error[column] == 0:
                ends[column] = self.mean[column]
                continue
            z = t_quantile(p, self.count[column] - 1) * self._expansion(column)
            shifted = self.bias[column] + z
            level = normal_cdf(self.bias[column] + shifted / max(1 - self.skew[column] * shifted, 1e-9))
            means = self.means[:, column]
            end = np.quantile(means[~np.isnan(means)], level)
            ends[column] = np.clip(end, self.least[column], self.most[column])  # rounding can exceed what a mean can be
        return ends

    def band(self, columns: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the `simultaneous_band` ([C], [C]) of some columns, which a curve leaves with probability 2 · tail."""
        mean, count = self.mean[columns], self.count[columns]
        error = np.where(self.error[columns] > 0, self.error[columns], np.nan)
        distance = np.abs(self.means[:, columns] - mean) / error  # [B, C]
        usable = ~np.isnan(error) & (count >= 2)
        if not usable.any():
            return np.where(count >= 2, mean, np.nan), np.where(count >= 2, mean, np.nan)
        critical = np.quantile(np.nanmax(distance[:, usable], axis=1), 1 - 2 * tail)
        smallest = float(count[usable].min())
        critical *= math.sqrt(smallest / (smallest - 1))
        return mean - critical * self.error[columns], mean + critical * self.error[columns]

    def share_ends(
        self, low: np.ndarray, high: np.ndarray, shares: bool | np.ndarray, level: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends [K], set by `share_ends` in the columns that are shares (all, or those of a mask [K])."""
        ends = share_ends(low, high, self.least, self.most, self.count, level)
        return np.where(shares, ends[0], low), np.where(shares, ends[1], high)

    def p_value_of_zero(self, column: int) -> float:
        """Return the two-sided p-value of a zero mean: 1 − the level of the widest interval without 0."""
        if self.error[column] == 0:
            return 0.0 if self.mean[column] != 0 else 1.0
        means, slack = self.means[:, column], self.slack[column]
        means = means[~np.isnan(means)]
        below = self._tail_probability(column, float(np.mean(means <= slack)))
        above = 1 - self._tail_probability(column, float(np.mean(means < -slack)))
        return min(1.0, 2 * min(below, above))

    def _tail_probability(self, column: int, share: float) -> float:
        resamples = len(self.means)
        share = min(max(share, 1 / (resamples + 1)), resamples / (resamples + 1))
        shifted = float(normal_quantile(share)) - self.bias[column]
        z = shifted / max(1 + self.skew[column] * shifted, 1e-9) - self.bias[column]
        return t_cdf(z / self._expansion(column), self.count[column] - 1)

    def _expansion(self, column: int) -> float:
        return math.sqrt(self.count[column] / (self.count[column] - 1))


def _resample_counts(rows: int, resamples: int, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first resample, [b, M] how often each row was drawn), block by block."""
    step = max(1, min(resamples, _BLOCK // rows))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, rows, size=(size, rows))
        drawn += rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * rows)
        del drawn  # tens of MiB, as each of these arrays
        yield start, counts.reshape(size, rows).astype(np.float64)
