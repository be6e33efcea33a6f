"""A user's own prompts: python -m bench task=jsonl task.path=prompts.jsonl

A row (JSON lines, JSON, Parquet or CSV) has a prompt or messages, and an answer. A folder with train, validation and
test files, or a field that names each row's split, gives the splits; else they are taken by hash (bench.tasks.splits).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.allowed import Rule, one_of, or_null, text
from bench.artifacts import Message
from bench.errors import BenchError
from bench.tasks import arithmetic, math_judge
from bench.tasks.math500 import equal_answers, extracted
from bench.tasks.numeric import final_number, read_number, written
from bench.tasks.rows import WHOLE, Row, from_path
from bench.tasks.rows_task import RowsTask, field
from bench.tasks.splits import Example

SPLITS = ("train", "validation", "test")
ROLES = ("system", "user", "assistant")
Name = text(r"[^\0\n]+", "the name of a field")


def _compiles(pattern: object) -> bool:
    try:
        return isinstance(pattern, str) and re.compile(pattern).groups >= 1
    except re.error:
        return False


PATTERN = Rule(_compiles, "a regular expression with a group, or null")


@dataclass(frozen=True, kw_only=True)
class Jsonl(RowsTask):
    """compare: how a completion's answer is compared with the row's: "number" (as gsm8k's), "math" (as math500's), or
    "text", equal but for case, spaces and an end mark. answer_regex: the answer is the first group of its first match
    in the completion; null: what the way of comparing finds, for "text" the whole completion. A row's messages, where
    messages_field names them, are the chat itself, without `system` and `instruction`. The rest is RowsTask's.
    """

    prompt_field: Annotated[str, Name] = "prompt"
    messages_field: Annotated[str | None, or_null(Name)] = None
    answer_field: Annotated[str, Name] = "answer"
    id_field: Annotated[str | None, or_null(Name)] = None
    split_field: Annotated[str | None, or_null(Name)] = None
    compare: Annotated[str, one_of("number", "math", "text")] = "text"
    answer_regex: Annotated[str | None, or_null(PATTERN)] = None

    label: ClassVar[str] = "jsonl"
    repo_splits: ClassVar[dict[str, str]] = {split: split for split in SPLITS}

    @property
    def answer_pattern(self) -> str | None:
        """The user's own; None without one."""
        return self.answer_regex

    @property
    def judged_by(self) -> str:
        """What verdicts depend on beside prompts and completions."""
        by = f", {math_judge.judged_by()}" if self.compare == "math" else ""
        return f"jsonl: {self.compare}, {self.answer_regex!r}{by}"

    def check(self) -> None:
        if self.files is None:
            raise BenchError("task=jsonl needs a file or folder of prompts: give task.path=PATH.")
        if self.compare == "math":
            math_judge.check("jsonl task.compare=math")

    def rows(self) -> dict[str, list[Row]]:
        assert self.files is not None
        found = from_path(self.files, splits=self.repo_splits)
        if self.split_field is None:
            return found
        by_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for row in (row for rows in found.values() for row in rows):
            split = str(field(row, self.split_field, self.name))
            if split not in by_split:
                raise BenchError(
                    f"A row of task.path={self.files} has {self.split_field}={split}, which is none of "
                    f"{', '.join(SPLITS)}."
                )
            by_split[split].append(row)
        return {split: rows for split, rows in by_split.items() if rows}

    def example(self, row: Row, name: str) -> Example | None:
        name = name.replace(f"{WHOLE}-", "row-") if self.id_field is None else str(field(row, self.id_field, self.name))
        answer = field(row, self.answer_field, self.name)
        if answer is None or not str(answer).strip():
            return None
        answer = str(answer).strip()
        if self.compare == "number":
            value = read_number(answer.rpartition("####")[2])
            if value is None:
                return None
            answer = written(value)
        if self.messages_field is not None:
            messages = _chat(field(row, self.messages_field, self.name), name)
            return Example(name, "\n".join(message["content"] for message in messages), messages, answer)
        question = str(field(row, self.prompt_field, self.name))
        return Example(name, question, self.asked(question), answer)

    def extract_answer(self, completion: str) -> str | None:
        if self.answer_regex is not None:
            found = re.search(self.answer_regex, completion)
            if found is None or found[1] is None:
                return None
            completion = found[1]
        if self.compare == "math":
            return extracted(completion if self.answer_regex is None else f"\\boxed{{{completion}}}")
        if self.compare == "number":
            if self.answer_regex is None:
                return final_number(completion)
            value = read_number(completion)
            return None if value is None else written(value)
        return _folded(completion) or None

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        found = [self.extract_answer(completion) for completion in completions]
        if self.compare == "math":
            return equal_answers(found, answers)
        golds = [_folded(answer) if self.compare == "text" else answer for answer in answers]
        return [answer is not None and answer == gold for answer, gold in zip(found, golds, strict=True)]

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Whether there is arithmetic, and all of it is true."""
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        """The equations in their order; None where there is none."""
        return arithmetic.path(completion)


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


def _folded(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".").casefold().strip()
