"""Procedural list programs: short Python functions judged by hidden tests, for a policy that trains in a minute.

    Keep the even numbers, then add 3 to every number.        xs = [x for x in xs if x % 2 == 0]
                                                               xs = [x + 3 for x in xs]

A completion is lines that rebind xs, or a whole `def f(xs)`, in a fenced block or bare. The splits and the pretraining
corpus share no set of steps and no function, and every prompt of a split has a function of its own.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import ClassVar

import numpy as np

from bench.artifacts import Prompts, content_hash
from bench.config.rules import Count
from bench.errors import BenchError
from bench.sandbox import PASSED, Job, Limits, canonical, verdicts
from bench.seeds import generator
from bench.tasks import list_programs_data as data
from bench.tasks import wanted_prompts
from bench.tasks.procedural import ProceduralTask, Written
from bench.tasks.program_tests import from_answer
from bench.tasks.programs import Isolation

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
FUNCTION = re.compile(rf"^\s*def {data.ENTRY}\b", re.MULTILINE)
MOST = {"train": 3000, "validation": 1000, "test": 1000}  # each split holds some more


@dataclass(frozen=True)
class ListPrograms(ProceduralTask):
    """isolation: of completions that have to run, see bench.sandbox."""

    max_new_tokens: Count = 64
    isolation: Isolation = "auto"

    name: ClassVar[str] = "list_programs"
    corpus_version: ClassVar[int] = 1
    keeps_verdicts: ClassVar[bool] = True

    @property
    def programs(self) -> "ListPrograms":
        return self

    def written(self, split: str) -> list[Written]:
        """Return the prompts of a split; no two have the same function."""
        count = wanted_prompts(self, split)
        if not 1 <= count <= MOST[split]:
            raise BenchError(
                f"task.{split}_prompts={count} is not allowed: the {split} split of list_programs gives up to "
                f"{MOST[split]} prompts; ask for 1 to {MOST[split]}."
            )
        rng = generator(self.seed, "list_programs", split)
        return [
            Written(f"{split}-{index:04d}", data.question(program), data.tests(program, rng), program)
            for index, program in enumerate(itertools.islice(data.drawn(split, rng), count))
        ]

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Return `count` pairs (prompt, completion) of the pretraining corpus; well under half of them are right."""
        return [data.demonstration(rng) for _ in range(count)]

    def solutions(self, prompts: Prompts) -> list[str]:
        """Return [M] right programs, as demonstrations write them. ValueError for a prompt of another task."""
        return ["".join(f"\n{line}" for line in data.right_lines(program)) for program in self.sources(prompts)]

    def program(self, completion: str) -> str:
        """Return the source of f: the first fenced block, or the whole completion; bare lines become a function."""
        code = _code(completion)
        if FUNCTION.search(code):
            return code
        body = "".join(f"    {line}\n" for line in _lines(completion))
        return f"def {data.ENTRY}(xs):\n{body}    return xs\n"

    def job(self, completion: str, answer: str) -> Job:
        return Job(self.program(completion), *from_answer(answer))

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Return whether each completion passes its answer's tests. BenchError where it must run and can't.

        A completion of the task's own lines is worked out here, by looking each line up; any other runs in the sandbox.
        Both ways give the same verdict.
        """
        cells = list(zip(completions, answers, strict=True))
        passed, unknown = dict.fromkeys(cells, False), []
        for completion, answer in passed:
            lines = _lines(completion)
            if data.is_known(lines):
                _, cases = from_answer(answer)
                found = data.outputs(lines, (xs for (xs,), _ in cases))
                pairs = zip(found, cases, strict=True)
                passed[completion, answer] = all(canonical(ys) == canonical(expected) for ys, (_, expected) in pairs)
            else:
                unknown.append((completion, answer))
        judged = verdicts([self.job(*cell) for cell in unknown], limits=Limits(), isolation=self.isolation)
        passed |= {cell: verdict == PASSED for cell, verdict in zip(unknown, judged, strict=True)}
        return [passed[cell] for cell in cells]

    def steps_are_true(self, completion: str) -> bool:
        """Return whether every line of the completion is a step that the task knows."""
        lines = _lines(completion)
        return bool(lines) and all(line in data.known_lines() for line in lines)

    def extract_answer(self, completion: str) -> str | None:
        """Return a hash of what the program does on fixed lists, as AlphaCode clusters programs (Li et al. 2022).

        None where that is not known without running the program.
        """
        lines = _lines(completion)
        return content_hash(data.function_of(lines)) if data.is_known(lines) else None

    def path(self, completion: str) -> str | None:
        """Return the program's lines without indentation, e.g. "xs = xs[1:]; xs = sorted(xs)"; None without lines."""
        return "; ".join(map(str.strip, _lines(completion))) or None


def _code(completion: str) -> str:
    fenced = FENCE.search(completion)
    return fenced[1] if fenced else completion


def _lines(completion: str) -> tuple[str, ...]:
    """The lines that are not blank, with their indentation relative to each other."""
    return tuple(line.rstrip() for line in dedent(_code(completion)).splitlines() if line.strip())
