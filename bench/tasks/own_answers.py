"""How the completions of a user's own prompts are compared with their answers: as numbers, mathematics, or text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.tasks import arithmetic, math_judge
from bench.tasks.math500 import equal_answers, extracted
from bench.tasks.numeric import final_number, read_number, written
from bench.tasks.thinking import after_thinking

VERSION = 2  # raise it when equal completions get other verdicts


@dataclass(frozen=True, kw_only=True)
class Answers:
    """compare, answer_regex: see bench.tasks.jsonl.Jsonl."""

    compare: str
    answer_regex: str | None

    @property
    def judged_by(self) -> str:
        """What verdicts depend on beside prompts and completions."""
        by = f", {math_judge.judged_by()}" if self.compare == "math" else ""
        return f"jsonl {VERSION}: {self.compare}, {self.answer_regex!r}{by}"

    def check(self) -> None:
        if self.compare == "math":
            math_judge.check("jsonl task.compare=math")

    def answer(self, written_in_row: str) -> str | None:
        """A row's answer as it is compared; None where it is none of its kind."""
        if self.compare != "number":
            return written_in_row or None
        value = read_number(written_in_row.rpartition("####")[2])
        return None if value is None else written(value)

    def extract_answer(self, completion: str) -> str | None:
        completion = after_thinking(completion)
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

    def steps_are_true(self, completion: str) -> bool:
        """Whether there is arithmetic, and all of it is true."""
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:
        """The equations in their order; None where there is none."""
        return arithmetic.path(completion)


def _folded(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".").casefold().strip()
