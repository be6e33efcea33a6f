"""Mostly Basic Python Problems (Austin et al. 2021, arXiv 2108.07732): short functions, judged by three assertions.

    python -m bench task=mbpp scoring=unit_tests policy=folder policy.path=PATH

A row has `text` (or `prompt`, in the sanitized part), `test_list`, what the tests need (`test_setup_code` or
`test_imports`), and `code`, the solution. Data: 374 problems for training, 90 for validation, 500 for testing.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.config.rules import whole
from bench.tasks import SPLITS
from bench.tasks.programs import ProgramsTask, answer_of, fenced
from bench.tasks.rows import Repo, Revision, Row, Words
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class Mbpp(ProgramsTask):
    """shown_tests: the number of a problem's assertions that its prompt shows, 3 as published. It is at least 1,
    because only an assertion says the name of the function."""

    repo: Repo = "google-research-datasets/mbpp"
    config: Words = "full"
    revision: Revision = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
    shown_tests: Annotated[int, whole(1, 1_000)] = 3
    instruction: Words = "Answer with the complete function in one Python code block."

    name: ClassVar[str] = "mbpp"
    data_splits: ClassVar[dict[str, str]] = {split: split for split in SPLITS}

    def example(self, row: Row, name: str) -> Example | None:
        text = self.text(row, "text" if "text" in row else "prompt").strip()
        tests = [str(test) for test in self.field(row, "test_list")]
        setup = [str(row.get("test_setup_code") or ""), *map(str, row.get("test_imports") or [])]
        try:
            answer = answer_of("\n".join([*setup, *tests]))
        except ValueError:
            return None
        question = "\n".join([text, "", "It must pass these tests:", "", *tests[: self.shown_tests]])
        return Example(name, text, self.chat(question), answer, fenced(row.get("code")))
