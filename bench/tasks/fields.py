"""The content of a field of a row: a text, a chat, or nothing that can be read."""

import json
from collections.abc import Sequence
from typing import Any

from bench.artifacts import Message
from bench.errors import BenchError

# the names that data sets give the three roles
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model"), "assistant"),
}
CHATS = ("messages", "conversations", "conversation")  # the names that data sets give a chat


class UnreadableError(BenchError):
    """Why a row makes no prompt, as a clause about it. Such a row is counted and left out."""


def is_missing(value: object) -> bool:
    """Return whether a value is null or NaN."""
    return value is None or (isinstance(value, float) and value != value)


def is_text(value: object) -> bool:
    """Return whether a value is a string that shows something and can be written as UTF-8."""
    return _can_be_written(value) and any(letter.isprintable() and letter != " " for letter in str(value))


def _can_be_written(value: object) -> bool:
    """Whether a value is a string without half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def text_of(value: object, name: str) -> str:
    """Return a value that is a text. UnreadableError where it is not."""
    if is_text(value):
        return str(value)
    kind = "null" if is_missing(value) else f"a {type(value).__name__}"
    raise UnreadableError(
        f"its field {name!r} {'shows nothing' if isinstance(value, str) else f'is {kind}, and no text'}"
    )


def plain(value: object) -> str:
    """Return an answer as text; "" where it is missing, or no text and no number."""
    if is_missing(value) or not isinstance(value, str | int | float):
        return ""
    text = str(value).strip()
    return text if is_text(text) else ""


def chat_of(value: object) -> tuple[Message, ...] | None:
    """Return the chat that a value is; None where it is none.

    A chat is a list of {"role", "content"} or {"from", "value"}, alone, under the name of a chat, or as JSON. A content
    may be a list of parts that are text.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict):
        value = next((value[name] for name in CHATS if name in value), [value])
    if not isinstance(value, list) or not value:
        return None
    turns = [_turn(turn) for turn in value]
    return None if None in turns else tuple(turn for turn in turns if turn is not None)


def _turn(turn: Any) -> Message | None:
    """One message of a chat, by our names; None where it is none."""
    if not isinstance(turn, dict):
        return None
    role = turn.get("role") or turn.get("from")
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(role, str) or role.lower() not in ROLES or not _can_be_written(content):
        return None
    return {"role": ROLES[role.lower()], "content": str(content)}


def to_answer(messages: Sequence[Message] | None) -> tuple[Message, ...]:
    """Return a chat that a policy can answer. UnreadableError where it is none."""
    if not messages or messages[-1]["role"] == "assistant" or not is_text(messages[-1]["content"]):
        raise UnreadableError(
            "it has no chat that a policy could answer: its messages must be a list of "
            '{"role": "system" | "user" | "assistant", "content": TEXT} that does not end with the assistant'
        )
    return tuple(messages)


def question_of(messages: Sequence[Message]) -> str:
    """Return the text of a chat without what others share, its system message."""
    own = [turn for turn in messages if turn["role"] != "system"] or messages
    return "\n".join(turn["content"] for turn in own)
