"""Procedural list programs: short Python that hidden tests check, in miniature, for a policy trained in a minute.

    Keep the even numbers, then add 3 to every number.        xs = [x for x in xs if x % 2 == 0]
                                                               xs = [x + 3 for x in xs]

A completion is lines that rebind xs, or a whole `def f(xs)`, in a fenced block or bare. The splits and the pretraining
corpus share no set of steps and no function, and within a split every prompt asks for a function of its own.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from textwrap import dedent
from typing import Annotated

import numpy as np

from bench.artifacts import Prompts, content_hash
from bench.config.rules import one_of, whole
from bench.errors import BenchError
from bench.sandbox import ISOLATION, Job, Limits, canonical, verdicts
from bench.sandbox.cases import from_answer
from bench.seeds import generator
from bench.tasks.list_programs_drawing import ENTRY, demonstration, drawn, function_of, question, tests
from bench.tasks.list_programs_steps import is_known, known_lines, run

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
FUNCTION = re.compile(rf"^\s*def {ENTRY}\b", re.MULTILINE)
MOST = {"train": 3000, "validation": 1000, "test": 1000}  # each split holds some more
CORPUS_VERSION = 1  # raise it when `demonstrations` means something new: policies are pretrained again


@dataclass(frozen=True)
class ListPrograms:
    """The task. `seed` chooses the prompts and is independent of the run's; a program's split never changes."""

    train_prompts: Annotated[int, whole(1)] = 600
    validation_prompts: Annotated[int, whole(1)] = 300
    test_prompts: Annotated[int, whole(2)] = 300
    max_new_tokens: Annotated[int, whole(1)] = 64
    seed: Annotated[int, whole(0)] = 0
    isolation: Annotated[str, one_of(*ISOLATION)] = "auto"  # of completions that have to run; see bench.sandbox

    @property
    def name(self) -> str:
        return "list_programs"

    @property
    def key(self) -> str:
        """Of the pretraining corpus, for what is made from it; no setting enters, as none changes the corpus."""
        return content_hash([type(self).__name__, CORPUS_VERSION])

    @property
    def answer_pattern(self) -> None:
        """No pattern finds the answer: a program has to run."""
        return None

    def prompts(self, split: str) -> Prompts:
        """The prompts of "train", "validation" or "test". The first hundred are the same however many are asked for."""
        wanted = {"train": self.train_prompts, "validation": self.validation_prompts, "test": self.test_prompts}
        if split not in wanted:
            raise BenchError(f"split={split} is not one of list_programs; it has {', '.join(wanted)}.")
        count = wanted[split]
        if not 1 <= count <= MOST[split]:
            raise BenchError(
                f"task.{split}_prompts={count} is not allowed: the {split} split of list_programs gives up to "
                f"{MOST[split]} prompts; ask for 1 to {MOST[split]}."
            )
        texts, answers = zip(*_drawn(split, count, self.seed), strict=True)
        return Prompts(
            id=np.array([f"{split}-{index:04d}" for index in range(count)]),
            messages=tuple(({"role": "user", "content": text},) for text in texts),
            answer=np.array(answers),
        )

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """`count` pairs (prompt, completion) of the pretraining corpus, well under half of them right."""
        return [demonstration(rng) for _ in range(count)]

    def program(self, completion: str) -> str:
        """The source that defines f: the first fenced block or all of it, put in a function where it is mere lines."""
        code = _code(completion)
        if FUNCTION.search(code):
            return code
        body = "".join(f"    {line}\n" for line in _lines(completion))
        return f"def {ENTRY}(xs):\n{body}    return xs\n"

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each completion passes its answer's tests. Raises BenchError where it would have to run, and can't.

        A completion made of the task's own lines is worked out here, by looking each of them up; every other one runs
        in the sandbox. Both give the same verdict.
        """
        cells = list(zip(completions, answers, strict=True))
        passed = dict.fromkeys(cells, False)
        unknown = []
        for completion, answer in passed:
            lines = _lines(completion)
            if is_known(lines):
                _, cases = _parsed(answer)
                passed[completion, answer] = all(
                    canonical(run(lines, list(xs))) == canonical(expected) for (xs,), expected in cases
                )
            else:
                unknown.append((completion, answer))
        jobs = [Job(self.program(completion), *_parsed(answer)) for completion, answer in unknown]
        found = verdicts(jobs, limits=Limits(), isolation=self.isolation)
        passed |= {cell: verdict.passed for cell, verdict in zip(unknown, found, strict=True)}
        return [passed[cell] for cell in cells]

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Whether the completion is one step a line and nothing else: each line is one that the task knows."""
        lines = _lines(completion)
        return bool(lines) and all(line in known_lines() for line in lines)

    def extract_answer(self, completion: str) -> str | None:
        """What to vote on: a hash of what the program does on fixed lists, as AlphaCode clusters (Li et al. 2022).

        None where that is not known without running it.
        """
        lines = _lines(completion)
        return content_hash(function_of(lines)) if is_known(lines) else None

    def path(self, completion: str) -> str | None:
        """The program's lines without indentation, e.g. "xs = xs[1:]; xs = sorted(xs)"; None where there are none."""
        return "; ".join(map(str.strip, _lines(completion))) or None


def _code(completion: str) -> str:
    fenced = FENCE.search(completion)
    return fenced[1] if fenced else completion


def _lines(completion: str) -> tuple[str, ...]:
    """The lines that say something, with the indentation that they have beyond each other."""
    return tuple(line.rstrip() for line in dedent(_code(completion)).splitlines() if line.strip())


@lru_cache(maxsize=1 << 14)
def _parsed(answer: str) -> tuple:
    return from_answer(answer)


@lru_cache(maxsize=8)
def _drawn(split: str, count: int, seed: int) -> list[tuple[str, str]]:
    """`count` questions and their tests; no two ask for the same function."""
    rng = generator(seed, "list_programs", split)
    programs = itertools.islice(drawn(split, rng), count)
    return [(question(program), tests(program, rng)) for program in programs]
