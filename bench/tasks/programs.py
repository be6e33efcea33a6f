"""Programming problems: find the Python function in a completion, and judge it by tests in the sandbox."""

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
from bench.tasks import Judge
from bench.tasks.extraction import after_thinking
from bench.tasks.program_tests import ENTRY, harness
from bench.tasks.rows import RowsTask

VERSION = 3  # raise it when equal completions get other verdicts
DEFINITION = re.compile(r"^(?:async )?def ", re.MULTILINE)
OPENING = re.compile(
    r"^(?P<before>(?:[^\n`]|(?P<ticks>`+)(?!`)[^\n`]+(?P=ticks)(?!`))*?)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`~]*)\n",
    re.MULTILINE,
)  # the text before it may hold `words in backticks`
ITEM = re.compile(r"[ \t]*(?:[-*+>]|\d+[.)])?[ \t]*")
PYTHON = re.compile(r"[\s{.]*(?:(?:i?python|py)[\d.]*(?!\w)|[\s}]*$)", re.IGNORECASE)  # or no language at all
NEXT = re.compile(r"\s*(?:`{3,}|~{3,})[ \t]*[A-Za-z]\w*[ \t]*(?:\n|$)")
Isolation = Annotated[str, one_of(*ISOLATION)]  # how completions run, see bench.sandbox


@dataclass(frozen=True, kw_only=True)
class Programs(Judge):
    """Judges completions that are Python functions. name: the task's, for keys."""

    name: str = "tests"
    isolation: Isolation = "auto"

    @property
    def judged_by(self) -> str:
        return f"{self.name} {VERSION}"

    @property
    def programs(self) -> "Programs":
        return self

    def program(self, completion: str, function: str = "") -> str:
        """Return the first fenced block of Python that defines `function`, else any function, else the first block.

        The whole completion counts where it has no block, and where it is a program with fences in its docstrings.
        """
        completion = after_thinking(completion)
        blocks = python_blocks(completion)
        if blocks and DEFINITION.search(completion) and _unparsed(completion) is not None:
            return completion
        patterns = (_definition_of(function) if function else DEFINITION, DEFINITION)
        defining = (block for pattern in patterns for block in blocks if pattern.search(block))
        return next(defining, blocks[0] if blocks else completion)

    def job(self, completion: str, answer: str) -> Job:
        """Return what runs: the problem's own imports and helpers, the program, and the calls of its tests."""
        tests = _tests(answer)
        program = self.program(completion, tests["function"])
        if tests["stub"] and not _definition_of(tests["function"]).search(program):
            program = tests["stub"] + _body(program)  # a base model continues the problem's own code
        return Job(
            f"{tests['before']}\n{program}\n{tests['after']}{harness(tests['calls'])}",
            ENTRY,
            [(arguments, expected) for arguments, expected in tests["cases"]],
        )

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Return whether each completion passes its answer's tests in the sandbox. BenchError where nothing can run."""
        pairs = list(zip(completions, answers, strict=True))
        distinct = list(dict.fromkeys(pairs))
        found = verdicts([self.job(*pair) for pair in distinct], limits=Limits(), isolation=self.isolation)
        passed = {pair: verdict.passed for pair, verdict in zip(distinct, found, strict=True)}
        return [passed[pair] for pair in pairs]

    def extract_answer(self, completion: str) -> str | None:
        """Return a hash of the program without comments and layout; None where it is not Python."""
        program = _unparsed(self.program(completion))
        return None if program is None else content_hash(program)

    def path(self, completion: str) -> str | None:
        """Return the program without comments, docstrings and layout; None where it is not Python."""
        return _unparsed(self.program(completion))


@dataclass(frozen=True, kw_only=True)
class ProgramsTask(RowsTask):
    """A task over published programming problems, whose completions are Python functions."""

    isolation: Isolation = "auto"

    keeps_verdicts: ClassVar[bool] = True

    @property
    def judge(self) -> Programs:
        return Programs(name=self.name, isolation=self.isolation)

    @property
    def judged_by(self) -> str:
        return self.judge.judged_by


def answer_of(
    *, function: str = "", calls: Sequence[str], cases: Sequence, before: str = "", after: str = "", stub: str = ""
) -> str:
    """Return a problem's tests as the `answer` of its prompt.

    before, after: source around the program. stub: the problem's own code, which a completion without a definition
    continues.
    """
    return json.dumps(
        {"function": function, "calls": calls, "cases": cases, "before": before, "after": after, "stub": stub},
        allow_nan=False,
    )


def python_blocks(text: str) -> list[str]:
    """Return each fenced block (CommonMark 0.31, section 4.5) of Python or without a language; without any, all blocks.

    As models write them, a fence may also begin after other words on its line, and end at the end of a line of code.
    The last block may lack its end. A block within a list item loses the indentation of its fence.
    """
    text = text.replace("\r\n", "\n")
    blocks: list[tuple[bool, str]] = []
    opening = OPENING.search(text)
    while opening is not None:
        indent = len(opening["before"]) if ITEM.fullmatch(opening["before"]) else 0
        fence = rf"{re.escape(opening['fence'][0])}{{{len(opening['fence'])},}}"
        closing = re.compile(rf"^[ \t]{{0,{max(3, indent)}}}{fence}|(?<=[^\s`~]){fence}[ \t]*$", re.MULTILINE)
        end = closing.search(text, opening.end())
        lines = text[opening.end() : len(text) if end is None else end.start()]
        lines = re.sub(rf"^[ \t]{{1,{indent}}}", "", lines, flags=re.MULTILINE) if indent else lines
        blocks.append((PYTHON.match(opening["info"]) is not None, lines))
        if end is None:
            break
        # a fence that names a language ends a block and begins the next one
        opening = OPENING.search(text, end.start() if NEXT.match(text, end.start()) else end.end())
    return [block for is_python, block in blocks if is_python] or [block for _, block in blocks]


@lru_cache(maxsize=1 << 12)
def _tests(answer: str) -> dict:
    return json.loads(answer)


@lru_cache(maxsize=1 << 12)
def _definition_of(function: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async )?def {re.escape(function)}\b", re.MULTILINE)


def _body(text: str) -> str:
    """The part of a continuation that belongs to the function: up to the first line that is not indented."""
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines) if at and line[:1] not in ("", " ", "\t", "\r", ")")), len(lines))
    return "\n".join(lines[:end])


@lru_cache(maxsize=1 << 14)
def _unparsed(program: str) -> str | None:
    """The program without comments, docstrings and layout; None where it is not Python."""
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
