"""Messages to token ids: the only place where prompts are rendered; every engine and lm-eval see the same ones."""

from collections.abc import Sequence
from typing import Any

from bench.artifacts import Message


def render(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The prompt as text: the model's chat template, or the bare contents for a base model without one."""
    if tokenizer.chat_template is None:
        return "\n\n".join(message["content"] for message in messages)
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The prompt's token ids. A chat template writes its own BOS; a bare prompt gets the tokenizer's."""
    return tokenizer.encode(render(tokenizer, messages), add_special_tokens=tokenizer.chat_template is None)
