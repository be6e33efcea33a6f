"""Means over k-subsets of a prompt's N samples that have no closed form: soft Best-of-N, and what votes use.

All subsets where they are few, else random ones; `subset_method(N, k)` says which.
"""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, check_same_shape, row_blocks
from bench.seeds import generator

MAX_EXACT = 20_000  # subsets; up to here all are taken
RANDOM_SUBSETS = 4_096  # else so many: a standard error of at most .008 a prompt for values in 0..1


def subset_method(pool_size: int, k: int) -> str:
    """ "exact" where a mean over k-subsets of pool_size samples takes all of them, else "monte_carlo"."""
    return "exact" if math.comb(pool_size, k) <= MAX_EXACT else "monte_carlo"


def soft_best_of_n(
    proxy: np.ndarray, gold: np.ndarray, n: Sizes, temperature: float, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The mean gold value of a sample drawn among n with probability ∝ exp(proxy / temperature), over n-subsets.

    Temperature → 0 is Best-of-n, → ∞ the plain mean. Exact or Monte Carlo: `subset_method(N, n)`.
    Source: Verdun et al. 2025 (arXiv 2505.03156), definition of soft Best-of-n.
    proxy, gold, n, NaN and errors: as in `best_of_n`. temperature: > 0, in units of the proxy.
    """
    proxy = as_floats("proxy", proxy, 2, shape="[M, N]")
    gold = as_floats("gold", gold, 2, shape="[M, N]")
    check_same_shape(proxy=proxy, gold=gold)
    sizes, single = as_sizes("n", n, proxy.shape[1])
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} is not allowed; it must be above 0 (best_of_n is the limit at 0)")

    def softmax_mean(row: int, columns: np.ndarray) -> Callable[[np.ndarray], float]:
        reward, value = proxy[row, columns], gold[row, columns]

        def mean(subsets: np.ndarray) -> float:
            chosen = reward[subsets]  # [S, k]
            share = np.exp((chosen - chosen.max(axis=1, keepdims=True)) / temperature)
            return float(((share * value[subsets]).sum(axis=1) / share.sum(axis=1)).mean())

        return mean

    values = mean_over_subsets(np.isnan(proxy) | np.isnan(gold), sizes, rng, softmax_mean)
    return values[:, 0] if single else values


def mean_over_subsets(
    missing: np.ndarray,
    sizes: np.ndarray,
    rng: np.random.Generator | None,
    of_row: Callable[[int, np.ndarray], Callable[[np.ndarray], float]],
) -> np.ndarray:
    """[M, K]: of_row(row, its columns that are not missing) gives the mean over subsets [S, k] of those columns."""
    rng = generator(0, "estimators", "subsets") if rng is None else rng
    values = np.full((len(missing), len(sizes)), np.nan)
    subsets: dict[int, list[np.ndarray]] = {}
    for rows, size in row_blocks(missing):
        possible = sizes <= size
        if size not in subsets:
            subsets[size] = draw_subsets(size, sizes[possible], rng)
        for row in rows:
            mean = of_row(row, np.flatnonzero(~missing[row]))
            values[row, possible] = [mean(chosen) for chosen in subsets[size]]
    return values


def draw_subsets(pool_size: int, sizes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """For each k in sizes, [S, k] positions below pool_size: all k-subsets, or random ones without replacement.

    Every row uses the same positions, which is as good as new ones since samples are exchangeable.
    """
    permutations = None
    subsets = []
    for k in sizes.tolist():
        if subset_method(pool_size, k) == "exact":
            subsets.append(np.array(list(combinations(range(pool_size), k)), dtype=np.int32))
        else:
            if permutations is None:  # shared by all k, so that a curve over k is smooth
                positions = np.broadcast_to(np.arange(pool_size, dtype=np.int32), (RANDOM_SUBSETS, pool_size))
                permutations = rng.permuted(positions, axis=1)
            subsets.append(permutations[:, :k])
    return subsets
