"""A user's own prompts: python -m bench task=jsonl task.path=prompts.jsonl

A row (JSON lines, JSON, Parquet or CSV) has a prompt or messages, and what its completions are judged by: an answer,
tests, or nothing where a reward model has the last word (`compare`). A folder with train, validation and test files, or
a field that names each row's split, gives the splits; else they are taken by hash (bench.tasks.splits).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from bench.artifacts import Message
from bench.config.rules import DTYPE, Rule, number, one_of, or_null, text
from bench.errors import BenchError
from bench.sandbox import ISOLATION
from bench.tasks.assertions import from_program
from bench.tasks.gold_model import GoldModel, Model
from bench.tasks.gold_model import answer_of as reference_of
from bench.tasks.own_answers import Answers
from bench.tasks.programs_task import Programs
from bench.tasks.programs_task import answer_of as tests_of
from bench.tasks.rows import WHOLE, Row, from_path
from bench.tasks.rows_task import Revision, RowsTask, field
from bench.tasks.splits import Example

SPLITS = ("train", "validation", "test")
ROLES = ("system", "user", "assistant")
Name = text(r"[^\0\n]+", "the name of a field")
NAMED = "name the right one with task.{}=NAME"
UNANSWERED = (
    f"{NAMED.format('answer_field')}, or for prompts without an answer let task.compare=tests or reward_model judge"
)


def _compiles(pattern: object) -> bool:
    try:
        return isinstance(pattern, str) and re.compile(pattern).groups >= 1
    except re.error:
        return False


PATTERN = Rule(_compiles, "a regular expression with a group, or null")


@dataclass(frozen=True, kw_only=True)
class Jsonl(RowsTask):
    """compare: what says whether a completion is right. Its answer against the row's: "number" (as gsm8k's), "math" (as
    math500's), or "text", equal but for case, spaces and an end mark. "tests": its program passes the row's tests, a
    list of assertions or the source of a program, in the sandbox (scoring=unit_tests; `isolation`). "reward_model":
    the gold model scores it above the row's answer, a reference, or above gold_threshold where the row has none.

    answer_regex: the answer is the first group of its first match in the completion; null: what the way of comparing
    finds, for "text" the whole completion. A row's messages, where messages_field names them, are the chat itself,
    without `system` and `instruction`. gold_*: see bench.tasks.gold_model. The rest is RowsTask's.
    """

    prompt_field: Annotated[str, Name] = "prompt"
    messages_field: Annotated[str | None, or_null(Name)] = None
    answer_field: Annotated[str, Name] = "answer"
    tests_field: Annotated[str, Name] = "tests"
    id_field: Annotated[str | None, or_null(Name)] = None
    split_field: Annotated[str | None, or_null(Name)] = None
    compare: Annotated[str, one_of("number", "math", "text", "tests", "reward_model")] = "text"
    answer_regex: Annotated[str | None, or_null(PATTERN)] = None
    isolation: Annotated[str, one_of(*ISOLATION)] = "auto"
    gold_model: Model = None
    gold_revision: Revision = "main"
    gold_dtype: Annotated[str, DTYPE] = "auto"
    gold_threshold: Annotated[float | None, or_null(number())] = None

    label: ClassVar[str] = "jsonl"
    repo_splits: ClassVar[dict[str, str]] = {split: split for split in SPLITS}

    @property
    def answer_pattern(self) -> str | None:
        """The user's own; None without one."""
        return self.answer_regex

    @property
    def judge(self) -> Answers | Programs | GoldModel:
        """What says whether a completion is right."""
        if self.compare == "tests":
            return Programs(isolation=self.isolation)
        if self.compare == "reward_model":
            return GoldModel(
                label=self.label,
                model=self.gold_model,
                revision=self.gold_revision,
                dtype=self.gold_dtype,
                threshold=self.gold_threshold,
            )
        return Answers(compare=self.compare, answer_regex=self.answer_regex)

    @property
    def programs(self) -> Programs | None:
        """What reads completions as programs; None where they are none."""
        return self.judge if isinstance(self.judge, Programs) else None

    @property
    def gold_reward(self) -> Callable[[Sequence[str], Sequence[str]], np.ndarray] | None:
        """The gold model's scores; None where no model is gold."""
        return self.judge.gold_reward if isinstance(self.judge, GoldModel) else None

    @property
    def judged_by(self) -> str:
        """What verdicts depend on beside prompts and completions."""
        return self.judge.judged_by

    def check(self) -> None:
        if self.files is None:
            raise BenchError("task=jsonl needs a file or folder of prompts: give task.path=PATH.")
        of_gold = {"gold_model": self.gold_model, "gold_threshold": self.gold_threshold}
        for name, value in of_gold.items():
            if value is not None and not isinstance(self.judge, GoldModel):
                raise BenchError(
                    f"task.{name}={value} has no part in task.compare={self.compare}: leave it out, or let the model "
                    "judge with task.compare=reward_model."
                )
        if self.answer_regex is not None and not isinstance(self.judge, Answers):
            raise BenchError(
                f"task.answer_regex has no part in task.compare={self.compare}, which compares no answers."
            )
        if not isinstance(self.judge, Programs):
            self.judge.check()

    def rows(self) -> dict[str, list[Row]]:
        assert self.files is not None
        found = from_path(self.files, splits=self.repo_splits)
        if self.split_field is None:
            return found
        by_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for row in (row for rows in found.values() for row in rows):
            split = str(field(row, self.split_field, self.name, otherwise=NAMED.format("split_field")))
            if split not in by_split:
                raise BenchError(
                    f"A row of task.path={self.files} has {self.split_field}={split}, which is none of "
                    f"{', '.join(SPLITS)}."
                )
            by_split[split].append(row)
        return {split: rows for split, rows in by_split.items() if rows}

    def example(self, row: Row, name: str) -> Example | None:
        name = (
            name.replace(f"{WHOLE}-", "row-")
            if self.id_field is None
            else str(field(row, self.id_field, self.name, otherwise=NAMED.format("id_field")))
        )
        if self.messages_field is not None:
            messages = _chat(field(row, self.messages_field, self.name, otherwise=NAMED.format("messages_field")), name)
            asked = [one for one in messages if one["role"] != "system"] or messages  # what all share is no question
            question = "\n".join(message["content"] for message in asked)
        else:
            question = str(field(row, self.prompt_field, self.name, otherwise=NAMED.format("prompt_field")))
            messages = self.asked(question)
        answer = self._answer(row, name, messages)
        return None if answer is None else Example(name, question, messages, answer)

    def _answer(self, row: Row, name: str, messages: tuple[Message, ...]) -> str | None:
        """What the row's completions are judged by; None where that can't be read."""
        if isinstance(self.judge, Programs):
            return _tests(field(row, self.tests_field, self.name, otherwise=NAMED.format("tests_field")))
        if isinstance(self.judge, Answers):
            return self.judge.answer(_plain(field(row, self.answer_field, self.name, otherwise=UNANSWERED)))
        if self.gold_threshold is None and self.answer_field not in row:
            raise BenchError(
                f"Row {name} of jsonl has no field {self.answer_field!r} with a reference that the gold model could "
                "compare with: give references, or task.gold_threshold=NUMBER in the gold model's units."
            )
        reference = _plain(row.get(self.answer_field)) or None
        return None if reference is None and self.gold_threshold is None else reference_of(messages, reference)

    def extract_answer(self, completion: str) -> str | None:
        return self.judge.extract_answer(completion)

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return self.judge.are_correct(completions, answers)

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        return self.judge.steps_are_true(completion)

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        return self.judge.path(completion)


def _plain(value: object) -> str:
    return "" if value is None else str(value).strip()


def _tests(value: object) -> str | None:
    """A row's tests as its answer; None where they test nothing or are no Python."""
    source = "\n".join(map(str, value)) if isinstance(value, list) else _plain(value)
    try:
        calls, expected, before = from_program(source)
    except ValueError:
        return None
    return tests_of(function="", calls=calls, cases=expected, before="", after=before, stub="")


def _chat(value: object, name: str) -> tuple[Message, ...]:
    messages = value if isinstance(value, list) else []
    sound = [
        isinstance(one, dict) and one.get("role") in ROLES and isinstance(one.get("content"), str) for one in messages
    ]
    if not sound or not all(sound) or messages[-1]["role"] == "assistant":
        raise BenchError(
            f"Row {name} has no chat that a policy could answer: its messages must be a list of "
            '{"role": "system" | "user" | "assistant", "content": TEXT} that does not end with the assistant.'
        )
    return tuple({"role": one["role"], "content": one["content"]} for one in messages)
