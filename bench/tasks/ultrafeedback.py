"""Preference prompts, UltraFeedback (Cui et al. 2023, arXiv 2310.01377): right is what a gold reward model prefers.

    python -m bench task=ultrafeedback task.gold_model=MODEL scoring=reward_model scoring.model=OTHER policy=folder ...

No verifier exists for such prompts. A completion counts as right where the gold reward model scores it above the
prompt's reference, the response that was chosen in the data: accuracy is then the win rate against the references. The
scorer is the proxy; with scoring=verifier the gold verdict itself is what is selected by. A row has `prompt`, and
`chosen`, a chat that ends with the reference.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

from bench.allowed import DTYPE, Count, or_null, text
from bench.errors import BenchError
from bench.tasks.rows import Row
from bench.tasks.rows_task import Repo, Revision, RowsTask, field
from bench.tasks.splits import Example

if TYPE_CHECKING:
    from bench.scoring.reward_model import Scorer

NO_GOLD = (
    "task=ultrafeedback has no verifier: name the reward model whose preference counts as gold, another one than the "
    "scorer's: task.gold_model=PATH_OR_HUB_ID."
)


@dataclass(frozen=True, kw_only=True)
class UltraFeedback(RowsTask):
    """gold_model: a sequence classifier with one output, by hub id or folder; gold_dtype: of its weights, as in
    bench.scoring.reward_model. Both sides are scored in one way, and a tie is not right. The rest is RowsTask's."""

    repo: Repo = "HuggingFaceH4/ultrafeedback_binarized"
    revision: Revision = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"
    gold_model: Annotated[str | None, or_null(text(r"[^\0\n]+", "a hub id or the path of a folder"))] = None
    gold_revision: Revision = "main"
    gold_dtype: Annotated[str, DTYPE] = "auto"
    max_new_tokens: Count = 1024

    label: ClassVar[str] = "ultrafeedback"
    repo_splits: ClassVar[dict[str, str]] = {"train": "train_prefs", "test": "test_prefs"}

    @property
    def judged_by(self) -> str:
        """The gold model by its content: another one gives other verdicts."""
        from bench.scoring.reward_model import find, resolved

        return f"{self.label} by {find(self._gold(), self.gold_revision).key} in {resolved(self.gold_dtype)}"

    def _gold(self) -> str:
        if self.gold_model is None:
            raise BenchError(NO_GOLD)
        return self.gold_model

    def check(self) -> None:
        """Raise BenchError where there is no gold model, or it can't be found."""
        _ = self.judged_by

    def rows(self) -> dict[str, list[Row]]:
        return self.read(repo=self.repo, config=None, revision=self.revision)

    def example(self, row: Row, name: str) -> Example | None:
        prompt, chosen = str(field(row, "prompt", self.name)).strip(), field(row, "chosen", self.name)
        reference = str(chosen[-1]["content"]).strip() if chosen and chosen[-1].get("role") == "assistant" else ""
        if not prompt or not reference:
            return None
        messages = self.asked(prompt)
        answer = json.dumps({"messages": messages, "reference": reference}, ensure_ascii=False)
        return Example(name, prompt, messages, answer)

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether the gold model scores each completion above its prompt's reference; never where a score is NaN."""
        pairs = [(json.loads(answer), text) for answer, text in zip(answers, completions, strict=True)]
        wanted = dict.fromkeys(
            (answer, text)
            for answer, (parts, text) in zip(answers, pairs, strict=True)
            for text in (text, parts["reference"])
        )
        if not wanted:
            return []
        cells = list(wanted)
        scorer = _scorer(self._gold(), self.gold_revision, self.gold_dtype)
        scores, _ = scorer.score([json.loads(answer)["messages"] for answer, _ in cells], [text for _, text in cells])
        value = dict(zip(cells, scores.tolist(), strict=True))
        return [
            value[answer, text] > value[answer, parts["reference"]]
            for answer, (parts, text) in zip(answers, pairs, strict=True)
        ]

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Never: there are no steps to judge."""
        return False

    def extract_answer(self, completion: str) -> str | None:
        """None: free text has no answer to vote on."""
        return None

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        """None: free text has no reasoning to compare."""
        return None


@lru_cache(maxsize=1)  # verdicts are asked for unit by unit of a pool
def _scorer(model: str, revision: str, dtype: str) -> "Scorer":
    from bench.scoring.reward_model import Scorer, find, resolved

    return Scorer(find(model, revision), max_length=None, dtype=resolved(dtype), batch_tokens=None)
