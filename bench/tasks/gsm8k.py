"""Grade-school word problems, GSM8K (Cobbe et al. 2021, arXiv 2110.14168), verified as models write answers.

    python -m bench task=gsm8k policy=folder policy.path=PATH               from the hub
    python -m bench task=gsm8k task.path=FOLDER policy=folder ...           from local train and test files

A row has `question` and `answer`, a solution that ends in "#### 18". Data: 7,473 train and 1,319 test problems;
validation is taken from train (bench.tasks.splits).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.config.rules import one_of
from bench.tasks import arithmetic
from bench.tasks.numeric import final_number, read_number, written
from bench.tasks.rows import Row
from bench.tasks.rows_task import Repo, Revision, RowsTask, Words, field
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class Gsm8k(RowsTask):
    """unmarked: what counts where a completion marks no answer: its "last_number" (as lm-eval's flexible-extract has
    it), or "none". The rest is RowsTask's."""

    repo: Repo = "openai/gsm8k"
    config: Words = "main"
    revision: Revision = "740312add88f781978c0658806c59bc2815b9866"
    unmarked: Annotated[str, one_of("last_number", "none")] = "last_number"
    instruction: Words = 'Reason step by step. End with a line that has "####" and then the final number alone.'

    label: ClassVar[str] = "gsm8k"

    def rows(self) -> dict[str, list[Row]]:
        return self.read(repo=self.repo, config=self.config, revision=self.revision)

    def example(self, row: Row, name: str) -> Example | None:
        question = str(field(row, "question", self.name)).strip()
        value = read_number(str(field(row, "answer", self.name)).rpartition("####")[2])
        return None if value is None else Example(name, question, self.asked(question), written(value))

    def extract_answer(self, completion: str) -> str | None:
        """The final number as digits ("1234.5" of "$1,234.50"), see bench.tasks.numeric.final_number."""
        return final_number(completion, unmarked=self.unmarked)

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.extract_answer(completion) == answer

    def steps_are_true(self, completion: str) -> bool:
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        return arithmetic.path(completion)
