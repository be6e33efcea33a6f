"""Counts whose sampling stopped at the first success: suspected, refused as if n were fixed, or estimated by the rule.

stopped=first_success block=60 limit=10020     each prompt was sampled in blocks, up to the first one with a success
accept_fixed=true                              n did not depend on the outcomes: take the counts as they are
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bench.errors import BenchError, quoted
from bench.estimators.sequential import sequentially_stopped, stopped_pass_at_k
from bench.pools.columns import whole_number

RULE, ACCEPTED = "first_success", "true"
WORDS = ("stopped", "block", "limit", "accept_fixed")


class FirstSuccess(NamedTuple):
    """After each block of samples, a prompt stops that has a success, or `limit` samples."""

    block: int
    limit: int

    def pass_at_k(self, correct: np.ndarray, k: list[int]) -> np.ndarray:
        """[M, K] unbiased, of outcomes [M, N] with NaN where nothing was drawn."""
        accepted, drawn = np.nansum(correct, axis=1), (~np.isnan(correct)).sum(axis=1)
        try:
            return stopped_pass_at_k(accepted, drawn, k, enough=1, limit=self.limit, block=self.block)
        except ValueError as error:
            raise BenchError(f"The counts don't fit stopped={RULE}: {error}.") from error


def plan_of(stopped: Any) -> FirstSuccess | bool | None:
    """The plan of {"block": B, "limit": L}; True: counts are taken as they are. BenchError for anything else."""
    if not isinstance(stopped, Mapping):
        if stopped not in (True, None):
            raise BenchError(f"stopped={quoted(stopped)} is not allowed: it must be a block and a limit, or true.")
        return stopped
    numbers: list[Any] = [stopped.get("block"), stopped.get("limit")]
    if len(stopped) != 2 or not all(isinstance(one, int) for one in numbers) or not 1 <= numbers[0] <= numbers[1]:
        raise BenchError(f"stopped={RULE} needs block=B limit=L, whole numbers with 1 <= B <= L.")
    return FirstSuccess(*numbers)


def of_words(given: Mapping[str, str]) -> dict[str, int] | bool | None:
    """The argument of `plan_of` that the words of the command give. BenchError where they don't go together."""
    fixed = given.get("accept_fixed", "false")
    if fixed not in (ACCEPTED, "false"):
        raise BenchError(f"accept_fixed={quoted(fixed)} is not allowed: it must be true or false.")
    if "stopped" not in given:
        if {"block", "limit"} & given.keys():
            raise BenchError(f"block= and limit= belong to stopped={RULE}, which is not given.")
        return fixed == ACCEPTED or None
    if given["stopped"] != RULE or fixed == ACCEPTED:
        raise BenchError(f"stopped={quoted(given['stopped'])} must be {RULE}, without accept_fixed=true.")
    return {name: whole_number(given.get(name, "")) or 0 for name in ("block", "limit")}


def check(correct: np.ndarray, plan: FirstSuccess | bool | None, *, counts: bool) -> list[str]:
    """What the reader should know of the numbers of samples. BenchError where counts look stopped, and no one said so.

    correct: [M, N], NaN where nothing was drawn or judged. counts: whether n and c came in place of completions.
    """
    if isinstance(plan, FirstSuccess):
        if not counts:
            raise BenchError(f"stopped={RULE} is for counts (n, c); these are completions.")
        return [
            f"pass@k is the unbiased estimate of sampling in blocks of {plan.block:,} up to the first success, at most "
            f"{plan.limit:,} samples. Best-of-n, its KL and pass^k are left out: they take a fixed number of samples."
        ]
    samples = (~np.isnan(correct)).sum(axis=1)
    if plan or not (samples > 0).any():
        return []
    found = sequentially_stopped(np.nansum(correct, axis=1)[samples > 0], samples[samples > 0])
    if not found.suspected:
        return []
    evidence = (
        f"{found.early:,} prompts have fewer than {found.limit:,} samples, always a multiple of {found.block:,}, and "
        f"each has a success; all {found.unsolved:,} prompts without one have {found.limit:,}"
    )
    if not counts:
        return [f"Sampling may have stopped at successes: {evidence}. Estimates for a fixed number are too high then."]
    raise BenchError(
        f"The counts look as if sampling had stopped at successes: {evidence}. pass@k for a fixed n would be too high. "
        f"Give stopped={RULE} block={found.block} limit={found.limit}, or accept_fixed=true if n did not "
        "depend on the outcomes."
    )
