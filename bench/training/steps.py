"""Steps of reasoning: where they lie in a completion, and at which token each one ends."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.artifacts import Message
from bench.models import chat


class Step(NamedTuple):
    text: str  # as it stands in the completion, with the separator that ends it
    content: str  # without that separator, and without white space around it


def split(completion: str, *, separator: str, answer_marker: str | None) -> list[Step]:
    """The completion's steps in order; blank ones are none.

    separator: a regular expression. answer_marker: where given, what follows its first occurrence is the answer and no
    step.
    """
    reasoning = completion if answer_marker is None else completion.partition(answer_marker)[0]
    found, start = [], 0
    for match in re.finditer(separator, reasoning):
        if match.end() > match.start():
            found.append(Step(reasoning[start : match.end()], reasoning[start : match.start()].strip()))
            start = match.end()
    found.append(Step(reasoning[start:], reasoning[start:].strip()))
    return [step for step in found if step.content]


def encode(
    tokenizer: Any, messages: Sequence[Message], steps: Sequence[Step], *, ending: str | None
) -> tuple[list[int], list[int]]:
    """(token ids of the prompt and the steps, index of each step's last token).

    Every step is tokenised on its own, so that no token spans two and a step's last token has seen all of it and
    nothing of the next. ending: None leaves the steps as they stand; else each one's content is followed by this text,
    whose last token is then the step's. TRL's PRMTrainer arranged its inputs so; e.g. a newline, or a model's own mark.
    """
    ids, ends = chat.encode(tokenizer, messages), []
    for step in steps:
        for text in [step.text] if ending is None else [step.content, ending]:
            ids.extend(tokenizer.encode(text, add_special_tokens=False))
        ends.append(len(ids) - 1)
    return ids, ends
