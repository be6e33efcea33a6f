"""Competition mathematics: MATH's training problems (Hendrycks et al. 2021, arXiv 2103.03874), judged on MATH-500.

    python -m bench task=math500 policy=folder policy.path=PATH             needs the extra `math`

A training row has `problem` and `solution`, whose last \\boxed{} is the answer; a test row has `problem` and `answer`.
Rows of both kinds have a worked `solution`.
MATH-500 (Lightman et al. 2023, arXiv 2305.20050) is a part of MATH's test split. math-verify decides equality.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from bench.artifacts import Prompts
from bench.config.rules import Count
from bench.tasks import hinted, math_judge
from bench.tasks.answers import Answers
from bench.tasks.extraction import boxed
from bench.tasks.files import plain
from bench.tasks.rows import Repo, Revision, Row, SolvedRows, Words, from_hub, from_path
from bench.tasks.splits import Example

VERSION = 4  # raise it when equal completions get other verdicts
SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
EQUATIONS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)


class Mathematics(Answers):
    """Compares answers as mathematics, and reasoning by its formulas."""

    def path(self, completion: str) -> str | None:
        """Return the formulas with an equals sign in their order, without spaces; None where there is none."""
        found = ("".join(groups) for groups in EQUATIONS.findall(completion))
        return "; ".join("".join(formula.split()) for formula in found if "=" in formula) or None


@dataclass(frozen=True, kw_only=True)
class Math500(SolvedRows):
    """The settings of its own say where the two data sets lie."""

    repo: Repo = "EleutherAI/hendrycks_math"
    revision: Revision = "21a5633873b6a120296cce3e2df9d5550074f4a3"
    test_repo: Repo = "HuggingFaceH4/MATH-500"
    test_revision: Revision = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
    instruction: Words = "Reason step by step, and put the final answer within \\boxed{}."
    max_new_tokens: Count = 1024

    name: ClassVar[str] = "math500"
    keeps_verdicts: ClassVar[bool] = True

    @property
    def judge(self) -> Answers:
        return Mathematics(compare="math", setting="math500")

    @property
    def judged_by(self) -> str:
        return f"{self.name} {VERSION} by {math_judge.judged_by()}"

    def rows(self) -> dict[str, list[Row]]:
        if self.files is not None:
            return from_path(self.files, splits=self.data_splits)
        train = [
            row
            for subject in SUBJECTS
            for row in from_hub(self.repo, config=subject, revision=self.revision, splits={"train": "train"})["train"]
        ]
        test = from_hub(self.test_repo, config=None, revision=self.test_revision, splits={"test": "test"})
        return {"train": train, **test}

    def example(self, row: Row, name: str) -> Example | None:
        problem = self.text(row, "problem").strip()
        answer = plain(row.get("answer")) or boxed(str(self.field(row, "solution")))  # AIME has whole numbers
        solution = str(row.get("solution") or "").strip() or None
        return Example(name, problem, self.chat(problem), answer.strip(), solution) if answer else None

    def with_hint(self, prompts: Prompts) -> Prompts:
        return hinted(prompts, "\n\n(The answer is ${}$.)")
