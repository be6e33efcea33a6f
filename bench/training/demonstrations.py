"""A task's worked solutions as completions that a policy can be trained on."""

from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Selection, content_hash
from bench.errors import BenchError
from bench.models import loading
from bench.tasks import Demonstrates


def demonstrations(
    task: Any, prompts: Prompts, base: Policy, *, foreign: float = 0.0, noise: float = 0.0, seed: int
) -> Completions:
    """The worked solutions [M, 1] of a task that has them, in the base's tokens, with EOS appended.

    foreign, noise: see `bench.tasks.Demonstrates`; other tasks have their solutions as published. `logprob` and
    `policy_logprob` are NaN, since no policy drew them. BenchError where the tokenizer has no EOS.
    """
    tokenizer = loading.load_tokenizer(base)
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer in {base.path} has no EOS token, so a demonstration can't be ended.")
    written = isinstance(task, Demonstrates)
    texts = (
        task.demonstrations_of(prompts, foreign=foreign, noise=noise, seed=seed) if written else task.solutions(prompts)
    )
    shape = (len(prompts), 1)
    text, token_ids = np.empty(shape, object), np.empty(shape, object)
    for row, solution in enumerate(texts):
        ids = [*tokenizer.encode(solution, add_special_tokens=False), tokenizer.eos_token_id]
        text[row, 0], token_ids[row, 0] = solution, np.array(ids, np.int32)
    key = content_hash("demonstrations", prompts.key, [ids.tolist() for ids in token_ids[:, 0]])
    unknown = np.full(shape, np.nan)
    return Completions(text, token_ids, np.full(shape, "stop"), unknown, unknown, key)


def every(prompts: int) -> Selection:
    """The selection of all worked solutions [M, 1]."""
    return Selection(np.arange(prompts), np.zeros(prompts, int), np.ones(prompts))
