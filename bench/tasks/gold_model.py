"""A reward model as gold: the judge of prompts that no verifier can judge.

A completion is right where the gold model scores it above the prompt's reference answer, or above a threshold where the
prompt has none. Accuracy is then a win rate. The scores are the gold reward, for figures of over-optimisation.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np

from bench.artifacts import Message, content_hash
from bench.config.rules import or_null, text
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.models.classifiers import find
from bench.models.hub import Asking
from bench.models.reward_models import RewardModel, report
from bench.tasks import Judge

Model = Annotated[str | None, or_null(text(r"[^\0\n]+", "a hub id or the path of a folder"))]
ASKING = Asking("task.gold_model", "task.gold_revision", "give the path of a folder that is there")
REMEMBERED = 1 << 18  # scores; those of a pool are needed twice, as verdicts and as rewards


@dataclass(frozen=True, kw_only=True)
class GoldModel(Judge):
    """name: the task's. model, revision: a sequence classifier with one output, by hub id or folder. dtype: of its
    weights, as in scoring=reward_model. threshold: in the model's own units, for prompts without a reference. A tie is
    wrong, and so is a completion that the model can't score."""

    name: str
    model: str | None
    revision: str = "main"
    dtype: str = "auto"
    threshold: float | None = None

    @property
    def judged_by(self) -> str:
        """The gold model by its content, its dtype and the threshold: another one gives other verdicts."""
        by = f"{self.name} by {find(self._named(), self.revision, asking=ASKING).key} in {resolve_dtype(self.dtype)}"
        return by if self.threshold is None else f"{by}, above {self.threshold!r}"

    def check(self) -> None:
        """Raise BenchError where there is no gold model, or it can't be found."""
        _ = self.judged_by

    @property
    def gold_reward(self) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
        return self.scores

    def scores(self, completions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Return [D] the score of each completion in the model's units, NaN where it is not finite."""
        return self._scores(
            [(_parts(answer)["messages"], text) for text, answer in zip(completions, answers, strict=True)]
        )

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Return whether each completion scores above its prompt's reference or the threshold; NaN never does."""
        parts = [_parts(answer) for answer in answers]
        against = [row for row, part in enumerate(parts) if part["reference"] is not None]
        cells = [(part["messages"], text) for part, text in zip(parts, completions, strict=True)]
        scores = self._scores([*cells, *((parts[row]["messages"], parts[row]["reference"]) for row in against)])
        to_beat = np.full(len(parts), np.nan if self.threshold is None else self.threshold)
        to_beat[against] = scores[len(parts) :]
        return (scores[: len(parts)] > to_beat).tolist()

    def _named(self) -> str:
        if self.model is None:
            raise BenchError(
                f"task={self.name} has no verifier for these prompts: name the reward model whose preference counts "
                "as gold, another one than the scorer's: task.gold_model=PATH_OR_HUB_ID."
            )
        return self.model

    def _scores(self, cells: Sequence[tuple[Sequence[Message], str]]) -> np.ndarray:
        """[D] the scores of chats and completions; each distinct pair is scored once."""
        keys = [content_hash(*cell) for cell in cells]
        known = _known(self._named(), self.revision, self.dtype)
        missing = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in known}
        if missing:
            if len(known) + len(missing) > REMEMBERED:
                known.clear()
                missing = dict(zip(keys, cells, strict=True))
            scorer = _scorer(self._named(), self.revision, self.dtype)
            chats, texts = zip(*missing.values(), strict=True)
            scores, counts = scorer.score(chats, texts)
            report([counts | {"scored": len(missing)}], None, who="gold model")
            known |= zip(missing, scores.tolist(), strict=True)
        return np.array([known[key] for key in keys], float)


def answer_of(messages: Sequence[Message], reference: str | None) -> str:
    """Return what a prompt's completions are judged by, as its `answer`."""
    return json.dumps({"messages": messages, "reference": reference}, ensure_ascii=False)


@lru_cache(maxsize=1 << 12)  # one chat object per prompt: by it the scorer sees which completions share a prompt
def _parts(answer: str) -> dict:
    return json.loads(answer)


@lru_cache(maxsize=1)
def _known(model: str, revision: str, dtype: str) -> dict[str, float]:
    """The scores that one gold model has given in this process."""
    return {}


@lru_cache(maxsize=1)  # a pool is judged unit by unit
def _scorer(model: str, revision: str, dtype: str) -> RewardModel:
    return RewardModel(
        find(model, revision, asking=ASKING), max_length=None, dtype=resolve_dtype(dtype), batch_tokens=None
    )
