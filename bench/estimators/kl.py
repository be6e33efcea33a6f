"""Compute KL divergences in nats per sequence: of Best-of-n from its sampler or from another reference.

`best_of_n_kl` and `best_of_n_win_rate` take the rewards of a pool; `exact_*` take a known discrete policy.
`best_of_n_kl_bound` is the closed form often printed as the KL of Best-of-n, but it is only an upper bound.
`bench.estimators.policy_divergence` has the KL of a fine-tuned policy.

With F the distribution function of the reward, Δ(v) = F(v)ⁿ − F(v−)ⁿ is the probability that the best of n has reward
v. Under a uniform tie-break, Best-of-n within one reward value is proportional to the policy, so that KL and win rate
need only Δ and the policy's P by reward value. Source: Beirami et al. 2024, §2; the extension to ties is ours.
"""

from typing import Literal, TypeAlias

import numpy as np

from bench.estimators import arrays
from bench.estimators.curves import best_of_n

Estimator: TypeAlias = Literal["jackknife", "plug_in", "beirami", "bound"]


def exact_best_of_n_kl(
    probabilities: np.ndarray, rewards: np.ndarray, n: arrays.Sizes, *, continuous: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the exact KL of Best-of-n from the discrete policy it samples from: Σ Δ log(Δ / P) over reward values.

    probabilities: [V], summing to 1. rewards: [V]; equal ones tie. n: an int -> float, a sequence -> [K].
    continuous: [V] bool, entries whose probability is spread over a stretch of distinct rewards at that place in the
    order, without ties inside it. A stretch of F from a to b adds G(b) − G(a) with
    G(u) = uⁿ [log n + (n − 1) log u − (n − 1)/n], the integral of n uⁿ⁻¹ log(n uⁿ⁻¹).
    Raises ValueError for unequal shapes, NaN, or probabilities that are negative or do not sum to 1.

    >>> round(exact_best_of_n_kl([0.5, 0.5], [0, 1], 2), 3)  # 0.75 log(0.75 / 0.5) + 0.25 log(0.25 / 0.5)
    0.131
    """
    sizes, single = arrays.as_sizes("n", n)
    mass, spread = _reward_distribution(probabilities, rewards, continuous)
    lower, upper = _distribution_function(mass)
    atoms = ~spread
    values = np.array([_atom_kl(lower[atoms], upper[atoms], mass[atoms], int(size)) for size in sizes])
    for column, size in enumerate(sizes):
        values[column] += (_stretch_kl(upper[spread], size) - _stretch_kl(lower[spread], size)).sum()
    return float(values[0]) if single else values


def exact_best_of_n_win_rate(probabilities: np.ndarray, rewards: np.ndarray, n: arrays.Sizes) -> float | np.ndarray:
    """Return the probability that Best-of-n beats a fresh sample of a discrete policy: Σ Δ [F(v−) + P(v)/2].

    Ties count half; without ties it is n/(n + 1). Source: Beirami et al. 2024, §5; the extension to ties is ours.
    Arguments and errors as in `exact_best_of_n_kl`.

    >>> exact_best_of_n_win_rate([0.5, 0.5], [0, 1], 2)  # 0.75 · (0.5 + 0.25) + 0.25 · 0.25
    0.625
    """
    sizes, single = arrays.as_sizes("n", n)
    lower, upper = _distribution_function(_reward_distribution(probabilities, rewards, None)[0])
    values = np.array([(_power_difference(lower, upper, size) * (lower + upper) / 2).sum() for size in sizes])
    return float(values[0]) if single else values


def best_of_n_kl_bound(n: arrays.Sizes) -> float | np.ndarray:
    """Return log n − (n − 1)/n: the KL of Best-of-n where no rewards tie, else an upper bound (Beirami 2024, §3).

    >>> round(best_of_n_kl_bound(4), 3)  # log 4 - 3/4
    0.636
    """
    sizes, single = arrays.as_sizes("n", n)
    bound = np.log(sizes) - (sizes - 1) / sizes
    return float(bound[0]) if single else bound


def best_of_n_kl(rewards: np.ndarray, n: arrays.Sizes, estimator: Estimator = "jackknife") -> np.ndarray:
    """Estimate the KL of Best-of-n from the sampler that drew the pool, for each prompt.

    - "plug_in": `exact_best_of_n_kl` of the row's empirical distribution; biased, low for a rare success.
    - "jackknife": N · plug_in − (N − 1) · mean of the N plug-ins that leave one sample out (Quenouille 1956). It
      removes the bias of order 1/N; a single row may come out slightly negative or above the bound. Good for n ≤ N/4;
      see `best_of_n_kl_bias`.
    - "beirami": Beirami et al. 2024, §4: E[G(1 − ε) + (1 − (1 − ε)ⁿ) log((1 − (1 − ε)ⁿ)/ε)] over the row's Best-of-n,
      with ε the share of samples that tie with the chosen one. It assumes distinct rewards; under ties its limit is
      too high.
    - "bound": log n − (n − 1)/n whatever the rewards (see `best_of_n_kl_bound`).

    Average the rows; the KL of the pooled pass rate is another number, often twice as large.
    rewards: [M, N]. n: an int -> [M], a sequence -> [M, K]. NaN samples count as never drawn; a row with fewer than n
    others gives NaN. Raises ValueError for n < 1, n > N, infinities or an unknown estimator.

    >>> distinct, tied = np.arange(64), np.arange(64) % 4 == 0
    >>> best_of_n_kl([distinct, tied], [2, 4]).round(3).tolist()  # nats per sequence; log 2 - 1/2 = 0.193 without ties
    [[0.193, 0.636], [0.084, 0.423]]
    """
    estimators = {"plug_in": _plug_in, "jackknife": _jackknife, "beirami": _beirami}
    estimators["bound"] = lambda counts, n: np.full(len(counts), best_of_n_kl_bound(n))
    if estimator not in estimators:
        raise ValueError(f"estimator={estimator!r} is not known; it must be one of {', '.join(sorted(estimators))}")
    rewards = arrays.as_floats("rewards", rewards, "[M, N]")
    sizes, single = arrays.as_sizes("n", n, rewards.shape[1])
    values = np.full((len(rewards), len(sizes)), np.nan)
    for block in arrays.sorted_rows(rewards):
        patterns, inverse = np.unique(_group_sizes(block.rewards), axis=0, return_inverse=True)  # [U, V], [R]
        for column, size in enumerate(sizes.tolist()):
            if size <= block.size:  # 0 at n = 1: a sum over the samples would round
                found = estimators[estimator](patterns, size) if size > 1 else np.zeros(len(patterns))
                values[block.rows, column] = found[inverse.ravel()]
    return values[:, 0] if single else values


def best_of_n_kl_bias(n: int, pool_size: int) -> float:
    """Return the bias in nats of the jackknife of `best_of_n_kl` where no two of a prompt's N rewards tie.

    It is about 0.04 (n/N)², the same for every prompt: no interval over prompts shows it. In simulations with 8 to 1024
    equally likely rewards it was never larger; with a verifier it has either sign and is far below the sampling error.
    n: at most pool_size, N.

    >>> round(best_of_n_kl_bias(16, 64), 4), round(best_of_n_kl_bias(64, 64), 4)  # 0.04 / 16, 0.04
    (0.0026, 0.0394)
    """
    return float(best_of_n_kl(np.arange(pool_size)[None], n)[0] - best_of_n_kl_bound(n))


def best_of_n_kl_from_reference(
    rewards: np.ndarray, log_ratio: np.ndarray, n: arrays.Sizes, estimator: Estimator = "jackknife"
) -> np.ndarray:
    """Estimate the KL of Best-of-n from a reference other than its sampler, by the chain rule, for each prompt.

    KL(BoN ‖ π₀) = KL(BoN ‖ μ) + E_BoN[log μ(y) − log π₀(y)], both terms from the one pool drawn from μ. The second is
    `best_of_n` of the log-ratio and thus unbiased. Needed wherever μ has a temperature, top-k or top-p.

    rewards: [M, N]. log_ratio: [M, N] nats per sequence, log μ − log π₀ of each sample; NaN takes the sample out of
    both terms. n, NaN and errors as in `best_of_n_kl`.

    >>> log_ratio = np.full((1, 64), 0.1)  # each sample is e^0.1 times as likely as under the reference
    >>> best_of_n_kl_from_reference(np.arange(64)[None], log_ratio, 2).round(3).tolist()  # log 2 - 1/2, + 0.1
    [0.293]
    """
    rewards, log_ratio = arrays.as_equal_floats("[M, N]", rewards=rewards, log_ratio=log_ratio)
    known = np.where(np.isnan(log_ratio), np.nan, rewards)
    return best_of_n_kl(known, n, estimator) + best_of_n(known, n, log_ratio)


def best_of_n_kl_sensitivity(correct: np.ndarray, n: arrays.Sizes, *, level: float = 0.95) -> np.ndarray:
    """Return `best_of_n_kl` with each unsolved prompt at the largest KL that its pool does not exclude.

    N failures do not exclude pass rates up to 1 − (1 − level)^(1/N) (Clopper and Pearson 1934). Such a prompt counts
    as 0 in the estimate, and as the largest KL over those rates here. The distance between the two means bounds what
    unsolved prompts could add to the reported KL.

    correct: [M, N] of 0 and 1. n, NaN and errors as in `best_of_n_kl`.

    >>> best_of_n_kl_sensitivity([[0] * 16], 4).round(3).tolist()  # 0.527 log(0.527 / 0.171) + 0.473 log(0.473 / 0.829)
    [0.329]
    """
    correct = arrays.as_outcomes("correct", correct)
    arrays.tail_of(level)
    sizes, single = arrays.as_sizes("n", n, correct.shape[1])
    values = best_of_n_kl(correct, sizes)
    scored = (~np.isnan(correct)).sum(axis=1)
    unsolved = (scored > 0) & (np.nansum(correct, axis=1) == 0)
    for size in np.unique(scored[unsolved]):
        rates = (1 - (1 - level) ** (1 / size)) * np.linspace(0, 1, 201)[1:, None]
        lower = np.concatenate([np.zeros_like(rates), 1 - rates], axis=1)
        upper = np.concatenate([1 - rates, np.ones_like(rates)], axis=1)
        largest = [float(_atom_kl(lower, upper, upper - lower, n).max()) for n in sizes.tolist()]
        values[unsolved & (scored == size)] = np.where(sizes <= size, largest, np.nan)
    return values[:, 0] if single else values


def best_of_n_win_rate(rewards: np.ndarray, n: arrays.Sizes) -> np.ndarray:
    """Estimate the probability that Best-of-n beats one more sample of the same prompt, ties counting half.

    Unbiased: the mean over all choices of n samples and one opponent among the others, hence n < N. With a samples
    below the opponent and b at or below it, Best-of-n loses C(a, n) and ties C(b − 1, n) − C(a, n) of C(N − 1, n)
    contests.

    rewards: [M, N]. n: an int -> [M], a sequence -> [M, K]; NaN samples count as never drawn, and a row with fewer than
    n + 1 others gives NaN. Raises ValueError as `best_of_n_kl` does, and for n = N.

    >>> best_of_n_win_rate([[1, 2, 3, 4]], [1, 3]).tolist()  # without ties n / (n + 1)
    [[0.5, 0.75]]
    """
    rewards = arrays.as_floats("rewards", rewards, "[M, N]")
    sizes, single = arrays.as_sizes("n", n, rewards.shape[1])
    if sizes.max() == rewards.shape[1]:
        raise ValueError(
            f"n={sizes.max()} leaves no opponent among the {rewards.shape[1]} samples; n must be below that"
        )
    values = np.full((len(rewards), len(sizes)), np.nan)
    for block in arrays.sorted_rows(rewards):
        counts = _group_sizes(block.rewards)
        upper = np.cumsum(counts, axis=1)
        for column, size in enumerate(sizes.tolist()):
            if size < block.size:
                rest = block.size - 1
                index = np.arange(rest, size, -1)  # C(b, n) / C(rest, n), from b = rest downwards
                share = np.concatenate([[1.0], np.cumprod((index - size) / index), np.zeros(size)])[::-1]
                lost = (share[np.minimum(upper - counts, rest)] + share[np.maximum(upper - 1, 0)]) / 2
                values[block.rows, column] = 1 - (counts * lost).sum(axis=1) / block.size
    return values[:, 0] if single else values


def _group_sizes(ranked: np.ndarray) -> np.ndarray:
    """Return [R, V]: how many samples share each distinct reward of the sorted ranked [R, C], padded with 0."""
    rows = len(ranked)
    group = np.cumsum(arrays.group_starts(ranked), axis=1) - 1
    width = int(group[:, -1].max()) + 1
    cells = group + width * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * width).reshape(rows, width)


def _plug_in(counts: np.ndarray, n: int) -> np.ndarray:
    """Return [U] from the sizes of tie groups [U, V], which sum to the same C in every row; likewise the next three."""
    size = counts.sum(axis=1, keepdims=True)
    upper = np.cumsum(counts, axis=1)
    return _atom_kl((upper - counts) / size, upper / size, counts / size, n)


def _jackknife(counts: np.ndarray, n: int) -> np.ndarray:
    size = int(counts[0].sum())
    if size == 1:  # then n = 1
        return np.zeros(len(counts))
    below = np.cumsum(counts, axis=1) - counts
    rest = size - 1

    def terms(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return what each group adds where its samples rank start + 1 .. stop among the rest."""
        lower, upper = (start / rest)[..., None], (stop / rest)[..., None]
        return _atom_kl(lower, upper, upper - lower, n)

    removed = (counts > 0).astype(counts.dtype)
    unchanged = terms(below, below + counts)  # the removed sample lies above; unused for the highest group
    inside = terms(below, below + counts - removed)
    shifted = terms(np.maximum(below - removed, 0), below + counts - removed)  # below; unused for the lowest group
    from_below = np.cumsum(unchanged, axis=1) - unchanged
    from_above = np.cumsum(shifted[:, ::-1], axis=1)[:, ::-1] - shifted
    left_out = (counts * (from_below + inside + from_above)).sum(axis=1) / size
    return size * _plug_in(counts, n) - rest * left_out


def _beirami(counts: np.ndarray, n: int) -> np.ndarray:
    size = counts.sum(axis=1, keepdims=True)
    upper = np.cumsum(counts, axis=1)
    share = counts / size
    each = _stretch_kl(1 - share, n) + _atom_kl((1 - share)[..., None], np.ones((*share.shape, 1)), share[..., None], n)
    return (_power_difference((upper - counts) / size, upper / size, n) * each).sum(axis=1)


def _power_difference(lower: np.ndarray, upper: np.ndarray, n: int) -> np.ndarray:
    """Return upperⁿ − lowerⁿ without cancellation, for 0 ≤ lower ≤ upper ≤ 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = upper**n * -np.expm1(n * np.log1p(-(upper - lower) / upper))
    return np.where(upper > 0, delta, 0.0)


def _atom_kl(lower: np.ndarray, upper: np.ndarray, mass: np.ndarray, n: int) -> np.ndarray:
    """Return Σ Δ log(Δ / mass) over the last axis, with Δ = upperⁿ − lowerⁿ."""
    delta = _power_difference(lower, upper, n)
    ratio = np.divide(delta, mass, out=np.ones_like(delta), where=delta > 0)
    return (delta * np.log(ratio)).sum(axis=-1)


def _stretch_kl(u: np.ndarray, n: int) -> np.ndarray:
    """Return G(u) of `exact_best_of_n_kl`, elementwise, 0 at 0."""
    log_u = np.log(u, out=np.zeros_like(u), where=u > 0)
    return u**n * (np.log(n) + (n - 1) * log_u - (n - 1) / n)


def _distribution_function(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F(v−) [G] and F(v) [G] of the probabilities [G] by ascending reward."""
    upper = np.cumsum(mass)
    upper /= upper[-1]
    return np.concatenate([[0.0], upper[:-1]]), upper


def _reward_distribution(
    probabilities: np.ndarray, rewards: np.ndarray, continuous: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return P [G] and whether it is a stretch [G] by ascending distinct reward, without entries of probability 0."""
    probabilities, rewards = arrays.as_equal_floats("[V]", probabilities=probabilities, rewards=rewards)
    if not (probabilities >= 0).all() or abs(probabilities.sum() - 1) > 1e-6 or np.isnan(rewards).any():
        raise ValueError(
            f"probabilities {list(probabilities.shape)} must be nonnegative and sum to 1 (they sum to "
            f"{probabilities.sum():.6g}), and rewards must hold no NaN"
        )
    spread = np.zeros(len(rewards), dtype=bool) if continuous is None else np.asarray(continuous, dtype=bool)
    arrays.check_same_shape(rewards=rewards, continuous=spread)
    held = probabilities > 0
    values, group = np.unique(rewards[held], return_inverse=True)
    stretches = np.bincount(group, spread[held], len(values)) > 0
    if (np.bincount(group, minlength=len(values))[stretches] > 1).any():
        raise ValueError("a continuous entry shares its reward with another; give each stretch a reward of its own")
    return np.bincount(group, probabilities[held], len(values)), stretches
