"""Decide with math-verify whether two mathematical expressions are equal, in a process of its own.

Simplifying a model's expression can take all time or all memory. A comparison that takes more than 5 seconds of CPU
time or 4 GiB ends the process and counts as unequal.

Values are compared exactly, where math-verify takes all that are below 10^-16 for 0. Only a decimal may be a rounded
value, so that 0.333333 equals 1/3. It is compared to six decimals, as math-verify does, and to six significant digits
where the value is below 0.001.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.progress import bar
from bench.tasks.spelling import alike

CPU_SECONDS, MEMORY_BYTES = 5.0, 4 << 30
SMALL = 0.001  # below it, six decimals are fewer than four significant digits


def check(setting: str) -> None:
    """Raise BenchError where math-verify is not installed. setting: of the task that compares with it."""
    if find_spec("math_verify") is None:
        raise BenchError(
            f"task={setting} compares answers with math-verify, which is not installed: add the extra `math`."
        )


def judged_by() -> str:
    """Return what verdicts depend on beside the two expressions."""
    return f"math-verify {version('math-verify')}, {CPU_SECONDS:g} s"


def are_equal(golds: Sequence[str], answers: Sequence[str]) -> list[bool]:
    """Return whether each answer equals its gold answer, both in LaTeX. Each distinct pair is compared once."""
    pairs = list(zip(golds, answers, strict=True))
    verdicts = {pair: True for pair in pairs if alike(*pair)}
    left = [pair for pair in dict.fromkeys(pairs) if pair not in verdicts]
    with bar("math-verify", total=len(left), unit="answers") as progress:
        while left:
            done = _judged(left) or [False]  # no verdict: the first pair ended the process
            verdicts |= dict(zip(left, done, strict=False))
            left = left[len(done) :]
            progress.advance(len(done))
    return [verdicts[pair] for pair in pairs]


def _judged(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Verdicts on the first pairs, up to the one that ended the process."""
    found = subprocess.run(
        [sys.executable, "-P", str(Path(__file__)), str(CPU_SECONDS)],
        input="".join(json.dumps(pair) + "\n" for pair in pairs),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    verdicts = [line == "1" for line in found.stdout.splitlines()]
    if found.returncode > 0 and not verdicts:
        raise BenchError(f"math-verify can't be run: {(found.stderr.strip().splitlines() or ['no reason given'])[-1]}.")
    return verdicts


def _same_value(nearly_equal: Callable[..., bool], gold: Any, answer: Any, *precision: int) -> bool:
    """Whether math-verify finds two of SymPy's expressions nearly equal, and they are by this module's rule too."""
    from sympy import Float, MatrixBase, Rational

    if not nearly_equal(gold, answer, *precision):
        return False
    if isinstance(gold, MatrixBase) or isinstance(answer, MatrixBase):
        return True  # math-verify has called this for each element
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    point = {symbol: Rational(2 * place + 3, 7) for place, symbol in enumerate(symbols)}
    exact = [
        side.doit().replace(lambda part: part.is_Float, lambda part: Rational(str(part))).subs(point)
        for side in (gold, answer)
    ]
    difference, *sizes = (abs(value.evalf(30)) for value in (exact[0] - exact[1], *exact))
    if not all(value.is_Float or value.is_Integer for value in (difference, *sizes)):
        return True  # infinite, or a function that has no value
    size = max(sizes)
    is_rounded = (gold.has(Float) or answer.has(Float)) and (size >= SMALL or difference <= size / 10**6)
    return exact[0] == exact[1] or bool(difference <= size / 10**50 or is_rounded)


def _serve() -> None:
    """Answer each pair, a JSON line on standard input, with a line 1 or 0."""
    import logging
    import resource
    import signal

    from math_verify import grader, parse, verify

    logging.disable()  # math-verify warns where its own time limits are off; ours is the timer below
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    grader.sympy_numeric_eq = partial(_same_value, grader.sympy_numeric_eq)  # of parts of sets and matrices too
    verify(parse("$x^2$", parsing_timeout=None), parse("$x*x$", parsing_timeout=None), timeout_seconds=None)  # loads
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))  # the signal at its end ends the process
        try:
            gold, answer = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in json.loads(line))
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True))
        except Exception:  # an expression that the libraries fail on is not shown to be equal
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{int(equal)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
