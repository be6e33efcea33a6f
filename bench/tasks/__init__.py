"""Tasks: prompts in disjoint splits, and an exact say on whether a completion is right. One file a task."""

from typing import Protocol

from bench.artifacts import Prompts


class Task(Protocol):
    """What the suite asks of a task; see bench/tasks/word_problems.py."""

    @property
    def name(self) -> str: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def answer_pattern(self) -> str:
        """A regular expression whose first group, in its first match, is a completion's answer."""
        ...

    def prompts(self, split: str) -> Prompts:
        """The prompts of "train", "validation" or "test"."""
        ...

    def is_correct(self, completion: str, answer: str) -> bool: ...

    def steps_are_true(self, completion: str) -> bool:
        """Whether there is a step of reasoning and every one is true."""
        ...

    def extract_answer(self, completion: str) -> str | None: ...

    def path(self, completion: str) -> str | None:
        """Equal for two completions that reason alike; None where there is no reasoning."""
        ...
