"""KL divergences in nats a sequence: of Best-of-N from its sampler or the base, of a fine-tuned policy from its base.

`best_of_n_*` take a known discrete policy; `estimate_*` take the rewards of a pool. `best_of_n_kl_bound` is the closed
form often printed as the KL of Best-of-N: it is only an upper bound, and is never mixed up with the estimates here.
"""

from typing import Literal, TypeAlias

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, check_same_shape, sorted_pools
from bench.estimators.best_of_n import best_of_n

Estimator: TypeAlias = Literal["jackknife", "plug_in", "beirami", "bound"]


def best_of_n_kl_bound(n: Sizes) -> float | np.ndarray:
    """log n − (n − 1)/n: the KL of Best-of-n where no two rewards tie, elsewhere an upper bound (Beirami 2024, §3)."""
    sizes, single = as_sizes("n", n)
    bound = np.log(sizes) - (sizes - 1) / sizes
    return float(bound[0]) if single else bound


def best_of_n_kl(
    probabilities: np.ndarray, rewards: np.ndarray, n: Sizes, *, continuous: np.ndarray | None = None
) -> float | np.ndarray:
    """The exact KL of Best-of-n (uniform tie-break) from the discrete policy it samples from.

    Δ(v) = F(v)ⁿ − F(v−)ⁿ is the probability that the best of n has reward v; the KL is Σ Δ log(Δ / P) over the rewards,
    since within one Best-of-n is proportional to the policy. Source: Beirami et al. 2024, §2, extended to ties.

    probabilities: [V], sums to 1. rewards: [V], equal ones tie. n: an int -> float, a sequence -> [K].
    continuous: [V] bool, entries whose probability is spread over a stretch of distinct rewards at that place in the
    order (no two draws tie inside it); such a stretch of F from a to b adds G(b) − G(a),
    G(u) = uⁿ [log n + (n − 1) log u − (n − 1)/n], the integral of n uⁿ⁻¹ log(n uⁿ⁻¹).
    """
    sizes, single = as_sizes("n", n)
    mass, spread = _reward_distribution(probabilities, rewards, continuous)
    upper = np.cumsum(mass)
    upper /= upper[-1]
    lower = np.concatenate([[0.0], upper[:-1]])
    values = np.array(
        [_atoms(lower, upper, mass, size, ~spread) + _stretches(lower, upper, size, spread) for size in sizes]
    )
    return float(values[0]) if single else values


def best_of_n_win_rate(probabilities: np.ndarray, rewards: np.ndarray, n: Sizes) -> float | np.ndarray:
    """The probability that Best-of-n has a higher reward than a fresh sample, ties counting half: Σ Δ [F(v−) + P(v)/2].

    n/(n + 1) without ties. Arguments as in `best_of_n_kl`. Source: Beirami et al. 2024, §5, extended to ties.
    """
    sizes, single = as_sizes("n", n)
    mass, _ = _reward_distribution(probabilities, rewards, None)
    upper = np.cumsum(mass) / mass.sum()
    lower = np.concatenate([[0.0], upper[:-1]])
    values = np.array([(_delta(lower, upper, size) * (lower + upper) / 2).sum() for size in sizes])
    return float(values[0]) if single else values


def estimate_best_of_n_kl(rewards: np.ndarray, n: Sizes, estimator: Estimator = "jackknife") -> np.ndarray:
    """The KL of Best-of-n from the sampler that drew the pool, a prompt at a time, from N rewards each.

    - "plug_in": `best_of_n_kl` of the row's empirical distribution; biased, low for a rare success.
    - "jackknife": N · plug_in − (N − 1) · mean of the N plug_ins that leave one sample out (Quenouille 1956), which
      takes out the bias of order 1/N; a single row may come out slightly negative or above the bound. Good for n ≤ N/4.
    - "beirami": Beirami et al. 2024, §4, which takes the chosen outcome with its probability ε as the one atom, at the
      top, and all below as distinct: E[G(1 − ε) + (1 − (1 − ε)ⁿ) log((1 − (1 − ε)ⁿ)/ε)] over the row's Best-of-n,
      with ε the share of samples that tie with it. It supposes distinct rewards; under ties its limit is too high.
    - "bound": log n − (n − 1)/n whatever the rewards (see `best_of_n_kl_bound`).

    Average the rows; the KL of the pooled pass rate is another number, often twice as large.
    rewards: [M, N]. n: an int -> [M], a sequence -> [M, K]. NaN samples count as never drawn; a row with fewer than n
    others gives NaN. ValueError for n < 1, n > N, or infinities.
    """
    estimators = {"plug_in": _plug_in, "jackknife": _jackknife, "beirami": _beirami, "bound": _bound}
    if estimator not in estimators:
        raise ValueError(f"estimator={estimator!r} is not known; it must be one of {', '.join(sorted(estimators))}")
    rewards = as_floats("rewards", rewards, 2, shape="[M, N]")
    sizes, single = as_sizes("n", n, rewards.shape[1])
    values = np.full((len(rewards), len(sizes)), np.nan)
    for pool in sorted_pools(rewards):
        patterns, inverse = np.unique(_group_sizes(pool.rewards), axis=0, return_inverse=True)  # [U, V], [R]
        for column, size in enumerate(sizes.tolist()):
            if size <= pool.size:
                values[pool.rows, column] = estimators[estimator](patterns, size)[inverse.ravel()]
    return values[:, 0] if single else values


def best_of_n_kl_from_reference(
    rewards: np.ndarray, log_ratio: np.ndarray, n: Sizes, estimator: Estimator = "jackknife"
) -> np.ndarray:
    """The KL of Best-of-n from a reference other than its sampler, by the chain rule.

    KL(BoN ‖ π₀) = KL(BoN ‖ μ) + E_BoN[log μ(y) − log π₀(y)], both terms from the one pool drawn from μ: the second is
    `best_of_n` of the log-ratio, so its expectation is exact. Needed wherever μ has a temperature, top-k or top-p.

    rewards: [M, N]. log_ratio: [M, N] nats a sequence, log μ − log π₀ of each sample. n, NaN and errors as in
    `estimate_best_of_n_kl`; a NaN log-ratio takes the sample out of both terms.
    """
    rewards = as_floats("rewards", rewards, 2, shape="[M, N]")
    log_ratio = as_floats("log_ratio", log_ratio, 2, shape="[M, N]")
    check_same_shape(rewards=rewards, log_ratio=log_ratio)
    known = np.where(np.isnan(log_ratio), np.nan, rewards)
    return estimate_best_of_n_kl(known, n, estimator) + best_of_n(known, log_ratio, n)


def _reward_distribution(
    probabilities: np.ndarray, rewards: np.ndarray, continuous: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(mass [G], whether it is a stretch [G]) by ascending distinct reward; entries of probability 0 are left out."""
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


def _delta(lower: np.ndarray, upper: np.ndarray, n: int) -> np.ndarray:
    """upperⁿ − lowerⁿ without cancellation, for 0 ≤ lower ≤ upper ≤ 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = upper**n * -np.expm1(n * np.log1p(-(upper - lower) / upper))
    return np.where(upper > 0, delta, 0.0)


def _atoms(
    lower: np.ndarray, upper: np.ndarray, mass: np.ndarray, n: int, where: np.ndarray | None = None
) -> np.ndarray:
    """Σ Δ log(Δ / P) over the last axis; empty atoms add nothing."""
    delta = _delta(lower, upper, n)
    counted = delta > 0 if where is None else (delta > 0) & where
    ratio = np.divide(delta, mass, out=np.ones_like(delta), where=counted)
    return (delta * np.log(ratio)).sum(axis=-1)


def _stretches(lower: np.ndarray, upper: np.ndarray, n: int, where: np.ndarray) -> float:
    """Σ G(upper) − G(lower) over the continuous stretches; G as in `best_of_n_kl`."""

    def integral(u: np.ndarray) -> np.ndarray:
        log_u = np.log(u, out=np.zeros_like(u), where=u > 0)
        return u**n * (np.log(n) + (n - 1) * log_u - (n - 1) / n)

    return float((integral(upper[where]) - integral(lower[where])).sum())


def _group_sizes(ranked: np.ndarray) -> np.ndarray:
    """[R, V]: how many samples share each distinct reward of the sorted ranked [R, C], ascending, padded with 0."""
    rows = len(ranked)
    starts = np.ones(ranked.shape, dtype=bool)
    np.not_equal(ranked[:, 1:], ranked[:, :-1], out=starts[:, 1:])
    group = np.cumsum(starts, axis=1) - 1
    width = int(group[:, -1].max()) + 1
    cells = group + width * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * width).reshape(rows, width)


def _plug_in(counts: np.ndarray, n: int) -> np.ndarray:
    """[U] from the tie groups' sizes [U, V], which sum to the same C in every row."""
    size = counts.sum(axis=1, keepdims=True)
    upper = np.cumsum(counts, axis=1)
    return _atoms((upper - counts) / size, upper / size, counts / size, n)


def _jackknife(counts: np.ndarray, n: int) -> np.ndarray:
    size = int(counts[0].sum())
    if size == 1:  # then n = 1
        return np.zeros(len(counts))
    below = np.cumsum(counts, axis=1) - counts
    rest = size - 1

    def terms(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """What each group adds where its samples rank start + 1 .. stop among the rest."""
        delta = _delta(start / rest, stop / rest, n)
        held = delta > 0
        ratio = np.divide(delta * rest, stop - start, out=np.ones_like(delta), where=held)
        return delta * np.log(ratio)

    one = (counts > 0).astype(counts.dtype)
    unchanged = terms(below, below + counts)  # the removed sample lies above
    inside = terms(below, below + counts - one)
    shifted = terms(np.maximum(below - one, 0), below + counts - one)  # it lies below; unused for the lowest group
    from_below = np.cumsum(unchanged, axis=1) - unchanged
    from_above = np.cumsum(shifted[:, ::-1], axis=1)[:, ::-1] - shifted
    left_out = (counts * (from_below + inside + from_above)).sum(axis=1) / size
    return size * _plug_in(counts, n) - rest * left_out


def _beirami(counts: np.ndarray, n: int) -> np.ndarray:
    size = counts.sum(axis=1, keepdims=True)
    upper = np.cumsum(counts, axis=1)
    share = counts / size
    rest = 1 - share
    top = -np.expm1(n * np.log1p(-share, out=np.full_like(share, -np.inf), where=share < 1))  # 1 − (1 − ε)ⁿ
    log_rest = np.log(rest, out=np.zeros_like(rest), where=rest > 0)
    ratio = np.divide(top, share, out=np.ones_like(share), where=share > 0)
    each = rest**n * (np.log(n) + (n - 1) * log_rest - (n - 1) / n) + top * np.log(ratio)
    return (_delta((upper - counts) / size, upper / size, n) * each).sum(axis=1)


def _bound(counts: np.ndarray, n: int) -> np.ndarray:
    return np.full(len(counts), best_of_n_kl_bound(n))
