"""Unit tests as text: the `answer` of a prompt whose completions are programs.

{"entry": "f", "cases": [[[[3, 1, 2]], [1, 2, 3]], [[[]], []]]}      f([3, 1, 2]) is [1, 2, 3], f([]) is []
"""

import json
from collections.abc import Sequence
from typing import Any

from bench.errors import BenchError

Case = tuple[list[Any], Any]  # arguments, and what must come back


def to_answer(entry: str, cases: Sequence[Case]) -> str:
    """The tests on one line. Raises ValueError for what JSON can't hold."""
    return json.dumps(
        {"entry": entry, "cases": [[arguments, expected] for arguments, expected in cases]}, allow_nan=False
    )


def from_answer(answer: str) -> tuple[str, list[Case]]:
    """The function to call, and at least one case. Raises BenchError for any other text."""
    try:
        tests = json.loads(answer)
        entry, cases = tests["entry"], [(arguments, expected) for arguments, expected in tests["cases"]]
        sound = isinstance(entry, str) and cases and all(isinstance(arguments, list) for arguments, _ in cases)
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise BenchError(
            f"the answer {answer[:60]!r} is not unit tests: "
            'give {"entry": NAME, "cases": [[[ARGUMENT, ...], RESULT], ...]} as JSON, with at least one case.'
        )
    return entry, cases
