"""Votes among k of a prompt's N samples: exact over all k-subsets where they are few, else over random ones."""

import math
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


def draw_subsets(pool_size: int, sizes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """For each k in sizes, [S, k] positions below pool_size: all k-subsets, or random ones without replacement."""
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


def _vote(
    answers: Any, weights: np.ndarray | None, correct: Any, k: Sizes, rng: np.random.Generator | None
) -> np.ndarray:
    correct = as_floats("correct", correct, 2, shape="[M, N]")
    answers = np.asarray(answers)
    check_same_shape(correct=correct, answers=answers)
    sizes, single = as_sizes("k", k, correct.shape[1])
    rng = generator(0, "estimators", "subsets") if rng is None else rng
    missing = np.isnan(correct) if weights is None else np.isnan(correct) | np.isnan(weights)
    values = np.full((len(correct), len(sizes)), np.nan)
    subsets: dict[int, list[np.ndarray]] = {}
    for rows, size in row_blocks(missing):
        possible = sizes[sizes <= size]
        if size not in subsets:
            subsets[size] = draw_subsets(size, possible, rng)
        for row in rows:
            present = ~missing[row]
            codes, classes = _codes(answers[row, present])
            if classes == 0:
                values[row, sizes <= size] = 0
                continue
            votes = codes < classes
            right = np.bincount(codes, correct[row, present], classes + 1)[:classes] / np.bincount(codes[votes])
            weight = None if weights is None else weights[row, present]
            values[row, sizes <= size] = [_credit(codes, classes, weight, right, chosen) for chosen in subsets[size]]
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
    width = classes + 1
    cells = (codes[subsets] + width * np.arange(len(subsets))[:, None]).ravel()
    shape = (len(subsets), width)
    count = np.bincount(cells, minlength=shape[0] * width).reshape(shape)[:, :classes]
    score: np.ndarray
    if weight is None:
        score = count
    else:
        score = np.bincount(cells, weight[subsets].ravel(), shape[0] * width).reshape(shape)[:, :classes]
    score = np.where(count > 0, score, -np.inf)  # an absent answer may not win over a negative sum
    best = score.max(axis=1, keepdims=True)
    slack = 0 if weight is None else 1e-12 * np.abs(weight).sum()  # equal sums added in another order stay tied
    winners = (score >= best - slack) & (count > 0)
    return float((winners @ right / np.maximum(winners.sum(axis=1), 1)).mean())
