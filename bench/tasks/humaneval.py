"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions by signature and docstring, judged by hidden tests.

    python -m bench task=humaneval scoring=unit_tests policy=folder policy.path=PATH

A row has `task_id`, `prompt` (imports, helpers and the function up to its docstring), `entry_point` and `test`, which
defines check(candidate). There are 164 problems in one split: all three splits are taken by hash.
A completion is the whole function, or the continuation that a base model writes after the prompt.
"""

import ast
from dataclasses import dataclass
from typing import ClassVar

from bench.tasks.program_tests import cases
from bench.tasks.programs import ProgramsTask, answer_of
from bench.tasks.rows import Repo, Revision, Row, Share, Words
from bench.tasks.splits import WHOLE, Example


@dataclass(frozen=True, kw_only=True)
class HumanEval(ProgramsTask):
    repo: Repo = "openai/openai_humaneval"
    config: Words = None
    revision: Revision = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
    test_share: Share = 0.5
    instruction: Words = "Complete this function. Answer with all of it in one Python code block."

    name: ClassVar[str] = "humaneval"
    data_splits: ClassVar[dict[str, str]] = {WHOLE: "test"}

    def example(self, row: Row, name: str) -> Example | None:
        prompt, function, test = (self.text(row, key) for key in ("prompt", "entry_point", "test"))
        try:
            calls, expected, after = tests(test, function)
        except (ValueError, SyntaxError):
            return None
        before = preamble(prompt, function)
        answer = answer_of(function=function, calls=calls, cases=expected, before=before, after=after, stub=prompt)
        return Example(str(row.get("task_id", name)), prompt, self.chat(prompt.strip("\n")), answer)


def preamble(prompt: str, function: str) -> str:
    """Return the imports and helpers before the function, which an answer with the function alone leaves out."""
    lines = prompt.split("\n")
    start = next((at for at, line in enumerate(lines) if line.startswith(f"def {function}(")), 0)
    return "\n".join(lines[:start]).strip("\n")


def tests(source: str, function: str) -> tuple[list[str], list, str]:
    """Return (expressions, cases, source before them) of check(candidate).

    Each assertion is a case. Where check does more than assert, it is one case, true where it raises nothing.
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


# Some tests compare a function's results inside the sandbox, so an object with its own == must not count as an answer.
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
