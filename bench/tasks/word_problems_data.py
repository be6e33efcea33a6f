"""The problems of `word_problems`: templates, numbers, wordings, solutions, and solutions with systematic slips.

A plan is written as its equations, "p = a ±1 b; r = a + p": a, b, c, d are the numbers of the question, the others
results of earlier steps, and ±1 is the first sign of the question (finds or loses, more or fewer).

The policy is pretrained on demonstrations that have slips, as noisy web data do. Each slip is the same everywhere, so a
policy that learns them is wrong in greedy decoding too, and selection has something to remove. The steps after a slip
are consistent with it.
"""

import functools
import hashlib
import itertools
import operator
import re
from dataclasses import dataclass

import numpy as np

LARGEST = 20  # every number and every intermediate result lies in 0..LARGEST
NAMES = ("Ana", "Ben", "Eve", "Ida", "Jon", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
ITEMS = ("beads", "books", "cakes", "cards", "coins", "cups", "keys", "nuts", "pens", "shells")
WORDS = {"+": {"more": "more", "finds": "finds"}, "-": {"more": "fewer", "finds": "loses"}}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
EQUATION = re.compile(r" [0-9]+ ([-+*]) ([0-9]+) = [0-9]+\.")
ANNOUNCED = {"+": "more", "-": "fewer", "*": "times"}
ARITHMETIC_SLIP = 0.38  # the share of demonstrations with one, where some step admits one
WRONG_PLAN = 0.38

Step = tuple[str, str, str, str]  # result, left operand, operation, right operand, e.g. ("p", "a", "±1", "b")
Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Template:
    """One kind of problem. Its first plan is the order in which the story happens."""

    name: str
    share: float  # of the corpus and of every split
    cores: tuple[int, ...]  # numeric cores in train, validation and test; counting them takes a second
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
        """Template, numbers and operations, sorted: equal for two problems that differ only in words or order."""
        return f"{self.template.name} {sorted(self.numbers)} {''.join(sorted(self.signs))}"

    def solutions(self) -> list[Plan]:
        """Return the template's plans with this problem's signs, without those that leave the range."""
        plans = [
            tuple((r, left, self.signs[int(op[1]) - 1] if op[0] == "±" else op, right) for r, left, op, right in plan)
            for plan in self.template.plans
        ]
        return [plan for plan in plans if evaluate(plan, self.values()) is not None]

    @property
    def answer(self) -> int:
        """The result; all solutions agree."""
        values = evaluate(self.solutions()[0], self.values())
        assert values is not None
        return values["r"]

    def values(self) -> dict[str, int]:
        return dict(zip(self.template.numbers, self.numbers, strict=True))

    def question(self, names: list[str], item: str) -> str:
        words = {f"{word}{i}": text for i, sign in enumerate(self.signs, 1) for word, text in WORDS[sign].items()}
        return self.template.text.format(**dict(zip("ABC", names, strict=True)), **self.values(), **words, item=item)


def evaluate(plan: Plan, values: dict[str, int]) -> dict[str, int] | None:
    """Return the values with each step's result added; None where one leaves 0..LARGEST."""
    values = dict(values)
    for result, left, operation, right in plan:
        values[result] = int(OPERATIONS[operation](values[left], values[right]))
        if not 0 <= values[result] <= LARGEST:
            return None
    return values


def split_of(template: str, numbers: tuple[int, ...]) -> str:
    """Return the split of a core: half go to the corpus, a quarter to train, an eighth each to validation and test.

    Only the sorted numbers count, so problems that differ only in an operation ("more" for "fewer") share a split.
    """
    digest = hashlib.blake2b(f"{template} {list(numbers)}".encode(), digest_size=1).digest()
    return ("corpus", "corpus", "corpus", "corpus", "train", "train", "validation", "test")[digest[0] % 8]


@functools.cache
def problems(template: Template, split: str) -> tuple[Problem, ...]:
    """Return every problem of a template in a split ("corpus" too) whose story stays in range, in a fixed order."""
    rows = _in_range(template)
    return tuple(
        Problem(template, tuple(numbers), signs)
        for signs, (numbers_of, splits) in rows.items()
        for numbers in numbers_of[splits == split].tolist()
    )


@functools.cache
def _in_range(template: Template) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Signs -> [P, numbers] the numbers with which the story stays in range, and the split of each, [P]."""
    ranges = [np.arange(2 if name in template.factors else 1, LARGEST + 1) for name in template.numbers]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=1)
    found = {}
    for signs in map("".join, itertools.product("+-", repeat=template.signs)):
        values = dict(zip(template.numbers, grid.T, strict=True))
        valid = np.ones(len(grid), dtype=bool)
        for result, left, operation, right in template.plans[0]:
            operation = signs[int(operation[1]) - 1] if operation[0] == "±" else operation
            values[result] = OPERATIONS[operation](values[left], values[right])
            valid &= (values[result] >= 0) & (values[result] <= LARGEST)
        found[signs] = grid[valid]
    ordered = np.sort(np.concatenate(list(found.values())), axis=1)
    codes = ordered @ (LARGEST + 1) ** np.arange(ordered.shape[1])  # equal for equal cores
    _, first, core = np.unique(codes, return_index=True, return_inverse=True)
    splits = np.array([split_of(template.name, tuple(numbers)) for numbers in ordered[first].tolist()])[core]
    ends = np.cumsum([len(numbers) for numbers in found.values()])[:-1]
    return dict(zip(found, zip(found.values(), np.split(splits, ends), strict=True), strict=True))


def _templates(table: str) -> tuple[Template, ...]:
    """Each paragraph is a template: "name share cores [factors]", the text, and a plan per line."""
    found = []
    for paragraph in table.strip().split("\n\n"):
        head, text, *plans = paragraph.split("\n")
        name, share, cores, *factors = head.split()
        steps = ([step.split() for step in plan.split(";")] for plan in plans)
        made = tuple(tuple((result, x, operation, y) for result, _, x, operation, y in plan) for plan in steps)
        found.append(Template(name, float(share), tuple(map(int, cores.split("/"))), text, made, "".join(factors)))
    return tuple(found)


# The shares leave every template enough cores for one prompt per core at the default sizes.
TEMPLATES = _templates("""
more 0.05 67/35/38
{A} has {a} {item}. {B} has {b} {more1}. How many {item} does {B} have?
r = a ±1 b

chain2 0.045 39/28/17
{A} has {a} {item}. {B} has {b} {more1}. How many {item} in all?
p = a ±1 b; r = a + p
p = a ±1 b; r = p + a
p = a + a; r = p ±1 b

chain3 0.09 170/68/55
{A} has {a} {item}. {B} has {b} {more1}. {C} has {c}. How many {item} in all?
p = a ±1 b; q = a + p; r = q + c
p = a ±1 b; q = p + c; r = a + q
p = a + a; q = p ±1 b; r = q + c
p = a + c; q = a ±1 b; r = p + q

bags 0.07 64/29/21 ab
{A} has {a} bags of {b} {item} and {finds1} {c}. How many {item} now?
p = a * b; r = p ±1 c
p = b * a; r = p ±1 c

times 0.1 118/70/61 b
{A} has {a} {item}. {B} has {b} times as many and {finds1} {c}. How many {item} in all?
p = a * b; q = p ±1 c; r = a + q
p = a * b; q = a + p; r = q ±1 c
p = b * a; q = p ±1 c; r = q + a

spend 0.035 28/16/14 bc
{A} has {a} euros and buys {b} {item} for {c} euros each. How many euros are left?
p = b * c; r = a - p
p = c * b; r = a - p

events2 0.17 623/305/296
{A} has {a} {item}, {finds1} {b} and {finds2} {c}. How many {item} now?
p = a ±1 b; r = p ±2 c
p = a ±2 c; r = p ±1 b

events3 0.22 4351/2145/2226
{A} has {a} {item}, {finds1} {b}, {finds2} {c} and {finds3} {d}. How many {item} now?
p = a ±1 b; q = p ±2 c; r = q ±3 d
p = a ±1 b; q = p ±3 d; r = q ±2 c
p = a ±2 c; q = p ±1 b; r = q ±3 d
p = a ±2 c; q = p ±3 d; r = q ±1 b
p = a ±3 d; q = p ±1 b; r = q ±2 c
p = a ±3 d; q = p ±2 c; r = q ±1 b

spend_more 0.22 286/153/141 cd
{A} has {a} euros, {finds1} {b} and buys {c} {item} for {d} euros each. How many euros are left?
p = a ±1 b; q = c * d; r = p - q
p = c * d; q = a - p; r = q ±1 b
p = d * c; q = a ±1 b; r = q - p
""")


def demonstration(rng: np.random.Generator) -> tuple[str, str]:
    """Return a question of the corpus and a solution, right or with slips; the solution starts with a space."""
    template = TEMPLATES[rng.choice(len(TEMPLATES), p=[template.share for template in TEMPLATES])]
    members = problems(template, "corpus")
    problem = members[rng.integers(len(members))]
    solutions = problem.solutions()
    plan = solutions[rng.integers(len(solutions))]
    if rng.random() < WRONG_PLAN and len(plan) > 1:
        plan = skip_step(plan, int(rng.integers(len(plan))))
    slipping = list(rng.permutation(len(plan))) if rng.random() < ARITHMETIC_SLIP else []
    answer = next(filter(None, (solve(problem, plan, step, rng) for step in [*slipping, None])), None)
    if answer is None:  # a wrong plan that leaves the range
        return demonstration(rng)
    return wording(problem, rng), answer


def wording(problem: Problem, rng: np.random.Generator) -> str:
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[:3]]
    return problem.question(names, ITEMS[rng.integers(len(ITEMS))])


def skip_step(plan: Plan, skipped: int) -> Plan:
    """Return the plan without a step: later steps take its left operand; without its last step a plan stops early."""
    result, left, _, _ = plan[skipped]
    swap = {result: left}
    return tuple(
        (r, swap.get(x, x), operation, swap.get(y, y)) for r, x, operation, y in plan[:skipped] + plan[skipped + 1 :]
    )


def solve(problem: Problem, plan: Plan, slip_at: int | None, rng: np.random.Generator) -> str | None:
    """Return the solution that follows `plan`, with a slip in step `slip_at`; None where that step admits none."""
    values, lines = problem.values(), []
    for number, (result, left, operation, right) in enumerate(plan):
        x, y = values[left], values[right]
        value = int(OPERATIONS[operation](x, y)) if number != slip_at else slip(x, operation, y, rng)
        if value is None or not 0 <= value <= LARGEST:
            return None
        values[result] = value
        lines.append(f" {x} {operation} {y} = {value}.")
    return "".join(lines) + f" #### {value}"


def worked(problem: Problem, rng: np.random.Generator) -> str:
    """Return the right solution in the order of the story."""
    solution = solve(problem, problem.solutions()[0], None, rng)
    assert solution is not None
    return solution


def wrongly_worked(problem: Problem, rng: np.random.Generator) -> str | None:
    """Return a solution with one slip, in arithmetic or in the plan, and a wrong answer; None where there is none."""
    plan = problem.solutions()[0]
    skipped = [(skip_step(plan, step), None) for step in range(len(plan))] if len(plan) > 1 else []
    slipped: list[tuple[Plan, int | None]] = [*((plan, step) for step in range(len(plan))), *skipped]
    for choice in rng.permutation(len(slipped)):
        solution = solve(problem, slipped[choice][0], slipped[choice][1], rng)
        if solution is not None and not solution.endswith(f"#### {problem.answer}"):
            return solution
    return None


def in_words(solution: str) -> str:
    """Return the solution with each equation announced in the words of the questions: " 8 more. 9 + 8 = 17."."""
    return EQUATION.sub(lambda found: f" {found[2]} {ANNOUNCED[found[1]]}.{found[0]}", solution)


def slip(x: int, operation: str, y: int, rng: np.random.Generator) -> int | None:
    """Return a wrong result that people write: a forgotten carry or borrow, or the next entry of the times table."""
    if operation == "*":
        return x * (y + rng.choice((-1, 1)))
    units = OPERATIONS[operation](x % 10, y % 10)
    if operation == "+":
        return x + y - 10 if units >= 10 else None
    return x - y + 10 if units < 0 else None
