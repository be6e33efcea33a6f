"""Prompts with instructions that rules can check, IFEval (Zhou et al. 2023, arXiv 2311.07911).

    python -m bench task=ifeval policy=folder policy.path=PATH

A completion is right where it follows every instruction of its prompt (prompt-level strict accuracy). A row has `key`,
`prompt`, `instruction_id_list` and `kwargs`. Rows with an instruction that bench.tasks.ifeval_checks leaves out are
counted, not judged, so the accuracy is not IFEval's published one. There is one split of 541: all three are by hash.
"""

import json
from dataclasses import dataclass
from typing import ClassVar

from bench.config.rules import Count
from bench.tasks.ifeval_checks import CHECKS, follows
from bench.tasks.rows import WHOLE, Row
from bench.tasks.rows_task import Repo, Revision, RowsTask, Share, field
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class IfEval(RowsTask):
    """The task; all settings are RowsTask's, but where the data lies."""

    repo: Repo = "google/IFEval"
    revision: Revision = "966cd89545d6b6acfd7638bc708b98261ca58e84"
    test_share: Share = 0.4
    max_new_tokens: Count = 1024

    label: ClassVar[str] = "ifeval"
    repo_splits: ClassVar[dict[str, str]] = {"train": "train"}  # the one that there is

    def rows(self) -> dict[str, list[Row]]:
        found = self.read(repo=self.repo, config=None, revision=self.revision)
        return {WHOLE: [row for rows in found.values() for row in rows]}

    def example(self, row: Row, name: str) -> Example | None:
        prompt, ids = str(field(row, "prompt", self.name)), list(field(row, "instruction_id_list", self.name))
        given = [dict(one or {}) for one in field(row, "kwargs", self.name)]
        if not ids or len(ids) != len(given) or not set(ids) <= set(CHECKS):
            return None
        rules = [
            [one, {key: value for key, value in of.items() if value is not None}]
            for one, of in zip(ids, given, strict=True)
        ]
        return Example(f"ifeval-{row.get('key', name)}", prompt, self.asked(prompt), json.dumps(rules))

    def is_correct(self, completion: str, answer: str) -> bool:
        return all(follows(completion, name, given) for name, given in json.loads(answer))

    def steps_are_true(self, completion: str) -> bool:
        """Never: there are no steps to judge."""
        return False

    def extract_answer(self, completion: str) -> str | None:
        """None: free text has no answer to vote on."""
        return None

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        """None: free text has no reasoning to compare."""
        return None
