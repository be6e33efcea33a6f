"""Best-of-N for every n up to N from one pool of N samples a prompt, without resampling and with ties.

accuracy = best_of_n(reward_model_scores, correct, n=[1, 2, 4, 8])  # [M, 4]
"""

from typing import Literal, TypeAlias

import numpy as np

from bench.estimators.arrays import (
    Sizes,
    as_floats,
    as_outcomes,
    as_sizes,
    check_same_shape,
    row_blocks,
    sorted_pools,
    tie_groups,
    tie_means,
)
from bench.estimators.subsets import soft_best_of_n, subset_method
from bench.estimators.voting import majority_at_k, majority_method, weighted_majority_at_k

__all__ = [
    "best_of_n",
    "best_of_n_variance",
    "best_of_n_weights",
    "majority_at_k",
    "majority_method",
    "pass_at_k",
    "soft_best_of_n",
    "subset_method",
    "weighted_majority_at_k",
]

VarianceOf: TypeAlias = Literal["draw", "estimate"]


def best_of_n(proxy: np.ndarray, gold: np.ndarray, n: Sizes) -> np.ndarray:
    """The mean gold value of the sample with the highest proxy among n, over all n-subsets of a prompt's N samples.

    Unbiased for the expected gold value of Best-of-n, with ties broken uniformly: a U-statistic, the sum over tie
    groups of [C(b, n) − C(a, n)] / C(N, n) times the group's mean gold, where a samples lie below the group and b at
    or below it. Source: Nakano et al. 2021 (WebGPT), appendix I; Gao et al. 2022, §2; the ties are ours.

    proxy, gold: [M, N], the selector's reward and the outcome that counts. n: an int -> [M], a sequence -> [M, K].
    A sample whose proxy or gold is NaN counts as never drawn; a row with fewer than n others gives NaN.
    ValueError for unequal shapes, infinities, n < 1 or n > N.
    """
    proxy = as_floats("proxy", proxy, 2, shape="[M, N]")
    gold = as_floats("gold", gold, 2, shape="[M, N]")
    check_same_shape(proxy=proxy, gold=gold)
    sizes, single = as_sizes("n", n, proxy.shape[1])
    values = np.full((len(proxy), len(sizes)), np.nan)
    for pool in sorted_pools(proxy, gold):
        # With every group at its mean, the groups' weights may be spread over their members in any way.
        values[pool.rows] = tie_means(pool.rewards, pool.sort(gold)) @ rank_weights(pool.size, sizes)
    return values[:, 0] if single else values


def best_of_n_weights(proxy: np.ndarray, n: Sizes) -> np.ndarray:
    """The probability that each sample is the Best-of-n of a random n-subset of its row; ties share equally.

    The mean of any per-sample quantity under Best-of-n is its sum with these weights (source: see `best_of_n`).
    proxy: [M, N]. n: an int -> [M, N], a sequence -> [M, N, K]. Every row sums to 1; NaN samples get 0, and a row
    with fewer than n scored samples is all NaN. ValueError as in `best_of_n`.
    """
    proxy = as_floats("proxy", proxy, 2, shape="[M, N]")
    sizes, single = as_sizes("n", n, proxy.shape[1])
    weights = np.full((*proxy.shape, len(sizes)), np.nan)
    for pool in sorted_pools(proxy):
        table = rank_weights(pool.size, sizes)  # [C, K]
        for column in range(len(sizes)):
            if sizes[column] <= pool.size:
                ranked = np.broadcast_to(table[:, column], pool.rewards.shape)
                weights[pool.rows, :, column] = 0
                weights[pool.rows[:, None], pool.order, column] = tie_means(pool.rewards, ranked)
    return weights[..., 0] if single else weights


def pass_at_k(correct: np.ndarray, k: Sizes) -> np.ndarray:
    """The share of k-subsets of a prompt's N samples that hold a correct one: 1 − C(wrong, k) / C(N, k).

    Unbiased. Source: Chen et al. 2021 (Codex), eq. 1. It is `best_of_n` with proxy = gold = correct.
    correct: [M, N] of 0 and 1, NaN counts as never drawn. k: an int -> [M], a sequence -> [M, K]; a row with fewer
    than k scored samples gives NaN. ValueError for other values, k < 1 or k > N.
    """
    correct = as_outcomes("correct", correct)
    sizes, single = as_sizes("k", k, correct.shape[1])
    values = np.full((len(correct), len(sizes)), np.nan)
    for rows, size in row_blocks(np.isnan(correct)):
        from_the_top = np.cumsum(rank_weights(size, sizes)[::-1], axis=0)  # [C, K], correct samples rank highest
        table = np.concatenate([np.where(sizes <= size, 0.0, np.nan)[None], from_the_top])
        values[rows] = table[np.nansum(correct[rows], axis=1).astype(np.int64)]
    return values[:, 0] if single else values


def best_of_n_variance(proxy: np.ndarray, gold: np.ndarray, n: Sizes, *, of: VarianceOf = "draw") -> np.ndarray:
    """The variance within a prompt of one Best-of-n outcome, or of `best_of_n` itself; unbiased for both.

    The square of the mean is estimated from all pairs of disjoint n-subsets, hence n ≤ N/2. The variance of a draw is
    σ² of Miller 2024 (one Best-of-n answer a prompt); that of the estimate is what it falls to with this pool: sampling
    noise within the prompt, to be set against the variance between prompts. n = 1 gives s² and s²/N. Being unbiased,
    single rows can be negative; average them.

    proxy, gold: [M, N]. n: an int -> [M], a sequence -> [M, K]. NaN samples count as never drawn, and a row with fewer
    than 2n others gives NaN. Errors as in `best_of_n`, and for 2n > N. Source: Hoeffding 1948 (U-statistics).
    """
    if of not in ("draw", "estimate"):
        raise ValueError(f"of={of!r} is not known; it must be draw or estimate")
    proxy = as_floats("proxy", proxy, 2, shape="[M, N]")
    gold = as_floats("gold", gold, 2, shape="[M, N]")
    check_same_shape(proxy=proxy, gold=gold)
    sizes, single = as_sizes("n", n, proxy.shape[1] // 2)
    values = np.full((len(proxy), len(sizes)), np.nan)
    for pool in sorted_pools(proxy, gold):
        drawn = pool.sort(gold)
        mean = tie_means(pool.rewards, drawn)
        square = tie_means(pool.rewards, drawn**2)
        start, length = tie_groups(pool.rewards)
        # E[g g'] of two different members of one tie group, in place of the product of their means
        within = (length * mean**2 - square) / np.maximum(length - 1, 1)
        table = rank_weights(pool.size, sizes)
        for column, size in enumerate(sizes.tolist()):
            if 2 * size > pool.size:
                continue
            # The other subset's maximum has rank j: C(j − 1 − n, n − 1) choices, once n ranks below it are taken.
            other = np.zeros(pool.size)
            other[size:] = rank_weights(pool.size - size, np.array([size]))[:, 0]
            lower = table[:, column] * mean
            below = np.cumsum(lower, axis=1) - lower
            lower_group = np.take_along_axis(below, start, axis=1)  # all ranks below the own tie group
            rank_total = np.cumsum(table[:, column]) - table[:, column]
            same = rank_total - np.take(rank_total, start)
            mean_squared = 2 * (other * (mean * lower_group + within * same)).sum(axis=1)
            estimate = mean @ table[:, column]
            total = square @ table[:, column] if of == "draw" else estimate**2
            values[pool.rows, column] = total - mean_squared
    return values[:, 0] if single else values


def rank_weights(pool_size: int, sizes: np.ndarray) -> np.ndarray:
    """[C, K]: the share of n-subsets of C distinct rewards whose maximum has rank 1 .. C; NaN where n > C.

    C(i − 1, n − 1) / C(C, n), from the top rank n / C down by factors (i − n) / (i − 1): nothing overflows, and what
    underflows is zero for all purposes.
    """
    rank = np.arange(pool_size, 1, -1, dtype=np.float64)[:, None]  # [C - 1, 1]
    factors = np.maximum(rank - sizes, 0) / (rank - 1)
    weights = np.cumprod(np.concatenate([sizes[None] / pool_size, factors]), axis=0)[::-1].copy()
    weights[weights < 1e-290] = 0  # subnormal numbers would slow the matrix product
    weights[:, sizes > pool_size] = np.nan
    return weights
