"""The programs of `list_programs`: their steps, their disjoint splits, their tests and their demonstrations.

A step is one change of the list. A program is a sequence of steps; a demonstration writes its lines, right or with the
line that a slip writes.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.seeds import generator
from bench.tasks.program_tests import to_answer

LARGEST, LONGEST = 9, 8  # inputs are lists of up to LONGEST numbers in -LARGEST..LARGEST; lines have 0..LARGEST
LONGEST_KNOWN = 6  # lines of a program that `outputs` takes: six squarings stay small, thirty would not
ENTRY = "f"
EIGHTHS = ("corpus", "corpus", "corpus", "corpus", "train", "train", "validation", "test")
LENGTHS, LENGTH_SHARES = (2, 3), (0.4, 0.6)
CASES = 8  # at least
CORPUS = 5000  # programs
BATCH = 256
OTHER_LINE = 0.3  # the share of right lines that are not a step's usual line, where it has another
WRONG_PLAN = 0.15  # the share of demonstrations that skip a step or exchange two

Program = tuple[int, ...]  # indices of STEPS
Lists = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Step:
    """One change of the list, with its number filled in."""

    words: str  # "add 3 to every number"
    lines: tuple[str, ...]  # they do the same
    slip: str
    slip_share: float  # of demonstrations that write the slip


def _map(expression: str) -> str:
    return f"xs = [{expression} for x in xs]"


def _keep(condition: str) -> str:
    return f"xs = [x for x in xs if {condition}]"


def _slice(part: str) -> str:
    return f"xs = xs[{part}]"


USUAL, HARD, HARDEST = 0.15, 0.3, 0.6
# words; right lines; slip; its share; the numbers. Hard are the steps that people also get wrong: bounds, signs, ends.
# The hardest are wrong more often than right, so that a policy trained on them is wrong even in greedy decoding.
_KINDS: tuple[tuple[str, tuple[str, ...], str, float, range], ...] = (
    ("add {k} to every number", (_map("x + {k}"), _map("{k} + x")), _map("x * {k}"), USUAL, range(1, 10)),
    ("subtract {k} from every number", (_map("x - {k}"), _map("-{k} + x")), _map("{k} - x"), HARDEST, range(1, 10)),
    ("multiply every number by {k}", (_map("x * {k}"), _map("{k} * x")), _map("x + {k}"), USUAL, range(2, 6)),
    ("square every number", (_map("x * x"), _map("x ** 2")), _map("x * 2"), USUAL, range(1)),
    ("flip every sign", (_map("-x"), _map("0 - x")), _map("abs(x)"), HARD, range(1)),
    ("drop every sign", (_map("abs(x)"), _map("max(x, -x)")), _map("-x"), USUAL, range(1)),
    ("keep the even numbers", (_keep("x % 2 == 0"), _keep("x % 2 < 1")), _keep("x % 2 == 1"), USUAL, range(1)),
    ("keep the odd numbers", (_keep("x % 2 == 1"), _keep("x % 2 > 0")), _keep("x % 2 == 0"), USUAL, range(1)),
    ("drop the even numbers", (_keep("x % 2 == 1"), _keep("x % 2 > 0")), _keep("x % 2 == 0"), HARD, range(1)),
    ("drop the odd numbers", (_keep("x % 2 == 0"), _keep("x % 2 < 1")), _keep("x % 2 == 1"), HARD, range(1)),
    ("keep numbers above {k}", (_keep("x > {k}"), _keep("{k} < x")), _keep("x >= {k}"), USUAL, range(9)),
    ("keep numbers of at least {k}", (_keep("x >= {k}"), _keep("{k} <= x")), _keep("x > {k}"), HARDEST, range(9)),
    ("keep numbers below {k}", (_keep("x < {k}"), _keep("{k} > x")), _keep("x <= {k}"), USUAL, range(9)),
    ("keep numbers of at most {k}", (_keep("x <= {k}"), _keep("{k} >= x")), _keep("x < {k}"), HARDEST, range(9)),
    ("keep the first {k}", (_slice(":{k}"),), _slice("{k}:"), USUAL, range(1, 5)),
    ("drop the first {k}", (_slice("{k}:"),), _slice(":{k}"), USUAL, range(1, 5)),
    ("keep the last {k}", (_slice("-{k}:"),), _slice(":-{k}"), HARD, range(1, 5)),
    ("drop the last {k}", (_slice(":-{k}"),), _slice("-{k}:"), HARD, range(1, 5)),
    ("keep every other number", (_slice("::2"),), _slice("1::2"), USUAL, range(1)),
    ("sort upwards", ("xs = sorted(xs)",), "xs = sorted(xs, reverse=True)", USUAL, range(1)),
    ("sort downwards", ("xs = sorted(xs, reverse=True)", "xs = sorted(xs)[::-1]"), "xs = sorted(xs)", HARD, range(1)),
    ("reverse the list", (_slice("::-1"), "xs = list(reversed(xs))"), "xs = sorted(xs, reverse=True)", USUAL, range(1)),
    ("drop repeats", ("xs = list(dict.fromkeys(xs))",), "xs = sorted(set(xs))", USUAL, range(1)),
)
STEPS = tuple(
    Step(words.format(k=k), tuple(line.format(k=k) for line in lines), slip.format(k=k), share)
    for words, lines, slip, share, numbers in _KINDS
    for k in numbers
)


@functools.cache
def known_lines() -> dict[str, Callable[[list[int]], list[int]]]:
    """Return every line that this file can write, with any number in 0..LARGEST, and what it does.

    Only these texts, which are ours, are evaluated here. A completion is looked up, never run.
    """
    patterns = {pattern for _, lines, slip, _, _ in _KINDS for pattern in (*lines, slip)}
    texts = {pattern.format(k=k) for pattern, k in itertools.product(sorted(patterns), range(LARGEST + 1))}
    return {text: eval("lambda xs: " + text.removeprefix("xs = ")) for text in sorted(texts)}


def is_known(lines: tuple[str, ...]) -> bool:
    return 0 < len(lines) <= LONGEST_KNOWN and all(line in known_lines() for line in lines)


def outputs(lines: tuple[str, ...], inputs: Iterable[Sequence[int]]) -> list[Any]:
    """Return what a program of known lines makes of each list, which stays unchanged."""
    lists = [list(xs) for xs in inputs]
    for line in lines:
        lists = list(map(known_lines()[line], lists))
    return lists


def random_lists(count: int, rng: np.random.Generator) -> Lists:
    return tuple(
        tuple(int(x) for x in rng.integers(-LARGEST, LARGEST + 1, rng.integers(1, LONGEST + 1))) for _ in range(count)
    )


PROBES = ((), *random_lists(15, generator(0, "list_programs", "probes")))


def right_lines(program: Program) -> tuple[str, ...]:
    return tuple(STEPS[step].lines[0] for step in program)


def question(program: Program) -> str:
    """ "Keep the even numbers, then add 3 to every number." """
    words = ", then ".join(STEPS[step].words for step in program)
    return f"{words[0].upper()}{words[1:]}."


@functools.lru_cache(maxsize=10_000)  # programs differ in a step, and are compared without one
def function_of(lines: tuple[str, ...]) -> str:
    """Return what lines do on PROBES, as text: equal for programs that do the same there."""
    return json.dumps(outputs(lines, PROBES))


def split_of(program: Program) -> str | None:
    """Return the split of the program's steps, in any order, if it is also the split of what the program does.

    None where the two differ, so no two splits share a set of steps or a function.
    """
    split = _share_of(f"steps {sorted(program)}")
    return split if _share_of(function_of(right_lines(program))) == split else None


def _share_of(text: str) -> str:
    eighth = hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 8
    return EIGHTHS[eighth]


def is_sound(program: Program) -> bool:
    """Return whether every step matters, and most of PROBES do not end as an empty list."""
    lines = right_lines(program)
    whole = function_of(lines)
    if whole.count("[]") > len(PROBES) // 2:
        return False
    return all(function_of(lines[:i] + lines[i + 1 :]) != whole for i in range(len(lines)))


def drawn(split: str, rng: np.random.Generator) -> Iterator[Program]:
    """Yield sound programs of a split; no two do the same on PROBES."""
    seen: set[str] = set()
    while True:
        lengths = rng.choice(LENGTHS, p=LENGTH_SHARES, size=BATCH)
        for steps, length in zip(rng.integers(len(STEPS), size=(BATCH, max(LENGTHS))).tolist(), lengths, strict=True):
            program = tuple(steps[:length])
            # the cheap half of split_of first: most programs belong to another split
            if _share_of(f"steps {sorted(program)}") == split == split_of(program) and is_sound(program):
                function = function_of(right_lines(program))
                if function not in seen:
                    seen.add(function)
                    yield program


@functools.cache
def corpus() -> tuple[Program, ...]:
    """Return the programs of the demonstrations, which are the same for every seed."""
    return tuple(itertools.islice(drawn("corpus", generator(0, "list_programs", "corpus")), CORPUS))


def tests(program: Program, rng: np.random.Generator) -> str:
    """Return at least CASES hidden cases, with the empty list; each of `mistakes` that makes a difference fails one."""
    right = right_lines(program)
    inputs: Lists = ((),)
    for lines in mistakes(program):
        if function_of(lines) != function_of(right) and outputs(lines, inputs) == outputs(right, inputs):
            while True:
                (tried,) = random_lists(1, rng)
                if outputs(lines, (tried,)) != outputs(right, (tried,)):
                    inputs += (tried,)
                    break
    inputs += random_lists(max(0, CASES - len(inputs)), rng)
    return to_answer(ENTRY, [([list(xs)], ys) for xs, ys in zip(inputs, outputs(right, inputs), strict=True)])


def mistakes(program: Program) -> list[tuple[str, ...]]:
    """Return programs with one slip, one step skipped, or two neighbours exchanged."""
    right = right_lines(program)
    slips = [(*right[:i], STEPS[step].slip, *right[i + 1 :]) for i, step in enumerate(program)]
    skips = [(*right[:i], *right[i + 1 :]) for i in range(len(right))]
    swaps = [(*right[:i], right[i + 1], right[i], *right[i + 2 :]) for i in range(len(right) - 1)]
    return slips + skips + swaps


def demonstration(rng: np.random.Generator) -> tuple[str, str]:
    """Return a question of the corpus and lines that answer it, right or with slips; each starts with a line break."""
    program = posed = corpus()[rng.integers(CORPUS)]
    if rng.random() < WRONG_PLAN:
        place = int(rng.integers(len(program) - 1))
        one, other = program[place], program[place + 1]
        middle = (other, one) if rng.random() < 0.5 else (other,)
        program = (*program[:place], *middle, *program[place + 2 :])
    lines = []
    for step in program:
        slips = rng.random() < STEPS[step].slip_share
        *others, usual = reversed(STEPS[step].lines)
        lines.append(STEPS[step].slip if slips else others[0] if others and rng.random() < OTHER_LINE else usual)
    return question(posed), "".join(f"\n{line}" for line in lines)
