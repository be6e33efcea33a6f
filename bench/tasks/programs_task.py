"""What tasks of programming problems share: the program in a completion, and the sandbox that judges it."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

from bench.artifacts import content_hash
from bench.config.rules import one_of
from bench.sandbox import ISOLATION, Job, Limits, verdicts
from bench.tasks.assertions import ENTRY, harness
from bench.tasks.code_blocks import python_blocks
from bench.tasks.rows_task import RowsTask
from bench.tasks.thinking import after_thinking

DEFINITION = re.compile(r"^(?:async )?def ", re.MULTILINE)
VERSION = 3  # raise it when equal completions get other verdicts


@dataclass(frozen=True, kw_only=True)
class Programs:
    """What judges completions that are Python functions. isolation: how they run, see bench.sandbox."""

    isolation: Annotated[str, one_of(*ISOLATION)] = "auto"

    label: ClassVar[str] = "tests"

    @property
    def judged_by(self) -> str:
        return f"{self.label} {VERSION}"

    def program(self, completion: str, function: str = "") -> str:
        """The first fenced block of Python that defines the asked function, else the first that defines any, else the
        first. All of the completion where it has no block, or is a program by itself with fences in its docstrings;
        what is in <think> tags is not read."""
        completion = after_thinking(completion)
        blocks = python_blocks(completion)
        if blocks and DEFINITION.search(completion) and _unparsed(completion) is not None:
            return completion
        asked = _definition_of(function) if function else DEFINITION
        ways = (block for pattern in (asked, DEFINITION) for block in blocks if pattern.search(block))
        return next(ways, blocks[0] if blocks else completion)

    def job(self, completion: str, answer: str) -> Job:
        """What runs: the program, after the problem's own imports and helpers, and the calls of its tests."""
        tests = _tests(answer)
        program = self.program(completion, tests["function"])
        if tests["stub"] and not _definition_of(tests["function"]).search(program):
            program = tests["stub"] + _body(program)  # a base model goes on where the problem's own code ends
        return Job(
            f"{tests['before']}\n{program}\n{tests['after']}{harness(tests['calls'])}",
            ENTRY,
            [(arguments, expected) for arguments, expected in tests["cases"]],
        )

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each completion passes its answer's tests, in the sandbox. Raises BenchError where it can't run."""
        pairs = list(zip(completions, answers, strict=True))
        distinct = list(dict.fromkeys(pairs))
        found = verdicts([self.job(*pair) for pair in distinct], limits=Limits(), isolation=self.isolation)
        passed = {pair: verdict.passed for pair, verdict in zip(distinct, found, strict=True)}
        return [passed[pair] for pair in pairs]

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Never: a program has no steps that could be judged one by one."""
        return False

    def extract_answer(self, completion: str) -> str | None:
        """What to vote on: a hash of the program but for comments and layout; None where it is no Python."""
        program = _unparsed(self.program(completion))
        return None if program is None else content_hash(program)

    def path(self, completion: str) -> str | None:
        """The program without comments, docstrings and layout; None where it is no Python."""
        return _unparsed(self.program(completion))


@dataclass(frozen=True, kw_only=True)
class ProgramsTask(Programs, RowsTask):
    """A task over published programming problems, whose completions are Python functions."""


def answer_of(*, function: str, calls: Sequence[str], cases: Sequence, before: str, after: str, stub: str) -> str:
    """A problem's tests as the `answer` of its prompt.

    before, after: source around the program; stub: the problem's own code that a mere body continues, or nothing.
    """
    return json.dumps(
        {"function": function, "calls": calls, "cases": cases, "before": before, "after": after, "stub": stub},
        allow_nan=False,
    )


@lru_cache(maxsize=1 << 12)
def _tests(answer: str) -> dict:
    return json.loads(answer)


@lru_cache(maxsize=1 << 12)
def _definition_of(function: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async )?def {re.escape(function)}\b", re.MULTILINE)


def _body(text: str) -> str:
    """Of a continuation what belongs to the function: up to the first line that is not indented."""
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines) if at and line[:1] not in ("", " ", "\t", "\r", ")")), len(lines))
    return "\n".join(lines[:end])


@lru_cache(maxsize=1 << 14)
def _unparsed(program: str) -> str | None:
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(body) > 1:
                del body[0]
    return ast.unparse(tree) or None
