"""Compute intervals over training seeds and prompts, the two levels of variation: they hold for a new training run."""

import math
from dataclasses import dataclass

import numpy as np

from bench.estimators.arrays import as_equal_floats, as_floats, tail_of
from bench.estimators.bootstrap import UNDEFINED, Ratio
from bench.estimators.distributions import t_quantile

WIDEST = 2.0**40  # largest step in the search for an end of an interval, in units of the ratio
HALVINGS = 80  # of the bisection for an end


@dataclass(frozen=True)
class SeedInterval:
    """The mean over S training seeds and M prompts, with intervals for new seeds on new and on the same prompts."""

    mean: float
    low: float  # for new seeds on new prompts
    high: float
    low_same_prompts: float  # t(S − 1) on the means of the seeds
    high_same_prompts: float
    prompt_variance: float  # σ² between prompts, 0 where the estimate is negative
    seed_variance: float  # σ² between seeds, 0 where the estimate is negative
    residual_variance: float  # of the interaction of seed and prompt, and of sampling
    error: float  # standard error of the mean, for new seeds on new prompts
    freedom: float  # degrees of freedom of `error`; NaN where the error is 0
    seeds: int
    prompts: int


def seed_interval(values: np.ndarray, level: float = 0.95) -> SeedInterval:
    """Return the mean over training seeds and prompts with its intervals; every seed is scored on the same prompts.

    Var(mean) = σ²_prompt/M + σ²_seed/S + σ²_residual/(MS), estimated from the mean squares of the two-way table as
    (MS_prompt + MS_seed − MS_residual)/(MS), with t at Satterthwaite's degrees of freedom (Satterthwaite 1946; Searle,
    Casella and McCulloch 1992, §2.6 and 5.2). The t(S − 1) interval on seed means ignores the sampling of prompts:
    with few seeds and a wide spread between prompts, it is far too short for new prompts.

    values: [S, M], e.g. one score per seed and prompt, or its paired difference to a baseline. A prompt with a NaN
    under any seed is left out under all. Raises ValueError for S < 2, M < 2 or infinities.

    >>> found = seed_interval([[0, 1], [1, 2]])  # the seeds' means are 0.5 and 1.5
    >>> found.mean, round(found.high_same_prompts, 2)  # 1 + 12.71 · 0.5, t with 1 degree
    (1.0, 7.35)
    """
    values = as_floats("values", values, "[S, M]")
    values = values[:, ~np.isnan(values).any(axis=0)]
    seeds, prompts = values.shape
    if seeds < 2 or prompts < 2:
        raise ValueError(
            f"values has {seeds} seeds and {prompts} prompts scored under all of them; at least 2 of each are expected"
        )
    tail = tail_of(level)
    mean = float(values.mean())
    by_prompt, by_seed = values.mean(axis=0), values.mean(axis=1)
    residual = values - by_prompt - by_seed[:, None] + mean
    freedom = np.array([prompts - 1, seeds - 1, (prompts - 1) * (seeds - 1)])
    prompt_square = seeds * by_prompt.var(ddof=1)
    seed_square = prompts * by_seed.var(ddof=1)
    residual_square = float((residual**2).sum()) / freedom[2]
    total = max(prompt_square + seed_square - residual_square, prompt_square, seed_square)
    same = t_quantile(1 - tail, seeds - 1) * math.sqrt(seed_square / (seeds * prompts))
    half, error, degrees = 0.0, 0.0, float("nan")
    if np.ptp(values) > 1e-12 * np.abs(values).max():  # the squares of equal values are rounding alone
        squares = np.array([prompt_square, seed_square, residual_square])
        error, degrees = math.sqrt(total / (seeds * prompts)), float(total**2 / (squares**2 / freedom).sum())
        half = t_quantile(1 - tail, degrees) * error
    return SeedInterval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        low_same_prompts=mean - same,
        high_same_prompts=mean + same,
        prompt_variance=max(float(prompt_square - residual_square) / seeds, 0.0),
        seed_variance=max(float(seed_square - residual_square) / prompts, 0.0),
        residual_variance=residual_square,
        error=error,
        freedom=degrees,
        seeds=seeds,
        prompts=prompts,
    )


def ratio_over_seeds(numerator: np.ndarray, denominator: np.ndarray, level: float = 0.95) -> Ratio:
    """Return the ratio of means over training seeds and prompts, with an interval for new seeds on new prompts.

    Fieller's argument (Fieller 1954) with `seed_interval` as the test: the ends are the ratios r at which the mean of
    numerator − r · denominator is just resolved from 0. Undefined where the denominator is not resolved from 0.

    numerator, denominator: [S, M], S > 1; a prompt with a NaN under any seed is left out. Errors as in `seed_interval`.

    >>> gain = np.arange(40) % 4 + 1 + np.array([[0.0], [0.1], [0.2]])  # three seeds
    >>> round(ratio_over_seeds(gain / 2, gain).value, 6)
    0.5
    """
    numerator, denominator = as_equal_floats("[S, M]", numerator=numerator, denominator=denominator)
    usable = ~np.isnan(numerator + denominator).any(axis=0)
    numerator, denominator = numerator[:, usable], denominator[:, usable]
    gain = seed_interval(denominator, level)
    if gain.low <= 0 <= gain.high:
        return UNDEFINED
    value = float(numerator.mean() / denominator.mean())

    def excluded(ratio: float) -> bool:
        difference = seed_interval(numerator - ratio * denominator, level)
        return not difference.low <= 0 <= difference.high

    def end(sign: int) -> float:
        step = sign * max(abs(value), 1.0) * 1e-6
        while not excluded(value + step):
            step *= 2
            if abs(step) > WIDEST:
                return float(sign * np.inf)
        inside, outside = value + step / 2, value + step
        if abs(step) < 2e-6 * max(abs(value), 1.0):
            inside = value
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
        return inside

    return Ratio(value, end(-1), end(1))
