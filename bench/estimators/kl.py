"""KL divergences in nats a sequence: of Best-of-N from its sampler or the base, of a fine-tuned policy from its base.

`best_of_n_*` take a known discrete policy; `estimate_*` take the rewards of a pool. `best_of_n_kl_bound` is the closed
form often printed as the KL of Best-of-N: it is only an upper bound, and is never mixed up with the estimates here.
"""

from typing import Literal, TypeAlias

import numpy as np

from bench.estimators.arrays import (
    Sizes,
    as_floats,
    as_outcomes,
    as_sizes,
    check_same_shape,
    group_starts,
    sorted_pools,
)
from bench.estimators.best_of_n import best_of_n
from bench.estimators.discrete import (
    atom_kl,
    best_of_n_chi_squared,
    best_of_n_kl,
    best_of_n_renyi,
    best_of_n_reverse_kl,
    best_of_n_total_variation,
    best_of_n_win_rate,
    power_difference,
    stretch_kl,
)
from bench.estimators.policy_kl import kl_per_token, rao_blackwell_kl, sequence_kl

__all__ = [
    "best_of_n_chi_squared",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "best_of_n_kl_from_reference",
    "best_of_n_kl_sensitivity",
    "best_of_n_renyi",
    "best_of_n_reverse_kl",
    "best_of_n_total_variation",
    "best_of_n_win_rate",
    "estimate_best_of_n_kl",
    "estimate_best_of_n_win_rate",
    "kl_per_token",
    "rao_blackwell_kl",
    "sequence_kl",
    "without_success",
]

Estimator: TypeAlias = Literal["jackknife", "plug_in", "beirami", "bound"]


def best_of_n_kl_bound(n: Sizes) -> float | np.ndarray:
    """log n − (n − 1)/n: the KL of Best-of-n where no two rewards tie, elsewhere an upper bound (Beirami 2024, §3)."""
    sizes, single = as_sizes("n", n)
    bound = np.log(sizes) - (sizes - 1) / sizes
    return float(bound[0]) if single else bound


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


def without_success(correct: np.ndarray) -> np.ndarray:
    """[M]: 1 for a prompt with no correct sample, 0 for others, NaN for one with no scored sample. correct: [M, N]."""
    correct = as_outcomes("correct", correct)
    return np.where(np.isnan(correct).all(axis=1), np.nan, np.nansum(correct, axis=1) == 0)


def best_of_n_kl_sensitivity(correct: np.ndarray, n: Sizes, *, level: float = 0.95) -> np.ndarray:
    """`estimate_best_of_n_kl` with every prompt that has no correct sample at the largest KL its pool leaves open.

    N failures leave pass rates up to 1 − (1 − level)^(1/N) open (Clopper and Pearson 1934); such a prompt counts 0 in
    the estimate, and the largest KL over those rates here. The distance between the two means is what the headline KL
    owes to prompts that were never solved. correct: [M, N] of 0 and 1; n, NaN and errors as there.
    """
    correct = as_outcomes("correct", correct)
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not allowed; it must lie between 0 and 1")
    sizes, single = as_sizes("n", n, correct.shape[1])
    values = estimate_best_of_n_kl(correct, sizes)
    scored = (~np.isnan(correct)).sum(axis=1)
    for size in np.unique(scored[without_success(correct) == 1]):
        rates = (1 - (1 - level) ** (1 / size)) * np.linspace(0, 1, 201)[1:, None]
        lower = np.concatenate([np.zeros_like(rates), 1 - rates], axis=1)
        upper = np.concatenate([1 - rates, np.ones_like(rates)], axis=1)
        largest = [float(atom_kl(lower, upper, upper - lower, n).max()) for n in sizes.tolist()]
        rows = (without_success(correct) == 1) & (scored == size)
        values[rows] = np.where(sizes <= size, largest, np.nan)
    return values[:, 0] if single else values


def estimate_best_of_n_win_rate(rewards: np.ndarray, n: Sizes) -> np.ndarray:
    """The probability that Best-of-n beats one more sample of the same prompt, ties counting half.

    Unbiased: the mean over all choices of n samples and one opponent among the others, so n < N. With a samples below
    the opponent and b at or below it, it loses C(a, n) and ties C(b − 1, n) − C(a, n) of C(N − 1, n) contests.
    rewards: [M, N]. n: an int -> [M], a sequence -> [M, K]; NaN samples count as never drawn, and a row with fewer than
    n + 1 others gives NaN. ValueError as in `estimate_best_of_n_kl`, and for n = N.
    """
    rewards = as_floats("rewards", rewards, 2, shape="[M, N]")
    sizes, single = as_sizes("n", n, rewards.shape[1])
    if sizes.max() == rewards.shape[1]:
        raise ValueError(
            f"n={sizes.max()} leaves no opponent among the {rewards.shape[1]} samples; n must be below that"
        )
    values = np.full((len(rewards), len(sizes)), np.nan)
    for pool in sorted_pools(rewards):
        counts = _group_sizes(pool.rewards)
        upper = np.cumsum(counts, axis=1)
        for column, size in enumerate(sizes.tolist()):
            if size < pool.size:
                rest = pool.size - 1
                index = np.arange(rest, size, -1)  # C(b, n) / C(rest, n), from b = rest downwards
                share = np.concatenate([[1.0], np.cumprod((index - size) / index), np.zeros(size)])[::-1]
                lost = (share[np.minimum(upper - counts, rest)] + share[np.maximum(upper - 1, 0)]) / 2
                values[pool.rows, column] = 1 - (counts * lost).sum(axis=1) / pool.size
    return values[:, 0] if single else values


def _group_sizes(ranked: np.ndarray) -> np.ndarray:
    """[R, V]: how many samples share each distinct reward of the sorted ranked [R, C], ascending, padded with 0."""
    rows = len(ranked)
    group = np.cumsum(group_starts(ranked), axis=1) - 1
    width = int(group[:, -1].max()) + 1
    cells = group + width * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * width).reshape(rows, width)


def _plug_in(counts: np.ndarray, n: int) -> np.ndarray:
    """[U] from the tie groups' sizes [U, V], which sum to the same C in every row."""
    size = counts.sum(axis=1, keepdims=True)
    upper = np.cumsum(counts, axis=1)
    return atom_kl((upper - counts) / size, upper / size, counts / size, n)


def _jackknife(counts: np.ndarray, n: int) -> np.ndarray:
    size = int(counts[0].sum())
    if size == 1:  # then n = 1
        return np.zeros(len(counts))
    below = np.cumsum(counts, axis=1) - counts
    rest = size - 1

    def terms(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """What each group adds where its samples rank start + 1 .. stop among the rest."""
        lower, upper = (start / rest)[..., None], (stop / rest)[..., None]
        return atom_kl(lower, upper, upper - lower, n)

    one = (counts > 0).astype(counts.dtype)
    unchanged = terms(below, below + counts)  # the removed sample lies above; unused for the highest group
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
    each = stretch_kl(1 - share, n) + atom_kl((1 - share)[..., None], np.ones((*share.shape, 1)), share[..., None], n)
    return (power_difference((upper - counts) / size, upper / size, n) * each).sum(axis=1)


def _bound(counts: np.ndarray, n: int) -> np.ndarray:
    return np.full(len(counts), best_of_n_kl_bound(n))
