"""MATH: answers compared by math-verify, in a process that may be lost."""

from pathlib import Path

import fixtures_tasks as made
import pytest

from bench.errors import BenchError
from bench.tasks import math_judge
from bench.tasks.jsonl import Jsonl
from bench.tasks.math500 import SUBJECTS, Math500

task = Math500()
CASES = [
    (r"We get $\boxed{\frac{1}{2}}$.", "0.5", True),
    (r"\boxed{\dfrac12}", r"\frac{1}{2}", True),
    (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
    (r"\boxed{x^2+2x}", "(x+1)^2", False),
    (r"\boxed{(1, 2)}", "(1,2)", True),
    (r"\boxed{(2, 1)}", "(1,2)", False),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", True),
    (r"\boxed{5 \text{ cm}}", "5", True),
    (r"\boxed{x = 5}", "5", True),
    (r"\boxed{\text{even}}", r"\text{even}", True),
    (r"\boxed{\text{odd}}", r"\text{even}", False),
    (r"\boxed{[2,5)}", "[2,5)", True),
    (r"\boxed{90^\circ}", "90", True),
    (r"\boxed{1,234}", "1234", True),
    ("The answer is $7$.", "7", True),
    ("It is 7.", "7", False),
    (r"\boxed{7", "7", False),
    (r"The answer is \boxed{7", "7", False),
    (r"The answer is \boxed{\frac{7}{1}", "7", False),
    ("The answer is:\n\n\\[\nx = 7\n\\]", "7", True),
    ("Question 1: no.\n\nQuestion 2: yes.\n\nSo \\boxed{7}.", "7", True),
    (r"\boxed{6}, no, \boxed{7}", "7", True),
    ("", "7", False),
]


def test_answers_are_compared_as_mathematics() -> None:
    pytest.importorskip("math_verify")
    completions, golds, right = zip(*CASES, strict=True)
    assert task.are_correct(completions, golds) == list(right)


def test_an_expression_that_never_ends_is_unequal_and_the_rest_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    monkeypatch.setattr(math_judge, "CPU_SECONDS", 1.0)
    endless = r"9^{9^{9^{9}}} - 9^{9^{9^{8}}}"
    assert math_judge.are_equal(["1", "3", "2"], [endless, "3.0", "5-3"]) == [False, True, True]


def test_math_verify_missing_is_said_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_judge, "find_spec", lambda name: None)
    for one in (task, Jsonl(path="anywhere", compare="math")):
        with pytest.raises(BenchError, match="add the extra `math`"):
            one.prompts("train")


def test_problems_from_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    rows, test = made.math_train(24), made.math500(12)
    found = Math500(path=made.write(tmp_path, train=[*rows, {"problem": "?", "solution": "no box"}], test=test))
    assert len(found.prompts("test")) == 12
    assert len(found.prompts("train")) + len(found.prompts("validation")) == 24
    assert found.counts()["rows_unreadable"] == 1
    solutions = {row["problem"]: row["solution"] for row in test}
    prompts = found.prompts("test")
    written = [solutions[messages[0]["content"].rpartition("\n\n")[0]] for messages in prompts.messages]
    assert all(found.are_correct(written, prompts.answer.tolist()))
    assert not any(found.are_correct([text.replace("boxed{", "boxed{1+") for text in written], prompts.answer.tolist()))


def test_answers_that_are_numbers_are_read_as_aime_has_them(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    rows = [{"problem": f"Find the value of case {number}.", "answer": number} for number in range(6)]
    found = Math500(path=made.write(tmp_path, test=rows, train=made.math_train(12)), near_duplicate=None)
    assert sorted(found.prompts("test").answer.tolist()) == ["0", "1", "2", "3", "4", "5"]
    assert found.are_correct(["\\boxed{0}", "\\boxed{1}"], ["0", "0"]) == [True, False]


def test_the_hub_gives_every_subject_to_train_on_and_math500_to_test(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    import datasets

    asked = []

    def load(repo: str, config: str | None, *, split: str, revision: str) -> list[dict]:
        asked.append((repo, config, split))
        return made.math_train(4, seed=len(asked))

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = Math500(seed=21)
    assert len(found.prompts("test")) == 4
    expected = [("EleutherAI/hendrycks_math", subject, "train") for subject in SUBJECTS]
    assert asked == [*expected, ("HuggingFaceH4/MATH-500", None, "test")]


def test_formulas_are_the_path_and_arithmetic_the_steps() -> None:
    text = r"So $2x = 8$ and \[ x = 4. \] Then $4 + 1 = 5$, \boxed{5}."
    assert task.path(text) == "2x=8; x=4.; 4+1=5"
    assert task.steps_are_true(text)
    assert not task.steps_are_true("So $4 + 1 = 6$.")
    assert task.path(r"\boxed{5}") is None
