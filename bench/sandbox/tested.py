"""Inside the sandbox: the process that runs a program, and the process that runs its tests and gives the verdict.

The tests have an interpreter that the program never touches: clean built-ins, and the problem's own helpers. The
program gets their calls (bench.sandbox.exchange), and knows neither their source nor what they expect. A verdict needs
an assertion that was executed: tests that execute none pass no program.
"""

import builtins
import importlib
import inspect
import io
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn

import exchange
import forms
import inside


def serve_program(file: int) -> NoReturn:
    """Load the program that the tests' process sends, and answer its questions until it ends."""
    line = exchange.Line(file)
    exchange.OPERATIONS["load"] = _load
    sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", "replace", write_through=True)
    while True:
        line.serve(line.receive())


def _load(before: str, source: str, names: list[str]) -> dict[str, Any]:
    """Run the program; return those of the names that it defines. `before`: imports and helpers that it may use."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    for name, text in (("before", before), ("program", source)):  # each with its own `from __future__`
        exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    return {name: module.__dict__[name] for name in names if name in module.__dict__}


def judge(task: dict[str, Any], file: int, program: int) -> str:
    """Return the verdict on the program of a task: one of bench.sandbox.VERDICTS. program: the number of its process.

    Where the program's process ends or breaks the rules of the exchange, this process ends without a verdict.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    line = exchange.Line(file, lambda: _ended(program))
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    checks = Checks()
    try:
        exec(compile(task["own"], "own", "exec", dont_inherit=True), module.__dict__)
        code = compile(task["tests"], "tests", "exec", dont_inherit=True)
        asked = {name for name in _names(code) | {task["entry"]} if not name.startswith("__bench")}  # these are ours
        found = line.ask("load", task["before"], task["program"], sorted(asked))
        public = {name: found[name] for name in found if name == task["entry"] or name not in vars(builtins)}
        for name in inside.NAMES:
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(found, __all__=[*public])
        own = {*vars(module)} - {task["entry"]}
        vars(module).update({name: value for name, value in public.items() if name not in own})
        vars(module).update({"__bench__": checks, "__bench_entry__": found.get(task["entry"])})
        if "unittest" in code.co_names:  # it would end the process; the classes are run one by one
            setattr(importlib.import_module("unittest"), "main", lambda *_, **__: None)  # noqa: B010
        line.asked = sum(type(value) is not forms.Proxy for value in found.values())
        exec(code, module.__dict__)
    except AssertionError:
        return "wrong_output"
    except BaseException:
        return "exception"
    return "passed" if checks.count and line.asked and not checks.failed else "wrong_output"


def _names(code: types.CodeType) -> set[str]:
    """All names that a code reads, its functions' too."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def _ended(program: int) -> NoReturn:
    """End this process as the program's process ended: beyond a limit, or else without a verdict."""
    for _ in range(20):
        number, status = os.waitpid(program, os.WNOHANG)
        if number:
            code = os.waitstatus_to_exitcode(status)
            os._exit(128 - code if code in (-signal.SIGKILL, -signal.SIGXCPU) else 0)
        time.sleep(0.01)
    os.kill(program, signal.SIGKILL)  # it lives, and broke the rules
    os._exit(0)


class Checks:
    """Counts the assertions that tests execute, and keeps whether one failed, even where the tests catch its error.

    The tests call it by the name __bench__, see bench.tasks.program_tests.
    """

    def __init__(self) -> None:
        self.count = 0
        self.failed = False

    def check(self, value: object) -> bool:
        """Return the truth of what is asserted."""
        self.count += 1
        passed = bool(value)
        self.failed = self.failed or not passed
        return passed

    def counted(self, method: Callable) -> Callable:
        """Return a method of unittest that asserts, and is counted when it is called."""

        def called(*operands: Any, **named: Any) -> Any:
            self.count += 1
            try:
                return method(*operands, **named)
            except AssertionError:
                self.failed = True
                raise

        return called

    def run(self, test: Callable, *operands: Any) -> None:
        """Run a test function, which may be asynchronous."""
        result = test(*operands)
        if inspect.iscoroutine(result):
            import asyncio

            asyncio.run(result)

    def run_class(self, kind: type) -> None:
        """Run the tests of a class: a unittest.TestCase, or a class with methods named test..., as pytest has it."""
        unittest = sys.modules.get("unittest")
        if unittest is not None and issubclass(kind, unittest.TestCase):
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
            if not result.wasSuccessful():
                raise AssertionError(f"{len(result.failures)} failures, {len(result.errors)} errors")
            return
        for name in dir(kind):
            if name.startswith("test"):
                instance = kind()
                for setup in ("setup_class", "setup_method", "setup"):
                    getattr(instance, setup, lambda: None)()
                self.run(getattr(instance, name))
