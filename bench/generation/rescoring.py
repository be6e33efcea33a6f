"""The suite's own log-probabilities for token ids that another program drew."""

from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.models.logprobs import loaded, logprobs_under_samplers, sequence_logprobs


class Rescorer:
    """One policy's log-probabilities, its weights loaded once, when first asked."""

    def __init__(self, policy: Policy, *, dtype: str) -> None:
        self.policy, self.dtype = policy, dtype
        self._models: dict[Policy, Any] = {}

    def pair(
        self, prompts: Prompts, token_ids: np.ndarray, *, temperature: float, top_p: float, top_k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """[M, N] nats a sequence under the sampler, and under the policy at temperature 1, top-p 1; greedy's are 0."""
        self._models = self._models or loaded((self.policy,), self.dtype)
        nothing = np.zeros(token_ids.shape)
        unscored = Completions(token_ids, token_ids, nothing, nothing, nothing, key="")
        raw, sampler = (1.0, 1.0, 0), (temperature, top_p, top_k)
        samplers = [raw] if temperature == 0 or sampler == raw else [raw, sampler]
        found = logprobs_under_samplers(self.policy, self._models, prompts, unscored, samplers)
        return (nothing if temperature == 0 else found[-1]), found[0]


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
