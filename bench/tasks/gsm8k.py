"""Grade-school word problems, GSM8K (Cobbe et al. 2021, arXiv 2110.14168), judged by the final number.

    python -m bench task=gsm8k policy=folder policy.path=PATH                    from the hub
    python -m bench task=gsm8k task.path=FOLDER policy=folder policy.path=PATH   from local train and test files

A row has `question` and `answer`, a worked solution that ends in "#### 18". Marks of a calculator in it, <<16-3=13>>,
are left out. Data: 7,473 train and 1,319 test problems; validation is taken from train.
"""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.artifacts import Prompts
from bench.config.rules import one_of
from bench.tasks import hinted
from bench.tasks.answers import Answers
from bench.tasks.extraction import number_in
from bench.tasks.rows import Repo, Revision, Row, SolvedRows, Words
from bench.tasks.splits import Example

CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, kw_only=True)
class Gsm8k(SolvedRows):
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
        solution = str(self.field(row, "answer"))
        answer = number_in(solution.rpartition("####")[2])
        worked = CALCULATOR.sub("", solution).strip()
        return None if answer is None else Example(name, question, self.chat(question), answer, worked)

    def with_hint(self, prompts: Prompts) -> Prompts:
        return hinted(prompts, "\n\n(The answer is {}.)")
