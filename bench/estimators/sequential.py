"""Unbiased estimates from samples that were drawn until enough of them were accepted.

How many samples there are then depends on what they were: the share of accepted ones is biased, as is every estimate
for a fixed N. For a plan that says beforehand when to stop, the count of drawn and accepted samples is sufficient, and
taking the mean of an unbiased guess over all the orders in which that count could have come about leaves it unbiased
(Girshick, Mosteller and Savage 1946, "Unbiased estimates for certain binomial sampling problems with applications").
"""

import math
from fractions import Fraction

import numpy as np

from bench.estimators.arrays import Sizes, as_floats, as_sizes, check_same_shape


def stopped_pass_at_k(
    accepted: np.ndarray, drawn: np.ndarray, k: Sizes, *, enough: int, limit: int, block: int = 1
) -> np.ndarray:
    """The chance that one of k samples is accepted, by prompts that were sampled until `enough` were, or `limit` drawn.

    After each block of `block` samples a prompt with `enough` accepted stops, as does one with `limit` samples. Of all
    orders of accepted and refused samples that stop with this prompt's counts, the estimate is the share in which one
    of the first k is accepted. It is unbiased for 1 - (1 - p)^k at every p and every k up to the limit, truncation
    included: whether one of the first k is accepted is known whenever a plan stops, and its mean given a sufficient
    statistic keeps its mean (Girshick, Mosteller and Savage 1946; Blackwell 1947). Block by block of 1, k = 1 gives
    (enough - 1) / (drawn - 1) before the limit (Haldane 1945), and drawn = 1 or not for enough = 1; for enough = 1,
    k tells whether the accepted one was among the first k.

    accepted, drawn: [M] counts. k: an int -> [M], a sequence -> [M, K]. ValueError for counts that no such plan stops
    with, for k above the limit, and where an argument is no whole number of at least 1.
    """
    accepted, drawn = as_floats("accepted", accepted, 1, shape="[M]"), as_floats("drawn", drawn, 1, shape="[M]")
    check_same_shape(accepted=accepted, drawn=drawn)
    for name, value in {"enough": enough, "limit": limit, "block": block}.items():
        as_sizes(name, value)
    sizes, single = as_sizes("k", k, limit)
    every = _orders(0, enough, limit, block)
    tables = [_orders(size, enough, limit, block) for size in sizes.tolist()]
    counts = np.stack([drawn, accepted], axis=1)
    found, inverse = np.unique(counts, axis=0, return_inverse=True)
    values = np.empty((len(found), len(sizes)))
    for number, (n, s) in enumerate(found.tolist()):
        if (n, s) not in every:
            raise ValueError(
                f"{n:g} drawn and {s:g} accepted is not how a prompt stops with enough={enough}, limit={limit} and "
                f"block={block}"
            )
        values[number] = [float(1 - Fraction(table.get((n, s), 0), every[n, s])) for table in tables]
    values = values[inverse.ravel()]
    return values[:, 0] if single else values


def _orders(refused: int, enough: int, limit: int, block: int) -> dict[tuple[float, float], int]:
    """(drawn, accepted) at a stop -> how many orders stop there, of those whose first `refused` are refused."""
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
        going = {}
        for accepted, ways in after.items():
            if accepted >= enough or drawn == limit:
                stops[drawn, accepted] = ways
            else:
                going[accepted] = ways
    return stops
