"""Compare two arms over prompts: paired and unpaired differences with a verdict, and the tests behind the verdict.

The unit is the prompt, never a sample.
"""

import copy
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from bench.estimators.arrays import as_equal_floats, as_floats, as_generator, as_outcomes, check_same_shape, tail_of
from bench.estimators.bootstrap import RESAMPLES, Bootstrap
from bench.estimators.distributions import normal_quantile, t_quantile

Verdict: TypeAlias = Literal["better", "worse", "not resolved"]

ENUMERATED = 16  # nonzero differences up to which all assignments of signs are enumerated; beyond, they are sampled
FLIPS = 10_000  # sampled assignments of signs
_BLOCK = 2**20  # signs held at once


@dataclass(frozen=True)
class PairedContrast:
    """a − b over the same prompts, and the verdict on a."""

    mean: float
    low: float
    high: float
    p_value: float  # two-sided, of a mean difference of zero
    minimum_detectable_effect: float  # found by this many prompts with the given power
    prompts: int  # with both values
    verdict: Verdict  # whether a is better or worse than b, or neither is resolved


def paired_contrast(
    a: np.ndarray,
    b: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    power: float = 0.8,
    resamples: int = RESAMPLES,
) -> PairedContrast:
    """Return the mean of a − b over the same M prompts, its interval, and the verdict: better, worse or not resolved.

    Two tests must agree on a difference. The bootstrap allows any distribution of differences with mean 0, but sees no
    spread where few prompts differ: three of 40, all in one direction, would have p = 0.03. The sign-flip test
    (`sign_flip_p_values`) is exact there (0.25) if the arms are alike. The p-value is the larger of the two. The
    interval is `bootstrap_interval` of the differences, extended to 0 where the sign-flip test does not exclude 0.
    "better" and "worse" mean that the interval excludes 0; at 0.05 this takes at least six prompts that differ.
    Minimum detectable effect: (z_{1 − α/2} + z_power) · SE (Miller 2024, eq. 9), NaN for equal differences.

    a, b: [M], higher is better; where lower is better, swap them. A prompt with a NaN on either side is left out, and
    `prompts` counts the others. Raises ValueError for unequal shapes, infinities, or no prompt with both values.

    >>> tuned, control = np.arange(60) % 3 > 0, np.arange(60) % 2 > 0
    >>> contrast = paired_contrast(tuned, control, np.random.default_rng(0))
    >>> f"{contrast.mean:.3f} [{contrast.low:.3f}, {contrast.high:.3f}] {contrast.verdict}"
    '0.167 [-0.017, 0.350] not resolved'
    """
    a, b = as_equal_floats("[M]", a=a, b=b)
    return paired_contrasts(a[:, None], b[:, None], rng, level, power=power, resamples=resamples)[0]


def paired_contrasts(
    a: np.ndarray,
    b: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    *,
    power: float = 0.8,
    resamples: int = RESAMPLES,
) -> list[PairedContrast]:
    """Return the `paired_contrast` of each column of a and b [M, K], from the same resamples of prompts.

    >>> found = paired_contrasts(np.tile([1, 0], (8, 1)), np.zeros((8, 2)), np.random.default_rng(0))
    >>> [(contrast.mean, contrast.p_value, contrast.verdict) for contrast in found]  # p: 2 of 2⁸ assignments of signs
    [(1.0, 0.0078125, 'better'), (0.0, 1.0, 'not resolved')]
    """
    a, b = as_equal_floats("[M, K]", a=a, b=b)
    tail = tail_of(level)
    difference = (a - b)[~np.isnan(a - b).all(axis=1)]
    prompts = (~np.isnan(difference)).sum(axis=0)  # [K]
    if not prompts.all():
        raise ValueError(f"a and b {list(a.shape)} have no prompt with a number in both; at least one is expected")
    boot = Bootstrap(difference, rng, resamples)
    # From a copy: whether signs are drawn depends on the data and must not change what the caller draws next.
    flipped = sign_flip_p_values(difference, copy.deepcopy(rng))
    low, high = boot.quantile(tail), boot.quantile(1 - tail)
    open_at_zero = flipped > 2 * tail
    low, high = np.where(open_at_zero, np.minimum(low, 0), low), np.where(open_at_zero, np.maximum(high, 0), high)
    z = float(normal_quantile(1 - tail) + normal_quantile(power))
    differences = []
    for column, count in enumerate(prompts.tolist()):
        verdict: Verdict = "better" if low[column] > 0 else "worse" if high[column] < 0 else "not resolved"
        error = float(boot.error[column]) or float("nan")  # equal differences do not tell what could be detected
        differences.append(
            PairedContrast(
                mean=float(boot.mean[column]),
                low=float(low[column]),
                high=float(high[column]),
                p_value=max(boot.p_value_of_zero(column), float(flipped[column])) if count > 1 else 1.0,
                minimum_detectable_effect=z * error,
                prompts=count,
                verdict=verdict,
            )
        )
    return differences


def unpaired_difference(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean(a) − mean(b) over two different sets of prompts, and the ends of its interval (Welch 1947).

    a: [M], b: [M'], at least two numbers each; NaN is left out. Raises ValueError for fewer.

    >>> [round(end, 3) for end in unpaired_difference([1, 2, 3], [0, 1, 2])]  # 1 ± t₄ · √(1/3 + 1/3)
    [1.0, -1.267, 3.267]
    """
    a, b = (values[~np.isnan(values)] for values in (as_floats("a", a, "[M]"), as_floats("b", b, "[M']")))
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a has {len(a)} numbers and b {len(b)}; at least two of each are expected")
    variances = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    difference, total = float(a.mean() - b.mean()), sum(variances)
    if total == 0:
        return difference, difference, difference
    freedom = total**2 / (variances[0] ** 2 / (len(a) - 1) + variances[1] ** 2 / (len(b) - 1))
    margin = float(t_quantile((1 + level) / 2, freedom) * math.sqrt(total))
    return difference, difference - margin, difference + margin


def sign_flip_p_values(differences: np.ndarray, rng: np.random.Generator, *, flips: int = FLIPS) -> np.ndarray:
    """Return [K]: two-sided p-values that the two arms behind each column of differences [M, K] are alike.

    If they are, swapping them within a prompt changes nothing, so that every assignment of signs to a column's
    differences is equally likely. The p-value is the share of assignments whose sum is at least as far from 0 as the
    observed one. A difference of 0 has no sign: three prompts that differ reach 1/4 at best, however many do not.
    Exact for up to ENUMERATED nonzero differences. For more, `flips` random assignments and the observed one are
    counted, and ties with the observed one count half: the exact test of 0/1 outcomes would be too conservative there.
    Sources: Fisher 1935, The Design of Experiments; Pitman 1937; Phipson and Smyth 2010 (counting the observed one);
    Fagerland, Lydersen and Laake 2013 (the half, for McNemar's test).

    NaN is left out column by column; a column of only NaN and 0 gives 1.

    >>> sign_flip_p_values([[1], [1], [1], [0]], np.random.default_rng(0)).tolist()  # all three up or all down: 2 of 2³
    [0.25]
    """
    differences, rng = np.nan_to_num(as_floats("differences", differences, "[M, K]")), as_generator(rng)
    size = np.abs(differences)  # [M, K]
    size[size <= 1e-12 * size.max(axis=0)] = 0.0  # rounding in a difference of equal numbers
    total = size.sum(axis=0)
    observed = np.abs(differences.sum(axis=0))
    count = (size > 0).sum(axis=0)
    p_values = np.ones(differences.shape[1])
    for column in np.flatnonzero((count > 0) & (count <= ENUMERATED)):
        first, *others = size[size[:, column] > 0, column]
        sums = np.array([first])  # the other sign of the first gives the same sums mirrored
        for other in others:
            sums = np.concatenate([sums + other, sums - other])
        p_values[column] = np.mean(np.abs(sums) >= observed[column] - 1e-9 * total[column])
    many = count > ENUMERATED
    if many.any():
        farther, as_far = _sampled_flips(
            size[:, many] / total[many], (observed / np.where(many, total, 1))[many], rng, flips
        )
        p_values[many] = (1 + farther + as_far / 2) / (1 + flips)
    return p_values


def _sampled_flips(
    size: np.ndarray, observed: np.ndarray, rng: np.random.Generator, flips: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return, of random signs of the sizes [M, K], how many sums lie farther from 0 than observed [K], and as far.

    Every column of sizes sums to 1; all columns get the same signs. Single precision is twice as fast: sums within
    1e-6 of each other, a few times their rounding, count as equal.
    """
    size = size[size.any(axis=1)].astype(np.float32)
    farther, as_far = np.zeros((2, size.shape[1]))
    step = max(1, _BLOCK // len(size))
    for start in range(0, flips, step):
        drawn = min(step, flips - start)
        octets = np.frombuffer(rng.bytes(drawn * -(-len(size) // 8)), dtype=np.uint8).reshape(drawn, -1)
        positive = np.unpackbits(octets, axis=1, count=len(size)).astype(np.float32)  # [drawn, M]
        beyond = np.abs(2 * (positive @ size) - 1) - observed
        farther += (beyond > 1e-6).sum(axis=0)
        as_far += (np.abs(beyond) <= 1e-6).sum(axis=0)
    return farther, as_far


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Return the exact two-sided p-value that a and b succeed equally often on the same prompts.

    Of the prompts on which they differ, the number that a alone solves is then binomial with probability 1/2; the
    others carry no information. Source: McNemar 1947, in its exact form.

    a, b: [M] of 0 and 1; a prompt with NaN on either side is left out. Raises ValueError for other values, unequal
    shapes, or no prompt with both values.

    >>> mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])  # 2 / 2⁵
    0.0625
    """
    a, b = as_outcomes("a", a, "[M]"), as_outcomes("b", b, "[M]")
    check_same_shape(a=a, b=b)
    if np.isnan(a - b).all():
        raise ValueError(f"a and b {list(a.shape)} have no prompt with an outcome in both; at least one is expected")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    differing = only_a + only_b
    tail = sum(math.comb(differing, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**differing)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values [K] adjusted for K comparisons: those at most α contain a false rejection with probability ≤ α.

    The i-th smallest is multiplied by K + 1 − i, then made nondecreasing and at most 1. Source: Holm 1979, §2.
    Raises ValueError for values outside 0 .. 1.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = as_floats("p_values", p_values, "[K]")
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p_values {list(p_values.shape)} must all lie between 0 and 1, without NaN")
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
