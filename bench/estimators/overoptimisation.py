"""Over-optimisation: the gold reward over d = √KL, its fitted peak, and whether a fall beyond the peak is resolved.

Two forms of Gao, Schulman and Hilton 2022, §3: R(d) = d (α − β d) for Best-of-n, R(d) = d (α − β log d) for a policy
that was trained. Gains are measured from the base policy, where d = 0.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from bench.estimators.arrays import as_floats, check_same_shape
from bench.estimators.bootstrap import RESAMPLES, Bootstrap, tail_of
from bench.estimators.uncertainty import PairedDifference, paired_difference

Form: TypeAlias = Literal["best_of_n", "fine_tuned"]


class Fit(NamedTuple):
    alpha: float  # initial slope, in gold units per √nat
    beta: float  # > 0 bends the curve down; that alone is no over-optimisation


@dataclass(frozen=True)
class FitInterval:
    """A fit, its peak, and their intervals from refitting resampled curves. The peak is at infinity where β ≤ 0."""

    alpha: float
    alpha_low: float
    alpha_high: float
    beta: float
    beta_low: float
    beta_high: float
    peak: float  # d* in √nat
    peak_low: float
    peak_high: float
    peak_gain: float


@dataclass(frozen=True)
class Overoptimisation:
    """Gold and proxy at the largest n against those at n̂*, which was chosen on other prompts."""

    peak: int  # column of n̂*
    gold: PairedDifference
    proxy: PairedDifference
    verdict: Literal["over-optimised", "not resolved"]


def fit_best_of_n(kl: np.ndarray, gain: np.ndarray, weights: np.ndarray | None = None) -> Fit:
    """α and β of gain = α d − β d², d = √kl, by weighted least squares (Gao et al. 2022, eq. for Best-of-n).

    kl, gain: [K], nats and gold units above the base. weights: [K], inverse variances; None weighs all alike.
    ValueError for a negative kl, or fewer than two points that differ in d > 0.
    """
    return _fit(kl, gain, weights, "best_of_n")


def fit_fine_tuned(kl: np.ndarray, gain: np.ndarray, weights: np.ndarray | None = None) -> Fit:
    """α and β of gain = α d − β d log d, d = √kl; otherwise as `fit_best_of_n` (Gao et al. 2022, eq. for RL)."""
    return _fit(kl, gain, weights, "fine_tuned")


def peak(fit: Fit, form: Form = "best_of_n") -> tuple[float, float]:
    """(d*, R*) of the fitted curve: α/2β and α²/4β, or exp(α/β − 1) and β d*; (inf, inf) where β ≤ 0."""
    if fit.beta <= 0:
        return float("inf"), float("inf")
    if form == "best_of_n":
        return fit.alpha / (2 * fit.beta), fit.alpha**2 / (4 * fit.beta)
    with np.errstate(over="ignore"):
        distance = float(np.exp(fit.alpha / fit.beta - 1))
    return distance, fit.beta * distance


def fit_interval(
    kl: np.ndarray,
    gain: np.ndarray,
    rng: np.random.Generator,
    *,
    form: Form = "best_of_n",
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> FitInterval:
    """The fit to the means over prompts, with percentile intervals from refitting the whole curve to resampled prompts.

    The points of a curve share their prompts, so their errors are not independent; only refitting it whole sees that.
    Weights: the inverse variances of the mean gains. kl, gain: [M, K] a prompt, the gain being gold minus the prompt's
    base mean. NaN is left out column by column. ValueError as in `fit_best_of_n`.
    """
    kl = as_floats("kl", kl, 2, shape="[M, K]")
    gain = as_floats("gain", gain, 2, shape="[M, K]")
    check_same_shape(kl=kl, gain=gain)
    tail = tail_of(level)
    columns = kl.shape[1]
    boot = Bootstrap(np.concatenate([kl, gain], axis=1), rng, resamples)
    variance = boot.error[columns:] ** 2
    weights = np.divide(1.0, variance, out=np.zeros(columns), where=variance > 0)
    fit = _fit(boot.mean[:columns], boot.mean[columns:], weights, form)
    slopes = _solve(_distance(boot.means[:, :columns]), boot.means[:, columns:], weights, form)  # [B, 2]
    slopes = slopes[~np.isnan(slopes).any(axis=1)]
    peaks = np.array([peak(Fit(alpha, beta), form)[0] for alpha, beta in slopes.tolist()])
    low, high = np.quantile(slopes, [tail, 1 - tail], axis=0).tolist()
    peak_low, peak_high = np.quantile(peaks, [tail, 1 - tail], method="nearest")  # no averaging with infinity
    distance, height = peak(fit, form)
    return FitInterval(
        alpha=fit.alpha,
        alpha_low=low[0],
        alpha_high=high[0],
        beta=fit.beta,
        beta_low=low[1],
        beta_high=high[1],
        peak=distance,
        peak_low=float(peak_low),
        peak_high=float(peak_high),
        peak_gain=height,
    )


def overoptimisation(
    proxy: np.ndarray,
    gold: np.ndarray,
    rng: np.random.Generator,
    *,
    validation_gold: np.ndarray | None = None,
    level: float = 0.95,
) -> Overoptimisation:
    """Whether more selection pressure lowers gold while the proxy still rises, from n̂* to the largest n.

    n̂* has the highest mean gold on other prompts: those of validation_gold, or a random half of these. "over-optimised"
    needs gold(n_max) − gold(n̂*) resolved below 0 and the proxy's difference resolved above 0, both paired by prompt.
    proxy, gold: [M, K], Best-of-n at K ascending n for each prompt. validation_gold: [M', K].
    """
    proxy = as_floats("proxy", proxy, 2, shape="[M, K]")
    gold = as_floats("gold", gold, 2, shape="[M, K]")
    check_same_shape(proxy=proxy, gold=gold)
    if validation_gold is None:
        if len(gold) < 2:
            raise ValueError(
                f"gold has shape {list(gold.shape)}; at least 2 prompts are expected, to choose on one half"
            )
        order = rng.permutation(len(gold))
        validation_gold, kept = gold[order[: len(gold) // 2]], order[len(gold) // 2 :]
        proxy, gold = proxy[kept], gold[kept]
    validation_gold = as_floats("validation_gold", validation_gold, 2, shape="[M', K]")
    if validation_gold.shape[1] != gold.shape[1]:
        raise ValueError(f"validation_gold has shape {list(validation_gold.shape)}; gold has {gold.shape[1]} columns")
    best = int(np.nanargmax(np.nanmean(validation_gold, axis=0)))
    of_gold = paired_difference(gold[:, -1], gold[:, best], rng, level)
    of_proxy = paired_difference(proxy[:, -1], proxy[:, best], rng, level)
    resolved = of_gold.verdict == "worse" and of_proxy.verdict == "better"
    return Overoptimisation(best, of_gold, of_proxy, "over-optimised" if resolved else "not resolved")


def _distance(kl: np.ndarray) -> np.ndarray:
    """√KL; a mean of jackknife estimates may lie a little below 0 where the KL is 0."""
    return np.sqrt(np.maximum(kl, 0))


def _fit(kl: np.ndarray, gain: np.ndarray, weights: np.ndarray | None, form: Form) -> Fit:
    kl = as_floats("kl", kl, 1, shape="[K]")
    gain = as_floats("gain", gain, 1, shape="[K]")
    weights = np.ones(len(kl)) if weights is None else as_floats("weights", weights, 1, shape="[K]")
    check_same_shape(kl=kl, gain=gain, weights=weights)
    # Estimates of a KL that is 0 may lie a little below it.
    if np.isnan(kl + gain + weights).any() or (kl < -1e-2).any() or (weights < 0).any():
        raise ValueError(f"kl {list(kl.shape)}, gain and weights must hold no NaN, and kl and weights not be negative")
    if len(np.unique(np.round(_distance(kl)[(weights > 0) & (kl > 0)], 12))) < 2:
        raise ValueError(
            f"kl {list(kl.shape)} has fewer than two different values above 0 with weight; two are expected"
        )
    alpha, beta = _solve(_distance(kl)[None], gain[None], weights, form)[0].tolist()
    return Fit(alpha, beta)


def _solve(d: np.ndarray, gain: np.ndarray, weights: np.ndarray, form: Form) -> np.ndarray:
    """[B, 2] α and β of B curves [B, K], by the normal equations; NaN where a curve does not determine them."""
    log_d = np.log(d, out=np.zeros_like(d), where=d > 0)
    first, second = d, -d * (d if form == "best_of_n" else log_d)
    a, b, c = (weights * first**2).sum(1), (weights * first * second).sum(1), (weights * second**2).sum(1)
    u, v = (weights * first * gain).sum(1), (weights * second * gain).sum(1)
    determinant = a * c - b * b
    with np.errstate(divide="ignore", invalid="ignore"):
        solution = np.stack([(c * u - b * v) / determinant, (a * v - b * u) / determinant], axis=1)
    return np.where(determinant[:, None] > 1e-12 * (a * c)[:, None], solution, np.nan)
