"""Checks of the instructions in IFEval's prompts, by their published names (Zhou et al. 2023, arXiv 2311.07911).

A subset: those that plain rules decide. Left out are the ones that need a language detector or a sentence splitter, or
that compare with the prompt: language:response_language, length_constraints:number_sentences,
length_constraints:nth_paragraph_first_word, change_case:capital_word_frequency, combination:repeat_prompt; and the two
case instructions are checked without asking whether the text is English.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[str, Mapping[str, Any]], bool]


def follows(response: str, instruction: str, settings: Mapping[str, Any]) -> bool:
    """Whether a response follows one instruction; an empty one follows none. KeyError for one that is not in CHECKS."""
    return bool(response.strip()) and CHECKS[instruction](response, settings)


def _relation(count: int, settings: Mapping[str, Any], relation: str, number: str) -> bool:
    """ "less than" or "at least" a number, as the data says it."""
    return count < settings[number] if settings[relation] == "less than" else count >= settings[number]


def _has(word: str, response: str) -> bool:
    return re.search(word, response, re.IGNORECASE) is not None


def _json(response: str) -> bool:
    text = re.sub(r"^```(?:json)?|```$", "", response.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _highlights(response: str) -> int:
    """Sections in *one* or **two** stars with something in them."""
    single = re.findall(r"\*[^\n*]*\*", response)
    double = re.findall(r"\*\*[^\n*]*\*\*", response)
    return sum(bool(text.strip("*").strip()) for text in (*single, *double))


def _paragraphs(response: str, settings: Mapping[str, Any]) -> bool:
    """Paragraphs between *** lines, none of them empty but the first and the last."""
    parts = re.split(r"\s?\*\*\*\s?", response)
    empty = [at for at, part in enumerate(parts) if not part.strip()]
    return all(at in (0, len(parts) - 1) for at in empty) and len(parts) - len(empty) == settings["num_paragraphs"]


def _postscript(response: str, settings: Mapping[str, Any]) -> bool:
    marker = settings["postscript_marker"].strip()
    dotted = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return re.search(rf"\s*{dotted}.*$", response.lower(), re.MULTILINE) is not None


def _two(response: str, settings: Mapping[str, Any]) -> bool:
    """Two different answers between six stars."""
    parts = response.split("******")
    found = [part.strip() for at, part in enumerate(parts) if part.strip() or at not in (0, len(parts) - 1)]
    return len(found) == 2 and all(found) and found[0] != found[1]


CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
CHECKS: dict[str, Check] = {
    "keywords:existence": lambda text, given: all(_has(word, text) for word in given["keywords"]),
    "keywords:forbidden_words": lambda text, given: not any(_has(rf"\b{w}\b", text) for w in given["forbidden_words"]),
    "keywords:frequency": lambda text, given: _relation(
        len(re.findall(given["keyword"], text, re.IGNORECASE)), given, "relation", "frequency"
    ),
    "keywords:letter_frequency": lambda text, given: _relation(
        text.lower().count(given["letter"].lower()), given, "let_relation", "let_frequency"
    ),
    "length_constraints:number_words": lambda text, given: _relation(
        len(re.findall(r"\w+", text)), given, "relation", "num_words"
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_content:number_placeholders": lambda text, given: (
        len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, given: (
        len(re.findall(r"^\s*\*[^\*].*$|^\s*-.*$", text, re.MULTILINE)) == given["num_bullets"]
    ),
    "detectable_format:constrained_response": lambda text, given: any(one in text.strip() for one in CONSTRAINED),
    "detectable_format:number_highlighted_sections": lambda text, given: _highlights(text) >= given["num_highlights"],
    "detectable_format:multiple_sections": lambda text, given: (
        len(re.findall(rf"\s?{given['section_spliter'].strip()}\s?\d+\s?", text)) >= given["num_sections"]
    ),
    "detectable_format:json_format": lambda text, given: _json(text),
    "detectable_format:title": lambda text, given: any(one.strip() for one in re.findall(r"<<([^\n]+?)>>", text)),
    "combination:two_responses": _two,
    "startend:end_checker": lambda text, given: (
        text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, given: (
        len(text.strip()) > 1 and text.strip()[0] == '"' and text.strip()[-1] == '"'
    ),
    "change_case:english_capital": lambda text, given: text.isupper(),
    "change_case:english_lowercase": lambda text, given: text.islower(),
    "punctuation:no_comma": lambda text, given: "," not in text,
}
