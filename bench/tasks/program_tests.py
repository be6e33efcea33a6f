"""Tests of Python functions as cases for the sandbox: given as text, or as published assertions.

    {"entry": "f", "cases": [[[[3, 1, 2]], [1, 2, 3]], [[[]], []]]}      f([3, 1, 2]) is [1, 2, 3], f([]) is []
    assert f((1, 2)) == (2, 1)

The expected value of an assertion stays outside the sandbox: only the call runs inside, and what it returns is compared
as data, under the rules of == (1, 1.0 and True are equal, a tuple and a list are not). For any other assertion, such as
abs(f(1.5) - 0.5) < 1e-6, the sandbox returns its truth value.
"""

import ast
import inspect
import json
from collections.abc import Sequence
from typing import Any

from bench.errors import BenchError
from bench.sandbox import Case

ENTRY = "bench_case"  # the function that runs a case, defined after the program
COLLECTIONS = {"set": set, "frozenset": frozenset, "tuple": tuple, "list": list}


def to_answer(entry: str, cases: Sequence[Case]) -> str:
    """Return the tests of a function on one line. ValueError for values that JSON can't hold."""
    return json.dumps({"entry": entry, "cases": list(map(list, cases))}, allow_nan=False)


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


def encoded(value):  # type: ignore[no-untyped-def]  # its source runs in the sandbox, without this module
    """Return plain data, equal for two values if and only if == holds between them. TypeError for other objects."""
    import builtins as b  # a program may have a `list` of its own

    if value is None or b.isinstance(value, b.str):
        return None if value is None else b.str.__str__(value)
    if b.isinstance(value, b.int):
        return b.int(value)
    if b.isinstance(value, b.float):
        if value != value:
            raise b.TypeError("NaN equals nothing")
        if value in (b.float("inf"), -b.float("inf")):
            return ["float", b.str(value)]
        return b.int(value) if value % 1 == 0 else b.float(value)
    if b.isinstance(value, b.complex):
        return encoded(value.real) if value.imag == 0 else ["complex", encoded(value.real), encoded(value.imag)]
    if b.isinstance(value, (b.list, b.tuple)):
        kind = "list" if b.isinstance(value, b.list) else "tuple"
        return [kind, *[encoded(item) for item in value]]
    if b.isinstance(value, (b.set, b.frozenset)):
        return ["set", *b.sorted([encoded(item) for item in value], key=b.repr)]
    if b.isinstance(value, b.dict):
        return ["dict", *b.sorted([[encoded(key), encoded(item)] for key, item in value.items()], key=b.repr)]
    if b.isinstance(value, (b.bytes, b.bytearray)):
        return ["bytes", *value]
    raise b.TypeError(f"a {b.type(value).__name__} is no data")


def cases(assertions: Sequence[str]) -> tuple[list[str], list[Case]]:
    """Return (expressions, cases) of assertions: case i calls ENTRY(i), which must give the value of expression i.

    ValueError for other statements, and where no assertion tests anything.
    """
    calls: list[str] = []
    found: list[Case] = []
    for source in assertions:
        for statement in _statements(source.strip()):
            if not isinstance(statement, ast.Assert):
                raise ValueError(f"{source[:60]!r} is no assertion")
            if isinstance(statement.test, ast.Constant):
                continue  # `assert True, "..."`
            call, expected = _parted(statement.test)
            found.append(([len(calls)], expected))
            calls.append(call)
    if not found:
        raise ValueError("there is no assertion to test with")
    return calls, found


def from_program(source: str) -> tuple[list[str], list[Case], str]:
    """Return (expressions, cases, source before them) of a program whose last statements are assertions.

    Where assertions stand inside or between other statements, or in functions named test_..., the program is one case,
    true where it and those functions raise nothing: values are then compared inside the sandbox. ValueError where there
    is no assertion, and for a text that is not Python.
    """
    body = _statements(source)
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    first = next((at for at, node in enumerate(body) if isinstance(node, ast.Assert)), len(body))
    if first < len(body) and not functions and all(isinstance(node, ast.Assert) for node in body[first:]):
        calls, found = cases([ast.unparse(node) for node in body[first:]])
        return calls, found, "\n".join(map(ast.unparse, body[:first]))
    if not any(isinstance(node, ast.Assert) for node in ast.walk(ast.Module(body, []))):
        raise ValueError("there is no assertion to test with")
    whole = "\n".join([source, *(f"{name}()" for name in functions)])
    return [f"(exec({whole!r}, globals()), True)[1]"], [([0], 1)], ""


def harness(calls: Sequence[str]) -> str:
    """Return the source that follows a program, so that ENTRY(i) gives the encoded value of expression i."""
    lambdas = "".join(f"    lambda: ({call}),\n" for call in calls)
    runs = f"def {ENTRY}(number):\n    return encoded(bench_calls[number]())\n"
    return f"\n\n{inspect.getsource(encoded)}\n\nbench_calls = [\n{lambdas}]\n\n\n{runs}"


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{source[:60]!r} is no Python: {error}") from error


def _parted(test: ast.expr) -> tuple[str, Any]:
    """The expression to run, and the encoded value that it must have."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        for call, literal in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            try:
                return ast.unparse(call), encoded(_literal(literal))
            except (ValueError, TypeError):
                continue
    return f"bool({ast.unparse(test)})", 1


def _literal(node: ast.expr) -> Any:
    """The value of a literal, or of a collection such as set([...]) around one; ValueError for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and len(node.args) <= 1:
        if node.func.id not in COLLECTIONS:
            raise ValueError(f"{node.func.id} is no collection")
        return COLLECTIONS[node.func.id](*map(_literal, node.args))
    return ast.literal_eval(node)
