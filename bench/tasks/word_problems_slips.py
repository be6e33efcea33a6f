"""Demonstrations of `word_problems` with systematic slips, as in noisy web data: what its policy is pretrained on.

Slips are the same everywhere, so a policy trained on them is wrong at greedy too, not only when it samples, and
selection has something to remove. Steps after a slip are consistent with it.
"""

import re

import numpy as np

from bench.tasks.word_problems_text import ITEMS, LARGEST, NAMES, OPERATIONS, TEMPLATES, Plan, Problem, problems

EQUATION = re.compile(r" [0-9]+ ([-+*]) ([0-9]+) = [0-9]+\.")
ANNOUNCED = {"+": "more", "-": "fewer", "*": "times"}
ARITHMETIC_SLIP = 0.38  # the share of demonstrations with one, where some step admits one
WRONG_PLAN = 0.38


def demonstration(rng: np.random.Generator) -> tuple[str, str]:
    """A question of the corpus and one of its solutions, right or with slips; the completion starts with a space."""
    template = TEMPLATES[rng.choice(len(TEMPLATES), p=[template.share for template in TEMPLATES])]
    members = problems(template)["corpus"]
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
    """The plan as if one step did not matter: later steps take its left operand; without its last it stops early."""
    result, left, _, _ = plan[skipped]
    swap = {result: left}
    return tuple(
        (r, swap.get(x, x), operation, swap.get(y, y)) for r, x, operation, y in plan[:skipped] + plan[skipped + 1 :]
    )


def solve(problem: Problem, plan: Plan, slip_at: int | None, rng: np.random.Generator) -> str | None:
    """The completion that follows `plan`, with a slip in one step; None where that step admits none."""
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
    """The right solution in the order of the story."""
    solution = solve(problem, problem.solutions()[0], None, rng)
    assert solution is not None
    return solution


def wrongly_worked(problem: Problem, answer: int, rng: np.random.Generator) -> str | None:
    """Likewise with one slip, in arithmetic or in the plan, that makes its answer wrong; None where none does."""
    plan = problem.solutions()[0]
    skipped = [(skip_step(plan, step), None) for step in range(len(plan))] if len(plan) > 1 else []
    ways: list[tuple[Plan, int | None]] = [*((plan, step) for step in range(len(plan))), *skipped]
    for way in rng.permutation(len(ways)):
        solution = solve(problem, ways[way][0], ways[way][1], rng)
        if solution is not None and not solution.endswith(f"#### {answer}"):
            return solution
    return None


def in_words(solution: str) -> str:
    """Each equation announced by what it does, in the words of the questions: " 9 + 8 = 17." after " 8 more."."""
    return EQUATION.sub(lambda found: f" {found[2]} {ANNOUNCED[found[1]]}.{found[0]}", solution)


def slip(x: int, operation: str, y: int, rng: np.random.Generator) -> int | None:
    """A wrong result that people write: a forgotten carry or borrow, or the neighbouring entry of the times table."""
    if operation == "*":
        return x * (y + rng.choice((-1, 1)))
    units = OPERATIONS[operation](x % 10, y % 10)
    if operation == "+":
        return x + y - 10 if units >= 10 else None
    return x - y + 10 if units < 0 else None
