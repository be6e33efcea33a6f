"""How coverage (pass@k) grows with k: the exponentiated power law."""

from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes


class PowerLaw(NamedTuple):
    """coverage(k) = exp(−a · k^(−b)): −log of the coverage falls as a power of k."""

    a: float
    b: float

    def __call__(self, k: np.ndarray) -> np.ndarray:
        return np.exp(-self.a * np.asarray(k, float) ** -self.b)


def fit_coverage(k: Sizes, coverage: np.ndarray) -> PowerLaw:
    """The exponentiated power law of Brown et al. 2024 (Large Language Monkeys), by least squares of log(−log c).

    On log k, each point by the inverse of its delta-method variance for c a share of prompts, c (log c)² / (1 − c).
    Points at 0 or 1 say nothing of the slope and are left out. k, coverage: [K]. ValueError where fewer than two are
    left.
    """
    sizes, _ = as_sizes("k", k)
    coverage = as_floats("coverage", coverage, 1, shape="[K]")
    if coverage.shape != sizes.shape:
        raise ValueError(f"coverage has shape {list(coverage.shape)}; one value for each of {len(sizes)} k is expected")
    inside = (coverage > 0) & (coverage < 1)
    if inside.sum() < 2:
        raise ValueError(f"coverage {list(coverage.shape)} has fewer than two values between 0 and 1; two are expected")
    c, x = coverage[inside], np.log(sizes[inside])
    y, weight = np.log(-np.log(c)), c * np.log(c) ** 2 / (1 - c)
    centre = np.average(x, weights=weight)
    slope = (weight * (x - centre) * y).sum() / (weight * (x - centre) ** 2).sum()
    return PowerLaw(float(np.exp(np.average(y, weights=weight) - slope * centre)), float(-slope))
