"""Competition mathematics: MATH's training problems (Hendrycks et al. 2021, arXiv 2103.03874), judged on MATH-500.

    python -m bench task=math500 policy=folder policy.path=PATH             needs the extra `math`

A training row has `problem` and `solution`, whose last \\boxed{} is the answer; a test row `problem` and `answer`.
MATH-500 (Lightman et al. 2023, arXiv 2305.20050) is a part of MATH's test split. Equality is math-verify's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from bench.config.rules import Count
from bench.tasks import arithmetic, math_judge
from bench.tasks.numeric import NEXT_PROBLEM, NUMBER, PARTS, boxed, plain, read_number, tagged, written
from bench.tasks.numeric import after_phrase as answer_phrase
from bench.tasks.rows import Row, from_hub, from_path
from bench.tasks.rows_task import Repo, Revision, RowsTask, Words, field
from bench.tasks.splits import Example
from bench.tasks.thinking import after_thinking

VERSION = 2  # raise it when equal completions get other verdicts
SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
ASSIGNED = re.compile(r"[A-Za-z]\s*=\s*([^=]+)")  # x = 5
LATEX_WORDS = re.compile(r"\\(?:text|mathrm)\{[^}]*\}|\\[A-Za-z]+")
IN_BASE = re.compile(r"(\w+?)_\{?(\d+)\}?")  # 2516_8
GLUED = re.compile(r"\d[ek]", re.IGNORECASE)  # 2k is a product here
PERCENT = re.compile(r"\\?%")
PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|±")
EQUATIONS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Math500(RowsTask):
    """The task; the settings beside RowsTask's say where its two data sets lie."""

    repo: Repo = "EleutherAI/hendrycks_math"
    revision: Revision = "21a5633873b6a120296cce3e2df9d5550074f4a3"
    test_repo: Repo = "HuggingFaceH4/MATH-500"
    test_revision: Revision = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
    instruction: Words = "Reason step by step, and put the final answer within \\boxed{}."
    max_new_tokens: Count = 1024

    label: ClassVar[str] = "math500"

    def check(self) -> None:
        math_judge.check(self.name)

    @property
    def judged_by(self) -> str:
        return f"{self.name} {VERSION} by {math_judge.judged_by()}"

    def rows(self) -> dict[str, list[Row]]:
        if self.files is not None:
            return from_path(self.files, splits=self.repo_splits)
        train = [
            row
            for subject in SUBJECTS
            for row in from_hub(self.repo, config=subject, revision=self.revision, splits={"train": "train"})["train"]
        ]
        test = from_hub(self.test_repo, config=None, revision=self.test_revision, splits={"test": "test"})
        return {"train": train, **test}

    def example(self, row: Row, name: str) -> Example | None:
        problem = str(field(row, "problem", self.name)).strip()
        answer = row.get("answer") or boxed(str(field(row, "solution", self.name)))
        return Example(name, problem, self.asked(problem), answer.strip()) if answer else None

    def extract_answer(self, completion: str) -> str | None:
        """The last \\boxed{}, else the last <answer> tag, else what follows "answer is"; what is in <think> tags is not
        read. Numbers as digits, other LaTeX without layout."""
        return extracted(completion)

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each completion's answer equals the gold one mathematically; one without an answer is wrong."""
        return equal_answers([extracted(completion) for completion in completions], answers)

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Whether there is arithmetic and all of it is true; algebra is not judged."""
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        """The formulas with an equals sign in their order, spaces left out; None where there is none."""
        return formulas(completion)


def equal_answers(found: Sequence[str | None], golds: Sequence[str]) -> list[bool]:
    """Whether each answer that was found equals its gold one by math-verify; None is wrong.

    A percent sign may be left out, or worked out: 50%, 50 and 0.5 equal 50%. Numbers of two bases are never equal.
    """
    readings = [
        (row, *reading)
        for row, answer in enumerate(found)
        if answer is not None
        for reading in _readings(simplified(golds[row]), answer)
    ]
    equal = math_judge.are_equal([gold for _, gold, _ in readings], [answer for _, _, answer in readings])
    right = {row for (row, _, _), one in zip(readings, equal, strict=True) if one}
    return [row in right for row in range(len(found))]


def _readings(gold: str, answer: str) -> list[tuple[str, str]]:
    """The pairs of which one has to be equal."""
    bases = [IN_BASE.fullmatch(side) for side in (gold, answer)]
    if bases[0] is not None and bases[1] is not None and bases[0][2] != bases[1][2]:
        return []
    bare = [simplified(PERCENT.sub("", side)) for side in (gold, answer)]
    marked = [PERCENT.search(side) is not None for side in (gold, answer)]
    pairs = [(bare[0], bare[1])]
    if marked[0] != marked[1]:
        hundredths = [f"\\frac{{{one}}}{{100}}" if sign else one for one, sign in zip(bare, marked, strict=True)]
        pairs.append((hundredths[0], hundredths[1]))
    return [(_both_signs(gold), _both_signs(answer)) for gold, answer in pairs]


def _both_signs(answer: str) -> str:
    """a ± b as the list of its two values."""
    if len(PLUS_MINUS.findall(answer)) != 1:
        return answer
    return ", ".join(PLUS_MINUS.sub(sign, answer) for sign in "+-")


@lru_cache(maxsize=2**16)
def extracted(completion: str) -> str | None:
    """The marked answer of a completion, `simplified`; None where there is none."""
    text = NEXT_PROBLEM.split(after_thinking(completion))[0]
    found = boxed(text) or tagged(text) or answer_phrase(text)
    return (simplified(found) or None) if found is not None else None


def simplified(answer: str) -> str:
    """A number as digits; other LaTeX without dollars, sizes, thin spaces, an end mark, and "x =" before a value."""
    value_of = ASSIGNED.fullmatch(answer.strip().strip("$"))
    if value_of is not None and not re.search(r"[A-Za-z]", LATEX_WORDS.sub("", value_of[1])):
        answer = value_of[1]
    digits = plain(answer).strip().rstrip(".")
    if "%" not in answer and (NUMBER.fullmatch(digits) or PARTS.fullmatch(digits)) and not GLUED.search(digits):
        value = read_number(answer)
        if value is not None:
            return written(value)
    text = re.sub(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;:]|\*\*|(?<!\\)\$|\\\(|\\\)", "", answer)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return " ".join(text.split()).rstrip(".").strip()


@lru_cache(maxsize=2**16)
def formulas(completion: str) -> str | None:
    found = ("".join(groups) for groups in EQUATIONS.findall(completion))
    return "; ".join("".join(formula.split()) for formula in found if "=" in formula) or None
