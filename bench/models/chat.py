"""Messages to token ids: the only place where prompts are rendered, so all engines and lm-eval see the same ones."""

import json
import re
from collections.abc import Sequence
from typing import Any

from bench.artifacts import Message
from bench.errors import BenchError

ANSWER = "Hello to you"  # in no template
OPEN_THINKING = re.compile(r"(<think(?:ing)?>)\s*\Z", re.IGNORECASE)


def render(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The prompt as text, by the model's chat template. BenchError where the template refuses the messages.

    A base model without a template gets the contents and nothing else, with a blank line between two messages.
    """
    if tokenizer.chat_template is None:
        return "\n\n".join(message["content"] for message in messages)
    return _templated(tokenizer, list(messages), add_generation_prompt=True)


def opened_thinking(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the tag with which the rendered prompt opens the reasoning of its completion, such as <think>; else ""."""
    found = OPEN_THINKING.search(render(tokenizer, messages))
    return found[1] if found else ""


def _templated(tokenizer: Any, messages: list[Message], *, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise BenchError(
            f"The chat template of {tokenizer.name_or_path} refuses messages by {roles}: {error}."
        ) from error


def set_defaults(tokenizer: Any, *, system: str | None, thinking: bool | None) -> None:
    """Write a system prompt and a thinking mode into the tokenizer's chat template; None leaves the template's own.

    The system prompt holds for conversations without a system message, the thinking mode for calls that name none. A
    saved tokenizer keeps both, so that prompts of a model that was fine-tuned with them are rendered in the same way.
    BenchError where there is no template, or the template has no thinking mode.
    """
    if system is None and thinking is None:
        return
    name, template = f"The tokenizer in {tokenizer.name_or_path}", tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if template is None:
        setting = "system" if thinking is None else "thinking"
        raise BenchError(f"{name} has no chat template that policy.{setting} could go into; leave it null.")
    before = ""
    if thinking is not None:
        if "enable_thinking" not in template:
            raise BenchError(f"{name} has a chat template without thinking modes; leave policy.thinking null.")
        mode = str(thinking).lower()
        before += f"{{%- set enable_thinking = enable_thinking if enable_thinking is defined else {mode} %}}"
    if system is not None:
        first = json.dumps({"role": "system", "content": system}, ensure_ascii=False)
        before += (
            f"{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = [{first}] + messages %}}{{%- endif %}}"
        )
    tokenizer.chat_template = before + template


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The prompt's token ids. A chat template writes its own BOS; a bare prompt gets the tokenizer's."""
    return tokenizer.encode(render(tokenizer, messages), add_special_tokens=tokenizer.chat_template is None)


def turn_end(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an assistant's turn; None without such a token or template.

    A base model that learned from chats ends its turns with this token. Where its configuration names another EOS
    alone, it would then go on: Qwen 2.5's base models have <|endoftext|> as EOS, and turns that end in <|im_end|>.
    """
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = _templated(tokenizer, turns, add_generation_prompt=False)
    except BenchError:  # the template refuses such a chat, and ends its turns in a way of its own
        return None
    after = text.rpartition(ANSWER)[2].lstrip()
    ends = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return max((id for id, end in ends.items() if after.startswith(end)), key=lambda id: len(ends[id]), default=None)


def encode_conversations(
    tokenizer: Any, prompts: Sequence[Sequence[Message]], completions: Sequence[str]
) -> list[dict[str, list[int]]]:
    """Each prompt with its completion as the assistant's finished turn: input_ids, for encoders token_type_ids too.

    Without a chat template, a tokenizer with a separator (an encoder's, such as BERT's) gets the two as a pair. Any
    other tokenizer gets the prompt as `encode` writes it, then the completion as it was drawn, then EOS.
    """
    if tokenizer.chat_template is not None:
        conversations = [
            [*messages, {"role": "assistant", "content": completion}]
            for messages, completion in zip(prompts, completions, strict=True)
        ]
        texts = [_templated(tokenizer, turns, add_generation_prompt=False) for turns in conversations]
        return _rows(tokenizer(texts, add_special_tokens=False))
    rendered = [render(tokenizer, messages) for messages in prompts]
    if tokenizer.sep_token is not None:
        return _rows(tokenizer(rendered, list(completions)))
    before = tokenizer(rendered)["input_ids"]
    after = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [{"input_ids": [*prompt, *completion, *end]} for prompt, completion in zip(before, after, strict=True)]


def _rows(encoding: Any) -> list[dict[str, list[int]]]:
    """From columns [texts] to one dictionary per text, without the mask, which is all ones here."""
    names = [name for name in ("input_ids", "token_type_ids") if name in encoding]
    return [dict(zip(names, values, strict=True)) for values in zip(*(encoding[name] for name in names), strict=True)]
