"""Compare two curves over k on the same prompts, and say for which k either leads: valid for all k at once.

a, b = pass_at_k(correct_a, k), pass_at_k(correct_b, k)  # [M, K] each, k = 1 .. N
crossover(a, b, k, rng).where(1)  # [(1, 7)]: a leads for k = 1 .. 7
"""

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_generator, as_sizes, tail_of
from bench.estimators.bootstrap import RESAMPLES
from bench.estimators.distributions import normal_quantile, t_quantile

ROUNDING = 1e-12  # differences of shares below this are rounding
_CELLS = 2**22  # numbers in the largest temporary array


@dataclass(frozen=True)
class Crossover:
    """The mean difference a − b at each k, its simultaneous band, and who leads where."""

    k: np.ndarray  # [K]
    difference: np.ndarray  # [K] mean of a − b over prompts
    low: np.ndarray  # [K] the band, which holds the whole true curve with the given probability
    high: np.ndarray  # [K]
    prompts: int  # with a value of both at every k
    left_out: int  # prompts without

    @property
    def leader(self) -> np.ndarray:
        """Return [K]: 1 where a leads, −1 where b leads, 0 where it is open."""
        return (self.low > 0).astype(int) - (self.high < 0).astype(int)

    def where(self, leader: int) -> list[tuple[int, int]]:
        """Return the stretches (first k, last k) of the given k in which `leader` is 1, −1 or 0."""
        stretches = []
        for value, places in groupby(range(len(self.k)), key=lambda place: int(self.leader[place])):
            if value == leader:
                inside = list(places)
                stretches.append((int(self.k[inside[0]]), int(self.k[inside[-1]])))
        return stretches


def crossover(
    a: np.ndarray, b: np.ndarray, k: Sizes, rng: np.random.Generator, level: float = 0.95, *, resamples: int = RESAMPLES
) -> Crossover:
    """Return the mean difference of two curves over the same M prompts with a simultaneous band over all k.

    The band is difference ± c · SE; c is the quantile of the largest |t| over k in a multiplier bootstrap over prompts,
    times t(M − 1) / z for small M (sup-t bands: Montiel Olea and Plagborg-Møller 2019, §3; multipliers: Chernozhukov,
    Chetverikov and Kato 2013). With probability `level`, a leads at every k where low > 0, and b where high < 0.

    At large k few prompts differ, often none, and a plain SE is far too small or 0. The SE is therefore that of the
    differences with three prompts added whose weights sum to 2: half a prompt at each of ± 1, one at 0 (Agresti and Min
    2005, for 0/1 outcomes; conservative for others). Where no prompt differs, the band is about ± c / (M + 2).

    Training seeds are a second level. Each arm with S > 1 seeds has a half-width c · SE of its own, from the spread of
    the seeds' curves, with the tails of t(S − 1). Half-widths are combined as the root of the sum of their squares
    (Zou and Donner 2008). The variance within a prompt counts on both levels: the band is slightly wide. Seeds of a and
    of b are taken as independent.

    a, b: [M, K] shares, e.g. pass@k of each prompt, or [S, M, K] over training seeds; S may differ. k: [K] ascending.
    A prompt with a NaN at any k is left out of all. Raises ValueError for values outside 0 .. 1, other shapes, or fewer
    than two prompts.

    >>> k = [1, 2, 3, 4]
    >>> difficulty = np.linspace(0, 1, 101)[:, None]  # a is often right on half of the prompts, b rarely on all
    >>> a, b = 1 - (1 - 0.9 * (difficulty > 0.5)) ** k, 1 - 0.8 ** np.array(k) * np.ones((101, 1))
    >>> curve = crossover(a, b, k, np.random.default_rng(0))
    >>> curve.difference.round(2).tolist(), curve.where(1), curve.where(0)
    ([0.25, 0.13, 0.01, -0.1], [(1, 2)], [(3, 4)])
    """
    sizes, _ = as_sizes("k", k)
    arms = [_curves(name, values, sizes) for name, values in (("a", a), ("b", b))]
    if arms[0].shape[1] != arms[1].shape[1]:
        raise ValueError(
            f"a has {arms[0].shape[1]} prompts, but b has {arms[1].shape[1]}; they must be the same prompts"
        )
    whole = ~np.any([np.isnan(arm).any(axis=(0, 2)) for arm in arms], axis=0)
    if whole.sum() < 2:
        raise ValueError(
            f"a and b have {whole.sum()} prompts with a number in both at every k; at least 2 are expected"
        )
    arms = [arm[:, whole] for arm in arms]
    tail, rng = tail_of(level), as_generator(rng)
    differences = arms[0].mean(axis=0) - arms[1].mean(axis=0)  # [M, K]
    differences[np.abs(differences) < ROUNDING] = 0
    mean, prompts = differences.mean(axis=0), len(differences)
    squares = (differences**2).sum(axis=0) + 1  # the half prompts at ± 1
    variance = (squares / (prompts + 2) - (prompts * mean / (prompts + 2)) ** 2) / (prompts + 2)
    z = float(normal_quantile(1 - tail))
    critical = _largest_over_prompts(differences - mean, 1 - 2 * tail, rng, resamples) or z
    margin = (critical * t_quantile(1 - tail, prompts - 1) / z) ** 2 * variance  # squared
    for arm in arms:
        if len(arm) > 1:
            margin = margin + _margin_of_seeds(arm.mean(axis=1), 1 - 2 * tail, rng, resamples)
    half = np.sqrt(margin)
    return Crossover(sizes, mean, mean - half, mean + half, prompts, len(whole) - prompts)


def _largest_over_prompts(deviations: np.ndarray, level: float, rng: np.random.Generator, resamples: int) -> float:
    """Return the quantile of the largest |t| over k of deviations [M, K] with normal weights; 0 where none varies."""
    spread = np.sqrt((deviations**2).sum(axis=0))
    if not spread.any():
        return 0.0
    standard = deviations[:, spread > 0] / spread[spread > 0]
    step = max(1, _CELLS // max(standard.shape))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    greatest = [np.abs(rng.normal(size=(size, len(standard))) @ standard).max(axis=1) for size in sizes]
    return float(np.quantile(np.concatenate(greatest), level))


def _margin_of_seeds(curves: np.ndarray, level: float, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Return [K]: the squared half-width of the mean over seeds of curves [S, K].

    In each resample, S normal curves with the covariance of the given ones have a mean and a standard error of their
    own; the quantile of their largest |t| over k multiplies the standard error.
    """
    seeds = len(curves)
    deviations = (curves - curves.mean(axis=0)) / math.sqrt(seeds - 1)  # their sum of squares is the variance
    variance = (deviations**2).sum(axis=0) / seeds
    varies = variance > ROUNDING**2
    if not varies.any():
        return np.zeros(len(variance))
    basis = deviations[:, varies]
    step = max(1, _CELLS // basis.size)
    greatest = []
    for start in range(0, resamples, step):
        drawn = rng.normal(size=(min(step, resamples - start), seeds, seeds)) @ basis  # [b, S, K]
        error = drawn.std(axis=1, ddof=1) / math.sqrt(seeds)
        greatest.append((np.abs(drawn.mean(axis=1)) / error).max(axis=1))
    return float(np.quantile(np.concatenate(greatest), level)) ** 2 * variance


def _curves(name: str, values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return values as [S, M, K]; ValueError for another shape or values that are no shares."""
    shape = "[S, M, K]" if np.ndim(values) == 3 else "[M, K]"
    array = as_floats(name, values, shape)
    if array.shape[-1] != len(sizes):
        raise ValueError(f"{name} has shape {list(array.shape)}; its last axis must have the {len(sizes)} values of k")
    if np.nanmin(array) < -ROUNDING or np.nanmax(array) > 1 + ROUNDING:
        raise ValueError(
            f"{name} {list(array.shape)} holds {np.nanmin(array):g} to {np.nanmax(array):g}; it must lie in 0 .. 1"
        )
    return array.reshape(-1, *array.shape[-2:])
