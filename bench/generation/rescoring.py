"""The suite's own log-probabilities for token ids that another program drew."""

from functools import partial

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.logprobs import sequence_logprobs


def sequence_logprob_pair(
    policy: Policy, prompts: Prompts, token_ids: np.ndarray, *, temperature: float, top_p: float, top_k: int, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """[M, N] nats a sequence under the sampler, and under the policy at temperature 1, top-p 1; greedy's are 0."""
    nothing = np.zeros(token_ids.shape)
    unscored = Completions(token_ids, token_ids, nothing, nothing, nothing, key="")
    score = partial(sequence_logprobs, policy, prompts, unscored, dtype=dtype)
    under_policy = score()
    if temperature == 0:
        return nothing, under_policy
    if (temperature, top_p, top_k) == (1, 1, 0):
        return under_policy, under_policy
    return score(temperature=temperature, top_p=top_p, top_k=top_k), under_policy


def token_logprobs(policy: Policy, prompts: Prompts, token_ids: list[list[int]], *, dtype: str) -> list[np.ndarray]:
    """Of one completion a prompt, each token's log-probability under the policy, nats: for short ones, as all their
    beginnings are scored."""
    longest = max(map(len, token_ids))
    beginnings = np.empty((len(token_ids), longest), object)
    for row, ids in enumerate(token_ids):
        for column in range(longest):
            beginnings[row, column] = np.array(ids[: column + 1], np.int32)
    nothing = np.zeros(beginnings.shape)
    sums = sequence_logprobs(
        policy, prompts, Completions(beginnings, beginnings, nothing, nothing, nothing, key=""), dtype=dtype
    )
    return [np.diff(sums[row, : len(ids)], prepend=0.0) for row, ids in enumerate(token_ids)]
