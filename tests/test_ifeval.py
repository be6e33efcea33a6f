"""Instructions checked by rules, and lm-eval's own checks on the same responses."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import fixtures_tasks as made
import pytest

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
    "detectable_format:json_format": ({}, ['{"a": 1}', '```json\n{"a": 1}\n```', "[1]"], ["{a: 1}", "a"]),
    "detectable_format:title": ({}, ["<<A title>>\nText"], ["A title", "<<>>", "<< >>"]),
    "combination:two_responses": ({}, ["one\n******\ntwo"], ["one", "one ****** one", "a ****** b ****** c"]),
    "startend:end_checker": ({"end_phrase": "The end."}, ["So. the end.", '"So. The end."'], ["The end. No"]),
    "startend:quotation": ({}, ['"So."'], ["So.", '"So']),
    "change_case:english_capital": ({}, ["ALL OF THIS IS LOUD AND CLEAR"], ["ALL of THIS IS LOUD"]),
    "change_case:english_lowercase": ({}, ["all of this is quiet and clear"], ["All of this is quiet"]),
    "punctuation:no_comma": ({}, ["one and two"], ["one, two"]),
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
    # its module asks for a language detector, which the two case instructions consult; our responses are English
    detector: Any = types.ModuleType("langdetect")
    detector.detect = lambda text: "en"
    frozen: Any = types.ModuleType("immutabledict")
    frozen.immutabledict = dict
    monkeypatch.setitem(sys.modules, "langdetect", detector)
    monkeypatch.setitem(sys.modules, "immutabledict", frozen)
    instructions_registry = pytest.importorskip("lm_eval.tasks.ifeval.instructions_registry", exc_type=ImportError)
    settings, good, bad = CASES[name]
    check = instructions_registry.INSTRUCTION_DICT[name](name)
    check.build_description(**settings)
    for text in filter(str.strip, (*good, *bad)):
        assert bool(check.check_following(text)) == follows(text, name, settings), text


def test_prompts_are_right_where_all_instructions_are_followed(tmp_path: Path) -> None:
    rows = made.ifeval(40)
    rows.append(rows[0] | {"key": 99, "instruction_id_list": ["language:response_language"], "kwargs": [{}]})
    task = IfEval(path=made.write(tmp_path, train=rows), near_duplicate=None)
    found = {split: task.prompts(split) for split in ("train", "validation", "test")}
    assert sum(map(len, found.values())) == 40
    assert task.counts()["rows_unreadable"] == 1
    answer = str(found["test"].answer[0])
    assert json.loads(answer)[1] == ["startend:end_checker", {"end_phrase": "Done."}]
    assert task.is_correct("It is 7. Done.", answer)
    assert not task.is_correct("It is 7, so. Done.", answer)
    assert not task.is_correct("It is 7.", answer)
