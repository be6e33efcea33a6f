"""Estimate soft Best-of-n and pessimism, which pick one of n samples by smooth functions of the reward."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import Sizes, as_equal_floats, as_floats, as_sizes, check_same_shape, sorted_rows
from bench.estimators.voting import mean_over_subsets
from bench.seeds import generator

STEP = 0.25  # of the quadrature in log t: an error below 1e-12 for so smooth an integrand
JACKKNIFED = 1024  # samples; beyond it the bias of order 1/N that the jackknife removes is below its own rounding
WIDEST = 20_000.0  # (highest - lowest reward) / temperature; the quadrature's grid grows with it
ROUNDING = 1e-12  # relative to a prompt's total weight of 1: what rounding leaves of a reward at lambda


class SoftBestOfN(NamedTuple):
    means: np.ndarray  # [M, J]
    kl: np.ndarray  # [M] nats per sequence


def soft_best_of_n(
    proxy: np.ndarray, gold: np.ndarray, n: Sizes, temperature: float, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the expected gold value of a sample picked among n with probability ∝ exp(proxy / temperature).

    The mean over n-subsets of a prompt's N samples, all or random ones: `subset_method(N, n)` says which. Temperature
    → 0 is Best-of-n, → ∞ the plain mean. Source: Verdun et al. 2025 (arXiv 2505.03156), definition of soft Best-of-n.

    proxy, gold, n, NaN and errors: as in `best_of_n`. temperature: > 0, in units of the proxy.
    rng: draws random subsets; without one, a fixed stream.

    >>> soft_best_of_n([[0, 1]], [[0, 1]], 2, temperature=1).round(3).tolist()  # e / (1 + e)
    [0.731]
    """
    proxy, gold = as_equal_floats("[M, N]", proxy=proxy, gold=gold)
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


def estimate_soft_best_of_n(rewards: np.ndarray, values: np.ndarray, n: int, temperature: float) -> SoftBestOfN:
    """Return the means of J quantities under soft Best-of-n, and its KL from the pool's sampler, for each prompt.

    A sample of reward r is picked with density ratio n · E[e^r / (e^r + Σ of n − 1 others)] to the sampler, with
    rewards in units of the temperature; the ratio depends on the sample through r alone. With 1/x = ∫ e^(−xt) dt it
    is n ∫ e^r e^(−t e^r) φ(t)^(n−1) dt, where φ(t) = E[e^(−t e^r)] is a mean over the pool. The quadrature is exact
    for the pool's empirical distribution; the delete-one jackknife (Quenouille 1956) removes the bias of order 1/N.
    Good for n ≤ N/4. Source: Verdun et al. 2025 (arXiv 2505.03156) for soft Best-of-n; the estimator is ours.

    rewards: [M, N]. values: [M, N, J], e.g. gold and the log-ratio to another reference. n ≥ 1. temperature: > 0, in
    units of the reward; → 0 is Best-of-n, → ∞ the sampler itself. A sample with a NaN reward or value counts as never
    drawn; a row with fewer than two samples gives NaN.
    Raises ValueError for unequal shapes, n < 1, or a temperature below 1/20,000 of a row's range of rewards.

    >>> found = estimate_soft_best_of_n([[0, 1, 2, 3]], [[[0], [1], [2], [3]]], n=1, temperature=1)
    >>> found.means.round(3).tolist(), abs(found.kl).round(3).tolist()  # the best of one is the sampler itself
    ([[1.5]], [0.0])
    """
    rewards = as_floats("rewards", rewards, "[M, N]")
    values = as_floats("values", values, "[M, N, J]")
    check_same_shape(rewards=rewards, values=values[..., 0])
    if n < 1 or not temperature > 0:
        raise ValueError(
            f"n={n} and temperature={temperature} are not allowed; n must be at least 1, the temperature above 0"
        )
    means, kl = np.full((len(rewards), values.shape[2]), np.nan), np.full(len(rewards), np.nan)
    for block in sorted_rows(rewards, values.sum(axis=2)):
        if block.size < 2:
            continue
        ranked_values = block.sort(values)  # [R, C, J]
        patterns, inverse = np.unique(block.rewards, axis=0, return_inverse=True)
        for number, ranked in enumerate(patterns):
            rows = np.flatnonzero(inverse.ravel() == number)
            weights, left_out = _pick_probabilities(ranked / temperature, n)
            mean = np.einsum("c,rcj->rj", weights, ranked_values[rows])
            distance = _kl_from_uniform(weights[None])
            if left_out is not None:
                rest = block.size - 1
                mean = block.size * mean - rest * np.einsum("c,rcj->rj", left_out.mean(axis=0), ranked_values[rows])
                distance = block.size * distance - rest * _kl_from_uniform(left_out, rest).mean()
            means[block.rows[rows]], kl[block.rows[rows]] = mean, distance
    return SoftBestOfN(means, kl)


def pessimistic_weights(rewards: np.ndarray, beta: float) -> np.ndarray:
    """Return [M, N] weights relu((r − λ) / beta) / N, with λ such that a prompt's weights sum to 1.

    They are the policy of highest reward under a chi-square penalty to the base, on the samples at hand: weights grow
    only linearly with the reward, so that more samples do not increase the trust in its extremes, as in Best-of-n. λ is
    linear between the sorted rewards and found exactly.
    Source: Huang et al. 2025 (arXiv 2503.21878), InferenceTimePessimism.

    rewards: [M, N], where N counts a prompt's scored samples; NaN gets weight 0. beta: > 0, in units of the reward.

    >>> pessimistic_weights([[0, 0.5, 1]], beta=0.5).round(3).tolist()  # λ = 0: (0 + 0.5 / 0.5 + 1 / 0.5) / 3 = 1
    [[0.0, 0.333, 0.667]]
    """
    best = np.max(rewards, axis=1, keepdims=True, where=~np.isnan(rewards), initial=-np.inf)
    excess = rewards - np.where(np.isinf(best), 0, best)  # lambda moves with the rewards: the largest is 0
    scored = (~np.isnan(rewards)).sum(axis=1, keepdims=True)  # [M, 1]
    ordered = -np.sort(-excess, axis=1)  # best first, NaN last
    lambdas = _lambda(ordered, scored, beta)
    weight = np.nan_to_num(np.maximum(excess - lambdas, 0) / (beta * np.maximum(scored, 1)))
    return np.where(weight > ROUNDING, weight, 0)


def pessimism_of_n(
    proxy: np.ndarray, gold: np.ndarray, n: Sizes, beta: float, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the expected gold value of a sample drawn among n with `pessimistic_weights`, for each prompt.

    The mean over n-subsets of a prompt's N samples: all where they are few, else random ones, which keep it unbiased
    (`subset_method(N, n)` says which). A large beta gives the plain mean, a small one Best-of-n except for ties.

    proxy, gold, n, NaN and errors: as in `best_of_n`. beta: > 0, in units of the proxy. rng: draws random subsets;
    without one, a fixed stream.

    >>> pessimism_of_n([[0, 0.5, 1]], [[0, 0, 1]], 3, beta=0.5).round(3).tolist()  # the weight of the best
    [0.667]
    """
    proxy, gold = as_equal_floats("[M, N]", proxy=proxy, gold=gold)
    sizes, single = as_sizes("n", n, proxy.shape[1])
    if not beta > 0:
        raise ValueError(f"beta={beta} is not allowed; it must be above 0 (best_of_n is the limit at 0)")

    def pessimistic_mean(row: int, columns: np.ndarray) -> Callable[[np.ndarray], float]:
        columns = columns[np.argsort(-proxy[row, columns], kind="stable")]  # best first
        reward, value = proxy[row, columns], gold[row, columns]

        def mean(subsets: np.ndarray) -> float:
            size = subsets.shape[1]
            ordered = reward[subsets]  # [S, k]
            weight = np.maximum(ordered - _lambda(ordered, np.array([[size]]), beta), 0) / (beta * size)
            return float((weight * value[subsets]).sum(axis=1).mean())

        return mean

    rng = generator(0, "estimators", "pessimism") if rng is None else rng
    values = mean_over_subsets(np.isnan(proxy) | np.isnan(gold), sizes, rng, pessimistic_mean, ascending=True)
    return values[:, 0] if single else values


def _pick_probabilities(scaled: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return [C] probabilities that each sample is picked, and [C, C] with the row's sample left out.

    scaled: [C] ascending rewards in units of the temperature. The second is None for more than JACKKNIFED samples.
    """
    shifted = scaled - scaled[-1]
    if -shifted[0] > WIDEST:
        raise ValueError(
            f"temperature is too small for rewards that span {-shifted[0]:.3g} times it; {WIDEST:g} is allowed"
        )
    log_t = np.arange(-24.0, -shifted[0] + 5.0, STEP)
    size = len(scaled)
    exponential = np.exp(np.minimum(shifted[:, None] + log_t, 700.0))  # [C, T], e^r t; beyond 700 its decay is 0
    decay = np.exp(-exponential)
    kernel = n * STEP * exponential * decay  # dt = t d(log t)
    total = decay.sum(axis=0)
    weights = kernel @ (total / size) ** (n - 1) / size
    if size > JACKKNIFED:
        return weights, None
    left_out = ((total - decay) / (size - 1)) ** (n - 1) @ kernel.T / (size - 1)
    np.fill_diagonal(left_out, 0)
    return weights, left_out


def _kl_from_uniform(weights: np.ndarray, size: int | None = None) -> np.ndarray:
    """Return [R] nats of weights [R, C] from the uniform distribution on `size` of the C samples (None: all)."""
    size = size or weights.shape[1]
    logs = np.log(weights * size, out=np.zeros_like(weights), where=weights > 0)
    return (weights * logs).sum(axis=1)


def _lambda(ordered: np.ndarray, scored: np.ndarray, beta: float) -> np.ndarray:
    """Return [M, 1] λ of rewards [M, N] in falling order, NaN last; scored: [M, 1], the number that is not NaN."""
    kept = np.arange(1, ordered.shape[1] + 1)
    lambdas = (np.cumsum(ordered, axis=1) - scored * beta) / kept  # [M, N]: if exactly the `kept` best lay above it
    consistent = ordered > lambdas  # true for the samples that lie above it, which come first; NaN compares false
    last = np.maximum(consistent.sum(axis=1, keepdims=True) - 1, 0)
    return np.take_along_axis(lambdas, last, axis=1)
