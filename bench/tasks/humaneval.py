"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions by signature and docstring, judged by hidden tests.

    python -m bench task=humaneval scoring=unit_tests policy=folder policy.path=PATH

A row has `task_id`, `prompt` (imports, helpers and the function up to its docstring), `entry_point` and `test`, which
defines check(candidate). There are 164 problems in one split: all three splits are taken by hash.
A completion is the whole function, or the continuation that a base model writes after the prompt.
"""

from dataclasses import dataclass
from typing import ClassVar

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
            answer = answer_of(test, function=function, own=preamble(prompt, function), stub=prompt)
        except ValueError:
            return None
        return Example(str(row.get("task_id", name)), prompt, self.chat(prompt.strip("\n")), answer)


def preamble(prompt: str, function: str) -> str:
    """Return the imports and helpers before the function, which an answer with the function alone leaves out."""
    lines = prompt.split("\n")
    start = next((at for at, line in enumerate(lines) if line.startswith(f"def {function}(")), 0)
    return "\n".join(lines[:start]).strip("\n")
