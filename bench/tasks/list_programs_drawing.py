"""What `list_programs` asks for: programs in disjoint splits, tests that tell slips apart, and demonstrations."""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator

import numpy as np

from bench.sandbox.cases import to_answer
from bench.seeds import generator
from bench.tasks.list_programs_steps import STEPS, outputs

ENTRY = "f"
EIGHTHS = ("corpus", "corpus", "corpus", "corpus", "train", "train", "validation", "test")
LENGTHS, LENGTH_SHARES = (2, 3), (0.4, 0.6)
LARGEST, LONGEST = 9, 8  # inputs are lists of up to LONGEST numbers in -LARGEST..LARGEST
CASES = 8  # at least
CORPUS = 5000  # programs
BATCH = 256
OTHER_LINE = 0.3  # the share of right lines that are not a step's usual one, where it has another
WRONG_PLAN = 0.15  # the share of demonstrations that skip a step or exchange two

Program = tuple[int, ...]  # indices of STEPS
Lists = tuple[tuple[int, ...], ...]


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


def function_of(lines: tuple[str, ...]) -> str:
    """What lines do on PROBES, as text: equal for programs that do the same there."""
    return json.dumps(outputs(lines, PROBES))


def split_of(program: Program) -> str | None:
    """The split that both the steps, in any order, and what the program does fall into; None where they disagree.

    So no two splits share a set of steps, nor a function, however it is put.
    """
    split = _share_of(f"steps {sorted(program)}")
    return split if _share_of(function_of(right_lines(program))) == split else None


def _share_of(text: str) -> str:
    eighth = hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 8
    return EIGHTHS[eighth]


def is_sound(program: Program) -> bool:
    """Whether every step matters, and most of PROBES don't end as an empty list."""
    whole = outputs(right_lines(program), PROBES)
    if sum(map(bool, whole)) < len(PROBES) // 2:
        return False
    return all(outputs(right_lines(program[:i] + program[i + 1 :]), PROBES) != whole for i in range(len(program)))


def drawn(split: str, rng: np.random.Generator) -> Iterator[Program]:
    """Sound programs of a split, no two of which do the same on PROBES."""
    seen: set[str] = set()
    while True:
        lengths = rng.choice(LENGTHS, p=LENGTH_SHARES, size=BATCH)
        for steps, length in zip(rng.integers(len(STEPS), size=(BATCH, max(LENGTHS))).tolist(), lengths, strict=True):
            program = tuple(steps[:length])
            # the cheap half of split_of first: most programs are of another split
            if _share_of(f"steps {sorted(program)}") == split == split_of(program) and is_sound(program):
                function = function_of(right_lines(program))
                if function not in seen:
                    seen.add(function)
                    yield program


@functools.cache
def corpus() -> tuple[Program, ...]:
    """What the demonstrations demonstrate; the same for every seed."""
    return tuple(itertools.islice(drawn("corpus", generator(0, "list_programs", "corpus")), CORPUS))


def tests(program: Program, rng: np.random.Generator) -> str:
    """CASES hidden cases, the empty list among them; every likely mistake that makes a difference fails one."""
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
    """Programs with one slip, one step skipped, or two neighbours exchanged."""
    right = right_lines(program)
    slips = [(*right[:i], STEPS[step].slip, *right[i + 1 :]) for i, step in enumerate(program)]
    skips = [(*right[:i], *right[i + 1 :]) for i in range(len(right))]
    swaps = [(*right[:i], right[i + 1], right[i], *right[i + 2 :]) for i in range(len(right) - 1)]
    return slips + skips + swaps


def demonstration(rng: np.random.Generator) -> tuple[str, str]:
    """A question of the corpus and lines that answer it, right or with slips; each starts with a line break."""
    program = asked = corpus()[rng.integers(CORPUS)]
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
    return question(asked), "".join(f"\n{line}" for line in lines)
