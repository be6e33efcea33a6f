"""Problems made up here in the published formats of the tasks' data sets, written where `task.path` can point."""

import json
from pathlib import Path
from typing import Any

import numpy as np

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
            problem = f"What is $\\frac{{{a}}}{{{a + b}}}$ of ${c}$? Give fraction number {number + 1000 * seed} in full."
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
