"""The steps of `list_programs`: how each is asked for, the lines that do it, and the line that a slip writes."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGEST = 9  # every number in a line lies in 0..LARGEST
NUMBERS = range(LARGEST + 1)
LONGEST_KNOWN = 6  # lines of a program that `run` takes: six squarings stay small, thirty would not


@dataclass(frozen=True)
class Step:
    """One change of the list, with its number filled in."""

    words: str  # "add 3 to every number"
    lines: tuple[str, ...]  # alike in what they do
    slip: str
    slip_share: float  # of demonstrations that write the slip


def _map(expression: str) -> str:
    return f"xs = [{expression} for x in xs]"


def _keep(condition: str) -> str:
    return f"xs = [x for x in xs if {condition}]"


def _slice(part: str) -> str:
    return f"xs = xs[{part}]"


USUAL, HARD, HARDEST = 0.15, 0.3, 0.6
# words; right lines; slip; its share; the numbers. Hard are those that people, too, get wrong: bounds, signs, ends;
# the hardest are wrong more often than right, so that a policy trained on them is wrong at greedy, too.
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
    """Every line that this file can write, with any number in 0..LARGEST, and what it does.

    Only these texts, which are ours, are ever evaluated here; a completion is looked up, never run.
    """
    patterns = {pattern for _, lines, slip, _, _ in _KINDS for pattern in (*lines, slip)}
    texts = {pattern.format(k=k) for pattern, k in itertools.product(sorted(patterns), NUMBERS)}
    return {text: eval("lambda xs: " + text.removeprefix("xs = ")) for text in sorted(texts)}


def run(lines: tuple[str, ...], xs: list[int]) -> list[int]:
    """What a program of known lines makes of a list; the list stays as it is."""
    for line in lines:
        xs = known_lines()[line](xs)
    return xs


def is_known(lines: tuple[str, ...]) -> bool:
    return 0 < len(lines) <= LONGEST_KNOWN and all(line in known_lines() for line in lines)


def outputs(lines: tuple[str, ...], inputs: tuple[tuple[int, ...], ...]) -> list[Any]:
    return [run(lines, list(xs)) for xs in inputs]
