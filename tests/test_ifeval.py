"""Instructions checked by rules, and lm-eval's own checks on the same responses."""

import json
from pathlib import Path

import fixtures_tasks as made
import langdetect
import pytest

from bench.errors import BenchError
from bench.tasks import SPLITS, ifeval
from bench.tasks.ifeval import CHECKS, IfEval, follows

LESS, MORE = "less than", "at least"
CASES = {  # settings, responses that follow, responses that do not
    "keywords:existence": ({"keywords": ["tree", "sea"]}, ["A Tree by the sea"], ["a tree", ""]),
    "keywords:forbidden_words": ({"forbidden_words": ["tree"]}, ["The street"], ["A TREE."]),
    "keywords:frequency": ({"keyword": "sea", "frequency": 2, "relation": MORE}, ["sea, Sea"], ["sea"]),
    "keywords:letter_frequency": ({"letter": "q", "let_frequency": 2, "let_relation": LESS}, ["Quiz"], ["qQ"]),
    "length_constraints:number_words": ({"num_words": 3, "relation": MORE}, ["one two three"], ["one two"]),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none\n***\ntwo\n***"],
        ["one\n\ntwo", "one\n***\n***\ntwo"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[a] and [b c]"], ["[a] b"]),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, ["Bye.\nP.S. Write!", "p. s. yes"], ["PS write"]),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, ["* a\n* b", "- a\n- b"], ["* a", "* a\n* b\n- c"]),
    "detectable_format:constrained_response": ({}, ["My answer is yes."], ["Yes."]),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, ["*a* and *b*"], ["*a* b", "** **"]),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1\na"],
    ),
    "detectable_format:json_format": (
        {},
        ['{"a": 1}', '```json\n{"a": 1}\n```', "[1]"],
        ["{a: 1}", "a", "[" * 100_000],
    ),
    "detectable_format:title": ({}, ["<<A title>>\nText"], ["A title", "<<>>", "<< >>", "<<<>>>"]),
    "combination:two_responses": ({}, ["one\n******\ntwo"], ["one", "one ****** one", "a ****** b ****** c"]),
    "startend:end_checker": ({"end_phrase": "The end."}, ["So. the end.", '"So. The end."'], ["The end. No"]),
    "startend:quotation": ({}, ['"So."'], ["So.", '"So']),
    "change_case:english_capital": (
        {},
        ["ALL OF THIS IS LOUD AND CLEAR"],
        ["ALL of THIS IS LOUD", "DAS IST ALLES SEHR LAUT UND DEUTLICH"],
    ),
    "change_case:english_lowercase": (
        {},
        ["all of this is quiet and clear"],
        ["All of this is quiet", "das ist alles sehr leise und auf deutsch"],
    ),
    "punctuation:no_comma": ({}, ["one and two"], ["one, two"]),
    "language:response_language": (
        {"language": "de"},
        ["Das ist ein kurzer Satz auf Deutsch.", "12 345"],  # nothing tells the language of numbers
        ["This is a short sentence in English.", "Dies ist eine Übersetzung, and the rest of it is in English."],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": MORE},
        ["One. Two! Three?", "Mr. Smith met Dr. Jones at 5 p.m. on Monday. They left. It rained."],
        ["Mr. Smith met Dr. Jones. They left.", "One, two, three", "It costs 3.50 in the U.S. today. Fine."],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["One.\n\nThen two.", "One.\n\n'then, two", "\n\nThen two.\n\nThree"],
        ["Then one.\n\nTwo.", "One.\nThen two.", "One.\n\nThen two.\n\nThree", "One.\n\n\n\nThen"],
    ),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 3, "capital_relation": MORE},
        ["I saw the USA and NASA.", "I CAN'T"],  # CA and N'T are two words
        ["I saw the USA.", "Nato USA-based II", "one two three"],
    ),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "What is red? "},
        ["What is red? A colour.", "  what is RED?"],
        ["A colour.", "Sure. What is red? A colour.", "What is  red?"],
    ),
}


def test_every_check_has_its_cases() -> None:
    assert set(CASES) == set(CHECKS)


@pytest.mark.parametrize("name", CASES)
def test_responses_are_judged(name: str) -> None:
    settings, good, bad = CASES[name]
    assert [follows(text, name, settings) for text in good] == [True] * len(good)
    assert [follows(text, name, settings) for text in bad] == [False] * len(bad)
    assert not follows("  \n", name, settings)


@pytest.mark.parametrize("name", CASES)
def test_lm_eval_judges_likewise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.download", lambda *_, **__: False)  # its module asks for the sentence splitter
    langdetect.DetectorFactory.seed = 0
    registry = pytest.importorskip("lm_eval.tasks.ifeval.instructions_registry", exc_type=ImportError)
    settings, good, bad = CASES[name]
    check = registry.INSTRUCTION_DICT[name](name)
    check.build_description(**settings)
    for text in filter(str.strip, (*good, *bad)):
        if text.startswith("[["):
            continue  # its parser ends with a RecursionError
        try:
            theirs = bool(check.check_following(text))
        except LookupError:
            pytest.skip("NLTK's punkt_tab is not on this machine")
        assert theirs == follows(text, name, settings), text


@pytest.mark.parametrize(
    ("instruction", "settings"),
    [
        ("keywords:existence", {}),
        ("keywords:existence", {"keywords": ["fine", "(a"]}),
        ("keywords:frequency", {"keyword": "a", "frequency": None, "relation": MORE}),
        ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "at most"}),
        ("length_constraints:number_words", {"num_words": "3", "relation": MORE}),
        ("length_constraints:nth_paragraph_first_word", {"nth_paragraph": 2, "first_word": "a"}),
        ("startend:end_checker", {"end_phrase": 3}),
        ("language:response_language", {}),
        ("language:of_the_prompt", {}),
    ],
)
def test_rows_with_settings_that_can_not_be_checked_are_counted(
    tmp_path: Path, instruction: str, settings: dict
) -> None:
    rows = made.ifeval(40)
    wrong = [
        {"instruction_id_list": [instruction], "kwargs": [settings]},
        {"kwargs": None},
        {"instruction_id_list": []},
        {"instruction_id_list": [instruction], "kwargs": [json.dumps(settings)]},
    ]
    rows += [rows[0] | {"key": 90 + number} | fields for number, fields in enumerate(wrong)]
    task = IfEval(path=made.write(tmp_path, train=rows), near_duplicate=None)
    assert sum(len(task.prompts(split)) for split in SPLITS) == 40
    assert task.counts()["rows_unreadable"] == 4


def test_a_verdict_is_the_same_every_time() -> None:
    mixed = "Hallo the an is de la"  # between languages
    assert len({ifeval.language_of(mixed) for _ in range(30)}) == 1


def test_without_its_packages_the_task_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifeval, "find_spec", lambda name: None)
    for asked in (IfEval(path="anywhere").check, lambda: IfEval(path="anywhere").judged_by):
        with pytest.raises(BenchError, match="pip install langdetect"):
            asked()


def test_prompts_are_right_where_all_instructions_are_followed(tmp_path: Path) -> None:
    rows = made.ifeval(40)
    rows.append(rows[0] | {"key": 99, "instruction_id_list": ["language:of_the_prompt"], "kwargs": [{}]})
    task = IfEval(path=made.write(tmp_path, train=rows), near_duplicate=None)
    found = {split: task.prompts(split) for split in ("train", "validation", "test")}
    assert sum(map(len, found.values())) == 40
    assert task.counts()["rows_unreadable"] == 1
    answer = str(found["test"].answer[0])
    assert json.loads(answer)[1] == ["startend:end_checker", {"end_phrase": "Done."}]
    assert task.is_correct("It is 7. Done.", answer)
    assert not task.is_correct("It is 7, so. Done.", answer)
    assert not task.is_correct("It is 7.", answer)
