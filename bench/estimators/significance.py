"""Tests beside the intervals: McNemar for two 0/1 outcomes of the same prompts, Holm for several comparisons."""

import math

import numpy as np

from bench.estimators.arrays import as_floats, as_outcomes, check_same_shape


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
