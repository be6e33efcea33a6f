"""The normal distribution, and Student's t with any degrees of freedom."""

import functools
import math
from statistics import NormalDist

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def normal_cdf(x: float | np.ndarray) -> np.ndarray:
    """Return Φ(x), elementwise."""
    return np.vectorize(NormalDist().cdf, otypes=[float])(x)


def normal_quantile(p: float | np.ndarray) -> np.ndarray:
    """Return Φ⁻¹(p) for 0 < p < 1, elementwise."""
    return np.vectorize(NormalDist().inv_cdf, otypes=[float])(p)


def t_cdf(x: float, df: float) -> float:
    """Return P(T ≤ x) with df > 0 degrees of freedom, not necessarily whole; exact to about 1e-12.

    With x = √df · tan θ the density is proportional to cos(θ)^(df − 1), which Gauss-Legendre nodes integrate.
    """
    angle = math.atan(x / math.sqrt(df))
    if df > 1000:  # Stirling: the difference of two large logarithms would lose digits
        ratio = math.sqrt(df / 2) * (1 - 1 / (4 * df) + 1 / (32 * df**2) + 5 / (128 * df**3))
    else:
        ratio = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2))
    scale = ratio / math.sqrt(math.pi)
    integral = angle / 2 * float(_WEIGHTS @ np.cos(angle / 2 * (_NODES + 1)) ** (df - 1))
    return min(1.0, max(0.0, 0.5 + scale * integral))


@functools.lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """Return the x with t_cdf(x, df) = p, for 0 < p < 1, by bisection on θ (see `t_cdf`)."""
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if t_cdf(math.sqrt(df) * math.tan(middle), df) < p:
            low = middle
        else:
            high = middle
    return math.sqrt(df) * math.tan((low + high) / 2)
