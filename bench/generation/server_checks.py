"""Whether a server does what a pool relies on: it holds the policy, a seed repeats, and different seeds differ."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bench.artifacts import Policy, Prompts
from bench.errors import BenchError
from bench.generation.model_server import CompletionRequest
from bench.generation.server_answers import CompletionAnswer
from bench.models.logprobs import token_logprobs
from bench.models.sampler import RAW, Sampler
from bench.progress import say
from bench.seeds import stream_key

PROMPTS = 8  # one completion of each tells whether the weights are the policy's
SEEDS = 8  # each draws one completion twice, of one prompt
HOT = 2.0  # temperature of those completions: even a sure policy then draws other tokens with another seed
TOKENS = 16  # per completion
ALIKE = 2  # first tokens that make two completions alike: later tokens may differ by rounding in 16 bits


def check(
    policy: Policy,
    prompts: Prompts,
    request: Callable[..., CompletionRequest],
    drawn: Callable[[Sequence[CompletionRequest]], Iterator[tuple[int, CompletionAnswer, list[int], bool]]],
    *,
    max_tokens: int,
    greedy: bool,
    seeded: bool,
    tolerance: float,
    dtype: str,
    url: str,
) -> None:
    """Raise BenchError where the server holds another model than the policy, or ignores seeds.

    request(row, sampler, ...): make a request for a row of `prompts`. drawn(requests): yield each one's (index, answer,
    token ids, whether they are exact). greedy: the pool needs no seeds. seeded: equal seeds must repeat a completion.
    """
    weights = [
        request(row, RAW, max_tokens=max_tokens, seed=stream_key(row, "ask a server") % 2**63, logprobs=True)
        for row in range(len(prompts))
    ]
    drawings = {i: (ids, answer.logprobs if exact else None) for i, answer, ids, exact in drawn(weights)}
    token_ids, logprobs = zip(*(drawings[row] for row in range(len(prompts))), strict=True)
    check_weights(policy, prompts, token_ids, logprobs, tolerance=tolerance, dtype=dtype, url=url)
    if greedy:
        return
    seeds = [
        request(0, Sampler(HOT), max_tokens=max_tokens, seed=stream_key(i, "ask again") % 2**63) for i in range(SEEDS)
    ]
    completions = {i: ids for i, _, ids, _ in drawn(seeds * 2 if seeded else seeds)}
    first, second = ([completions.get(i + start, []) for i in range(SEEDS)] for start in (0, SEEDS))
    check_seeds(first, second if seeded else None, url=url)


def check_weights(
    policy: Policy,
    prompts: Prompts,
    token_ids: Sequence[list[int]],
    logprobs: Sequence[list[float] | None],
    *,
    tolerance: float,
    dtype: str,
    url: str,
) -> None:
    """Raise BenchError where the server's log-probabilities differ from the policy's by more than `tolerance`.

    token_ids, logprobs: [M] lists, drawn at temperature 1, top-p 1; nats per token. The difference is the mean over all
    tokens of its absolute value. `logprobs` may leave out the EOS, and is None where the server tells none.
    """
    rows = [row for row, values in enumerate(logprobs) if values]
    if not rows:
        say(f"warning: {url} tells no log-probabilities, so whether it holds {policy.path} can't be checked")
        return
    scored = Prompts(prompts.id[rows], tuple(prompts.messages[row] for row in rows), prompts.answer[rows])
    theirs = [np.array(logprobs[row][: len(token_ids[row])]) for row in rows]  # type: ignore[index]
    ids = [token_ids[row][: len(values)] for row, values in zip(rows, theirs, strict=True)]
    ours = token_logprobs(policy, scored, ids, dtype=dtype)
    difference = float(np.abs(np.concatenate(theirs) - np.concatenate(ours)).mean())
    if not difference <= tolerance:
        raise BenchError(
            f"{url} serves another model than {policy.path}: its log-probabilities are {difference:.3f} nats per token "
            f"away from the policy's, more than generation.logprob_tolerance={tolerance}."
        )


def check_seeds(first: Sequence[list[int]], second: Sequence[list[int]] | None, *, url: str) -> None:
    """Raise BenchError where the server ignores seeds. first[i], second[i]: token ids drawn with the i-th seed.

    second None: check only that not all are the same, as they would be if every request got one random stream.
    """
    if all(ids == first[0] for ids in first):
        raise BenchError(f"{url} draws the same completion whatever the seed, so its samples are not independent.")
    if second is None:
        return
    repeated = sum(a[:ALIKE] == b[:ALIKE] for a, b in zip(first, second, strict=True))
    if 2 * repeated <= len(first):
        raise BenchError(
            f"{url} ignores seeds: of {len(first)} completions asked for twice with equal seeds, "
            f"{len(first) - repeated} began differently. Pools from it can't be repeated; "
            "generation.accept_unseeded=true draws them so."
        )
