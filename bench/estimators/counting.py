"""Exact means over n-subsets of a prompt's N samples: the median reward, and how many distinct labels it holds."""

from collections import Counter
from typing import Any

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, sorted_pools
from bench.estimators.best_of_n import rank_weights


def median_of_n(rewards: np.ndarray, n: Sizes) -> np.ndarray:
    """The mean over all n-subsets of the median of their rewards (for even n, the mean of the middle two).

    The sample of rank i is the k-th smallest of C(i − 1, k − 1) · C(N − i, n − k) of the C(N, n) subsets: a U-statistic
    (Hoeffding 1948), unbiased for n draws.
    rewards: [M, N]. n: an int -> [M], a sequence -> [M, K]. NaN counts as never drawn; a row with fewer than n others
    gives NaN. ValueError for infinities, n < 1 or n > N.
    """
    rewards = as_floats("rewards", rewards, 2, shape="[M, N]")
    sizes, single = as_sizes("n", n, rewards.shape[1])
    values = np.full((len(rewards), len(sizes)), np.nan)
    for pool in sorted_pools(rewards):
        for column, size in enumerate(sizes.tolist()):
            if size <= pool.size:
                middle = {(size + 1) // 2, size // 2 + 1}
                weights = np.mean([_order_statistic(pool.size, size, k) for k in middle], axis=0)
                values[pool.rows, column] = pool.rewards @ weights
    return values[:, 0] if single else values


def distinct_at_k(labels: Any, k: Sizes) -> np.ndarray:
    """The mean over all k-subsets of a prompt's N samples of the number of distinct labels among them.

    Each label that m samples bear is met with probability 1 − C(N − m, k) / C(N, k), as in pass@k (Chen et al. 2021,
    eq. 1). labels: [M, N] hashable objects; a sample labelled None is drawn but counts for nothing.
    k: an int -> [M], a sequence -> [M, K]. ValueError for another shape, k < 1 or k > N.
    """
    labels = np.asarray(labels, object)
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels has shape {list(labels.shape)}; a non-empty array [M, N] is expected")
    sizes, single = as_sizes("k", k, labels.shape[1])
    met = np.cumsum(rank_weights(labels.shape[1], sizes)[::-1], axis=0)  # [N, K]: by at least one of m = 1 .. N
    values = np.zeros((len(labels), len(sizes)))
    for row, of_prompt in enumerate(labels.tolist()):
        bearers = Counter(label for label in of_prompt if label is not None)
        values[row] = met[[m - 1 for m in bearers.values()]].sum(axis=0)
    return values[:, 0] if single else values


def _order_statistic(pool_size: int, n: int, k: int) -> np.ndarray:
    """[C]: the share of n-subsets of C distinct values whose k-th smallest has rank 1 .. C."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pool_size + 1)))])

    def log_choose(total: np.ndarray | int, chosen: int) -> np.ndarray:
        total = np.asarray(total)
        safe = np.maximum(total, chosen)
        found = log_factorial[safe] - log_factorial[chosen] - log_factorial[safe - chosen]
        return np.where(total >= chosen, found, -np.inf)

    rank = np.arange(1, pool_size + 1)
    return np.exp(log_choose(rank - 1, k - 1) + log_choose(pool_size - rank, n - k) - log_choose(pool_size, n))
