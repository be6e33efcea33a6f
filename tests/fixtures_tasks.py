"""Problems made up here in the published formats of the tasks' data sets, written where `task.path` can point."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.tasks import gold_model

NAMES = ("Ada", "Bo", "Cleo", "Dev", "Esra", "Finn", "Gita", "Hugo")
THINGS = ("pears", "stamps", "bricks", "tickets", "marbles", "ribbons", "lamps", "shells")
PLACES = ("in the shed", "at the fair", "for the school", "on the boat", "near the mill", "by the lake")


def write(folder: Path, **splits: list[dict[str, Any]]) -> str:
    """<split>.jsonl for every split; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def gsm8k(count: int, seed: int = 0) -> list[dict[str, str]]:
    """question and answer, a solution with calculator annotations that ends in ####; no two questions are near."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        name, thing, place = (str(rng.choice(words)) for words in (NAMES, THINGS, PLACES))
        a, b, c = (int(x) for x in rng.integers(2, 400, size=3))
        total = a * b + c
        question = (
            f"{name} packs {a} boxes of {b} {thing} {place}, on day {number + 1000 * seed}, and finds {c} more. "
            f"How many {thing} does {name} have then?"
        )
        answer = (
            f"The boxes hold {a} * {b} = <<{a}*{b}={a * b}>>{a * b} {thing}.\n"
            f"In all {a * b} + {c} = <<{a * b}+{c}={total}>>{total} {thing}.\n#### {total:,}"
        )
        rows.append({"question": question, "answer": answer})
    return rows


def math_train(count: int, seed: int = 0) -> list[dict[str, str]]:
    """problem, level, type and solution, whose last box is the answer."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        a, b, c = (int(x) for x in rng.integers(2, 60, size=3))
        if number % 3 == 0:
            problem = f"Solve ${a}x + {b} = {a * c + b}$ for $x$, as exercise {number + 1000 * seed} asks."
            solution = f"We have ${a}x = {a * c}$, so $x = \\boxed{{{c}}}$."
        elif number % 3 == 1:
            problem = (
                f"What is $\\frac{{{a}}}{{{a + b}}}$ of ${c}$? Give fraction number {number + 1000 * seed} in full."
            )
            solution = f"It is \\[ \\frac{{{a}}}{{{a + b}}} \\cdot {c} = \\boxed{{\\frac{{{a * c}}}{{{a + b}}}}}. \\]"
        else:
            problem = f"Expand $(x+{a})(x+{b})$, case {number + 1000 * seed}."
            solution = f"We get $\\boxed{{x^2 + {a + b}x + {a * b}}}$."
        rows.append({"problem": problem, "level": "Level 2", "type": "Algebra", "solution": solution})
    return rows


def math500(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """problem, solution, answer, subject, level and unique_id."""
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(math_train(count, seed)):
        answer = row["solution"].split("\\boxed{", 1)[1].rsplit("}", 1)[0]
        rows.append(row | {"answer": answer, "subject": "Algebra", "unique_id": f"test/algebra/{number}.json"})
    return rows


def prompts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A user's own: id, prompt, answer."""
    return [
        {"id": f"own-{number}", "prompt": row["question"], "answer": row["answer"].rpartition("#### ")[2]}
        for number, row in enumerate(gsm8k(count, seed))
    ]


def mbpp(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """task_id, text, code, test_list, test_setup_code, challenge_test_list."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        k = number + 10 * seed + 1
        kind = number % 4
        name = f"job_{'abcd'[kind]}{k}"
        if kind == 0:
            text, code = f"Write a function to add {k} to every item of a tuple.", f"tuple(x + {k} for x in xs)"
            tests = [f"{name}((1, 2)) == {(1 + k, 2 + k)}", f"{name}(()) == ()", f"{name}((0,)) == ({k},)"]
        elif kind == 1:
            text, code = (
                f"Write a function to find the items of a list that {k} divides.",
                f"{{x for x in xs if x % {k} == 0}}",
            )
            tests = [
                f"{name}([{k}, {k}]) == set([{k}])",
                f"{name}([]) == set()",
                f"set({name}([{2 * k}, 0])) == {{0, {2 * k}}}",
            ]
        elif kind == 2:
            text, code = f"Write a python function for the mean of some numbers, times {k}.", f"{k} * sum(xs) / len(xs)"
            tests = [f"{name}([1, 2]) == {1.5 * k}", f"math.isclose({name}([0.1, 0.2]), {0.15 * k}, rel_tol=0.001)"]
            tests += [f"{name}([2]) == {2 * k}"]
        else:
            text, code = f"Write a function to check whether a list is longer than {k}.", f"len(xs) > {k}"
            tests = [f"not {name}([])", f"{name}([0] * {k + 1}) == True", f"{name}([0] * {k}) is False"]
        rows.append(
            {
                "task_id": k,
                "text": text,
                "code": f"def {name}(xs):\r\n    return {code}",
                "test_list": [f"assert {test}" for test in tests],
                "test_setup_code": "import math" if kind == 2 else "",
                "challenge_test_list": [],
            }
        )
    return rows


UNDO = """
def helper(x: int):
    return x + {k}


def {name}(x: int):
    \""" Undo helper, number {k}. \"""
"""
ADD = """from typing import List


def {name}(xs: List[int]) -> List[int]:
    \""" Add {k} to each.
    >>> {name}([1])
    [{one}]
    \"""
"""
PART = """def {name}(x: float) -> float:
    \""" A {k}-th of the number. \"""
"""
CHECK_UNDO = """def check(candidate):
    for x in range(5):
        assert candidate(helper(x)) == x, 'off'
"""
CHECK_ADD = """
METADATA = {{'author': 'us'}}


def check(candidate):
    assert True, 'This prints if it fails'
    assert candidate([]) == []
    assert candidate([1, 2]) == [{one}, 1 + {one}], 'adds'
    assert candidate([0]) == [{k}]
"""
CHECK_PART = """def check(candidate):
    assert abs(candidate(1.0) - {part!r}) < 1e-6
    assert candidate(0) == 0.0
"""


def humaneval(count: int) -> list[dict[str, str]]:
    """task_id, prompt, canonical_solution, test, entry_point."""
    rows = []
    kinds = (
        (UNDO, "    return x - {k}\n", CHECK_UNDO),
        (ADD, "    ys = []\n    for x in xs:\n        ys.append(x + {k})\n\n    return ys\n", CHECK_ADD),
        (PART, "    return x / {k}\n", CHECK_PART),
    )
    for k in range(1, count + 1):
        values = {"k": k, "name": f"work_{k}", "one": 1 + k, "part": 1 / k}
        prompt, body, test = (text.format(**values) for text in kinds[k % 3])
        rows.append(
            {
                "task_id": f"Made/{k}",
                "prompt": prompt,
                "canonical_solution": body,
                "test": test.replace("1 + " + str(1 + k), str(2 + k)),  # a literal, as published
                "entry_point": values["name"],
            }
        )
    return rows


def preferences(count: int, seed: int = 0) -> list[dict]:
    """prompt, prompt_id, chosen and rejected, as published."""
    return [
        {
            "prompt": (question := row["question"]),
            "prompt_id": str(number),
            **{
                name: [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
                for name, text in (("chosen", "Good."), ("rejected", "No"))
            },
        }
        for number, row in enumerate(gsm8k(count, seed))
    ]


def ifeval(count: int) -> list[dict[str, Any]]:
    """key, prompt, instruction_id_list and kwargs; each response must lack commas and end with "Done."."""
    return [
        {
            "key": number,
            "prompt": f"{row['question']} Use no commas and end with: Done.",
            "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
            "kwargs": [{"end_phrase": None}, {"end_phrase": "Done.", "num_words": None}],
        }
        for number, row in enumerate(gsm8k(count))
    ]


class ByLength:
    """A gold model that likes long answers, and can't score "?"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of every gold model."""
        self.asked: list[str] = []
        gold_model._known.cache_clear()
        monkeypatch.setattr(gold_model, "_scorer", lambda *_: self)
        described = property(lambda model: f"{model.name} by length above {model.threshold}")
        monkeypatch.setattr(gold_model.GoldModel, "judged_by", described)

    def score(self, prompts: Sequence, texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        self.asked += texts
        assert all(messages[-1]["role"] == "user" for messages in prompts)
        scores = np.array([np.nan if text == "?" else len(text) for text in texts])
        return scores, {"truncated_inputs": sum(len(text) > 13 for text in texts), "not_finite": np.isnan(scores).sum()}


# what makes the files of each task that reads rows
FILES_OF: dict[str, Callable[[], dict[str, list]]] = {
    "gsm8k": lambda: {"train": gsm8k(30), "test": gsm8k(10, seed=1)},
    "humaneval": lambda: {"test": humaneval(60)},
    "ifeval": lambda: {"train": ifeval(40)},
    "jsonl": lambda: {"train": prompts(30), "test": prompts(10, seed=1)},
    "math500": lambda: {"train": math_train(30), "test": math500(10)},
    "mbpp": lambda: {"train": mbpp(12), "validation": mbpp(8, seed=3), "test": mbpp(8, seed=6)},
    "ultrafeedback": lambda: {"train_prefs": preferences(30), "test_prefs": preferences(10, seed=1)},
}
