"""Tests of Python functions for the sandbox: cases as data, or assertions in source.

    {"entry": "f", "cases": [[[[3, 1, 2]], [1, 2, 3]], [[[]], []]]}      f([3, 1, 2]) is [1, 2, 3], f([]) is []
    assert f((1, 2)) == (2, 1)

Source may assert at its top level, in functions (test_..., check(candidate), asynchronous ones), in classes of unittest
and in classes named as pytest has them. It runs whole, in a process beside the program's (bench.sandbox.tested). Each
assertion is counted there, and tests that execute none pass no program.
"""

import ast
import builtins
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from textwrap import indent

from bench.errors import BenchError
from bench.sandbox import Case
from bench.sandbox.inside import NAMES

Function = ast.FunctionDef | ast.AsyncFunctionDef
ENTRY = "__bench_entry__"  # in prepared tests: the function that check(candidate) is given


class ForeignImportError(BenchError):
    """Tests that import a module which the sandbox lacks."""


def to_answer(entry: str, cases: Sequence[Case]) -> str:
    """Return the tests of a function on one line. ValueError for values that JSON can't hold."""
    return json.dumps({"entry": entry, "cases": list(map(list, cases))}, allow_nan=False)


@lru_cache(maxsize=1 << 14)
def from_answer(answer: str) -> tuple[str, list[Case]]:
    """Return the function to call and its cases, at least one. BenchError for any other text."""
    try:
        tests = json.loads(answer)
        entry, cases = tests["entry"], [(arguments, expected) for arguments, expected in tests["cases"]]
        is_sound = isinstance(entry, str) and cases and all(isinstance(arguments, list) for arguments, _ in cases)
    except (ValueError, TypeError, KeyError):
        is_sound = False
    if not is_sound:
        raise BenchError(
            f"the answer {answer[:60]!r} is not unit tests: "
            'give {"entry": NAME, "cases": [[[ARGUMENT, ...], RESULT], ...]} as JSON, with at least one case.'
        )
    return entry, cases


def prepared(source: str) -> str:
    """Return the tests so that they count what they assert, and run the test functions and classes that they define.

    ValueError where nothing in them can fail, for test functions with several arguments, and for a text that is not
    Python. ForeignImportError for imports of what is not in the standard library.
    """
    try:
        tree = ast.parse(source)
        _refuse_foreign_imports(tree)
        tree.body = [inner for node in tree.body for inner in _without_main_guard(node)]
        runs = list(_runs(tree.body))
        counts = _Counts()
        tree = counts.visit(tree)
        if not counts.found:
            raise ValueError("there is no assertion to test with")
        return "\n".join([ast.unparse(ast.fix_missing_locations(tree)), *runs])
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{source[:60]!r} is no Python: {error}") from error


def entry_of(source: str) -> str:
    """Return the name of the function that assertions test; "" where none is called.

    It is the first that they call and do not define. A name that is built in counts where there is no other.
    """
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {alias.asname or alias.name for node in ast.walk(tree) for alias in _imported(node)}
    calls = [
        node.func.id
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Assert)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in own
    ]
    return next((name for name in calls if not hasattr(builtins, name)), next(iter(calls), ""))


def shared(source: str) -> str:
    """Return the imports and the plain classes at the top level of tests, on which a program may rely."""
    nodes = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not _asserts(node) and not _has_tests(node):
            nodes.append(f"try:\n{indent(ast.unparse(node), '    ')}\nexcept NameError:\n    pass")
        elif _imported(node):
            nodes.append(ast.unparse(node))
    return "\n".join(nodes)


def _imported(node: ast.AST) -> list[ast.alias]:
    """What an import names, but the program."""
    if isinstance(node, ast.ImportFrom) and node.module in NAMES:
        return []
    names = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
    return [alias for alias in names if alias.name not in NAMES]


def _refuse_foreign_imports(tree: ast.Module) -> None:
    tried = {inner for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in node.body}  # may be missing
    for node in ast.walk(tree):
        modules = [alias.name for alias in _imported(node)] if node not in tried else []
        for module in [node.module or "."] if isinstance(node, ast.ImportFrom) and modules else modules:
            name = module.partition(".")[0]
            if name not in sys.stdlib_module_names and name not in NAMES:
                raise ForeignImportError(
                    f"tests that import {name or 'a package'}, which the sandbox lacks: it has Python's standard "
                    f"library, and the program as {' or '.join(NAMES)}; write them with assert or unittest"
                )


def _without_main_guard(node: ast.stmt) -> list[ast.stmt]:
    """What runs where the tests are the program that was started: they have no other name here."""
    return node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" else [node]


def _runs(body: list[ast.stmt]) -> Iterator[str]:
    """Lines that run what the tests define and don't call: functions that assert, and classes with test methods."""
    functions = {node.name: node for node in body if isinstance(node, Function)}
    asserts = {name for name, node in functions.items() if name.startswith("test") or _asserts(node)}
    while more := {name for name, node in functions.items() if name not in asserts and asserts & _read(node)}:
        asserts |= more
    classes = _test_classes([node for node in body if isinstance(node, ast.ClassDef)])
    for node in body:
        used = {name for other in body if other is not node for name in _read(other)}
        if isinstance(node, Function) and node.name in asserts and node.name not in used:
            required = len(node.args.posonlyargs + node.args.args) - len(node.args.defaults)
            if required > 1:
                raise ValueError(f"{node.name} takes {required} arguments, and nothing calls it")
            if any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)):
                raise ValueError(f"{node.name} is a generator, which no runner of tests runs")
            yield f"__bench__.run({node.name}{f', {ENTRY}' * required})"
        if isinstance(node, ast.ClassDef) and node.name in classes:
            yield f"__bench__.run_class({node.name})"


def _test_classes(classes: Sequence[ast.ClassDef]) -> set[str]:
    """The classes whose tests are run, inherited ones too; what only others derive from is no test class by itself."""
    for node in classes:
        for inner in node.body:
            if isinstance(inner, ast.ClassDef) and _has_tests(inner):
                raise ValueError(f"the tests of {node.name}.{inner.name}, a class within a class, are not run")
    bases = {node.name: {getattr(base, "attr", getattr(base, "id", "")) for base in node.bases} for node in classes}
    tested = {node.name for node in classes if _has_tests(node)}
    cases = {name for name, above in bases.items() if any(base.endswith("TestCase") for base in above)}
    for _ in classes:
        tested |= {name for name, above in bases.items() if above & tested}
        cases |= {name for name, above in bases.items() if above & cases}
    mixins = {base for above in bases.values() for base in above if base not in cases and not base.startswith("Test")}
    return tested - mixins


def _has_tests(node: ast.ClassDef) -> bool:
    return any(getattr(method, "name", "").startswith(("test", "runTest")) for method in node.body)


def _asserts(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Assert) for inner in ast.walk(node))


def _read(node: ast.AST) -> set[str]:
    """The names in it, but those of which only an attribute is read or set."""
    owners = {id(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and id(inner) not in owners}


class _Counts(ast.NodeTransformer):
    """Has every assertion counted that could fail. found: whether there is one."""

    def __init__(self) -> None:
        self.found = False

    def _counted(self, name: str, value: ast.expr) -> ast.Call:
        self.found = True
        return ast.Call(ast.parse(f"__bench__.{name}", mode="eval").body, [value], [])

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        if not _is_always_true(node.test):
            node.test = self._counted("check", node.test)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and re.match(r"assert[A-Z_]|fail$", node.func.attr):
            node.func = self._counted("counted", node.func)
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """Where `assert False` stands for "it must raise", the handler is what is counted."""
        within = [inner for statement in node.body + node.orelse for inner in ast.walk(statement)]
        must_raise = any(
            (isinstance(inner, ast.Assert) and isinstance(inner.test, ast.Constant) and not inner.test.value)
            or (isinstance(inner, ast.Attribute) and inner.attr == "fail")
            for inner in within
        )
        self.generic_visit(node)
        for handler in node.handlers if must_raise else ():
            handler.body.insert(0, ast.Expr(self._counted("check", ast.Constant(True))))
        return node


def _is_always_true(test: ast.expr) -> bool:
    """`assert True`, and the slip `assert (x == y, "message")`."""
    return (isinstance(test, ast.Constant) and bool(test.value)) or (isinstance(test, ast.Tuple) and bool(test.elts))
