"""Estimate from pools whose sampling stopped early, and decide which prompts get the next samples.

More samples for inputs where they are expected to help is the idea of Damani et al. 2024 (arXiv 2410.04707), who learn
the gains of each input. Here the gains follow from a Beta posterior of each prompt's rate of acceptance, which is ours.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import Sizes, as_equal_floats, as_floats, as_generator, as_sizes

STRENGTHS = np.array(sorted(2.0 ** np.arange(-3, 8), key=lambda s: abs(np.log2(s) - 1)))  # samples; 2 (flat) first
_log_gamma = np.vectorize(math.lgamma, otypes=[float])


class BetaPrior(NamedTuple):
    """The prior of all prompts' rates of acceptance, in samples; `accepted` + `refused` is its strength."""

    accepted: float
    refused: float


def stopped_pass_at_k(
    accepted: np.ndarray, drawn: np.ndarray, k: Sizes, *, enough: int, limit: int, block: int = 1
) -> np.ndarray:
    """Estimate the probability that one of k samples is accepted, from prompts whose sampling stopped early.

    The number of samples then depends on their outcomes, which biases the share of accepted samples and every estimate
    that assumes a fixed N. The plan: after each block of `block` samples, a prompt with `enough` accepted samples or
    with `limit` samples stops. Of all orders of accepted and refused samples that stop with a prompt's counts, the
    estimate is the share in which one of the first k is accepted. It is unbiased for 1 − (1 − p)^k at every p and every
    k up to the limit: the counts are a sufficient statistic, and whether one of the first k is accepted is known
    whenever a plan stops (Girshick, Mosteller and Savage 1946; Blackwell 1947). Special cases with block = 1: before
    the limit, k = 1 gives (enough − 1) / (drawn − 1) (Haldane 1945); with enough = 1, the estimate is 1 where the
    accepted sample was among the first k, else 0.

    accepted, drawn: [M] counts. k: an int -> [M], a sequence -> [M, K]. Raises ValueError for counts with which no such
    plan stops, for k above the limit, and for enough, limit or block that is no whole number of at least 1.

    >>> stopped_pass_at_k([2, 0], [5, 8], 1, enough=2, limit=8).tolist()  # (2 - 1) / (5 - 1); never accepted
    [0.25, 0.0]
    """
    accepted, drawn = as_equal_floats("[M]", accepted=accepted, drawn=drawn)
    for name, value in {"enough": enough, "limit": limit, "block": block}.items():
        as_sizes(name, value)
    sizes, single = as_sizes("k", k, limit)
    every = _orders(0, enough, limit, block)
    tables = [_orders(size, enough, limit, block) for size in sizes.tolist()]
    counts, inverse = np.unique(np.stack([drawn, accepted], axis=1), axis=0, return_inverse=True)
    values = np.empty((len(counts), len(sizes)))
    for number, (n, s) in enumerate(counts.tolist()):
        if (n, s) not in every:
            raise ValueError(
                f"{n:g} drawn and {s:g} accepted is not how a prompt stops with enough={enough}, limit={limit} and "
                f"block={block}"
            )
        values[number] = [float(1 - Fraction(table.get((n, s), 0), every[n, s])) for table in tables]
    values = values[inverse.ravel()]
    return values[:, 0] if single else values


class Stopping(NamedTuple):
    """Whether counts look as if each prompt's sampling had stopped once it had successes, and the rule that fits."""

    suspected: bool
    block: int  # every number of samples below the limit is a multiple of it
    limit: int  # the largest number of samples of a prompt
    early: int  # prompts with fewer samples than that
    unsolved: int  # prompts without a correct sample
    first_success: bool  # whether stopping at the first block with a success explains all counts
    chance: float  # that all unsolved prompts have the most samples if numbers of samples do not depend on outcomes


def sequentially_stopped(correct: np.ndarray, samples: np.ndarray) -> Stopping:
    """Say whether counts look sequentially stopped: then pass@k that assumes a fixed N is biased (`stopped_pass_at_k`).

    Suspected: numbers of samples differ, prompts without a success have the most samples, and either (a) this would be
    a chance of at most 5 %, C(M − early, unsolved) / C(M, unsolved), if numbers were unrelated to outcomes (Fisher's
    exact test, Fisher 1935), or (b) there are at least three numbers of samples, and no prompt has more successes than
    the last block holds: stopping at the first block with a success. Counts can't prove it: where all prompts are
    solved, or all numbers are equal, stopping leaves no trace.

    correct, samples: [M] counts. Raises ValueError where not 0 ≤ correct ≤ samples.

    >>> found = sequentially_stopped([1, 3, 1, 0, 2, 0], [60, 60, 180, 10020, 240, 10020])
    >>> found.suspected, found.first_success, found.block, found.limit, found.unsolved
    (True, True, 60, 10020, 2)
    >>> sequentially_stopped([40, 0, 3, 100], [100, 100, 99, 100]).suspected
    False
    """
    correct, samples = _counts(correct, samples)
    numbers = samples.astype(int).tolist()
    limit = max(numbers)
    early, unsolved = samples < limit, correct == 0
    block = math.gcd(*[number for number in numbers if number < limit]) or limit
    zeros_last = bool(early.any() and not (early & unsolved).any())
    first_success = zeros_last and bool((correct <= block).all()) and len(set(numbers)) > 2
    chance = math.comb(int((~early).sum()), int(unsolved.sum())) / math.comb(len(numbers), int(unsolved.sum()))
    return Stopping(
        suspected=first_success or (zeros_last and chance <= 0.05),
        block=block,
        limit=limit,
        early=int(early.sum()),
        unsolved=int(unsolved.sum()),
        first_success=first_success,
        chance=chance,
    )


def beta_prior(accepted: np.ndarray, drawn: np.ndarray) -> BetaPrior:
    """Fit the Beta prior of the rates of acceptance to the prompts' counts, by maximum likelihood over its strength.

    The mean is (accepted + 1) / (drawn + 2) over all prompts, so that it is neither 0 nor 1. The strength is one of
    1/8, 1/4, ... 128 samples, by the beta-binomial likelihood (Skellam 1948); it is 2 where one sample per prompt
    carries no information on it.

    accepted, drawn: [M]; the numbers drawn do not depend on the outcomes. Raises ValueError where not
    0 ≤ accepted ≤ drawn.

    >>> beta_prior([0, 4], [4, 4])  # the mean is 1/2; no rate is in the middle, so the strength is the least, 1/8
    BetaPrior(accepted=0.0625, refused=0.0625)
    """
    accepted, drawn = _counts(accepted, drawn)
    mean = (accepted.sum() + 1) / (drawn.sum() + 2)
    a, b = (share * STRENGTHS[:, None] for share in (mean, 1 - mean))
    likelihood = (_log_beta(a + accepted, b + drawn - accepted) - _log_beta(a, b)).sum(axis=1)  # [strengths]
    best = int(np.argmax(likelihood > likelihood.max() - 1e-9))
    return BetaPrior(float(mean * STRENGTHS[best]), float((1 - mean) * STRENGTHS[best]))


def expected_gains(accepted: np.ndarray, drawn: np.ndarray, prior: BetaPrior, *, enough: int, most: int) -> np.ndarray:
    """Return [M, most]: how much each further sample raises the expected number of accepted samples, up to `enough`.

    The gain of a sample is the probability that it is accepted while fewer than `enough` samples were accepted before
    it, under the posterior Beta(prior.accepted + accepted, prior.refused + refused). Gains never rise along a row.
    accepted, drawn: [M], as in `beta_prior`.

    >>> expected_gains([0], [0], BetaPrior(1, 1), enough=1, most=3).round(3).tolist()  # 1/2, 1/2 · 1/3, 1/2 · 2/3 · 1/4
    [[0.5, 0.167, 0.083]]
    """
    accepted, drawn = _counts(accepted, drawn)
    yes, no = prior.accepted + accepted, prior.refused + drawn - accepted
    wanted = np.maximum(enough - accepted, 0)  # [M]
    extra = np.arange(enough)  # accepted among the further samples; from `wanted` on nothing is gained
    open_ = extra < wanted[:, None]
    chance = np.where(open_ & (extra == 0), 1.0, 0.0)  # [M, enough], of `extra` accepted so far
    gains = np.empty((len(accepted), most))
    for number in range(most):
        total = (yes + no)[:, None] + number
        hit = chance * (yes[:, None] + extra) / total
        gains[:, number] = hit.sum(axis=1)
        chance = chance - hit
        chance[:, 1:] += hit[:, :-1]
        chance = np.where(open_, chance, 0.0)
    return np.minimum.accumulate(gains, axis=1)  # rounding may not raise one


def allocate(gains: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Return [M]: how many of `budget` further samples each prompt gets, so that the sum of their gains is largest.

    Takes the largest gains first, which is optimal because gains fall along each row. Ties: the earlier sample of a
    prompt first, then at random. Samples without gain are not drawn.
    gains: [M, most]. Raises ValueError where they rise along a row.

    >>> allocate([[0.5, 0.2], [0.4, 0.3]], 3, np.random.default_rng(0)).tolist()  # 0.5, 0.4 and 0.3
    [1, 2]
    """
    gains = as_floats("gains", gains, "[M, most]")
    if (np.diff(gains, axis=1) > 0).any():
        raise ValueError(f"gains {list(gains.shape)} rise along a row; falling gains are expected")
    number = np.broadcast_to(np.arange(gains.shape[1]), gains.shape)
    shuffled = np.broadcast_to(as_generator(rng).permutation(len(gains))[:, None], gains.shape)
    order = np.lexsort((shuffled.ravel(), number.ravel(), -gains.ravel()))[: max(budget, 0)]
    chosen = np.zeros(gains.size, bool)
    chosen[order] = True
    return (chosen.reshape(gains.shape) & (gains > 0)).sum(axis=1)


def _orders(refused: int, enough: int, limit: int, block: int) -> dict[tuple[float, float], int]:
    """Return (drawn, accepted) at a stop -> the number of orders that stop there, with the first `refused` refused."""
    stops: dict[tuple[float, float], int] = {}
    going = {0: 1}  # accepted so far -> orders that have not stopped
    drawn = 0
    while going:
        end = min(drawn + block, limit)
        free = end - max(drawn, min(refused, end))  # samples of this block that may be accepted
        after: dict[int, int] = {}
        for before, ways in going.items():
            for more in range(free + 1):
                after[before + more] = after.get(before + more, 0) + ways * math.comb(free, more)
        drawn = end
        stopped = [accepted for accepted in after if accepted >= enough or drawn == limit]
        stops |= {(drawn, accepted): after.pop(accepted) for accepted in stopped}
        going = after
    return stops


def _log_beta(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _counts(accepted: np.ndarray, drawn: np.ndarray) -> list[np.ndarray]:
    accepted, drawn = as_equal_floats("[M]", accepted=accepted, drawn=drawn)
    if (accepted < 0).any() or (accepted > drawn).any():
        raise ValueError(f"accepted {list(accepted.shape)} must lie between 0 and drawn")
    return [accepted, drawn]
