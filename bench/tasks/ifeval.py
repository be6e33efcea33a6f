"""Prompts with instructions that rules can check, IFEval (Zhou et al. 2023, arXiv 2311.07911).

    python -m bench task=ifeval policy=folder policy.path=PATH

A completion is right where it follows every instruction of its prompt (prompt-level strict accuracy). A row has `key`,
`prompt`, `instruction_id_list` and `kwargs`. There is one split of 541 rows: all three splits are taken by hash.

CHECKS has all 25 kinds of instruction by their published names, decided as lm-eval decides them. Where a language is
asked for, langdetect tells it, with a fixed seed. A row with another instruction, or with settings that its check can't
use, is counted and left out.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, ClassVar

from bench.config.rules import Count
from bench.errors import BenchError, first_line
from bench.tasks import Judge
from bench.tasks.files import UnreadableError
from bench.tasks.rows import Repo, Revision, Row, RowsTask, Share
from bench.tasks.splits import WHOLE, Example

# Of English news, as in the trained splitter: "e.g." and "i.e." are not among them.
ABBREVIATIONS = """
mr mrs ms messrs dr prof lt maj col gen sen rep reps st jr sr co corp cos inc ltd bros cie vs v etc
jan feb aug sep sept oct nov dec tues wed fri yr ave ct ft mg
ala ariz calif colo fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis w.va
a.m p.m a.d u.s u.k u.n u.s.a u.s.s.r d.c l.a n.y n.c n.d n.h n.j n.m s.c ph.d m.b.a
a b c d e f g h j k l m n p r s t w
"""


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None where it has no letters to tell it by."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it samples letters, and would answer differently from call to call
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return None


def words_of(text: str) -> list[str]:
    """Return the words and signs of an English text, as in the Penn Treebank."""
    from nltk.tokenize import NLTKWordTokenizer

    words = NLTKWordTokenizer()
    return [word for sentence in _splitter()[0].tokenize(text) for word in words.tokenize(sentence)]


@lru_cache(maxsize=1)
def _splitter() -> tuple[Any, bool]:
    """NLTK's sentence splitter, and whether it is the trained one."""
    from nltk.tokenize import punkt

    try:
        return punkt.PunktTokenizer("english"), True
    except LookupError:
        parameters = punkt.PunktParameters()
        parameters.abbrev_types = set(ABBREVIATIONS.split())
        return punkt.PunktSentenceTokenizer(parameters), False


VERSION = 2  # raise it when equal completions get other verdicts
Check = Callable[[str, Mapping[str, Any]], bool]


class Instructions(Judge):
    """Checks that a completion follows every instruction in `answer`, a JSON list of names and settings."""

    def is_correct(self, completion: str, answer: str) -> bool:
        return all(follows(completion, name, settings) for name, settings in json.loads(answer))

    def check(self) -> None:
        if find_spec("langdetect") is None:
            raise BenchError(
                "task=ifeval asks for languages, and langdetect, which tells them, is not installed: "
                "pip install langdetect"
            )


@dataclass(frozen=True, kw_only=True)
class IfEval(RowsTask):
    repo: Repo = "google/IFEval"
    revision: Revision = "966cd89545d6b6acfd7638bc708b98261ca58e84"
    test_share: Share = 0.4
    max_new_tokens: Count = 1024

    name: ClassVar[str] = "ifeval"
    data_splits: ClassVar[dict[str, str]] = {WHOLE: "train"}
    judge = Instructions()

    @property
    def judged_by(self) -> str:
        self.check()
        splitter = "punkt_tab" if _splitter()[1] else "abbreviations 1"
        return f"{self.name} {VERSION} by langdetect {version('langdetect')}, nltk {version('nltk')} {splitter}"

    def example(self, row: Row, name: str) -> Example | None:
        prompt, ids, given = self.text(row, "prompt"), self.field(row, "instruction_id_list"), self.field(row, "kwargs")
        are_lists = isinstance(ids, list) and isinstance(given, list) and 0 < len(ids) == len(given)
        if not are_lists or not all(settings is None or isinstance(settings, dict) for settings in given):
            raise UnreadableError("it has no settings for each of its instructions")
        rules = [
            [instruction, {key: value for key, value in (settings or {}).items() if value is not None}]
            for instruction, settings in zip(ids, given, strict=True)
        ]
        for instruction, settings in rules:
            if instruction not in CHECKS:
                raise UnreadableError(f"its instruction {instruction} is not one of IFEval")
            try:
                follows("One. Two.", instruction, settings)
            except (LookupError, TypeError, ValueError, AttributeError, re.error) as error:
                raise UnreadableError(f"its instruction {instruction} can't be checked: {first_line(error)}") from error
        return Example(f"ifeval-{row.get('key', name)}", prompt, self.chat(prompt), json.dumps(rules))


def follows(response: str, instruction: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a response follows one instruction of CHECKS. An empty response follows none."""
    return bool(response.strip()) and CHECKS[instruction](response, settings)


def _relation(count: int, settings: Mapping[str, Any], relation: str, number: str) -> bool:
    """Whether a count is "less than" or "at least" a number, as the settings say."""
    return {"less than": count < settings[number], "at least": count >= settings[number]}[settings[relation]]


def _is_english(text: str) -> bool:
    """Whether a text is English, or has nothing to tell its language by."""
    return language_of(text) in ("en", None)


def _first_word(response: str, settings: Mapping[str, Any]) -> bool:
    """Whether there are as many paragraphs as required, and that of the given number begins with the word."""
    wanted, nth, word = settings["num_paragraphs"], settings["nth_paragraph"], settings["first_word"].lower()
    parts = response.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if nth > count or not parts[nth - 1].strip():  # counted with empty ones, as published
        return False
    first = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    return count == wanted and re.split(r"[.,?!'\"]", first)[0].lower() == word


def _has(word: str, response: str) -> bool:
    return re.search(word, response, re.IGNORECASE) is not None


def _json(response: str) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?|```$", "", response.strip()).strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or 1,000 brackets in one another
        return False
    return True


def _highlights(response: str) -> int:
    """The number of sections in *one* or **two** stars that have content."""
    single = re.findall(r"\*[^\n*]*\*", response)
    double = re.findall(r"\*\*[^\n*]*\*\*", response)
    return sum(bool(text.strip("*").strip()) for text in (*single, *double))


def _paragraphs(response: str, settings: Mapping[str, Any]) -> bool:
    """Whether *** lines part as many paragraphs as required; only the first and the last may be empty."""
    parts = re.split(r"\s?\*\*\*\s?", response)
    empty = [at for at, part in enumerate(parts) if not part.strip()]
    return all(at in (0, len(parts) - 1) for at in empty) and len(parts) - len(empty) == settings["num_paragraphs"]


def _postscript(response: str, settings: Mapping[str, Any]) -> bool:
    marker = settings["postscript_marker"].strip()
    dotted = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return re.search(rf"\s*{dotted}.*$", response.lower(), re.MULTILINE) is not None


def _two(response: str, settings: Mapping[str, Any]) -> bool:
    """Whether six stars part two different answers."""
    parts = response.split("******")
    found = [part.strip() for at, part in enumerate(parts) if part.strip() or at not in (0, len(parts) - 1)]
    return len(found) == 2 and all(found) and found[0] != found[1]


CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
CHECKS: dict[str, Check] = {
    "keywords:existence": lambda text, given: (
        sum(_has(word, text) for word in given["keywords"]) == len(given["keywords"])
    ),
    "keywords:forbidden_words": lambda text, given: (
        sum(_has(rf"\b{word}\b", text) for word in given["forbidden_words"]) == 0
    ),
    "keywords:frequency": lambda text, given: _relation(
        len(re.findall(given["keyword"].strip(), text, re.IGNORECASE)), given, "relation", "frequency"
    ),
    "keywords:letter_frequency": lambda text, given: _relation(
        text.lower().count(given["letter"].lower()), given, "let_relation", "let_frequency"
    ),
    "length_constraints:number_words": lambda text, given: _relation(
        len(re.findall(r"\w+", text)), given, "relation", "num_words"
    ),
    "length_constraints:number_sentences": lambda text, given: _relation(
        len(_splitter()[0].tokenize(text)), given, "relation", "num_sentences"
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, given: (
        len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, given: (
        len(re.findall(r"^\s*\*[^\*].*$|^\s*-.*$", text, re.MULTILINE)) == given["num_bullets"]
    ),
    "detectable_format:constrained_response": lambda text, given: any(answer in text.strip() for answer in CONSTRAINED),
    "detectable_format:number_highlighted_sections": lambda text, given: _highlights(text) >= given["num_highlights"],
    "detectable_format:multiple_sections": lambda text, given: (
        len(re.findall(rf"\s?{given['section_spliter'].strip()}\s?\d+\s?", text)) >= given["num_sections"]
    ),
    "detectable_format:json_format": lambda text, given: _json(text),
    "detectable_format:title": lambda text, given: any(
        title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda text, given: (
        text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda text, given: (
        text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, given: (
        len(text.strip()) > 1 and text.strip()[0] == '"' and text.strip()[-1] == '"'
    ),
    "change_case:capital_word_frequency": lambda text, given: _relation(
        sum(word.isupper() for word in words_of(text)), given, "capital_relation", "capital_frequency"
    ),
    "change_case:english_capital": lambda text, given: text.isupper() and _is_english(text),
    "change_case:english_lowercase": lambda text, given: text.islower() and _is_english(text),
    "language:response_language": lambda text, given: language_of(text) in (given["language"], None),
    "punctuation:no_comma": lambda text, given: "," not in text,
}
