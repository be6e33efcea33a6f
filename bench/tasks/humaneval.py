"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions by signature and docstring, judged by hidden tests.

    python -m bench task=humaneval scoring=unit_tests policy=folder policy.path=PATH

A row has `task_id`, `prompt` (imports, helpers and the function up to its docstring), `entry_point`, `test`, which
defines check(candidate), and `canonical_solution`, which continues the prompt. There are 164 problems in one split: all
three splits are taken by hash. A completion is the whole function, or the continuation that a base model writes after
the prompt.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from bench.config.rules import one_of
from bench.tasks.programs import Programs, ProgramsTask, answer_of, fenced
from bench.tasks.rows import Repo, Revision, Row, Share, Words
from bench.tasks.splits import WHOLE, Example


@dataclass(frozen=True, kw_only=True)
class HumanEval(ProgramsTask):
    """continuation: what is judged of one. "function": up to the function's end. "as_is": the prompt and all of it, as
    the published evaluation runs it (github.com/openai/human-eval), so that a garbled end fails it."""

    repo: Repo = "openai/openai_humaneval"
    config: Words = None
    revision: Revision = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
    test_share: Share = 0.5
    instruction: Words = "Complete this function. Answer with all of it in one Python code block."
    continuation: Annotated[str, one_of("function", "as_is")] = "function"

    name: ClassVar[str] = "humaneval"
    data_splits: ClassVar[dict[str, str]] = {WHOLE: "test"}

    @property
    def judge(self) -> Programs:
        return replace(super().judge, as_is=self.continuation == "as_is")

    def example(self, row: Row, name: str) -> Example | None:
        prompt, function, test = (self.text(row, key) for key in ("prompt", "entry_point", "test"))
        try:
            answer = answer_of(test, function=function, own=preamble(prompt, function), stub=prompt)
        except ValueError:
            return None
        body = row.get("canonical_solution")
        solution = str(body) if body and self.judge.as_is else fenced(body and f"{prompt}{body}")
        return Example(str(row.get("task_id", name)), prompt, self.chat(prompt.strip("\n")), answer, solution)


def preamble(prompt: str, function: str) -> str:
    """Return the imports and helpers before the function, which an answer with the function alone leaves out."""
    lines = prompt.split("\n")
    start = next((at for at, line in enumerate(lines) if line.startswith(f"def {function}(")), 0)
    return "\n".join(lines[:start]).strip("\n")
