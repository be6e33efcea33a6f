"""What engines share: prompts to token ids that leave room in the model's context, and token ids to completions."""

import functools
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.models import chat, loading


def encode(tokenizer: Any, prompts: Prompts, *, max_new_tokens: int, context: int | None) -> list[list[int]]:
    """Each prompt's token ids. BenchError names the first that leaves no room for max_new_tokens in the context."""
    prompt_ids = [chat.encode(tokenizer, messages) for messages in prompts.messages]
    for name, ids in zip(prompts.id, prompt_ids, strict=True):
        if context is not None and len(ids) + max_new_tokens > context:
            raise BenchError(
                f"Prompt {name} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} is more than the "
                f"policy's context of {context}; shorten it or lower task.max_new_tokens."
            )
    return prompt_ids


def ending_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """The tokens that end a completion: the generation configuration's, of which there may be several, EOS, and what
    ends an assistant's turn in the chat template."""
    end = chat.turn_end(tokenizer)
    return _named_ends(tokenizer, generation_config) | ({end} if end is not None else set())


def _named_ends(tokenizer: Any, generation_config: Any) -> set[int]:
    configured = generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


def _generation_config(base: Policy) -> Any:
    from transformers import GenerationConfig

    if (base.path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(base.path)
    return GenerationConfig.from_model_config(loading.load_config(base))


@functools.lru_cache(maxsize=64)
def unconfigured_end(policy: Policy) -> int | None:
    """The token that ends a turn where the chat template alone says so; None where EOS or the configuration does too.

    Without it pools of such a policy ran on, so it sets theirs apart from those, and leaves all other keys as they are.
    """
    if not loading.has_chat_template(policy.path):
        return None
    tokenizer = loading.load_tokenizer(policy)
    end = chat.turn_end(tokenizer)
    named = _named_ends(tokenizer, _generation_config(loading.base_of(policy)))
    return None if end in named else end


def configured(base: Policy, tokenizer: Any) -> tuple[set[int], int | None, int]:
    """Of a whole model, without its weights: the ids that end a completion, its context in tokens (None: it names
    none), and the size of its vocabulary."""
    config = loading.load_config(base)
    text = config.get_text_config()
    return ending_ids(tokenizer, _generation_config(base)), loading.context(config), text.vocab_size


def decode(
    tokenizer: Any,
    token_ids: np.ndarray,
    *,
    eos_ids: set[int],
    logprob: np.ndarray,
    policy_logprob: np.ndarray,
    dtype: str,
) -> Completions:
    """Completions [M, N] of token_ids [M, N]; BenchError where a log-probability under the policy is not a number."""
    if not np.isfinite(policy_logprob).all():
        raise BenchError(
            f"The policy's logits are not finite numbers in {dtype}; its weights are damaged, or generation.dtype is "
            "too narrow for it."
        )
    texts = tokenizer.batch_decode([ids.tolist() for ids in token_ids.ravel()], skip_special_tokens=True)
    stopped = [ids[-1] in eos_ids for ids in token_ids.ravel()]
    return Completions(
        text=np.array(texts, object).reshape(token_ids.shape),
        token_ids=token_ids,
        finish_reason=np.where(stopped, "stop", "length").reshape(token_ids.shape),
        logprob=logprob,
        policy_logprob=policy_logprob,
        key="",
    )
