"""Preference prompts, UltraFeedback (Cui et al. 2023, arXiv 2310.01377): right is what a gold reward model prefers.

    python -m bench task=ultrafeedback task.gold_model=MODEL scoring=reward_model scoring.model=OTHER policy=folder ...

No verifier exists for such prompts. A completion counts as right where the gold reward model scores it above the
prompt's reference, the response that was chosen in the data: accuracy is then the win rate against the references. The
scorer is the proxy; with scoring=verifier the gold verdict itself is what is selected by. A row has `prompt`, and
`chosen`, a chat that ends with the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from bench.config.rules import DTYPE, Count
from bench.tasks.gold_model import GoldModel, Model, answer_of
from bench.tasks.rows import Row
from bench.tasks.rows_task import Repo, Revision, RowsTask, field
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class UltraFeedback(RowsTask):
    """gold_*: see bench.tasks.gold_model. The rest is RowsTask's."""

    repo: Repo = "HuggingFaceH4/ultrafeedback_binarized"
    revision: Revision = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"
    gold_model: Model = None
    gold_revision: Revision = "main"
    gold_dtype: Annotated[str, DTYPE] = "auto"
    max_new_tokens: Count = 1024

    label: ClassVar[str] = "ultrafeedback"
    repo_splits: ClassVar[dict[str, str]] = {"train": "train_prefs", "test": "test_prefs"}

    @property
    def gold(self) -> GoldModel:
        return GoldModel(
            label=self.label, model=self.gold_model, revision=self.gold_revision, dtype=self.gold_dtype, threshold=None
        )

    @property
    def judged_by(self) -> str:
        return self.gold.judged_by

    def check(self) -> None:
        self.gold.check()

    def rows(self) -> dict[str, list[Row]]:
        return self.read(repo=self.repo, config=None, revision=self.revision)

    def example(self, row: Row, name: str) -> Example | None:
        prompt, chosen = str(field(row, "prompt", self.name)).strip(), field(row, "chosen", self.name)
        reference = str(chosen[-1]["content"]).strip() if chosen and chosen[-1].get("role") == "assistant" else ""
        if not prompt or not reference:
            return None
        messages = self.asked(prompt)
        return Example(name, prompt, messages, answer_of(messages, reference))

    def gold_reward(self, completions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        return self.gold.gold_reward(completions, answers)

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return self.gold.are_correct(completions, answers)

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.gold.is_correct(completion, answer)

    def steps_are_true(self, completion: str) -> bool:
        return self.gold.steps_are_true(completion)

    def extract_answer(self, completion: str) -> str | None:
        return self.gold.extract_answer(completion)

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        return self.gold.path(completion)
