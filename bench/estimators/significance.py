"""Tests beside the intervals: sign flips of paired differences, McNemar for 0/1 outcomes, Holm for several of them."""

import math

import numpy as np

from bench.estimators.arrays import as_floats, as_outcomes, check_same_shape

ENUMERATED = 16  # differences other than 0 of which every assignment of signs is looked at; of more, a sample is
FLIPS = 10_000  # assignments of signs in a sample
_BLOCK = 2**20  # signs held at once


def sign_flip_p_values(differences: np.ndarray, rng: np.random.Generator, *, flips: int = FLIPS) -> np.ndarray:
    """[K]: two-sided p-values that the two arms behind each column of differences [M, K] are alike.

    If they are, swapping them within a prompt changes nothing, so every assignment of signs to a column's differences
    is equally likely: the p-value is the share of assignments whose sum is at least as far from 0 as the one seen. A
    difference of 0 has no sign: three prompts that differ reach 1/4 at best, however many do not. Exact for up to
    ENUMERATED differences other than 0. Of more, `flips` random assignments and the one seen are counted, and those
    just as far as it count half: the exact test of 0/1 outcomes would find too little there.
    Sources: Fisher 1935, The Design of Experiments; Pitman 1937; Phipson and Smyth 2010 (counting the one seen);
    Fagerland, Lydersen and Laake 2013 (the half, for McNemar's test).

    NaN is left out column by column; a column of nothing but NaN and 0 gives 1.
    """
    differences = np.nan_to_num(as_floats("differences", differences, 2, shape="[M, K]"))
    size = np.abs(differences)  # [M, K]
    size[size <= 1e-12 * size.max(axis=0)] = 0.0  # rounding in a difference of equals
    total = size.sum(axis=0)
    seen = np.abs(differences.sum(axis=0))
    count = (size > 0).sum(axis=0)
    p_values = np.ones(differences.shape[1])
    for column in np.flatnonzero((count > 0) & (count <= ENUMERATED)):
        first, *others = size[size[:, column] > 0, column]
        sums = np.array([first])  # with its other sign, the same sums mirrored
        for one in others:
            sums = np.concatenate([sums + one, sums - one])
        p_values[column] = np.mean(np.abs(sums) >= seen[column] - 1e-9 * total[column])
    many = count > ENUMERATED
    if many.any():
        farther, as_far = _sampled_flips(
            size[:, many] / total[many], (seen / np.where(many, total, 1))[many], rng, flips
        )
        p_values[many] = (1 + farther + as_far / 2) / (1 + flips)
    return p_values


def _sampled_flips(
    size: np.ndarray, seen: np.ndarray, rng: np.random.Generator, flips: int
) -> tuple[np.ndarray, np.ndarray]:
    """([K], [K]): of random signs of the sizes [M, K], how many have a sum farther from 0 than `seen`, and as far.

    Every column of sizes sums to 1; all get the same signs. In single precision, which is twice as fast: sums within
    1e-6 of each other, a few times their rounding, count as equal.
    """
    size = size[size.any(axis=1)].astype(np.float32)
    farther, as_far = np.zeros((2, size.shape[1]))
    step = max(1, _BLOCK // len(size))
    for start in range(0, flips, step):
        drawn = min(step, flips - start)
        octets = np.frombuffer(rng.bytes(drawn * -(-len(size) // 8)), dtype=np.uint8).reshape(drawn, -1)
        positive = np.unpackbits(octets, axis=1, count=len(size)).astype(np.float32)  # [drawn, M]
        beyond = np.abs(2 * (positive @ size) - 1) - seen
        farther += (beyond > 1e-6).sum(axis=0)
        as_far += (np.abs(beyond) <= 1e-6).sum(axis=0)
    return farther, as_far


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The exact two-sided p-value that a and b succeed equally often on the same prompts.

    Of the prompts on which they differ, the number that a alone solves is binomial with probability 1/2 then; the
    others say nothing. Source: McNemar 1947, in its exact form. a, b: [M] of 0 and 1; a prompt with NaN on either side
    is left out. ValueError for other values, unequal shapes, or no prompt with both.
    """
    a, b = as_outcomes("a", a, 1, shape="[M]"), as_outcomes("b", b, 1, shape="[M]")
    check_same_shape(a=a, b=b)
    if np.isnan(a - b).all():
        raise ValueError(f"a and b {list(a.shape)} have no prompt with an outcome in both; at least one is expected")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    differing = only_a + only_b
    tail = sum(math.comb(differing, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**differing)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values [K] adjusted for K comparisons: reject those at most α, and any false rejection has probability ≤ α.

    The i-th smallest is multiplied by K + 1 − i, then made nondecreasing and at most 1. Source: Holm 1979, §2.
    ValueError for values outside 0 .. 1.
    """
    p_values = as_floats("p_values", p_values, 1, shape="[K]")
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p_values {list(p_values.shape)} must all lie between 0 and 1, without NaN")
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
