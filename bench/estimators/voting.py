"""Estimate majority votes among k of a prompt's N samples: the mean over all k-subsets, or random ones if too many."""

import functools
import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_generator, as_sizes, check_same_shape, row_blocks
from bench.seeds import generator

__all__ = ["majority_at_k", "majority_method", "subset_method", "vote_weights", "weighted_majority_at_k"]
MAX_EXACT = 20_000  # subsets; up to this number, all are taken
RANDOM_SUBSETS = 4_096  # otherwise so many: a standard error of at most 0.008 per prompt for values in 0 .. 1
COUNTABLE = 64  # samples per prompt up to which votes are counted exactly instead of in random subsets


def majority_method(pool_size: int, k: int) -> str:
    """Return "exact" where `majority_at_k` is the mean over all k-subsets of pool_size samples, else "monte_carlo".

    >>> majority_method(64, 16), majority_method(100, 50)
    ('exact', 'monte_carlo')
    """
    return "exact" if pool_size <= COUNTABLE else subset_method(pool_size, k)


def majority_at_k(
    answers: np.ndarray, correct: np.ndarray, k: Sizes, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the expected correctness of the most frequent answer among k samples, for each prompt.

    The mean over k-subsets of a prompt's N samples. Answers tied for most frequent share the credit equally, the
    correctness of an answer is the mean of its samples', and a subset of only None scores 0. Exact for N up to 64,
    where the probability that an answer wins is counted from the number of samples with each answer; beyond it,
    `majority_method(N, k)` says whether all subsets were taken or random ones without replacement.
    Source: Wang et al. 2022 (self-consistency), §2.

    answers: [M, N] objects compared by ==; None or NaN is unparsable and casts no vote. correct: [M, N]; NaN counts as
    never drawn. k: an int -> [M], a sequence -> [M, K]; a row with fewer than k samples gives NaN. rng: draws random
    subsets; without one, a fixed stream. Raises ValueError as `best_of_n` does.

    >>> majority_at_k([["7", "7", "9", "8"]], [[1, 1, 0, 0]], [1, 3]).round(3).tolist()
    [[0.5, 0.667]]
    """
    correct = as_floats("correct", correct, "[M, N]")
    answers = np.asarray(answers, object)  # else NaN among texts would become a text
    if correct.shape[1] > COUNTABLE:
        return _vote(answers, None, correct, k, rng)
    check_same_shape(correct=correct, answers=answers)
    sizes, single = as_sizes("k", k, correct.shape[1])
    if correct.shape[1] == 1:  # a sample wins by itself, where it has an answer
        blank = np.array([[a is None or a != a] for a in answers[:, 0].tolist()])
        values = np.repeat(np.where(blank & ~np.isnan(correct), 0.0, correct), len(sizes), axis=1)
        return values[:, 0] if single else values
    values = np.full((len(correct), len(sizes)), np.nan)
    for row in range(len(correct)):
        drawn = np.flatnonzero(~np.isnan(correct[row]))
        codes, classes = _codes(answers[row, drawn])
        votes = np.bincount(codes, minlength=classes + 1)
        right = np.bincount(codes, correct[row, drawn], classes + 1)[:classes] / votes[:classes]
        possible = sizes <= len(drawn)
        shares = _winning_shares(tuple(sorted(votes[:classes].tolist())), int(votes[classes]), tuple(sizes[possible]))
        values[row, possible] = sum(
            (shares[held] * credit for held, credit in zip(votes.tolist(), right.tolist(), strict=False)), np.zeros(1)
        )
    return values[:, 0] if single else values


def weighted_majority_at_k(
    answers: np.ndarray, weights: np.ndarray, correct: np.ndarray, k: Sizes, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the expected correctness of the answer with the largest sum of weights among k samples.

    Exact where the subsets are few, else Monte Carlo: `subset_method(N, k)` says which. Otherwise as `majority_at_k`.
    Source: Li et al. 2022 (verifier-weighted voting). weights: [M, N], as `vote_weights` gives them; NaN: never drawn.

    >>> weighted_majority_at_k([["7", "7", "9"]], [[0.2, 0.2, 0.5]], [[1, 1, 0]], [1, 3]).round(3).tolist()  # 0.4 < 0.5
    [[0.667, 0.0]]
    """
    return _vote(answers, as_floats("weights", weights, "[M, N]"), correct, k, rng)


def vote_weights(rewards: np.ndarray, *, log_odds: bool = False) -> np.ndarray:
    """Return [M, N] the weights that rewards have in `weighted_majority_at_k`: themselves, where none is negative.

    A negative reward shows that the scale has no zero, as the log-odds of a Bradley-Terry reward model have none: a sum
    of them says as much of the zero as of the answers. Such rewards count by their strength in that model, exp(reward),
    here relative to the highest one of each prompt. NaN stays NaN. Source: Bradley & Terry 1952.
    log_odds: whether the rewards are known to be such, so that they count by their strength even if none is negative.

    >>> vote_weights([[0.0, -0.693], [-3.0, -3.693]]).round(2).tolist()  # the same odds, 2 to 1, at any zero
    [[1.0, 0.5], [1.0, 0.5]]
    """
    rewards = as_floats("rewards", rewards, "[M, N]")
    if not log_odds and not (rewards < 0).any():
        return rewards
    return np.exp(rewards - np.fmax.reduce(rewards, axis=1, keepdims=True))


@functools.lru_cache(maxsize=10_000)  # a sweep meets the same counts again and again
def _winning_shares(votes: tuple[int, ...], blank: int, drawn: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Return, by the number of samples that hold an answer, [K] the expected share of the credit that it wins.

    votes: the number of samples of each answer. blank: samples without an answer. drawn: the K subset sizes.
    """
    total = sum(votes) + blank
    shares = {}
    for held in set(votes):
        ways = np.zeros(total + 1)  # by subset size; each way weighs the answer's share of the credit
        for won in range(1, held + 1):  # the answer wins or ties with this many votes
            rivals = list(votes)
            rivals.remove(held)
            rivals = [other for other in rivals if other >= won]
            beaten = _ways(tuple(rivals), total - held - sum(rivals), won, total)  # [ties, size]
            credit = (beaten / np.arange(1, len(beaten) + 1)[:, None]).sum(axis=0)
            ways[won:] += math.comb(held, won) * credit[: total + 1 - won]
        shares[held] = np.array([ways[k] / math.comb(total, k) for k in drawn])
    return shares


@functools.lru_cache(maxsize=10_000)
def _ways(rivals: tuple[int, ...], others: int, most: int, total: int) -> np.ndarray:
    """Return [t, s]: the ways to draw s samples with t answers at exactly `most` votes and none above it.

    rivals: the number of samples of each answer that could reach `most` votes. others: samples of which any number may
    be drawn. total: the largest s.
    """
    if not rivals:
        return np.array([[float(math.comb(others, i)) for i in range(total + 1)]])
    *fewer, held = rivals
    ways = _ways(tuple(fewer), others, most, total)
    grown = np.zeros((len(rivals) + 1, total + 1))
    for count in range(most):
        grown[:-1, count:] += math.comb(held, count) * ways[:, : total + 1 - count]
    grown[1:, most:] += math.comb(held, most) * ways[:, : total + 1 - most]
    return grown


def _vote(
    answers: Any, weights: np.ndarray | None, correct: Any, k: Sizes, rng: np.random.Generator | None
) -> np.ndarray:
    """Return the mean over k-subsets of the winner's correctness; weights: [M, N], or None for one vote per sample."""
    correct = as_floats("correct", correct, "[M, N]")
    answers = np.asarray(answers, object)  # else NaN among texts would become a text
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

    values = mean_over_subsets(missing, sizes, rng, election)
    return values[:, 0] if single else values


def _codes(answers: np.ndarray) -> tuple[np.ndarray, int]:
    """Return [C] class numbers and the number of classes; unparsable answers get the number after the last class."""
    numbers: dict[Any, int] = {}
    codes = [-1 if a is None or a != a else numbers.setdefault(a, len(numbers)) for a in answers.tolist()]
    array = np.array(codes, dtype=np.int64)  # of no answers too
    array[array < 0] = len(numbers)
    return array, len(numbers)


def _credit(
    codes: np.ndarray, classes: int, weight: np.ndarray | None, right: np.ndarray, subsets: np.ndarray
) -> float:
    """Return the mean over subsets [S, k] of the correctness of the class with most votes, or most weight."""
    if classes == 0:
        return 0.0
    width = classes + 1
    cells = (codes[subsets] + width * np.arange(len(subsets))[:, None]).ravel()

    def summed(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(cells, weights, len(subsets) * width).reshape(-1, width)[:, :classes]

    count = summed(None)
    score = count if weight is None else summed(weight[subsets].ravel())
    score = np.where(count > 0, score, -np.inf)  # an absent answer may not win over a negative sum
    best = score.max(axis=1, keepdims=True)
    # equal sums added in another order stay tied; small sums differ beside a large one that was not drawn
    slack = 0 if weight is None else 1e-12 * np.abs(weight[subsets]).sum(axis=1, keepdims=True)
    winners = (score >= best - slack) & (count > 0)
    return float((winners @ right / np.maximum(winners.sum(axis=1), 1)).mean())


def subset_method(pool_size: int, k: int) -> str:
    """Return "exact" where a mean over k-subsets of pool_size samples takes all of them, else "monte_carlo".

    >>> subset_method(20, 4), subset_method(64, 16)  # 4,845 subsets; 5e14
    ('exact', 'monte_carlo')
    """
    return "exact" if math.comb(pool_size, k) <= MAX_EXACT else "monte_carlo"


def mean_over_subsets(
    missing: np.ndarray,
    sizes: np.ndarray,
    rng: np.random.Generator | None,
    row_mean: Callable[[int, np.ndarray], Callable[[np.ndarray], float]],
    *,
    ascending: bool = False,
) -> np.ndarray:
    """Return [M, K]: a mean over subsets for each row and size; NaN where a row has too few samples.

    missing: [M, N] bool, samples that count as never drawn. sizes: [K].
    row_mean(row, columns) takes the row's present columns and returns a function from subsets [S, k], as positions in
    `columns`, to their mean. rng: draws random subsets; None stands for a fixed stream.
    ascending: sort the positions within every subset.
    """
    rng = generator(0, "estimators", "subsets") if rng is None else rng
    values = np.full((len(missing), len(sizes)), np.nan)
    subsets: dict[int, list[np.ndarray]] = {}
    for rows, size in row_blocks(missing):
        possible = sizes <= size
        if size not in subsets:
            drawn = _draw_subsets(size, sizes[possible], rng)
            subsets[size] = [np.sort(positions, axis=1) for positions in drawn] if ascending else drawn
        for row in rows.tolist():
            mean = row_mean(row, np.flatnonzero(~missing[row]))
            values[row, possible] = [mean(positions) for positions in subsets[size]]
    return values


def _draw_subsets(pool_size: int, sizes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return, for each k in sizes, positions [S, k] below pool_size: all k-subsets, or random ones.

    Random subsets are drawn without replacement. Every row uses the same positions, which is as good as new ones
    because samples are exchangeable.
    """
    permutations = None
    subsets = []
    for k in sizes.tolist():
        if subset_method(pool_size, k) == "exact":
            subsets.append(np.array(list(combinations(range(pool_size), k)), dtype=np.int32))
        else:
            if permutations is None:  # shared by all k, so that a curve over k is smooth
                positions = np.broadcast_to(np.arange(pool_size, dtype=np.int32), (RANDOM_SUBSETS, pool_size))
                permutations = as_generator(rng).permuted(positions, axis=1)
            subsets.append(permutations[:, :k])
    return subsets
