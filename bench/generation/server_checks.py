"""Whether a server does what a pool relies on: that it holds the policy, and that a seed repeats and others differ."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bench.artifacts import Policy, Prompts
from bench.errors import BenchError
from bench.generation.completions_api import Answer, Request
from bench.models.logprobs import token_logprobs
from bench.progress import say
from bench.seeds import stream_key

PROMPTS = 8  # asked to see whether the weights are the policy's
SEEDS = 8  # asked twice of one prompt
HOT = 2.0  # the temperature of those: even a sure policy then draws other tokens with another seed
TOKENS = 16  # of each completion
ALIKE = 2  # first tokens that make two completions alike: in 16 bits rounding parts equal seeds later on


def check(
    policy: Policy,
    prompts: Prompts,
    asking: Callable[..., Request],
    drawn: Callable[[Sequence[Request]], Iterator[tuple[int, Answer, list[int], bool]]],
    *,
    max_tokens: int,
    drawing: bool,
    seeded: bool,
    tolerance: float,
    dtype: str,
    url: str,
) -> None:
    """BenchError where the server holds another model than the policy, or, for `drawing`, ignores seeds.

    asking(row, ...) makes a request about a row of `prompts`; drawn(requests) gives each one's (index, answer, token
    ids, whether they are exact).
    """
    plain = {"top_p": 1.0, "top_k": 0, "max_tokens": max_tokens}
    weights = [
        asking(row, temperature=1.0, seed=stream_key(row, "ask a server") % 2**63, logprobs=True, **plain)
        for row in range(len(prompts))
    ]
    seeds = [asking(0, temperature=HOT, seed=stream_key(i, "ask again") % 2**63, **plain) for i in range(SEEDS)]
    found = {i: (ids, answer.logprobs if exact else None) for i, answer, ids, exact in drawn(weights)}
    ids, theirs = zip(*(found[row] for row in range(len(prompts))), strict=True)
    check_weights(policy, prompts, ids, theirs, tolerance=tolerance, dtype=dtype, url=url)
    if drawing:
        again = {i: ids for i, _, ids, _ in drawn(seeds * 2 if seeded else seeds)}
        check_seeds(
            [again[i] for i in range(SEEDS)], [again[i + SEEDS] for i in range(SEEDS)] if seeded else None, url=url
        )


def check_weights(
    policy: Policy,
    prompts: Prompts,
    token_ids: Sequence[list[int]],
    theirs: Sequence[list[float] | None],
    *,
    tolerance: float,
    dtype: str,
    url: str,
) -> None:
    """BenchError where the server's log-probabilities [M] lists, nats a token, aren't the policy's, drawn at
    temperature 1, top-p 1: the mean absolute difference a token is above `tolerance`."""
    told = [row for row, found in enumerate(theirs) if found]
    if not told:
        say(f"warning: {url} tells no log-probabilities, so whether it holds {policy.path} can't be checked")
        return
    asked = Prompts(prompts.id[told], tuple(prompts.messages[row] for row in told), prompts.answer[told])
    known = [np.array(theirs[row][: len(token_ids[row])]) for row in told]  # type: ignore[index]
    scored = [token_ids[row][: len(found)] for row, found in zip(told, known, strict=True)]  # some leave out EOS
    ours = token_logprobs(policy, asked, scored, dtype=dtype)
    difference = float(np.abs(np.concatenate(known) - np.concatenate(ours)).mean())
    if not difference <= tolerance:
        raise BenchError(
            f"{url} serves another model than {policy.path}: its log-probabilities are {difference:.3f} nats a token "
            f"away from the policy's, more than generation.logprob_tolerance={tolerance}."
        )


def check_seeds(first: Sequence[list[int]], again: Sequence[list[int]] | None, *, url: str) -> None:
    """BenchError where the server ignores seeds: first[i] and again[i] are token ids drawn with the i-th of several.

    again None: only that they aren't all the same, as they would be where every request gets one random stream.
    """
    if all(ids == first[0] for ids in first):
        raise BenchError(f"{url} draws the same completion whatever the seed, so its samples are not independent.")
    if again is None:
        return
    repeated = sum(one[:ALIKE] == two[:ALIKE] for one, two in zip(first, again, strict=True))
    if 2 * repeated <= len(first):
        raise BenchError(
            f"{url} ignores seeds: of {len(first)} completions asked for twice with equal seeds, "
            f"{len(first) - repeated} began differently. Pools from it can't be repeated; "
            "generation.accept_unseeded=true draws them so."
        )
