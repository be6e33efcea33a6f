"""Preference prompts, UltraFeedback (Cui et al. 2023, arXiv 2310.01377), judged by a gold reward model.

    python -m bench task=ultrafeedback task.gold_model=MODEL scoring=reward_model scoring.model=OTHER policy=folder ...

No verifier exists for such prompts. A completion is right where the gold model scores it above the prompt's reference,
the response that was chosen in the data, so accuracy is the win rate against the references. The scorer is the proxy;
scoring=verifier selects by the gold verdict itself. A row has `prompt`, and `chosen`, a chat that ends with the
reference.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.config.rules import DTYPE, Count
from bench.tasks.gold_model import GoldModel, Model, answer_of
from bench.tasks.rows import Repo, Revision, Row, RowsTask
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class UltraFeedback(RowsTask):
    """gold_*: see bench.tasks.gold_model."""

    repo: Repo = "HuggingFaceH4/ultrafeedback_binarized"
    revision: Revision = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"
    gold_model: Model = None
    gold_revision: Revision = "main"
    gold_dtype: Annotated[str, DTYPE] = "auto"
    max_new_tokens: Count = 1024

    name: ClassVar[str] = "ultrafeedback"
    keeps_verdicts: ClassVar[bool] = True
    data_splits: ClassVar[dict[str, str]] = {"train": "train_prefs", "test": "test_prefs"}

    @property
    def judge(self) -> GoldModel:
        return GoldModel(name=self.name, model=self.gold_model, revision=self.gold_revision, dtype=self.gold_dtype)

    @property
    def judged_by(self) -> str:
        return self.judge.judged_by

    def example(self, row: Row, name: str) -> Example | None:
        prompt, chosen = str(self.field(row, "prompt")).strip(), self.field(row, "chosen")
        reference = str(chosen[-1]["content"]).strip() if chosen and chosen[-1].get("role") == "assistant" else ""
        if not prompt or not reference:
            return None
        messages = self.chat(prompt)
        return Example(name, prompt, messages, answer_of(messages, reference))
