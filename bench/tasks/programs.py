"""Programming problems: find the Python function in a completion, and judge it by tests in the sandbox."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

from bench.artifacts import content_hash
from bench.config.rules import Count, one_of
from bench.sandbox import ISOLATION, PASSED, Job, Limits, verdicts
from bench.tasks import Judge
from bench.tasks.extraction import after_thinking
from bench.tasks.program_tests import entry_of, prepared, shared
from bench.tasks.rows import SolvedRows

VERSION = 4  # raise it when equal completions get other verdicts
DEFINITION = re.compile(r"^(?:(?:async )?def|class) ", re.MULTILINE)
DEFINED = re.compile(r"^(?:async )?def (?!main\b|test)(\w+)", re.MULTILINE)
OPENING = re.compile(
    r"^(?P<before>(?:[^\n`]|(?P<ticks>`+)(?!`)[^\n`]+(?P=ticks)(?!`))*?)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`~]*)\n",
    re.MULTILINE,
)  # the text before it may hold `words in backticks`
ITEM = re.compile(r"[ \t]*(?:[-*+>]|\d+[.)])?[ \t]*")
PYTHON = re.compile(r"[\s{.]*(?:(?:i?python|py)[\d.]*(?!\w)|[\s}]*$)", re.IGNORECASE)  # or no language at all
NEXT = re.compile(r"\s*(?:`{3,}|~{3,})[ \t]*[A-Za-z]\w*[ \t]*(?:\n|$)")
CPU_SECONDS = Limits.cpu_seconds
Isolation = Annotated[str, one_of(*ISOLATION)]  # how completions run, see bench.sandbox


@dataclass(frozen=True, kw_only=True)
class Programs(Judge):
    """Judges completions that are Python functions. name: the task's, for keys. cpu_seconds: of one program.

    as_is: the program is the problem's own code and the whole completion after it, and nothing is cut.
    """

    name: str = "tests"
    isolation: Isolation = "auto"
    cpu_seconds: Count = CPU_SECONDS
    as_is: bool = False

    @property
    def judged_by(self) -> str:
        seconds = f", {self.cpu_seconds} s" if self.cpu_seconds != CPU_SECONDS else ""
        return f"{self.name} {VERSION}{seconds}{', as it is' if self.as_is else ''}"

    @property
    def programs(self) -> "Programs":
        return self

    def program(self, completion: str, function: str = "", stub: str = "") -> str:
        """Return the first fenced block of Python that defines `function`, else any function, else the first block.

        The whole completion counts where it has no block, and where it is a program with fences in its docstrings. What
        stands before the first fence counts where it is a program, or continues `stub`: the prompt opened its block.
        """
        completion = after_thinking(completion)
        head = _opened_by_prompt(completion)
        if _is_program(head, function) or (stub and head[:1].isspace() and _unparsed(stub + head)):
            return head
        blocks = python_blocks(completion)
        if blocks and DEFINITION.search(completion) and _unparsed(completion) is not None:
            return completion
        patterns = (_definition_of(function) if function else DEFINITION, DEFINITION)
        defining = (block for pattern in patterns for block in blocks if pattern.search(block))
        return next(defining, blocks[0] if blocks else completion)

    def job(self, completion: str, answer: str) -> Job:
        """Return what runs: the program, its tests, and the problem's own imports and helpers."""
        tests = _tests(answer)
        function, stub = tests["function"], tests["stub"]
        program = stub + completion if self.as_is else self.program(completion, function, stub)
        if stub and not _definition_of(function).search(program):
            program = stub + _body(program)  # a base model continues the problem's own code
        entry = function or last_defined(program)
        return Job(program, entry, tests=tests["prepared"], before=tests["before"], own=tests["own"])

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Return whether each completion passes its answer's tests in the sandbox. BenchError where nothing can run."""
        pairs = list(zip(completions, answers, strict=True))
        distinct = list(dict.fromkeys(pairs))
        limits = Limits(self.cpu_seconds, max(Limits.wall_seconds, 2.0 * self.cpu_seconds))
        found = verdicts([self.job(*pair) for pair in distinct], limits=limits, isolation=self.isolation)
        outcome = dict(zip(distinct, found, strict=True))
        return [outcome[pair] == PASSED for pair in pairs]

    def extract_answer(self, completion: str) -> str | None:
        """Return a hash of the program without comments and layout; None where it is not Python."""
        program = self.path(completion)
        return None if program is None else content_hash(program)

    def path(self, completion: str) -> str | None:
        """Return the program without comments, docstrings and layout; None where it is not Python."""
        return _unparsed(self.program(completion))


@dataclass(frozen=True, kw_only=True)
class ProgramsTask(SolvedRows):
    """A task over published programming problems, whose completions are Python functions."""

    isolation: Isolation = "auto"
    cpu_seconds: Count = CPU_SECONDS

    keeps_verdicts: ClassVar[bool] = True

    @property
    def judge(self) -> Programs:
        return Programs(name=self.name, isolation=self.isolation, cpu_seconds=self.cpu_seconds)

    @property
    def judged_by(self) -> str:
        return self.judge.judged_by


def fenced(program: object) -> str | None:
    """Return a program as a completion writes it, in a Python code block; None where there is none."""
    source = str(program or "").replace("\r\n", "\n").strip("\n")
    return f"```python\n{source}\n```" if source else None


def answer_of(tests: str, *, function: str = "", own: str = "", stub: str = "") -> str:
    """Return a problem's tests as the `answer` of its prompt. ValueError where they can't fail, see `prepared`.

    function: the one that is tested; "" for the first that the assertions call. own: the problem's imports and helpers,
    which the program and the tests may use. stub: its own code, which a completion without a definition continues.
    """
    prepared(tests)
    named = {"function": function or entry_of(tests), "tests": tests, "own": own, "stub": stub}
    return json.dumps(named, allow_nan=False)


def last_defined(text: str) -> str:
    """Return the name of the function that a text defines last; "" where it defines none."""
    return next(reversed(DEFINED.findall(text)), "")


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
def _tests(answer: str) -> dict[str, str]:
    tests = json.loads(answer)
    before = "\n".join([tests["own"], shared(tests["tests"])])
    return tests | {"prepared": prepared(tests["tests"]), "before": before}


@lru_cache(maxsize=1 << 12)
def _definition_of(function: str) -> re.Pattern[str]:
    name = re.escape(function)
    return re.compile(rf"^(?:(?:async )?def|class) {name}\b|^{name}(?:\s*:[^=\n]+)?\s*=(?!=)", re.MULTILINE)


def _opened_by_prompt(completion: str) -> str:
    """What stands before the first fence, where that one can end a block that the prompt opened; else ""."""
    fence = re.search(r"^[ \t]*(`{3,}|~{3,})[ \t]*\r?$|(?<=[^\s`~])`{3,}[ \t]*\r?$", completion, re.MULTILINE)
    head = completion[: fence.start()] if fence else ""
    head = re.sub(r"\A(?:python|py)[\d.]*[ \t]*\r?\n", "", head)
    return head if head.strip() and "```" not in head and "~~~" not in head else ""


def _is_program(text: str, function: str) -> bool:
    return bool((_definition_of(function) if function else DEFINITION).search(text)) and _unparsed(text) is not None


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
    try:
        return ast.unparse(tree) or None
    except (ValueError, RecursionError):  # Python reads deeper chains and wider integers than it can write
        return program
