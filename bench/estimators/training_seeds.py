"""Training seeds as a second level of variation beside prompts: intervals that hold for a new run, not for this one."""

import math
from dataclasses import dataclass

import numpy as np

from bench.estimators.arrays import as_floats
from bench.estimators.bootstrap import tail_of
from bench.estimators.distributions import t_quantile


@dataclass(frozen=True)
class SeedInterval:
    """The mean over S training seeds and M prompts, for new seeds on new prompts and for new seeds on these prompts."""

    mean: float
    low: float
    high: float
    low_same_prompts: float  # t(S − 1) on the seeds' means
    high_same_prompts: float
    prompt_variance: float  # σ² between prompts, 0 where the estimate is negative; likewise the next
    seed_variance: float
    residual_variance: float  # of seed and prompt together, and of the draw
    error: float  # standard error of the mean, for new seeds on new prompts
    freedom: float  # its degrees of freedom; NaN where the error is 0
    seeds: int
    prompts: int


def seed_interval(values: np.ndarray, level: float = 0.95) -> SeedInterval:
    """An interval of the mean over training seeds and prompts, every seed scored on the same prompts.

    Var(mean) = σ²_prompt/M + σ²_seed/S + σ²_residual/(MS), estimated from the mean squares of the two-way table as
    (MS_prompt + MS_seed − MS_residual)/(MS), with t at Satterthwaite's degrees of freedom (Satterthwaite 1946; Searle,
    Casella and McCulloch 1992, §2.6 and 5.2). The t(S − 1) interval on seed means, given beside it, leaves out the
    sampling of prompts: with few seeds and a wide spread between prompts it is far too short for new ones.

    values: [S, M], e.g. one score a seed and prompt, or its paired difference to a baseline. A prompt with a NaN under
    any seed is left out under all. ValueError for S < 2 (one seed says nothing of others), M < 2, or infinities.
    """
    values = as_floats("values", values, 2, shape="[S, M]")
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
    if np.ptp(values) > 1e-12 * np.abs(values).max():  # of equal values the squares are rounding alone
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
