"""Tasks: prompts in disjoint splits, and an exact say on whether a completion is right. One file a task."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from bench.artifacts import Prompts


class Task(Protocol):
    """What the suite asks of a task; see bench/tasks/word_problems.py."""

    @property
    def name(self) -> str: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def answer_pattern(self) -> str | None:
        """A regular expression whose first group, in its first match, is a completion's answer.

        None where no pattern finds it, as in a program that has to run: lm-eval then has no say on the task.
        """
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


def judged_by(task: Task) -> str:
    """What verdicts depend on beside prompts and completions: the task's own `judged_by`, where it has settings or a
    library that change them, else its name."""
    return getattr(task, "judged_by", task.name)


def counts(task: Task) -> dict[str, int]:
    """What a task counted while it made its prompts, such as `near_duplicates_removed`; empty where nothing."""
    count = getattr(task, "counts", None)
    return {} if count is None else count()


def are_correct(task: Task, completions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """[D] bool, whether each completion is right: by the task's own `are_correct`, where it judges many at once."""
    judge = getattr(task, "are_correct", None)
    if judge is not None:
        return np.array(judge(completions, answers), bool)
    return np.array([task.is_correct(*pair) for pair in zip(completions, answers, strict=True)], bool)


def gold_reward_of(task: Task) -> Callable[[Sequence[str], Sequence[str]], np.ndarray] | None:
    """The task's own `gold_reward(completions, answers) -> [D]`, in its own units; None where gold is right or wrong
    alone."""
    return getattr(task, "gold_reward", None)
