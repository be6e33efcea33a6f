r"""Preference prompts, UltraFeedback (Cui et al. 2023, arXiv 2310.01377), judged by a gold reward model.

    python -m bench task=ultrafeedback task.gold_model=MODEL scoring=reward_model scoring.model=OTHER \
        policy=folder policy.path=PATH

No verifier exists for such prompts. A completion is right where the gold model scores it above the prompt's reference,
the response that was chosen in the data, so accuracy is the win rate against the references. The scorer is the proxy;
scoring=verifier selects by the gold verdict itself. A row has `prompt`, a text or a chat, and `chosen`, the reference
or a chat that ends with it. The reference is the worked solution too. It never counts as right, since nothing scores
above itself.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.config.rules import DTYPE, Count
from bench.tasks.files import chat_of, question_of, text_of, to_answer
from bench.tasks.gold_model import GoldModel, Model, answer_of
from bench.tasks.rows import Repo, Revision, Row, SolvedRows
from bench.tasks.splits import Example


@dataclass(frozen=True, kw_only=True)
class UltraFeedback(SolvedRows):
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
        prompt, chosen = self.field(row, "prompt"), self.field(row, "chosen")
        chat, answered = chat_of(prompt), chat_of(chosen)
        if answered is not None and answered[-1]["role"] != "assistant":
            return None
        reference = text_of(answered[-1]["content"] if answered else chosen, "chosen").strip()
        question = text_of(prompt, "prompt").strip() if chat is None else question_of(chat)
        messages = self.chat(question) if chat is None else to_answer(chat)
        return Example(name, question, messages, answer_of(messages, reference), reference)
