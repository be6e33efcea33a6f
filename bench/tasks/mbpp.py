"""Mostly Basic Python Problems (Austin et al. 2021, arXiv 2108.07732): short functions, checked by three assertions.

    python -m bench task=mbpp scoring=unit_tests policy=folder policy.path=PATH

A row has `text` (or `prompt`, in the sanitized part), `test_list`, and what the tests need (`test_setup_code` or
`test_imports`). Data: 374 problems to train on, 90 for validation, 500 to test.
"""

import ast
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.config.rules import whole
from bench.tasks.assertions import cases
from bench.tasks.programs_task import ProgramsTask, answer_of
from bench.tasks.rows import Row
from bench.tasks.rows_task import Repo, Revision, Words, field
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class Mbpp(ProgramsTask):
    """shown_tests: how many of a problem's assertions its prompt shows (3, as published; 0: not even the name that the
    function must have, so ask for 1 at least). The rest is ProgramsTask's."""

    repo: Repo = "google-research-datasets/mbpp"
    config: Words = "full"
    revision: Revision = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
    shown_tests: Annotated[int, whole(1)] = 3
    instruction: Words = "Answer with the complete function in one Python code block."

    label: ClassVar[str] = "mbpp"
    repo_splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "validation", "test": "test"}

    def rows(self) -> dict[str, list[Row]]:
        return self.read(repo=self.repo, config=self.config, revision=self.revision)

    def example(self, row: Row, name: str) -> Example | None:
        text = str(row["text"] if "text" in row else field(row, "prompt", self.name)).strip()
        tests = [str(test) for test in field(row, "test_list", self.name)]
        before = "\n".join([str(row.get("test_setup_code") or ""), *map(str, row.get("test_imports") or [])]).strip()
        try:
            calls, expected = cases(tests)
        except ValueError:
            return None
        question = "\n".join([text, "", "It must pass these tests:", "", *tests[: self.shown_tests]])
        answer = answer_of(function=_tested(calls), calls=calls, cases=expected, before=before, after="", stub="")
        return Example(name, text, self.asked(question), answer)


def _tested(calls: list[str]) -> str:
    """The name of the function that the first call tests."""
    names = [
        node.func.id
        for node in ast.walk(ast.parse(calls[0]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return next((name for name in names if not re.fullmatch(r"bool|set|sorted|len|list|tuple|abs|round|str", name)), "")
