"""Pessimism at inference: of n samples, one drawn by weights that grow with the reward, but only linearly.

The policy of highest reward under a chi-square penalty to the base, on the samples at hand (Huang et al. 2025, arXiv
2503.21878, InferenceTimePessimism): more samples do not make it trust the reward's extremes, as Best-of-n does.
"""

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, check_same_shape, row_blocks
from bench.estimators.subsets import draw_subsets
from bench.seeds import generator

ROUNDING = 1e-12  # of a prompt's weight of 1: what is left of a reward at lambda


def pessimistic_weights(rewards: np.ndarray, beta: float) -> np.ndarray:
    """[M, N]: relu((r - lambda) / beta) / N with lambda such that a prompt's weights sum to 1; 0 at the unscored.

    rewards: [M, N]; N counts the scored ones. lambda is linear between the sorted rewards, so it is found exactly.
    """
    best = np.max(rewards, axis=1, keepdims=True, where=~np.isnan(rewards), initial=-np.inf)
    excess = rewards - np.where(np.isinf(best), 0, best)  # lambda moves with the rewards: the largest is 0
    scored = (~np.isnan(rewards)).sum(axis=1, keepdims=True)  # [M, 1]
    ordered = -np.sort(-excess, axis=1)  # best first, NaN last
    level = _level(ordered, scored, beta)
    weight = np.nan_to_num(np.maximum(excess - level, 0) / (beta * np.maximum(scored, 1)))
    return np.where(weight > ROUNDING, weight, 0)


def pessimism_of_n(
    proxy: np.ndarray, gold: np.ndarray, n: Sizes, beta: float, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The mean gold value of a sample drawn by pessimism among n, over n-subsets of a prompt's N samples.

    All subsets where they are few, else random ones, which leave it unbiased: `bench.estimators.subsets.subset_method`
    says which. Large beta is the plain mean, small beta Best-of-n but for ties.
    proxy, gold, n, NaN and errors: as in `bench.estimators.best_of_n.best_of_n`. beta: > 0, in units of the proxy.
    """
    proxy, gold = as_floats("proxy", proxy, 2, shape="[M, N]"), as_floats("gold", gold, 2, shape="[M, N]")
    check_same_shape(proxy=proxy, gold=gold)
    sizes, single = as_sizes("n", n, proxy.shape[1])
    if not beta > 0:
        raise ValueError(f"beta={beta} is not allowed; it must be above 0 (best_of_n is the limit at 0)")
    rng = generator(0, "estimators", "pessimism") if rng is None else rng
    missing = np.isnan(proxy) | np.isnan(gold)
    values = np.full((len(proxy), len(sizes)), np.nan)
    known: dict[int, list[np.ndarray]] = {}
    for rows, size in row_blocks(missing):
        possible = np.flatnonzero(sizes <= size)
        if size not in known:  # positions in the order of reward, each subset's best first
            known[size] = [np.sort(one, axis=1) for one in draw_subsets(size, sizes[possible], rng)]
        for row in rows.tolist():
            columns = np.flatnonzero(~missing[row])
            columns = columns[np.argsort(-proxy[row, columns], kind="stable")]
            reward, value = proxy[row, columns], gold[row, columns]
            for place, chosen in zip(possible, known[size], strict=True):
                ordered = reward[chosen]  # [S, n]
                scored = np.array([[chosen.shape[1]]])
                weight = np.maximum(ordered - _level(ordered, scored, beta), 0) / (beta * chosen.shape[1])
                values[row, place] = (weight * value[chosen]).sum(axis=1).mean()
    return values[:, 0] if single else values


def _level(ordered: np.ndarray, scored: np.ndarray, beta: float) -> np.ndarray:
    """[M, 1] lambda, of rewards [M, N] in falling order, NaN last; scored: [M, 1], how many are."""
    kept = np.arange(1, ordered.shape[1] + 1)
    lambdas = (np.cumsum(ordered, axis=1) - scored * beta) / kept  # [M, N]: were the `kept` best all above lambda
    consistent = ordered > lambdas  # true for the first few, whose number is how many are; NaN compares false
    last = np.maximum(consistent.sum(axis=1, keepdims=True) - 1, 0)
    return np.take_along_axis(lambdas, last, axis=1)
