"""Compute how many prompts a study needs, and how much choosing the best cell of a sweep adds to its score."""

import math
from dataclasses import dataclass

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes
from bench.estimators.bootstrap import bootstrap_interval
from bench.estimators.distributions import normal_quantile


def prompts_needed(
    delta: float, omega2: float, var_a: float, var_b: float, k_a: int, k_b: int, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return the prompts with which a paired comparison resolves a mean difference delta.

    (z_{1−α/2} + z_power)² · variance / delta², rounded up, with variance = omega2 + var_a / k_a + var_b / k_b.
    omega2: variance over prompts of the difference of the two expected scores. var_a, var_b: mean variance of one
    answer's score within a prompt. k_a, k_b: answers per prompt.
    Source: Miller 2024 ("Adding error bars to evals"), eq. 9.
    Raises ValueError for delta = 0, negative variances, k < 1, or alpha or power outside 0 .. 1.

    >>> prompts_needed(0.1, omega2=0.25, var_a=0, var_b=0, k_a=1, k_b=1)  # (1.96 + 0.84)² · 0.25 / 0.01 = 196.2
    197
    """
    if delta == 0:
        raise ValueError("delta=0 is not allowed; no number of prompts resolves a difference of 0")
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"alpha={alpha} and power={power} must lie between 0 and 1")
    if min(omega2, var_a, var_b) < 0 or min(k_a, k_b) < 1:
        raise ValueError(
            f"omega2={omega2}, var_a={var_a}, var_b={var_b} must not be negative, and k_a={k_a}, k_b={k_b} at least 1"
        )
    z = float(normal_quantile(1 - alpha / 2) + normal_quantile(power))
    return math.ceil(z**2 * (omega2 + var_a / k_a + var_b / k_b) / delta**2)


def expected_maximum(k: Sizes) -> float | np.ndarray:
    """Return the expected maximum of k independent standard normals: how far the best of k equal cells seems to lead.

    In standard errors: ∫ x · k φ(x) Φ(x)^(k − 1) dx by the trapezoid rule. k: an int -> float, a sequence -> [K].

    >>> round(expected_maximum(2), 3)  # 1 / √π
    0.564
    """
    sizes, single = as_sizes("k", k)
    x = np.linspace(-12, 12, 6001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    log_cdf = np.array([math.log(math.erfc(-value / math.sqrt(2)) / 2) for value in x])
    values = np.array([size * np.sum(x * density * np.exp((size - 1) * log_cdf)) * (x[1] - x[0]) for size in sizes])
    return float(values[0]) if single else values


@dataclass(frozen=True)
class WinnersCurse:
    """The cell that is best on validation prompts, reported on test prompts."""

    cell: int
    validation: float  # its mean on the validation prompts, too high because it was chosen there
    test: float
    test_low: float
    test_high: float
    gap: float  # validation − test
    gap_if_equal: float  # what choosing alone would add if all cells were equally good


def winners_curse(
    validation: np.ndarray, test: np.ndarray, rng: np.random.Generator, level: float = 0.95
) -> WinnersCurse:
    """Choose the best of C cells on validation prompts and measure it on test prompts.

    validation: [M, C], test: [M', C], one score per prompt and cell, higher is better; NaN is left out cell by cell.
    Raises ValueError for unequal numbers of cells.

    >>> validation, test = np.array([[0, 1], [1, 1]] * 10), np.array([[1, 0], [1, 1]] * 10)
    >>> found = winners_curse(validation, test, np.random.default_rng(0))
    >>> found.cell, found.validation, found.test, found.gap
    (1, 1.0, 0.5, 0.5)
    """
    validation = as_floats("validation", validation, "[M, C]")
    test = as_floats("test", test, "[M', C]")
    cells = validation.shape[1]
    if test.shape[1] != cells:
        raise ValueError(f"test has shape {list(test.shape)}, but validation has {cells} cells; they must be equal")
    validation = validation[~np.isnan(validation).all(axis=1)]
    means = np.nanmean(validation, axis=0)
    cell = int(np.nanargmax(means))
    low, high = bootstrap_interval(test[:, cell], rng, level)
    score = float(np.nanmean(test[:, cell]))
    return WinnersCurse(
        cell=cell,
        validation=float(means[cell]),
        test=score,
        test_low=float(low),
        test_high=float(high),
        gap=float(means[cell]) - score,
        gap_if_equal=gap_if_equal(validation),
    )


def gap_if_equal(validation: np.ndarray) -> float:
    """Return what choosing the highest of C equally good cells adds to its mean on the prompts used for the choice.

    `expected_maximum(C)` times the standard error of a cell's mean, without the part that all cells share because they
    have the same prompts. validation: [M, C], NaN is left out cell by cell.

    >>> round(gap_if_equal([[0, 1], [1, 0]] * 50), 3)  # 0.564 · √(2 · 0.2525 / 100)
    0.04
    """
    validation = as_floats("validation", validation, "[M, C]")
    validation = validation[~np.isnan(validation).all(axis=1)]
    cells = validation.shape[1]
    own = validation - np.nanmean(validation, axis=1, keepdims=True)
    spread = np.nanmean(np.nanvar(own, axis=0, ddof=1)) * cells / max(cells - 1, 1)
    return float(expected_maximum(cells) * math.sqrt(spread / len(validation)))
