"""Soft Best-of-n from one pool: its means, and its KL from the sampler."""

from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import as_floats, check_same_shape, sorted_pools

STEP = 0.25  # of the quadrature in log t: an error below 1e-12 for so smooth an integrand
JACKKNIFED = 1024  # samples: beyond it the bias of order 1/N that the jackknife takes out is below its own rounding
WIDEST = 20_000.0  # (highest - lowest reward) / temperature: the quadrature's grid grows with it


class SoftBestOfN(NamedTuple):
    means: np.ndarray  # [M, J]
    kl: np.ndarray  # [M] nats


def estimate_soft_best_of_n(rewards: np.ndarray, values: np.ndarray, n: int, temperature: float) -> SoftBestOfN:
    """Means of J quantities under soft Best-of-n, and its KL from the sampler that drew the pool, a prompt at a time.

    Soft Best-of-n draws n samples and picks one with probability ∝ exp(reward / temperature) (Verdun et al. 2025, arXiv
    2505.03156). A sample of reward r is picked with density ratio n · E[e^r / (e^r + Σ of n − 1 others)] to the
    sampler, which depends on it through r alone. With 1/x = ∫ e^(−xt) dt the ratio is n ∫ e^r e^(−t e^r) φ(t)^(n−1) dt,
    where φ(t) = E[e^(−t e^r)] is a mean over the pool: exact for the pool's empirical distribution. The
    delete-one jackknife (Quenouille 1956) takes the bias of order 1/N out of means and KL. Good for n ≤ N/4.

    rewards: [M, N]; values: [M, N, J], e.g. gold and the log-ratio to another reference. n ≥ 1; temperature > 0 in
    units of the reward: 0 would be Best-of-n, infinity the sampler itself. A sample with a NaN reward or value counts
    as never drawn; a row with fewer than two samples gives NaN. ValueError for unequal shapes, n < 1, or a temperature
    below 1/20,000 of a row's range of rewards.
    """
    rewards = as_floats("rewards", rewards, 2, shape="[M, N]")
    values = as_floats("values", values, 3, shape="[M, N, J]")
    check_same_shape(rewards=rewards, values=values[..., 0])
    if n < 1 or not temperature > 0:
        raise ValueError(
            f"n={n} and temperature={temperature} are not allowed; n must be at least 1, the other above 0"
        )
    means, kl = np.full((len(rewards), values.shape[2]), np.nan), np.full(len(rewards), np.nan)
    for pool in sorted_pools(rewards, values.sum(axis=2)):
        if pool.size < 2:
            continue
        of_pool = values[pool.rows[:, None], pool.order]  # [R, C, J]
        patterns, inverse = np.unique(pool.rewards, axis=0, return_inverse=True)
        for number, ranked in enumerate(patterns):
            rows = np.flatnonzero(inverse.ravel() == number)
            weights, left_out = _weights(ranked / temperature, n)
            found = np.einsum("c,rcj->rj", weights, of_pool[rows])
            distance = _kl(weights[None])
            if left_out is not None:
                rest = pool.size - 1
                found = pool.size * found - rest * np.einsum("c,rcj->rj", left_out.mean(axis=0), of_pool[rows])
                distance = pool.size * distance - rest * _kl(left_out, rest).mean()
            means[pool.rows[rows]], kl[pool.rows[rows]] = found, distance
    return SoftBestOfN(means, kl)


def _weights(scaled: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """[C] the probability that each sample is picked, and [C, C] with the row's sample left out (None: too many)."""
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


def _kl(weights: np.ndarray, size: int | None = None) -> np.ndarray:
    """[R] nats of weights [R, C] from the uniform distribution on `size` of the C samples."""
    size = size or weights.shape[1]
    logs = np.log(weights * size, out=np.zeros_like(weights), where=weights > 0)
    return (weights * logs).sum(axis=1)
