"""A task's worked solutions as completions of its prompts, and their likelihood under a policy."""

from pathlib import Path

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, content_hash
from bench.errors import BenchError
from bench.models import loading
from bench.models.logprobs import sequence_logprobs
from bench.store import stage
from bench.tasks import Task


def demonstrations(
    task: Task, prompts: Prompts, base: Policy, *, foreign: float, noise: float, seed: int
) -> Completions:
    """The demonstrations [M, 1] of `task.demonstrations_of`, in the base's tokens, with EOS appended.

    `logprob` and `policy_logprob` are NaN, since no policy drew them. BenchError where the tokenizer has no EOS.
    """
    tokenizer = loading.load_tokenizer(base)
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer in {base.path} has no EOS token, so a demonstration can't be ended.")
    texts = task.demonstrations_of(prompts, foreign=foreign, noise=noise, seed=seed)  # type: ignore[attr-defined]  # checked before
    shape = (len(prompts), 1)
    text, token_ids = np.empty(shape, object), np.empty(shape, object)
    for row, solution in enumerate(texts):
        ids = [*tokenizer.encode(solution, add_special_tokens=False), tokenizer.eos_token_id]
        text[row, 0], token_ids[row, 0] = solution, np.array(ids, np.int32)
    key = content_hash("demonstrations", prompts.key, [ids.tolist() for ids in token_ids[:, 0]])
    unknown = np.full(shape, np.nan)
    return Completions(text, token_ids, np.full(shape, "stop"), unknown, unknown, key)


def nll_per_token(policy: Policy, prompts: Prompts, completions: Completions) -> np.ndarray:
    """[M] nats per token: minus the log-probability of each completion [M, 1] over its length, EOS included."""
    return -teacher_forced(policy, prompts, completions)[:, 0] / completions.length[:, 0]


def _load(folder: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(folder / "logprobs.safetensors")["logprob"]


@stage(version=1, load=_load)
def teacher_forced(policy: Policy, prompts: Prompts, completions: Completions, *, out: Path) -> dict[str, float]:
    """[M, N] nats per sequence under the raw policy, kept in the store; see bench.models.logprobs.sequence_logprobs."""
    from safetensors.numpy import save_file

    from bench.models import chat

    save_file({"logprob": sequence_logprobs(policy, prompts, completions)}, out / "logprobs.safetensors")
    tokenizer = loading.load_tokenizer(policy)
    lengths = np.array([len(chat.encode(tokenizer, messages)) for messages in prompts.messages])
    read = int((lengths[:, None] + completions.length).sum())
    return {"read_tokens": read, "flops": 2 * loading.count_parameters(policy) * read}
