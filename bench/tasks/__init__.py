"""Tasks: prompts in disjoint splits, and an exact verdict on each completion. One file per task.

A new task is one class, in any module, one YAML and one test (see bench/README.md):

    class Mine(Task):                             # in mine.py; a dataclass, where it has settings
        name, max_new_tokens = "mine", 64
        def prompts(self, split): ...
        def is_correct(self, completion, answer): ...

A task over a data set inherits from `bench.tasks.rows.RowsTask` instead. Abilities that few tasks have are protocols:
`Corpus` for policy=tiny, `Solves` for fine-tuning on worked solutions, `Demonstrates` where their style and errors are
settings, and `Hints` for procedure.fallback=rationalise.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from bench.artifacts import Prompts
from bench.errors import BenchError
from bench.sandbox import Job

SPLITS = ("train", "validation", "test")


class RunsPrograms(Protocol):
    """A task that makes programs of completions, for scoring=unit_tests."""

    def job(self, completion: str, answer: str) -> Job:
        """The job in the sandbox that judges the completion."""


class Judge:
    """A judge of completions. It must have `is_correct` or `are_correct`; the rest has defaults."""

    def is_correct(self, completion: str, answer: str) -> bool:
        """Return whether a completion is right, given the `answer` of its prompt."""
        return bool(self.are_correct([completion], [answer])[0])

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> Sequence[bool]:
        """Return whether each of D completions is right. Override it where judging many at once is faster."""
        return [self.is_correct(*pair) for pair in zip(completions, answers, strict=True)]

    def extract_answer(self, completion: str) -> str | None:
        """Return the answer on which majority voting counts; None where there is none."""
        return None

    def path(self, completion: str) -> str | None:
        """Return a text that is equal for two completions that reason alike; None without reasoning."""
        return None

    def steps_are_true(self, completion: str) -> bool:
        """Return whether the completion has steps of reasoning and every one is true."""
        return False

    @property
    def gold_reward(self) -> Callable[[Sequence[str], Sequence[str]], np.ndarray] | None:
        """A function (completions, answers) -> [D] rewards in its own units; None where gold is right or wrong only."""
        return None

    @property
    def programs(self) -> RunsPrograms | None:
        """The runner of completions that are programs; None where they are not."""
        return None

    def check(self) -> None:
        """Raise BenchError where completions could not be judged on this machine."""


class Task(Judge):
    """Prompts and their judge. A task must have `name`, `max_new_tokens`, `prompts`, and what a `Judge` must have."""

    name: ClassVar[str]
    max_new_tokens: int  # of a completion
    keeps_verdicts: ClassVar[bool] = False  # True where judging is slow: the store then keeps each verdict

    def prompts(self, split: str) -> Prompts:
        """Return the prompts of "train", "validation" or "test"."""
        raise NotImplementedError

    @property
    def answer_pattern(self) -> str | None:
        """A regular expression whose first group, in its first match, is a completion's answer.

        None where no pattern finds it: lm-eval then can't judge the task.
        """
        return None

    @property
    def judged_by(self) -> str:
        """The settings and library versions on which verdicts depend. They enter keys."""
        return self.name

    def counts(self) -> dict[str, int]:
        """Return what was counted while the prompts were made, e.g. `near_duplicates_removed`."""
        return {}


@runtime_checkable
class Corpus(Protocol):
    """A task with a corpus to pretrain a policy on."""

    @property
    def key(self) -> str:
        """Content key of what `demonstrations` gives for a seed."""

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Return pairs of prompt and completion."""


@runtime_checkable
class Solves(Protocol):
    """A task that has a worked solution of each of its prompts."""

    def solutions(self, prompts: Prompts) -> list[str]:
        """Return [M] solutions. BenchError where a prompt has none."""


@runtime_checkable
class Demonstrates(Protocol):
    """A task that writes worked solutions, in two styles and with errors where that is wanted."""

    def demonstrations_of(self, prompts: Prompts, *, foreign: float, noise: float, seed: int) -> list[str]:
        """Return [M] solutions. foreign: the share in another style, noise: the share that is wrong; both 0 to 1."""


@runtime_checkable
class Hints(Protocol):
    """A task that can give an answer away in its prompt."""

    def with_hint(self, prompts: Prompts) -> Prompts:
        """Return the prompts with their answers as hints, under ids of their own."""


def hinted(prompts: Prompts, hint: str) -> Prompts:
    """Return the prompts with a hint after each, under ids of their own. hint: with {} for the answer."""
    return Prompts(
        id=np.array([f"{name}-hint" for name in prompts.id]),
        messages=tuple(
            (*turns[:-1], turns[-1] | {"content": turns[-1]["content"] + hint.format(known)})
            for turns, known in zip(prompts.messages, prompts.answer, strict=True)
        ),
        answer=prompts.answer,
    )


def refuse_without_solutions(task: Any, *, foreign: float = 0.0, noise: float = 0.0) -> None:
    """Raise BenchError where a task has no worked solutions, or no such styles or errors in them.

    Rows of local files are read. Those of the hub are not, since plans ask, too: their columns are published.
    """
    if isinstance(task, Demonstrates):
        return
    solves = isinstance(task, Solves)
    if not solves:
        raise BenchError(
            f"task={task.name} has no worked solutions to train on: use another task, or a procedure that trains on "
            "samples alone."
        )
    for setting, share in {"foreign": foreign, "noise": noise}.items():
        if share:
            raise BenchError(
                f"procedure.{setting}={share} is not allowed with task={task.name}, whose worked solutions are used as "
                "they are: it must be 0."
            )
    if getattr(task, "files", None) is not None:
        task.solutions(task.prompts("train"))


def wanted_prompts(task: Any, split: str) -> Any:
    """Return the task's setting `<split>_prompts`. BenchError for an unknown split."""
    if split not in SPLITS:
        raise BenchError(f"split={split} is not one of {task.name}; it has {', '.join(SPLITS)}.")
    return getattr(task, f"{split}_prompts")
