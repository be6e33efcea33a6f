"""Judges of final answers: equal as numbers, as mathematics (by math-verify) or as text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from bench.tasks import Judge, arithmetic, extraction, math_judge
from bench.tasks.spelling import spelled

ASSIGNED = re.compile(r"[A-Za-z]\s*=\s*([^=]+)")  # x = 5
LATEX_WORDS = re.compile(r"\\(?:text|mathrm)\{[^}]*\}|\\[A-Za-z]+")
IN_BASE = re.compile(r"^([-\w.]+?)_\{?(\d+)\}?$")  # 2516_8
GLUED = re.compile(r"(?i:\dk)|^-?(?!1e)\d+e")  # 2k and 2e-1 are a product and a difference here
HALF = re.compile(r"\d\D*?\b([ap])\.?\s*m\b", re.IGNORECASE)  # of the day
GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
PERCENT = re.compile(r"\\?%")
PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|±")


@dataclass(frozen=True, kw_only=True)
class Answers(Judge):
    """Compares the answer that a completion marks with its prompt's answer.

    compare: "number", "math", or "text" (equal but for case, spaces and an end mark). answer_regex: its first group, in
    its first match, is the completion's answer; None: the answer is what `compare` finds, for "text" the whole
    completion. unmarked: see `final_number`. setting: the user's setting that chose this, for errors.
    """

    compare: str
    answer_regex: str | None = None
    unmarked: str = "last_number"
    setting: str = ""

    def check(self) -> None:
        if self.compare == "math":
            math_judge.check(self.setting)

    def extract_answer(self, completion: str) -> str | None:
        """Return a number as digits, mathematics `simplified`, text in lower case; None where nothing is marked."""
        completion = extraction.after_thinking(completion)
        if self.answer_regex is not None:
            found = re.search(self.answer_regex, completion)
            if found is None or found[1] is None:
                return None
            completion = found[1]
        if self.compare == "math":
            return _mathematics(completion if self.answer_regex is None else f"\\boxed{{{completion}}}")
        if self.compare == "number":
            if self.answer_regex is None:
                return extraction.final_number(completion, unmarked=self.unmarked)
            return extraction.number_in(completion)
        return _folded(completion) or None

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        found = [self.extract_answer(completion) for completion in completions]
        if self.compare == "math":
            return _equal_mathematics(found, answers)
        golds = [_folded(answer) if self.compare == "text" else answer for answer in answers]
        return [answer is not None and answer == gold for answer, gold in zip(found, golds, strict=True)]

    def steps_are_true(self, completion: str) -> bool:
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:
        return arithmetic.path(completion)


def _folded(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".").casefold().strip()


@lru_cache(maxsize=2**16)
def _mathematics(completion: str) -> str | None:
    """The last \\boxed{}, else the last <answer> tag, else what follows "answer is", `simplified`; None without any."""
    return simplified(extraction.marked(extraction.before_next_problem(completion)) or "") or None


def simplified(answer: str) -> str:
    """Return a number as digits; other LaTeX without dollars, sizes, thin spaces, an end mark, and "x =" before it."""
    value_of = ASSIGNED.fullmatch(answer.strip().strip("$"))
    if value_of is not None and not re.search(r"[A-Za-z]", LATEX_WORDS.sub("", value_of[1])):
        answer = value_of[1]
    text = spelled(re.sub(r"\*\*|(?<!\\)\$|\\[()\[\]]", "", answer))
    digits = extraction.plain(text).strip().rstrip(".")
    if "%" not in answer and extraction.NUMBER.fullmatch(extraction.joined(digits)) and not GLUED.search(digits):
        value = extraction.read_number(digits)
        if value is not None and "." not in digits and 0 < abs(value) < math_judge.SMALL:
            return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"  # as a decimal it could be a rounded value
        if value is not None:
            return extraction.written(value)
    return text if re.search(r"[(\[]|\\\{", text) else GROUPS.sub("", text)  # in brackets: a list


def _equal_mathematics(found: Sequence[str | None], golds: Sequence[str]) -> list[bool]:
    """Whether math-verify finds each answer equal to its gold answer; None is wrong.

    A percent sign may be left out or worked out: 50%, 50 and 0.5 equal 50%. Numbers in two bases and times in two
    halves of the day are never equal.
    """
    pairs = [
        (row, *pair)
        for row, answer in enumerate(found)
        if answer is not None
        for pair in _readings(simplified(golds[row]), answer)
    ]
    equal = math_judge.are_equal([gold for _, gold, _ in pairs], [answer for _, _, answer in pairs])
    right = {row for (row, _, _), is_equal in zip(pairs, equal, strict=True) if is_equal}
    return [row in right for row in range(len(found))]


def _readings(gold: str, answer: str) -> list[tuple[str, str]]:
    """The pairs of gold answer and answer, at least one of which must be equal."""
    for pattern, group in ((IN_BASE, 2), (HALF, 1)):
        found = [pattern.search(side) for side in (gold, answer)]
        if found[0] is not None and found[1] is not None and found[0][group].lower() != found[1][group].lower():
            return []
    bare = [simplified(PERCENT.sub("", side)) for side in (gold, answer)]
    signed = [PERCENT.search(side) is not None for side in (gold, answer)]
    pairs = [(bare[0], bare[1])]
    if signed[0] != signed[1]:
        hundredths = [f"\\frac{{{side}}}{{100}}" if sign else side for side, sign in zip(bare, signed, strict=True)]
        pairs.append((hundredths[0], hundredths[1]))
    return [(_both_signs(gold), _both_signs(answer)) for gold, answer in pairs]


def _both_signs(answer: str) -> str:
    """A text with ± as the list of its two values."""
    if len(PLUS_MINUS.findall(answer)) != 1:
        return answer
    return ", ".join(PLUS_MINUS.sub(sign, answer) for sign in "+-")
