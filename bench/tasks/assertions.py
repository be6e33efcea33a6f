"""Published tests of Python functions, `assert f((1, 2)) == (2, 1)`, as cases for the sandbox.

What a comparison expects stays outside the sandbox, as bench.sandbox has it: the call alone runs inside, and what it
returns is compared as data, under the rules of == (1, 1.0 and True are equal, a tuple and a list are not). Of any other
assertion, such as abs(f(1.5) - 0.5) < 1e-6, its truth is what comes back.
"""

import ast
import inspect
from collections.abc import Sequence
from typing import Any

from bench.sandbox.cases import Case

ENTRY = "bench_case"  # the function that runs a case, defined after the program
COLLECTIONS = {"set": set, "frozenset": frozenset, "tuple": tuple, "list": list}


def encoded(value):  # type: ignore[no-untyped-def]  # its source runs in the sandbox, where nothing is imported
    """Plain data, the same for two values if and only if == holds between them. TypeError for what is no data."""
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
    """(expressions, cases) of assertions: case i calls ENTRY(i), which is to give what expression i is expected to.

    Raises ValueError for what is no assertion, and where none of them says anything.
    """
    calls: list[str] = []
    found: list[Case] = []
    for source in assertions:
        try:
            statements = ast.parse(source.strip()).body
        except SyntaxError as error:
            raise ValueError(f"{source[:60]!r} is no Python: {error}") from error
        for statement in statements:
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
    """(expressions, cases, source before them) of a program that tests: what precedes its assertions, and those.

    Where assertions stand inside other statements or between them, or in functions named test_..., all of it is one
    case, true where it and those functions raise nothing: a comparison is then made inside the sandbox. Raises
    ValueError where there is no assertion, and for what is no Python.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{source[:60]!r} is no Python: {error}") from error
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
    """The source that follows a program: ENTRY(i) gives the encoded value of expression i."""
    lambdas = "".join(f"    lambda: ({call}),\n" for call in calls)
    runs = f"def {ENTRY}(number):\n    return encoded(bench_calls[number]())\n"
    return f"\n\n{inspect.getsource(encoded)}\n\nbench_calls = [\n{lambdas}]\n\n\n{runs}"


def _parted(test: ast.expr) -> tuple[str, Any]:
    """What to run, and the encoded value that it must have."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        for call, literal in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            try:
                return ast.unparse(call), encoded(_literal(literal))
            except (ValueError, TypeError):
                continue
    return f"bool({ast.unparse(test)})", 1


def _literal(node: ast.expr) -> Any:
    """The value of a literal, of set([...]) and the like around one; ValueError for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and len(node.args) <= 1:
        if node.func.id not in COLLECTIONS:
            raise ValueError(f"{node.func.id} is no collection")
        return COLLECTIONS[node.func.id](*map(_literal, node.args))
    return ast.literal_eval(node)
