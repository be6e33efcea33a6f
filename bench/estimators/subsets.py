"""Means over k-subsets of a prompt's N samples that have no closed form: votes, and soft Best-of-N.

All subsets where they are few, else random ones; `subset_method(N, k)` says which.
"""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, check_same_shape, row_blocks
from bench.seeds import generator

MAX_EXACT = 20_000  # subsets; up to here all are taken
RANDOM_SUBSETS = 4_096  # else so many: a standard error of at most .008 a prompt for values in 0..1


def subset_method(pool_size: int, k: int) -> str:
    """ "exact" where a mean over k-subsets of pool_size samples takes all of them, else "monte_carlo"."""
    return "exact" if math.comb(pool_size, k) <= MAX_EXACT else "monte_carlo"


def majority_at_k(
    answers: np.ndarray, correct: np.ndarray, k: Sizes, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The share of k-subsets of a prompt's N samples whose most frequent answer is correct.

    Answers tied for most frequent share the credit equally, an answer's correctness is the mean of its samples', and a
    subset with nothing but None scores 0. Exact over all subsets, or a Monte Carlo mean over random subsets drawn
    without replacement: `subset_method(N, k)` says which. Source: Wang et al. 2022 (self-consistency), §2.

    answers: [M, N] objects compared by ==; None or NaN is unparsable and casts no vote. correct: [M, N], NaN counts as
    never drawn. k: an int -> [M], a sequence -> [M, K]; a row with fewer than k samples gives NaN. rng: draws the
    subsets where there are too many; without one, a fixed stream. ValueError as in `best_of_n`.
    """
    return _vote(answers, None, correct, k, rng)


def weighted_majority_at_k(
    answers: np.ndarray, weights: np.ndarray, correct: np.ndarray, k: Sizes, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """As `majority_at_k`, with the answer whose samples' weights (rewards) have the largest sum.

    Source: Li et al. 2022 (verifier-weighted voting). weights: [M, N], may be negative; NaN counts as never drawn.
    """
    return _vote(answers, as_floats("weights", weights, 2, shape="[M, N]"), correct, k, rng)


def soft_best_of_n(
    proxy: np.ndarray, gold: np.ndarray, n: Sizes, temperature: float, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The mean gold value of a sample drawn among n with probability ∝ exp(proxy / temperature), over n-subsets.

    Temperature → 0 is Best-of-n, → ∞ the plain mean. Exact or Monte Carlo as in `majority_at_k`.
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

    values = _mean_over_subsets(np.isnan(proxy) | np.isnan(gold), sizes, rng, softmax_mean)
    return values[:, 0] if single else values


def _vote(
    answers: Any, weights: np.ndarray | None, correct: Any, k: Sizes, rng: np.random.Generator | None
) -> np.ndarray:
    correct = as_floats("correct", correct, 2, shape="[M, N]")
    answers = np.asarray(answers)
    check_same_shape(correct=correct, answers=answers)
    missing = np.isnan(correct)
    if weights is not None:
        check_same_shape(correct=correct, weights=weights)
        missing |= np.isnan(weights)
    sizes, single = as_sizes("k", k, correct.shape[1])

    def election(row: int, columns: np.ndarray) -> Callable[[np.ndarray], float]:
        codes, classes = _codes(answers[row, columns])
        counts = np.maximum(np.bincount(codes, minlength=classes + 1), 1)
        right = (np.bincount(codes, correct[row, columns], classes + 1) / counts)[:classes]
        weight = None if weights is None else weights[row, columns]
        return lambda subsets: _credit(codes, classes, weight, right, subsets)

    values = _mean_over_subsets(missing, sizes, rng, election)
    return values[:, 0] if single else values


def _codes(answers: np.ndarray) -> tuple[np.ndarray, int]:
    """([C] class numbers, number of classes); the unparsable ones get the number after the last class."""
    numbers: dict[Any, int] = {}
    codes = [-1 if a is None or a != a else numbers.setdefault(a, len(numbers)) for a in answers.tolist()]
    array = np.array(codes)
    array[array < 0] = len(numbers)
    return array, len(numbers)


def _credit(
    codes: np.ndarray, classes: int, weight: np.ndarray | None, right: np.ndarray, subsets: np.ndarray
) -> float:
    """The mean over subsets [S, k] of the correctness of the class with most votes, or the largest sum of weights."""
    if classes == 0:
        return 0.0
    width = classes + 1
    cells = (codes[subsets] + width * np.arange(len(subsets))[:, None]).ravel()
    shape = (len(subsets), width)
    score: np.ndarray
    count = np.bincount(cells, minlength=shape[0] * width).reshape(shape)[:, :classes]
    if weight is None:
        score = count
    else:
        score = np.bincount(cells, weight[subsets].ravel(), shape[0] * width).reshape(shape)[:, :classes]
    score = np.where(count > 0, score, -np.inf)  # an absent answer may not win over a negative sum
    best = score.max(axis=1, keepdims=True)
    slack = 0 if weight is None else 1e-12 * np.abs(weight).sum()  # equal sums added in another order stay tied
    winners = (score >= best - slack) & (count > 0)
    return float((winners @ right / np.maximum(winners.sum(axis=1), 1)).mean())


def _mean_over_subsets(
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
            subsets[size] = _draw_subsets(size, sizes[possible], rng)
        for row in rows:
            mean = of_row(row, np.flatnonzero(~missing[row]))
            values[row, possible] = [mean(chosen) for chosen in subsets[size]]
    return values


def _draw_subsets(pool_size: int, sizes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
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
