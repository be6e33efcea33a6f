"""The word_problems task: splits that share no core, answers that are right, a verifier that near misses don't fool."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.seeds import generator
from bench.tasks.word_problems import WordProblems
from bench.tasks.word_problems_data import (
    LARGEST,
    TEMPLATES,
    WORDS,
    Problem,
    Template,
    evaluate,
    problems,
    skip_step,
    slip,
    solve,
)

SPLITS = ("train", "validation", "test")
task = WordProblems()


def cores(template: Template) -> dict[str, int]:
    """The number of numeric cores of a template in each split, counted."""
    return {split: len({problem.core for problem in problems(template, split)}) for split in ("corpus", *SPLITS)}


def read(question: str) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """A question's core, read from its text alone: words without numbers, signs, names and items; the rest sorted."""
    signs = {word: sign for sign, words in WORDS.items() for word in words.values()}
    words = re.findall(r"[A-Za-z]+|[0-9]+", question)
    numbers = tuple(sorted(int(word) for word in words if word.isdigit()))
    operations = tuple(sorted(signs[word] for word in words if word in signs))
    skeleton = re.sub(r"\b(" + "|".join(signs) + r")\b", "±", re.sub(r"[0-9]+", "#", question))
    skeleton = re.sub(r"\b[A-Z][a-z]{2}\b(?<!How)", "NAME", skeleton)
    skeleton = re.sub(r"\b(beads|books|cakes|cards|coins|cups|keys|nuts|pens|shells)\b", "ITEM", skeleton)
    return skeleton, numbers, operations


def questions(split: str, *, seed: int = 0, count: int = 300) -> list[str]:
    chosen = WordProblems(train_prompts=count, validation_prompts=count, test_prompts=count, seed=seed)
    return [turns[0]["content"] for turns in chosen.prompts(split).messages]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_splits_and_corpus_share_no_core(seed: int) -> None:
    corpus = [prompt for prompt, _ in task.demonstrations(1500, generator(seed, "test"))]
    texts = {"corpus": corpus, **{split: questions(split, seed=seed % 1000) for split in SPLITS}}
    found = {name: set(map(read, lines)) for name, lines in texts.items()}
    assert len({skeleton for skeleton, _, _ in found["corpus"]}) == len(
        TEMPLATES
    )  # the reader sees templates, not strings
    for one, other in itertools.combinations(found, 2):
        assert not found[one] & found[other]
        assert not {core[:2] for core in found[one]} & {core[:2] for core in found[other]}  # operations left out, too
    for split in SPLITS:
        assert len(found[split]) == 300  # within a split every prompt has a core of its own


def test_every_split_has_its_share_of_the_cores() -> None:
    held = {split: sum(cores(template)[split] for template in TEMPLATES) for split in ("corpus", *SPLITS)}
    total = sum(held.values())
    assert total > 15_000
    assert held["corpus"] / total == pytest.approx(0.5, abs=0.02)
    assert held["train"] / total == pytest.approx(0.25, abs=0.02)
    assert held["test"] / total == pytest.approx(0.125, abs=0.02)


def test_every_template_appears_about_as_often_as_in_the_corpus() -> None:
    for split, count in (("train", 600), ("test", 300)):
        seen = Counter(name.split("-")[2] for name in questions_ids(split, count))
        for template in TEMPLATES:
            assert abs(seen[template.name] / count - template.share) < 0.05


def questions_ids(split: str, count: int) -> list[str]:
    return list(WordProblems(train_prompts=count, test_prompts=count).prompts(split).id)


@pytest.mark.parametrize("split", SPLITS)
def test_more_prompts_than_a_split_has_are_refused_with_both_numbers(split: str) -> None:
    held = sum(cores(template)[split] for template in TEMPLATES)
    assert len(WordProblems(**{f"{split}_prompts": held}).prompts(split)) == held
    with pytest.raises(BenchError, match=rf"{split}_prompts={held + 1} .* has {held} prompts"):
        WordProblems(**{f"{split}_prompts": held + 1}).prompts(split)


def by_hand(name: str, n: tuple[int, ...], signs: str) -> int:
    """Each template's answer, worked out without its plans."""
    s = [1 if sign == "+" else -1 for sign in signs]
    return {
        "more": lambda: n[0] + s[0] * n[1],
        "chain2": lambda: 2 * n[0] + s[0] * n[1],
        "chain3": lambda: 2 * n[0] + s[0] * n[1] + n[2],
        "bags": lambda: n[0] * n[1] + s[0] * n[2],
        "times": lambda: n[0] + n[0] * n[1] + s[0] * n[2],
        "spend": lambda: n[0] - n[1] * n[2],
        "events2": lambda: n[0] + s[0] * n[1] + s[1] * n[2],
        "events3": lambda: n[0] + s[0] * n[1] + s[1] * n[2] + s[2] * n[3],
        "spend_more": lambda: n[0] + s[0] * n[1] - n[2] * n[3],
    }[name]()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_all_solutions_agree_stay_in_range_and_pass_the_verifier(template) -> None:
    rng = generator(0, "test", template.name)
    members = [problem for split in ("corpus", *SPLITS) for problem in problems(template, split)]
    for i in rng.permutation(len(members))[:200]:
        problem = members[i]
        expected = by_hand(template.name, problem.numbers, problem.signs)
        assert 0 <= expected <= LARGEST
        solutions = problem.solutions()
        assert solutions
        paths = set()
        for plan in solutions:
            completion = solve(problem, plan, None, rng)
            assert completion is not None
            assert task.is_correct(completion, str(expected))
            assert task.steps_are_true(completion)
            assert all(0 <= int(number) <= LARGEST for number in re.findall("[0-9]+", completion))
            paths.add(task.path(completion))
        assert None not in paths


def test_prompts_carry_the_answer_of_their_own_text() -> None:
    prompts = task.prompts("test")
    for name, turns, answer in zip(prompts.id, prompts.messages, prompts.answer, strict=True):
        text = turns[0]["content"]
        signs = "".join(
            "+" if word in ("more", "finds") else "-" for word in re.findall("more|finds|fewer|loses", text)
        )
        numbers = tuple(map(int, re.findall("[0-9]+", text)))
        assert by_hand(name.split("-")[2], numbers, signs) == int(answer)


def test_the_documented_problem_has_several_solutions() -> None:
    chain2 = next(template for template in TEMPLATES if template.name == "chain2")
    problem = Problem(chain2, (9, 1), "-")
    assert (
        problem.question(["Leo", "Eve", "Tom"], "coins") == "Leo has 9 coins. Eve has 1 fewer. How many coins in all?"
    )
    written = {solve(problem, plan, None, generator(0, "test")) for plan in problem.solutions()}
    assert written == {
        " 9 - 1 = 8. 9 + 8 = 17. #### 17",
        " 9 - 1 = 8. 8 + 9 = 17. #### 17",
        " 9 + 9 = 18. 18 - 1 = 17. #### 17",
    }


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" 9 - 1 = 8. 9 + 8 = 17. #### 17", "17"),
        (" 9 + 9 = 18. 18 - 1 = 17. #### 17", None),  # filled below: any right path counts
        ("#### 17", "17"),
        (" nonsense #### 17\n", "17"),
        (" 1 + 1 = 3. #### 0", "0"),
        (" #### 16. #### 17", "17"),  # the final one counts
    ],
)
def test_the_verifier_accepts(completion: str, answer: str | None) -> None:
    assert task.is_correct(completion, answer or "17")
    assert task.extract_answer(completion) == (answer or "17")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "17",
        " 9 - 1 = 8. 9 + 8 = 17.",
        " 9 - 1 = 8. 9 + 8 = 17. #### 1",
        " #### 117",
        " #### 170",
        " #### 017",
        " #### 1 7",
        " #### -17",
        " #### 17.",
        " #### 17.0",
        " #### 17 coins",
        " #### 17 #### 16",
        " ####17",
        " ### 17",
        " #### ",
        " #### 17 9 + 8",
        " #### seventeen",
        " #### ١٧",  # digits of another script
    ],
)
def test_the_verifier_refuses_near_misses(completion: str) -> None:
    assert not task.is_correct(completion, "17")


def test_the_pattern_is_what_the_verifier_uses() -> None:
    found = re.search(task.answer_pattern, " 9 + 8 = 17. #### 17")
    assert found is not None
    assert found[1] == "17"


@pytest.mark.parametrize(
    ("completion", "true"),
    [
        (" 9 - 1 = 8. 9 + 8 = 17. #### 17", True),
        (" 9 - 1 = 8. 9 + 8 = 17. #### 3", True),  # the steps, not the answer
        (" 3 * 4 = 12. #### 12", True),
        (" 9 - 1 = 8. 9 + 8 = 7. #### 7", False),
        (" 9 - 1 = 7. 9 + 7 = 16. #### 16", False),
        (" #### 17", False),  # no step
        ("", False),
        (" 1 + 8 + 1 = 9. #### 9", False),  # its tail "8 + 1 = 9" is true, the step is not
        (" 9 + 8 = 17 = 17. #### 17", False),
        (" 9 + = 17. #### 17", False),
        (" 3 * 4 = 12 9 + 8 = 17. #### 17", False),
        (" 9 - 10 = -1. #### 1", False),  # no negative numbers here
    ],
)
def test_every_step_must_be_true(completion: str, true: bool) -> None:
    assert task.steps_are_true(completion) is true


def test_paths_tell_reasonings_apart() -> None:
    assert task.path(" 9 - 1 = 8. 9 + 8 = 17. #### 17") == "9 - 1 = 8; 9 + 8 = 17"
    assert task.path(" 9 - 1 = 8. 9 + 8 = 17. #### 3") == "9 - 1 = 8; 9 + 8 = 17"
    assert task.path(" 9 - 1 = 8. 8 + 9 = 17. #### 17") == "9 - 1 = 8; 8 + 9 = 17"
    assert task.path(" #### 17") is None
    assert task.path("") is None


def test_slips_are_the_documented_ones() -> None:
    rng = generator(0, "test")
    assert slip(9, "+", 8, rng) == 7  # the carry forgotten
    assert slip(9, "+", 1, rng) == 0
    assert slip(3, "+", 4, rng) is None
    assert slip(13, "-", 5, rng) == 18  # the borrow forgotten
    assert slip(15, "-", 3, rng) is None
    assert {slip(3, "*", 4, rng) for _ in range(50)} == {9, 15}  # the neighbours in the table of 3


def test_a_skipped_step_leaves_the_rest_consistent() -> None:
    plan = (("p", "a", "-", "b"), ("r", "a", "+", "p"))
    assert skip_step(plan, 0) == (("r", "a", "+", "a"),)
    assert skip_step(plan, 1) == (("p", "a", "-", "b"),)
    assert evaluate(plan, {"a": 9, "b": 1}) == {"a": 9, "b": 1, "p": 8, "r": 17}
    assert evaluate(plan, {"a": 15, "b": 1}) is None


def test_demonstrations_are_right_about_half_of_the_time_and_repeat() -> None:
    one, other = (task.demonstrations(2000, generator(0, "test")) for _ in range(2))
    assert one == other
    true = np.mean([task.steps_are_true(completion) for _, completion in one])
    assert 0.75 < true < 0.9
    lengths = [len(completion) for _, completion in one]
    assert max(lengths) < 70
    right = []
    for question, completion in one:
        signs = "".join("+" if w in ("more", "finds") else "-" for w in re.findall("more|finds|fewer|loses", question))
        numbers = tuple(map(int, re.findall("[0-9]+", question)))
        name = next(t.name for t in TEMPLATES if read(t_question(t))[0] == read(question)[0])
        right.append(task.is_correct(completion, str(by_hand(name, numbers, signs))))
    assert 0.4 < np.mean(right) < 0.65


def t_question(template) -> str:
    return problems(template, "corpus")[0].question(["Leo", "Eve", "Tom"], "coins")


def test_templates_narrow_every_split_and_nothing_else():
    chosen = WordProblems(train_prompts=300, templates=["chain2", "events3"])
    for split in SPLITS:
        kinds = Counter(name.rsplit("-", 1)[-1] for name in chosen.prompts(split).id.tolist())
        assert set(kinds) == {"chain2", "events3"}
        assert set(chosen.prompts(split).id) != set(task.prompts(split).id)
    assert chosen.key == task.key  # the policy is the same
    every = WordProblems(templates=[template.name for template in TEMPLATES])
    assert (every.prompts("test").messages) == task.prompts("test").messages
    with pytest.raises(BenchError, match=r"task.train_prompts=600 .* has \d+ prompts of these templates"):
        WordProblems(templates=("more",)).prompts("train")


def test_the_numbers_of_cores_are_those_that_the_templates_have():
    for template in TEMPLATES:
        assert template.cores == tuple(cores(template)[split] for split in SPLITS)
