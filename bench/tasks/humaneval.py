"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions by signature and docstring, checked by hidden tests.

    python -m bench task=humaneval scoring=unit_tests policy=folder policy.path=PATH

A row has `task_id`, `prompt` (imports, helpers and the function up to its docstring), `entry_point` and `test`, which
defines check(candidate). There are 164 problems and no training split: all three are taken by hash.
A completion is the whole function, or what a base model writes after the prompt.
"""

import ast
from dataclasses import dataclass
from typing import ClassVar

from bench.tasks.assertions import cases
from bench.tasks.programs_task import ProgramsTask, answer_of
from bench.tasks.rows import WHOLE, Row
from bench.tasks.rows_task import Repo, Revision, Share, Words, field
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class HumanEval(ProgramsTask):
    """The task; all settings are ProgramsTask's, but where the data lies."""

    repo: Repo = "openai/openai_humaneval"
    config: Words = None
    revision: Revision = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
    test_share: Share = 0.5
    instruction: Words = "Complete this function. Answer with all of it in one Python code block."

    label: ClassVar[str] = "humaneval"
    repo_splits: ClassVar[dict[str, str]] = {"test": "test"}

    def rows(self) -> dict[str, list[Row]]:
        found = self.read(repo=self.repo, config=self.config, revision=self.revision)
        return {WHOLE: [row for rows in found.values() for row in rows]}

    def example(self, row: Row, name: str) -> Example | None:
        prompt, function, test = (str(field(row, key, self.name)) for key in ("prompt", "entry_point", "test"))
        try:
            calls, expected, after = tests(test, function)
        except (ValueError, SyntaxError):
            return None
        before = preamble(prompt, function)
        answer = answer_of(function=function, calls=calls, cases=expected, before=before, after=after, stub=prompt)
        return Example(str(row.get("task_id", name)), prompt, self.asked(prompt.strip("\n")), answer)


def preamble(prompt: str, function: str) -> str:
    """What precedes the asked function: imports and helpers, which an answer with that function alone leaves out."""
    lines = prompt.split("\n")
    start = next((at for at, line in enumerate(lines) if line.startswith(f"def {function}(")), 0)
    return "\n".join(lines[:start]).strip("\n")


def tests(source: str, function: str) -> tuple[list[str], list, str]:
    """(expressions, cases, source before them) of check(candidate): of each assertion, where it has nothing else.

    Where it loops or computes, all of it is one case, true where it raises nothing.
    """
    module = ast.parse(source)
    check = next((node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is None:
        raise ValueError("there is no check(candidate)")
    helpers = "\n".join(ast.unparse(node) for node in module.body if node is not check)
    statements = [node for node in check.body if not isinstance(node, ast.Expr | ast.Pass)]  # docstrings, prints
    argument = check.args.args[0].arg
    wrapped = f"{argument} = bench_plain({function})"
    source = f"{helpers}\n{PLAIN}\n"
    if all(isinstance(node, ast.Assert) for node in statements):
        calls, expected = cases([ast.unparse(node) for node in statements])
        return calls, expected, f"{source}{wrapped}\n"
    return [f"(check(bench_plain({function})), True)[1]"], [([0], 1)], f"{source}{ast.unparse(check)}\n"


# What a function returns is compared inside the sandbox by some tests: objects with an == of their own are no answer.
PLAIN = """
def bench_plain(function):
    import builtins as b

    def fresh(value):
        kind = b.type(value)
        if value is None or kind in (b.bool, b.int, b.float, b.complex, b.str, b.bytes):
            return value
        if kind in (b.list, b.tuple, b.set, b.frozenset):
            return kind([fresh(item) for item in value])
        if b.isinstance(value, b.dict):
            return {fresh(key): fresh(item) for key, item in b.dict.items(value)}
        raise b.TypeError("no data")

    return lambda *arguments, **named: fresh(function(*arguments, **named))
"""
