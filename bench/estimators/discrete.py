"""What Best-of-N does to a known discrete policy, exactly: divergences in nats and its win rate.

With F the distribution function of the reward, Δ(v) = F(v)ⁿ − F(v−)ⁿ is the probability that the best of n has reward
v. With a uniform tie-break, Best-of-n within one reward value is proportional to the policy, so every divergence below
needs only Δ and P by reward value. Source: Beirami et al. 2024, §2, extended to ties.

Arguments of all: probabilities [V], summing to 1; rewards [V], equal ones tie; n an int -> float, a sequence -> [K].
"""

from collections.abc import Callable

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, check_same_shape


def best_of_n_kl(
    probabilities: np.ndarray, rewards: np.ndarray, n: Sizes, *, continuous: np.ndarray | None = None
) -> float | np.ndarray:
    """The KL of Best-of-n from the policy it samples from: Σ Δ log(Δ / P) over reward values.

    continuous: [V] bool, entries whose probability is spread over a stretch of distinct rewards at that place in the
    order (no two draws tie inside it); such a stretch of F from a to b adds G(b) − G(a),
    G(u) = uⁿ [log n + (n − 1) log u − (n − 1)/n], the integral of n uⁿ⁻¹ log(n uⁿ⁻¹).
    """
    sizes, single = as_sizes("n", n)
    mass, spread = _reward_distribution(probabilities, rewards, continuous)
    lower, upper = _distribution_function(mass)
    atoms = ~spread
    values = np.array([atom_kl(lower[atoms], upper[atoms], mass[atoms], int(size)) for size in sizes])
    for column, size in enumerate(sizes):
        values[column] += (stretch_kl(upper[spread], size) - stretch_kl(lower[spread], size)).sum()
    return float(values[0]) if single else values


def best_of_n_reverse_kl(probabilities: np.ndarray, rewards: np.ndarray, n: Sizes) -> float | np.ndarray:
    """The KL of the policy from its Best-of-n: Σ P log(P / Δ), log(1/n) + n − 1 where the rewards are continuous."""
    return _per_size(probabilities, rewards, n, lambda mass, log_delta: (mass * (np.log(mass) - log_delta)).sum())


def best_of_n_total_variation(probabilities: np.ndarray, rewards: np.ndarray, n: Sizes) -> float | np.ndarray:
    """½ Σ |Δ − P|, in 0 .. 1."""
    return _per_size(probabilities, rewards, n, lambda mass, log_delta: np.abs(np.exp(log_delta) - mass).sum() / 2)


def best_of_n_chi_squared(probabilities: np.ndarray, rewards: np.ndarray, n: Sizes) -> float | np.ndarray:
    """χ² of Best-of-n from the policy: Σ Δ²/P − 1, n²/(2n − 1) − 1 where the rewards are continuous."""
    return _per_size(probabilities, rewards, n, lambda mass, log_delta: np.exp(2 * log_delta - np.log(mass)).sum() - 1)


def best_of_n_renyi(probabilities: np.ndarray, rewards: np.ndarray, n: Sizes, alpha: float) -> float | np.ndarray:
    """The Rényi divergence of order alpha of Best-of-n from the policy: log(Σ Δ^α P^(1 − α)) / (α − 1), in nats.

    alpha: > 0; 1 is the KL, infinity the logarithm of the largest Δ / P.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} is not allowed; it must be above 0")

    def divergence(mass: np.ndarray, log_delta: np.ndarray) -> float:
        log_ratio = log_delta - np.log(mass)
        if alpha == 1:
            return float((np.exp(log_delta) * log_ratio).sum())
        if alpha == np.inf:
            return float(log_ratio.max())
        exponent = alpha * log_ratio + np.log(mass)
        largest = exponent.max()
        return float((largest + np.log(np.exp(exponent - largest).sum())) / (alpha - 1))

    return _per_size(probabilities, rewards, n, divergence)


def best_of_n_win_rate(probabilities: np.ndarray, rewards: np.ndarray, n: Sizes) -> float | np.ndarray:
    """The probability that Best-of-n has a higher reward than a fresh sample, ties counting half: Σ Δ [F(v−) + P(v)/2].

    n/(n + 1) without ties. Source: Beirami et al. 2024, §5, extended to ties.
    """
    sizes, single = as_sizes("n", n)
    lower, upper = _distribution_function(_reward_distribution(probabilities, rewards, None)[0])
    values = np.array([(power_difference(lower, upper, size) * (lower + upper) / 2).sum() for size in sizes])
    return float(values[0]) if single else values


def power_difference(lower: np.ndarray, upper: np.ndarray, n: int) -> np.ndarray:
    """upperⁿ − lowerⁿ without cancellation, for 0 ≤ lower ≤ upper ≤ 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = upper**n * -np.expm1(n * np.log1p(-(upper - lower) / upper))
    return np.where(upper > 0, delta, 0.0)


def atom_kl(lower: np.ndarray, upper: np.ndarray, mass: np.ndarray, n: int) -> np.ndarray:
    """Σ Δ log(Δ / P) over the last axis of atoms that carry F from lower to upper; empty ones add nothing."""
    delta = power_difference(lower, upper, n)
    ratio = np.divide(delta, mass, out=np.ones_like(delta), where=delta > 0)
    return (delta * np.log(ratio)).sum(axis=-1)


def stretch_kl(u: np.ndarray, n: int) -> np.ndarray:
    """G(u) of `best_of_n_kl`, elementwise, 0 at 0."""
    log_u = np.log(u, out=np.zeros_like(u), where=u > 0)
    return u**n * (np.log(n) + (n - 1) * log_u - (n - 1) / n)


def _per_size(
    probabilities: np.ndarray, rewards: np.ndarray, n: Sizes, of: Callable[[np.ndarray, np.ndarray], float]
) -> float | np.ndarray:
    """of(P [G], log Δ [G]) at every n; log Δ stays finite where Δ itself would underflow."""
    sizes, single = as_sizes("n", n)
    mass, _ = _reward_distribution(probabilities, rewards, None)
    lower, upper = _distribution_function(mass)
    values = []
    for size in sizes:
        with np.errstate(divide="ignore"):
            log_delta = size * np.log(upper) + np.log(-np.expm1(size * np.log1p(-(upper - lower) / upper)))
        values.append(of(mass, log_delta))
    return float(values[0]) if single else np.array(values)


def _distribution_function(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F(v−) [G], F(v) [G])."""
    upper = np.cumsum(mass)
    upper /= upper[-1]
    return np.concatenate([[0.0], upper[:-1]]), upper


def _reward_distribution(
    probabilities: np.ndarray, rewards: np.ndarray, continuous: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(P [G], whether it is a stretch [G]) by ascending distinct reward; entries of probability 0 are left out."""
    probabilities = as_floats("probabilities", probabilities, 1, shape="[V]")
    rewards = as_floats("rewards", rewards, 1, shape="[V]")
    check_same_shape(probabilities=probabilities, rewards=rewards)
    if not (probabilities >= 0).all() or abs(probabilities.sum() - 1) > 1e-6 or np.isnan(rewards).any():
        raise ValueError(
            f"probabilities {list(probabilities.shape)} must be nonnegative and sum to 1 (they sum to "
            f"{probabilities.sum():.6g}), and rewards must hold no NaN"
        )
    spread = np.zeros(len(rewards), dtype=bool) if continuous is None else np.asarray(continuous, dtype=bool)
    check_same_shape(rewards=rewards, continuous=spread)
    held = probabilities > 0
    values, group = np.unique(rewards[held], return_inverse=True)
    stretches = np.bincount(group, spread[held], len(values)) > 0
    if (np.bincount(group, minlength=len(values))[stretches] > 1).any():
        raise ValueError("a continuous entry shares its reward with another; give each stretch a reward of its own")
    return np.bincount(group, probabilities[held], len(values)), stretches
