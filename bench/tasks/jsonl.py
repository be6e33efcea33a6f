"""A user's own prompts: python -m bench task=jsonl task.path=prompts.jsonl

A row (JSON lines, JSON, Parquet or CSV) has a prompt or messages, and what its completions are judged by: an answer,
tests, or nothing where a reward model judges (`compare`). The splits are the folder's train, validation and test files,
or the values of a field; without either they are taken by hash (bench.tasks.splits).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from bench.artifacts import Message
from bench.config.rules import DTYPE, Count, number, one_of, or_null, regex, text
from bench.errors import BenchError
from bench.tasks import SPLITS, math_judge
from bench.tasks.answers import Answers
from bench.tasks.extraction import number_in
from bench.tasks.files import chat_of, is_text, plain, question_of, text_of, to_answer
from bench.tasks.gold_model import GoldModel, Model
from bench.tasks.gold_model import answer_of as reference_of
from bench.tasks.program_tests import ForeignImportError
from bench.tasks.programs import CPU_SECONDS, Isolation, Programs
from bench.tasks.programs import answer_of as tests_of
from bench.tasks.rows import Revision, Row, SolvedRows, from_path
from bench.tasks.splits import WHOLE, Example

VERSION = 4  # raise it when equal completions get other verdicts
Name = text(r"[^\0\n]+", "the name of a field")
PATTERN = regex("a regular expression with a group, or null", lambda pattern: pattern.groups >= 1)
OR_ANOTHER_JUDGE = ", or for prompts without an answer let task.compare=tests or reward_model judge"


@dataclass(frozen=True, kw_only=True)
class Jsonl(SolvedRows):
    """compare: what a completion is right by. "number", "math", "text": its answer equals the row's, see
    bench.tasks.answers. "tests": its program passes the row's tests, a list of assertions or the source of a program,
    in the sandbox (`isolation`, `cpu_seconds`). "reward_model": the gold model scores it above the row's answer, a
    reference, or above gold_threshold where the row has none (bench.tasks.gold_model).

    answer_regex: see bench.tasks.answers. messages_field: names a chat that is the prompt, without `system` and
    `instruction`; so is a prompt that is a chat (bench.tasks.files). solution_field: a worked solution, for procedures
    that train on it. id_field: null takes the number of the row.
    """

    prompt_field: Annotated[str, Name] = "prompt"
    messages_field: Annotated[str | None, or_null(Name)] = None
    answer_field: Annotated[str, Name] = "answer"
    tests_field: Annotated[str, Name] = "tests"
    solution_field: Annotated[str, Name] = "solution"
    id_field: Annotated[str | None, or_null(Name)] = None
    split_field: Annotated[str | None, or_null(Name)] = None
    compare: Annotated[str, one_of("number", "math", "text", "tests", "reward_model")] = "text"
    answer_regex: Annotated[str | None, or_null(PATTERN)] = None
    isolation: Isolation = "auto"
    cpu_seconds: Count = CPU_SECONDS
    gold_model: Model = None
    gold_revision: Revision = "main"
    gold_dtype: Annotated[str, DTYPE] = "auto"
    gold_threshold: Annotated[float | None, or_null(number())] = None

    name: ClassVar[str] = "jsonl"
    keeps_verdicts: ClassVar[bool] = True
    data_splits: ClassVar[dict[str, str]] = {split: split for split in SPLITS}
    lacks_solution: ClassVar[str] = ": name the field that has it with task.solution_field=NAME"

    @property
    def answer_pattern(self) -> str | None:
        return self.answer_regex

    @property
    def judge(self) -> Answers | Programs | GoldModel:
        if self.compare == "tests":
            return Programs(isolation=self.isolation, cpu_seconds=self.cpu_seconds)
        if self.compare == "reward_model":
            return GoldModel(
                name=self.name,
                model=self.gold_model,
                revision=self.gold_revision,
                dtype=self.gold_dtype,
                threshold=self.gold_threshold,
            )
        return Answers(compare=self.compare, answer_regex=self.answer_regex, setting="jsonl task.compare=math")

    @property
    def judged_by(self) -> str:
        if not isinstance(self.judge, Answers):
            return self.judge.judged_by
        library = f", {math_judge.judged_by()}" if self.compare == "math" else ""
        return f"{self.name} {VERSION}: {self.compare}, {self.answer_regex!r}{library}"

    def check(self) -> None:
        if self.files is None:
            raise BenchError("task=jsonl needs a file or folder of prompts: give task.path=PATH.")
        for name, value in {"gold_model": self.gold_model, "gold_threshold": self.gold_threshold}.items():
            if value is not None and not isinstance(self.judge, GoldModel):
                raise BenchError(
                    f"task.{name}={value} has no part in task.compare={self.compare}: leave it out, or let the model "
                    "judge with task.compare=reward_model."
                )
        if self.answer_regex is not None and not isinstance(self.judge, Answers):
            raise BenchError(
                f"task.answer_regex has no part in task.compare={self.compare}, which compares no answers."
            )
        super().check()

    def rows(self) -> dict[str, list[Row]]:
        assert self.files is not None
        found = from_path(self.files, splits=self.data_splits)
        if self.split_field is None:
            return found
        by_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for row in (row for rows in found.values() for row in rows):
            split = str(row[self.split_field] if self.split_field in row else self._named(row, "split_field"))
            if split not in by_split:
                raise BenchError(
                    f"A row of task.path={self.files} has {self.split_field}={split}, which is none of "
                    f"{', '.join(SPLITS)}."
                )
            by_split[split].append(row)
        return {split: rows for split, rows in by_split.items() if rows}

    def example(self, row: Row, name: str) -> Example | None:
        name = name.replace(f"{WHOLE}-", "row-") if self.id_field is None else str(self._named(row, "id_field"))
        given = self._named(row, "prompt_field" if self.messages_field is None else "messages_field")
        chat = chat_of(given)
        if chat is not None or self.messages_field is not None:
            messages = to_answer(chat)
            question = question_of(messages)
        else:
            question = text_of(given, self.prompt_field)
            messages = self.chat(question)
        answer = self._answer(row, name, messages)
        solution = row.get(self.solution_field)
        worked = solution if is_text(solution) else None
        return None if answer is None else Example(name, question, messages, answer, worked)

    def _named(self, row: Row, setting: str, otherwise: str = "") -> Any:
        """The row's field that a setting names."""
        return self.field(
            row, getattr(self, setting), otherwise=f"name the right one with task.{setting}=NAME{otherwise}"
        )

    def _answer(self, row: Row, name: str, messages: tuple[Message, ...]) -> str | None:
        """What the row's completions are judged by; None where that can't be read."""
        if self.compare == "tests":
            tests = self._named(row, "tests_field")
            try:
                return tests_of("\n".join(map(str, tests)) if isinstance(tests, list) else plain(tests))
            except ForeignImportError as error:
                raise BenchError(f"Row {name} of jsonl has {error}.") from error
            except ValueError:  # they test nothing or are not Python
                return None
        if self.compare != "reward_model":
            answer = plain(self._named(row, "answer_field", OR_ANOTHER_JUDGE))
            return number_in(answer.rpartition("####")[2]) if self.compare == "number" else answer or None
        if self.gold_threshold is None and self.answer_field not in row:
            raise BenchError(
                f"Row {name} of jsonl has no field {self.answer_field!r} with a reference that the gold model could "
                "compare with: give references, or task.gold_threshold=NUMBER in the gold model's units."
            )
        reference = plain(row.get(self.answer_field)) or None
        return None if reference is None and self.gold_threshold is None else reference_of(messages, reference)
