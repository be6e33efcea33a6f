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
from functools import lru_cache
from textwrap import dedent
from typing import Annotated, ClassVar

import numpy as np

from bench.artifacts import Prompts, content_hash
from bench.config.rules import Count, PromptCount, Seed, whole
from bench.errors import BenchError
from bench.sandbox import Job, Limits, canonical, verdicts
from bench.seeds import generator
from bench.tasks import SPLITS, Task, wanted_prompts
from bench.tasks import list_programs_data as data
from bench.tasks.program_tests import from_answer
from bench.tasks.programs import Isolation

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
FUNCTION = re.compile(rf"^\s*def {data.ENTRY}\b", re.MULTILINE)
MOST = {"train": 3000, "validation": 1000, "test": 1000}  # each split holds some more
CORPUS_VERSION = 1  # raise it when `demonstrations` means something new: policies are pretrained again


@dataclass(frozen=True)
class ListPrograms(Task):
    """seed: of the choice of prompts, independent of the run's seed; a program's split never changes. isolation: of
    completions that have to run, see bench.sandbox."""

    train_prompts: PromptCount = 600
    validation_prompts: PromptCount = 300
    test_prompts: Annotated[int, whole(2, 100_000_000)] = 300
    max_new_tokens: Count = 64
    seed: Seed = 0
    isolation: Isolation = "auto"

    name: ClassVar[str] = "list_programs"
    keeps_verdicts: ClassVar[bool] = True

    @property
    def programs(self) -> "ListPrograms":
        return self

    @property
    def key(self) -> str:
        """The content key of the pretraining corpus. No setting enters it, because none changes the corpus."""
        return content_hash([type(self).__name__, CORPUS_VERSION])

    def prompts(self, split: str) -> Prompts:
        """Return the prompts of a split. The first hundred are the same for every number of prompts."""
        count = wanted_prompts(self, split)
        if not 1 <= count <= MOST[split]:
            raise BenchError(
                f"task.{split}_prompts={count} is not allowed: the {split} split of list_programs gives up to "
                f"{MOST[split]} prompts; ask for 1 to {MOST[split]}."
            )
        texts, answers, _ = zip(*_drawn(split, count, self.seed), strict=True)
        return Prompts(
            id=np.array([f"{split}-{index:04d}" for index in range(count)]),
            messages=tuple(({"role": "user", "content": text},) for text in texts),
            answer=np.array(answers),
        )

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Return `count` pairs (prompt, completion) of the pretraining corpus; well under half of them are right."""
        return [data.demonstration(rng) for _ in range(count)]

    def solutions(self, prompts: Prompts) -> list[str]:
        """Return [M] right programs, one line per step. ValueError for a prompt of another task."""
        written = []
        for name, messages in zip(prompts.id.tolist(), prompts.messages, strict=True):
            split, _, index = name.partition("-")
            drawn = _drawn(split, wanted_prompts(self, split), self.seed) if split in SPLITS else []
            if not index.isdigit() or int(index) >= len(drawn) or drawn[int(index)][0] != messages[-1]["content"]:
                raise ValueError(f"prompt {name} is not one of list_programs as it is set, so it has no solution here.")
            written.append(drawn[int(index)][2])
        return written

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
                passed[completion, answer] = all(
                    canonical(data.run(lines, list(xs))) == canonical(expected) for (xs,), expected in cases
                )
            else:
                unknown.append((completion, answer))
        found = verdicts([self.job(*cell) for cell in unknown], limits=Limits(), isolation=self.isolation)
        passed |= {cell: verdict.passed for cell, verdict in zip(unknown, found, strict=True)}
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


@lru_cache(maxsize=8)
def _drawn(split: str, count: int, seed: int) -> list[tuple[str, str, str]]:
    """`count` questions, their tests and right programs; no two questions have the same function."""
    rng = generator(seed, "list_programs", split)
    programs = itertools.islice(data.drawn(split, rng), count)
    return [(data.question(program), data.tests(program, rng), data.solution(program)) for program in programs]
