"""Estimate Best-of-n, pass@k, pass^k, medians, distinct labels for every n up to N from one pool, by exact subset sums.

accuracy = best_of_n(reward_model_scores, [1, 2, 4, 8], gold=correct)  # [M, 4]
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from bench.estimators.arrays import Sizes, as_equal_floats, as_floats, as_outcomes, as_sizes, sorted_rows, tie_means

__all__ = [
    "best_of_n",
    "distinct_at_k",
    "fit_coverage",
    "median_of_n",
    "pass_at_k",
    "pass_at_k_of_counts",
    "pass_hat_k",
    "pass_hat_k_of_counts",
]


def best_of_n(rewards: np.ndarray, n: Sizes, gold: np.ndarray | None = None) -> np.ndarray:
    """Return the expected gold value of the sample with the highest reward among n, for each prompt.

    Unbiased, with ties broken uniformly: the mean over all n-subsets of a prompt's N samples (a U-statistic). It is
    the sum over groups of tied samples of [C(b, n) − C(a, n)] / C(N, n) times the group's mean gold, where a samples
    lie below the group and b at or below it. Source: Nakano et al. 2021 (WebGPT), appendix I; Gao et al. 2022, §2; the
    treatment of ties is ours.

    rewards, gold: [M, N], the selector's reward and the outcome that counts; without gold, the reward itself.
    n: an int -> [M], a sequence -> [M, K].
    A sample whose reward or gold is NaN counts as never drawn; a row with fewer than n other samples gives NaN.
    Raises ValueError for unequal shapes, infinities, n < 1 or n > N.

    >>> rewards = [[0.1, 0.9, 0.5, 0.5], [0.2, 0.2, 0.2, 0.7]]
    >>> correct = [[0, 1, 1, 0], [0, 0, 1, 1]]
    >>> best_of_n(rewards, [1, 2, 4], gold=correct).round(3).tolist()
    [[0.5, 0.75, 1.0], [0.5, 0.667, 1.0]]
    """
    rewards, gold = as_equal_floats("[M, N]", rewards=rewards, gold=rewards if gold is None else gold)
    sizes, single = as_sizes("n", n, rewards.shape[1])
    values = np.full((len(rewards), len(sizes)), np.nan)
    for block in sorted_rows(rewards, gold):
        # With every group at its mean, the groups' weights may be spread over their members in any way.
        values[block.rows] = tie_means(block.rewards, block.sort(gold)) @ rank_weights(block.size, sizes)
    return values[:, 0] if single else values


def pass_at_k(correct: np.ndarray, k: Sizes) -> np.ndarray:
    """Return the probability that at least one of k samples is correct, for each prompt: 1 − C(wrong, k) / C(N, k).

    Unbiased: the mean over all k-subsets, equal to `best_of_n` of correct.
    Source: Chen et al. 2021 (Codex), eq. 1.

    correct: [M, N] of 0 and 1; NaN counts as never drawn. k: an int -> [M], a sequence -> [M, K]; a row with fewer
    than k scored samples gives NaN. Raises ValueError for other values, k < 1 or k > N.

    >>> pass_at_k([[0, 1, 0, 0], [1, 1, 0, 0]], [1, 2, 4]).round(3).tolist()
    [[0.25, 0.5, 1.0], [0.5, 0.833, 1.0]]
    """
    correct = as_outcomes("correct", correct)
    as_sizes("k", k, correct.shape[1])
    return pass_at_k_of_counts(np.nansum(correct, axis=1), (~np.isnan(correct)).sum(axis=1), k)


def pass_at_k_of_counts(correct: np.ndarray, samples: np.ndarray, k: Sizes) -> np.ndarray:
    """Return `pass_at_k` from counts: how many of each prompt's samples are correct.

    correct, samples: [M], whole numbers with 0 <= correct <= samples. k: an int -> [M], a sequence -> [M, K]; a prompt
    with fewer than k samples gives NaN. Raises ValueError for other counts, and k < 1.

    >>> pass_at_k_of_counts([1, 2], [4, 4], [1, 2]).round(3).tolist()
    [[0.25, 0.5], [0.5, 0.833]]
    """
    return _of_counts(correct, samples, k, from_the_top=True)


def pass_hat_k(correct: np.ndarray, k: Sizes) -> np.ndarray:
    """Return the probability that all of k samples are correct, for each prompt: C(correct, k) / C(N, k), "pass^k".

    Unbiased: the mean over all k-subsets. Source: Yao et al. 2024 (τ-bench), §3. Arguments, errors as in `pass_at_k`.

    >>> pass_hat_k([[0, 1, 0, 0], [1, 1, 1, 0]], [1, 2, 4]).round(3).tolist()
    [[0.25, 0.0, 0.0], [0.75, 0.5, 0.0]]
    """
    correct = as_outcomes("correct", correct)
    as_sizes("k", k, correct.shape[1])
    return pass_hat_k_of_counts(np.nansum(correct, axis=1), (~np.isnan(correct)).sum(axis=1), k)


def pass_hat_k_of_counts(correct: np.ndarray, samples: np.ndarray, k: Sizes) -> np.ndarray:
    """Return `pass_hat_k` from counts. Arguments and errors as in `pass_at_k_of_counts`.

    >>> pass_hat_k_of_counts([3, 10], [4, 10], [1, 2]).round(3).tolist()
    [[0.75, 0.5], [1.0, 1.0]]
    """
    return _of_counts(correct, samples, k, from_the_top=False)


def _of_counts(correct: np.ndarray, samples: np.ndarray, k: Sizes, *, from_the_top: bool) -> np.ndarray:
    """Return the share of k-subsets whose top sample is correct if correct ones rank at the top, or at the bottom."""
    correct, samples = as_equal_floats("[M]", correct=correct, samples=samples)
    if not (
        (correct == np.floor(correct)) & (samples == np.floor(samples)) & (correct >= 0) & (correct <= samples)
    ).all():
        raise ValueError("correct and samples [M] must be whole numbers with 0 <= correct <= samples")
    sizes, single = as_sizes("k", k)
    values = np.full((len(correct), len(sizes)), np.nan)
    for size in np.unique(samples[samples > 0]).astype(int).tolist():
        weights = rank_weights(size, sizes)
        shares = np.cumsum(weights[::-1] if from_the_top else weights, axis=0)  # [C, K]
        table = np.concatenate([np.where(sizes <= size, 0.0, np.nan)[None], shares])
        rows = samples == size
        values[rows] = table[correct[rows].astype(np.int64)]
    return values[:, 0] if single else values


def median_of_n(rewards: np.ndarray, n: Sizes) -> np.ndarray:
    """Return the expected median reward of n samples, for each prompt; for even n, the mean of the middle two.

    Unbiased: the mean over all n-subsets (a U-statistic, Hoeffding 1948). The sample of rank i is the k-th smallest of
    C(i − 1, k − 1) · C(N − i, n − k) of the C(N, n) subsets.

    rewards: [M, N]. n, NaN and errors as in `best_of_n`.

    >>> median_of_n([[1, 2, 6]], [1, 2, 3]).tolist()  # the mean; the mean of (1.5, 3.5, 4); the middle one
    [[3.0, 3.0, 2.0]]
    """
    rewards = as_floats("rewards", rewards, "[M, N]")
    sizes, single = as_sizes("n", n, rewards.shape[1])
    values = np.full((len(rewards), len(sizes)), np.nan)
    for block in sorted_rows(rewards):
        for column, size in enumerate(sizes.tolist()):
            if size <= block.size:
                middle = {(size + 1) // 2, size // 2 + 1}
                weights = np.mean([_order_statistic(block.size, size, k) for k in middle], axis=0)
                values[block.rows, column] = block.rewards @ weights
    return values[:, 0] if single else values


def distinct_at_k(labels: Any, k: Sizes) -> np.ndarray:
    """Return the expected number of distinct labels among k samples, for each prompt.

    Unbiased: the mean over all k-subsets. A label that m samples bear is among k of them with probability
    1 − C(N − m, k) / C(N, k), as in pass@k (Chen et al. 2021, eq. 1).

    labels: [M, N] hashable objects; a sample labelled None or NaN is drawn but counts for nothing.
    k: an int -> [M], a sequence -> [M, K]. Raises ValueError for another shape, k < 1 or k > N.

    >>> distinct_at_k([["a", "a", "b", None]], [1, 2]).round(3).tolist()  # 3/4, (1 + 2 + 2 + 1 + 1 + 1) / 6
    [[0.75, 1.333]]
    """
    labels = np.asarray(labels, object)
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels has shape {list(labels.shape)}; a non-empty array [M, N] is expected")
    sizes, single = as_sizes("k", k, labels.shape[1])
    seen = np.cumsum(rank_weights(labels.shape[1], sizes)[::-1], axis=0)  # [N, K]: at least one of m = 1 .. N bearers
    values = np.zeros((len(labels), len(sizes)))
    for row, prompt_labels in enumerate(labels.tolist()):
        bearers = Counter(label for label in prompt_labels if label is not None and label == label)
        values[row] = seen[[m - 1 for m in bearers.values()]].sum(axis=0)
    return values[:, 0] if single else values


class PowerLaw(NamedTuple):
    """coverage(k) = exp(−a · k^(−b)): −log of the coverage falls as a power of k."""

    a: float
    b: float

    def __call__(self, k: np.ndarray) -> np.ndarray:
        return np.exp(-self.a * np.asarray(k, float) ** -self.b)


def fit_coverage(k: Sizes, coverage: np.ndarray) -> PowerLaw:
    """Fit the exponentiated power law of Brown et al. 2024 (Large Language Monkeys) to coverage (pass@k) over k.

    Weighted least squares of log(−log c) on log k. The weight of a point is c (log c)² / (1 − c), the inverse of its
    delta-method variance where c is a share of prompts. Points at 0 or 1 do not determine the slope and are left out.

    k, coverage: [K]. Raises ValueError where fewer than two points are left.

    >>> law = fit_coverage([1, 4, 16], np.exp([-2.0, -1.0, -0.5]))  # -log halves where k grows fourfold: b = 1/2
    >>> round(law.a, 6), round(law.b, 6)
    (2.0, 0.5)
    """
    sizes, _ = as_sizes("k", k)
    coverage = as_floats("coverage", coverage, "[K]")
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


def rank_weights(pool_size: int, sizes: np.ndarray) -> np.ndarray:
    """Return [C, K]: the share of n-subsets of C distinct rewards whose maximum has rank 1 .. C; NaN where n > C.

    This is C(i − 1, n − 1) / C(C, n), computed from the top rank's n / C down by factors (i − n) / (i − 1). Nothing
    overflows, and values that underflow are negligible.
    """
    rank = np.arange(pool_size, 1, -1, dtype=np.float64)[:, None]  # [C - 1, 1]
    factors = np.maximum(rank - sizes, 0) / (rank - 1)
    weights = np.cumprod(np.concatenate([sizes[None] / pool_size, factors]), axis=0)[::-1].copy()
    weights[weights < 1e-290] = 0  # subnormal numbers would slow the matrix product
    weights[:, sizes > pool_size] = np.nan
    return weights


def _order_statistic(pool_size: int, n: int, k: int) -> np.ndarray:
    """Return [C]: the share of n-subsets of C distinct values whose k-th smallest has rank 1 .. C."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pool_size + 1)))])

    def log_choose(total: np.ndarray | int, chosen: int) -> np.ndarray:
        total = np.asarray(total)
        safe = np.maximum(total, chosen)
        ways = log_factorial[safe] - log_factorial[chosen] - log_factorial[safe - chosen]
        return np.where(total >= chosen, ways, -np.inf)

    rank = np.arange(1, pool_size + 1)
    return np.exp(log_choose(rank - 1, k - 1) + log_choose(pool_size - rank, n - k) - log_choose(pool_size, n))
