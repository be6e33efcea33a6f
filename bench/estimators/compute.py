"""Compute the FLOPs of sampling, scoring and fine-tuning, and the number of queries after which fine-tuning pays.

2 FLOPs per parameter and token forward, 6 in training (Kaplan et al. 2020, §2.1), without attention. Decoding is bound
by memory, not arithmetic, so that FLOPs flatter the fine-tuned model: show measured seconds beside them.
"""

import math
from dataclasses import dataclass

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, of_same_prompts, tail_of
from bench.estimators.bootstrap import RESAMPLES, resampled_means

__all__ = [
    "Costs",
    "best_of_n_query_flops",
    "break_even",
    "break_even_queries",
    "fine_tuned_query_flops",
    "fine_tuning_flops",
]


@dataclass(frozen=True)
class Costs:
    """Sizes in parameters and lengths in tokens: what `break_even_queries` needs besides n.

    >>> costs = Costs(1e9, 0, prompt_tokens=100, completion_tokens=50, pool_size=4, prompts=10, epochs=1, selected=10)
    >>> fine_tuning_flops(costs)  # ten pools of 6e11, and 6 · 1e9 · 10 · 150 of training
    15000000000000.0
    """

    policy_parameters: float
    reward_parameters: float  # 0 for a verifier
    prompt_tokens: float  # mean per prompt
    completion_tokens: float  # mean per completion
    pool_size: float  # N drawn for training, a mean where prompts differ in it
    prompts: int  # M, for which samples were drawn
    epochs: float
    selected: int  # completions kept in total
    reward_training_flops: float = 0.0
    other_generators_flops: float = 0.0  # of drawing the pool with other policies, minus the policy's own
    prompt_reads: float = 1.0  # mean per prompt: drawing in steps reads a prompt again in each
    compared: int = 0  # completions that the reference of preference tuning reads once


@dataclass(frozen=True)
class BreakEven:
    """The n whose Best-of-n matches the fine-tuned policy, and the queries after which the policy is cheaper.

    n is 1 where the policy is no better than one sample, and infinite where no n of the curve reaches it; queries are
    then None. low and high are the ends of the intervals; an end of queries is None where fine-tuning never pays at
    that n.
    """

    n: float
    n_low: float
    n_high: float
    queries: int | None
    queries_low: int | None
    queries_high: int | None
    sentence: str


def forward_flops(parameters: float, tokens: float) -> float:
    """Return the FLOPs of reading or generating so many tokens: 2 · parameters · tokens."""
    return 2 * parameters * tokens


def training_flops(parameters: float, tokens: float) -> float:
    """Return the FLOPs of training on so many tokens, counted once per epoch: 6 · parameters · tokens."""
    return 6 * parameters * tokens


def best_of_n_query_flops(
    policy_parameters: float, reward_parameters: float, prompt_tokens: float, completion_tokens: float, n: float
) -> float:
    """Return the FLOPs of a query answered by Best-of-n.

    The policy reads the prompt once and generates n completions; the reward model reads prompt and completion n times.

    >>> best_of_n_query_flops(1e9, 0, prompt_tokens=100, completion_tokens=50, n=4)  # 2 · 1e9 · (100 + 4 · 50)
    600000000000.0
    """
    generated = forward_flops(policy_parameters, prompt_tokens + n * completion_tokens)
    return generated + forward_flops(reward_parameters, n * (prompt_tokens + completion_tokens))


def fine_tuned_query_flops(policy_parameters: float, prompt_tokens: float, completion_tokens: float) -> float:
    """Return the FLOPs of a query answered by one sample.

    >>> fine_tuned_query_flops(1e9, prompt_tokens=100, completion_tokens=50)  # 2 · 1e9 · 150
    300000000000.0
    """
    return forward_flops(policy_parameters, prompt_tokens + completion_tokens)


def fine_tuning_flops(costs: Costs) -> float:
    """Return C₀, the FLOPs spent once: to draw and score the pool, to train on the selection, to train the rewards.

    >>> fine_tuning_flops(Costs(1e9, 0, 100, 50, pool_size=4, prompts=10, epochs=1, selected=0))  # 10 · 6e11
    6000000000000.0
    """
    c = costs
    pool = best_of_n_query_flops(
        c.policy_parameters, c.reward_parameters, c.prompt_tokens, c.completion_tokens, c.pool_size
    )
    read_again = forward_flops(c.policy_parameters, (c.prompt_reads - 1) * c.prompt_tokens)
    trained = c.epochs * c.selected * (c.prompt_tokens + c.completion_tokens)
    compared = forward_flops(c.policy_parameters, c.compared * (c.prompt_tokens + c.completion_tokens))
    return (
        c.prompts * (pool + read_again)
        + compared
        + training_flops(c.policy_parameters, trained)
        + c.reward_training_flops
        + c.other_generators_flops
    )


def break_even_queries(costs: Costs, n: float) -> int | None:
    """Return Q* = ⌈C₀ / (FLOPs of a Best-of-n query − of a fine-tuned one)⌉; None where Best-of-n costs no more.

    n: the one whose Best-of-n is as good as the fine-tuned policy, interpolated where needed (see `break_even`).
    Raises ValueError for a negative cost or n < 1.

    >>> costs = Costs(1e9, 0, prompt_tokens=100, completion_tokens=50, pool_size=4, prompts=10, epochs=1, selected=10)
    >>> break_even_queries(costs, n=4)  # 1.5e13 / 3e11
    50
    """
    signed = "other_generators_flops"  # below 0 where smaller policies drew
    negative = [name for name, value in vars(costs).items() if not (value >= 0 or name == signed)]
    if negative or not n >= 1:
        raise ValueError(
            f"{', '.join(negative) or 'n'} is not allowed; costs must not be negative, and n={n} at least 1"
        )
    return _queries(costs, n)


def break_even(
    n: Sizes,
    best_of_n: np.ndarray,
    fine_tuned: np.ndarray,
    costs: Costs,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> BreakEven:
    """Return `break_even_queries` at the n that matches the fine-tuned policy, with intervals by resampling prompts.

    The matching n is the smallest at which the curve reaches the policy's quality, interpolated linearly in log n. Each
    resample draws whole prompts and finds its own; the percentiles of n give those of the queries. A prompt that lacks
    the policy's value or one of the curve's is left out of both (see `of_same_prompts`).

    n: [K] ascending, from 1. best_of_n: [M, K], the quality per prompt. fine_tuned: [M] on the same prompts.
    Raises ValueError for shapes that do not fit, or an n that does not ascend.

    >>> curve, tuned = np.tile([0.25, 0.5, 0.75], (50, 1)), np.full(50, 0.5)  # the policy is as good as Best-of-2
    >>> costs = Costs(1e9, 0, prompt_tokens=100, completion_tokens=50, pool_size=4, prompts=10, epochs=1, selected=10)
    >>> found = break_even([1, 2, 4], curve, tuned, costs, np.random.default_rng(0))
    >>> found.n, found.queries  # 1.5e13 once; a query of Best-of-2 costs 4e11, one of the policy 3e11
    (2.0, 150)
    """
    sizes, _ = as_sizes("n", n)
    best_of_n = as_floats("best_of_n", best_of_n, "[M, K]")
    fine_tuned = as_floats("fine_tuned", fine_tuned, "[M]")
    if best_of_n.shape != (len(fine_tuned), len(sizes)) or (np.diff(sizes) <= 0).any():
        raise ValueError(
            f"best_of_n has shape {list(best_of_n.shape)}; [{len(fine_tuned)}, {len(sizes)}] at ascending n is expected"
        )
    tail = tail_of(level)
    columns = of_same_prompts(np.column_stack([best_of_n, fine_tuned]))
    means = resampled_means(columns, rng, resamples=resamples)
    log_n = np.log(sizes)[None]
    crossings = np.exp(first_reached(means[:, :-1], log_n, means[:, -1]))
    low, high = (float(end) for end in np.quantile(crossings, [tail, 1 - tail], method="nearest"))
    centre = np.nanmean(columns, axis=0)
    middle = float(np.exp(first_reached(centre[None, :-1], log_n, centre[-1:])[0]))
    queries, most, fewest = (
        None if end - 1 < 1e-9 else _queries(costs, end)  # a single sample is not scored
        for end in (middle, low, high)
    )
    if queries is not None:
        least = f"below {_queries(costs, sizes[-1]):,}" if math.isinf(high) else _count(fewest)
        interval = f"{level:.0%} interval: {least} to {_count(most)}"
        sentence = f"It matches Best-of-{middle:.3g} and pays after {_count(queries)} queries ({interval})."
    elif math.isinf(middle):
        sentence = f"No n up to {sizes[-1]} is as good as the fine-tuned policy, so no break-even is given."
    else:
        sentence = "It is as good as a Best-of-n that costs no more a query (n near 1), so fine-tuning never pays."
    return BreakEven(middle, low, high, queries, fewest, most, sentence)


def _count(queries: int | None) -> str:
    return "never" if queries is None else f"{queries:,}"


def _queries(costs: Costs, n: float) -> int | None:
    """Return Q* at this n, or None where fine-tuning never pays."""
    if math.isinf(n) or (n - 1 < 1e-9 and costs.reward_parameters == 0):  # one sample per query, up to rounding
        return None
    c = costs
    lengths = c.prompt_tokens, c.completion_tokens
    saved = best_of_n_query_flops(c.policy_parameters, c.reward_parameters, *lengths, n)
    saved -= fine_tuned_query_flops(c.policy_parameters, *lengths)
    return math.ceil(fine_tuning_flops(costs) / saved) if saved > 0 else None


def first_reached(curves: np.ndarray, x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return [B]: the x where each of the curves [B, K] first reaches `wanted` [B], linear in between; inf where never.

    x: [B, K], or [1, K] for all curves. A curve that begins above what is wanted gives its first x.
    """
    x = np.broadcast_to(x, curves.shape)
    reached = curves >= wanted[:, None]
    first = reached.argmax(axis=1)
    rows, before = np.arange(len(curves)), np.maximum(first - 1, 0)
    rise = curves[rows, first] - curves[rows, before]
    part = np.divide(wanted - curves[rows, before], rise, out=np.zeros(len(rise)), where=rise > 0)
    return np.where(reached.any(axis=1), x[rows, before] + part * (x[rows, first] - x[rows, before]), np.inf)
