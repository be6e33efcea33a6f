"""Grade-school word problems, GSM8K (Cobbe et al. 2021, arXiv 2110.14168), judged by the final number.

    python -m bench task=gsm8k policy=folder policy.path=PATH                    from the hub
    python -m bench task=gsm8k task.path=FOLDER policy=folder policy.path=PATH   from local train and test files

A row has `question` and `answer`, a solution that ends in "#### 18". Data: 7,473 train and 1,319 test problems;
validation is taken from train.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.config.rules import one_of
from bench.tasks.answers import Answers
from bench.tasks.extraction import number_in
from bench.tasks.rows import Repo, Revision, Row, RowsTask, Words
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class Gsm8k(RowsTask):
    """unmarked: what counts in a completion that marks no answer: its "last_number", as in lm-eval's
    flexible-extract, or "none"."""

    repo: Repo = "openai/gsm8k"
    config: Words = "main"
    revision: Revision = "740312add88f781978c0658806c59bc2815b9866"
    unmarked: Annotated[str, one_of("last_number", "none")] = "last_number"
    instruction: Words = 'Reason step by step. End with a line that has "####" and then the final number alone.'

    name: ClassVar[str] = "gsm8k"

    @property
    def judge(self) -> Answers:
        return Answers(compare="number", unmarked=self.unmarked)

    def example(self, row: Row, name: str) -> Example | None:
        question = self.text(row, "question").strip()
        answer = number_in(str(self.field(row, "answer")).rpartition("####")[2])
        return None if answer is None else Example(name, question, self.chat(question), answer)
