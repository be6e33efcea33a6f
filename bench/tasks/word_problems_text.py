"""The problems of `word_problems`: templates, every valid choice of numbers, their wordings and their solutions.

A plan is written as its equations, "p = a ±1 b; r = a + p": a, b, c, d are the numbers of the question, the others
results of earlier steps, and ±1 is the first sign of the question (finds or loses, more or fewer).
"""

import functools
import hashlib
import itertools
from dataclasses import dataclass

import numpy as np

LARGEST = 20  # every number and every intermediate result lies in 0..LARGEST
NAMES = ("Ana", "Ben", "Eve", "Ida", "Jon", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
ITEMS = ("beads", "books", "cakes", "cards", "coins", "cups", "keys", "nuts", "pens", "shells")
WORDS = {"+": {"more": "more", "finds": "finds"}, "-": {"more": "fewer", "finds": "loses"}}
OPERATIONS = {"+": np.add, "-": np.subtract, "*": np.multiply}

Step = tuple[str, str, str, str]  # result, left operand, operation, right operand, e.g. ("p", "a", "±1", "b")
Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Template:
    """One kind of problem. Its first plan is the order in which the story happens."""

    name: str
    share: float  # of the corpus and of every split
    text: str
    plans: tuple[Plan, ...]
    factors: str = ""  # the numbers that multiply; they are at least 2

    @functools.cached_property
    def numbers(self) -> str:
        return "".join(name for name in "abcd" if f"{{{name}}}" in self.text)

    @functools.cached_property
    def signs(self) -> int:
        return sum(f"{sign}}}" in self.text for sign in "123")


@dataclass(frozen=True)
class Problem:
    """A template with its numbers and signs, e.g. a = 9, b = 1 and "-"."""

    template: Template
    numbers: tuple[int, ...]
    signs: str

    @property
    def core(self) -> str:
        """What two problems share that differ only in words or order: template, numbers and operations, sorted."""
        return f"{self.template.name} {sorted(self.numbers)} {''.join(sorted(self.signs))}"

    def solutions(self) -> list[Plan]:
        """The template's plans with this problem's signs, those alone whose every step stays in range."""
        plans = [
            tuple((r, left, self.signs[int(op[1]) - 1] if op[0] == "±" else op, right) for r, left, op, right in plan)
            for plan in self.template.plans
        ]
        return [plan for plan in plans if evaluate(plan, self.values()) is not None]

    def values(self) -> dict[str, int]:
        return dict(zip(self.template.numbers, self.numbers, strict=True))

    def question(self, names: list[str], item: str) -> str:
        words = {f"{word}{i}": text for i, sign in enumerate(self.signs, 1) for word, text in WORDS[sign].items()}
        return self.template.text.format(**dict(zip("ABC", names, strict=True)), **self.values(), **words, item=item)


def evaluate(plan: Plan, values: dict[str, int]) -> dict[str, int] | None:
    """The values with each step's result added; None where one leaves 0..LARGEST."""
    values = dict(values)
    for result, left, operation, right in plan:
        values[result] = int(OPERATIONS[operation](values[left], values[right]))
        if not 0 <= values[result] <= LARGEST:
            return None
    return values


@functools.cache
def split_of(template: str, numbers: tuple[int, ...]) -> str:
    """Half of the cores to the pretraining corpus, a quarter to train, an eighth each to validation and test.

    By the sorted numbers alone: problems that differ only in an operation ("more" for "fewer") fall into one split.
    """
    digest = hashlib.blake2b(f"{template} {list(numbers)}".encode(), digest_size=1).digest()
    return ("corpus", "corpus", "corpus", "corpus", "train", "train", "validation", "test")[digest[0] % 8]


@functools.cache
def problems(template: Template) -> dict[str, tuple[Problem, ...]]:
    """Every problem of a template whose story stays in range, by split, in a fixed order."""
    ranges = [np.arange(2 if name in template.factors else 1, LARGEST + 1) for name in template.numbers]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=1)  # [P, numbers]
    found: dict[str, list[Problem]] = {"corpus": [], "train": [], "validation": [], "test": []}
    for signs in map("".join, itertools.product("+-", repeat=template.signs)):
        values = dict(zip(template.numbers, grid.T, strict=True))
        valid = np.ones(len(grid), dtype=bool)
        for result, left, operation, right in template.plans[0]:
            operation = signs[int(operation[1]) - 1] if operation[0] == "±" else operation
            values[result] = OPERATIONS[operation](values[left], values[right])
            valid &= (values[result] >= 0) & (values[result] <= LARGEST)
        for numbers in map(tuple, grid[valid].tolist()):
            found[split_of(template.name, tuple(sorted(numbers)))].append(Problem(template, numbers, signs))
    return {split: tuple(members) for split, members in found.items()}


def _template(name: str, share: float, text: str, *plans: str, factors: str = "") -> Template:
    def steps(plan: str) -> Plan:
        words = (step.split() for step in plan.split(";"))
        return tuple((result, left, operation, right) for result, _, left, operation, right in words)

    return Template(name, share, text, tuple(map(steps, plans)), factors)


# The shares leave every template enough cores for a prompt each at the default sizes.
TEMPLATES = (
    _template(
        "more",
        0.05,
        "{A} has {a} {item}. {B} has {b} {more1}. How many {item} does {B} have?",
        "r = a ±1 b",
    ),
    _template(
        "chain2",
        0.045,
        "{A} has {a} {item}. {B} has {b} {more1}. How many {item} in all?",
        "p = a ±1 b; r = a + p",
        "p = a ±1 b; r = p + a",
        "p = a + a; r = p ±1 b",
    ),
    _template(
        "chain3",
        0.09,
        "{A} has {a} {item}. {B} has {b} {more1}. {C} has {c}. How many {item} in all?",
        "p = a ±1 b; q = a + p; r = q + c",
        "p = a ±1 b; q = p + c; r = a + q",
        "p = a + a; q = p ±1 b; r = q + c",
        "p = a + c; q = a ±1 b; r = p + q",
    ),
    _template(
        "bags",
        0.07,
        "{A} has {a} bags of {b} {item} and {finds1} {c}. How many {item} now?",
        "p = a * b; r = p ±1 c",
        "p = b * a; r = p ±1 c",
        factors="ab",
    ),
    _template(
        "times",
        0.10,
        "{A} has {a} {item}. {B} has {b} times as many and {finds1} {c}. How many {item} in all?",
        "p = a * b; q = p ±1 c; r = a + q",
        "p = a * b; q = a + p; r = q ±1 c",
        "p = b * a; q = p ±1 c; r = q + a",
        factors="b",
    ),
    _template(
        "spend",
        0.035,
        "{A} has {a} euros and buys {b} {item} for {c} euros each. How many euros are left?",
        "p = b * c; r = a - p",
        "p = c * b; r = a - p",
        factors="bc",
    ),
    _template(
        "events2",
        0.17,
        "{A} has {a} {item}, {finds1} {b} and {finds2} {c}. How many {item} now?",
        "p = a ±1 b; r = p ±2 c",
        "p = a ±2 c; r = p ±1 b",
    ),
    _template(
        "events3",
        0.22,
        "{A} has {a} {item}, {finds1} {b}, {finds2} {c} and {finds3} {d}. How many {item} now?",
        "p = a ±1 b; q = p ±2 c; r = q ±3 d",
        "p = a ±1 b; q = p ±3 d; r = q ±2 c",
        "p = a ±2 c; q = p ±1 b; r = q ±3 d",
        "p = a ±2 c; q = p ±3 d; r = q ±1 b",
        "p = a ±3 d; q = p ±1 b; r = q ±2 c",
        "p = a ±3 d; q = p ±2 c; r = q ±1 b",
    ),
    _template(
        "spend_more",
        0.22,
        "{A} has {a} euros, {finds1} {b} and buys {c} {item} for {d} euros each. How many euros are left?",
        "p = a ±1 b; q = c * d; r = p - q",
        "p = c * d; q = a - p; r = q ±1 b",
        "p = d * c; q = a ±1 b; r = q - p",
        factors="cd",
    ),
)
