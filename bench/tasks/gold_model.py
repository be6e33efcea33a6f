"""A reward model as gold: what is right where no verifier exists, and how good the gold model finds it.

A completion is right where the gold model scores it above the prompt's reference answer, or above a threshold where the
prompt has none. Accuracy is then the win rate; the scores themselves are what over-optimisation is drawn over.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import numpy as np

from bench.artifacts import Message, content_hash
from bench.config.rules import or_null, text
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.models.hub import Asking

if TYPE_CHECKING:
    from bench.scoring.reward_model import Scorer

Model = Annotated[str | None, or_null(text(r"[^\0\n]+", "a hub id or the path of a folder"))]
ASKING = Asking("task.gold_model", "task.gold_revision", "give the path of a folder that is there")
REMEMBERED = 1 << 18  # scores: those of a pool are asked for twice, as verdicts and as rewards


@dataclass(frozen=True, kw_only=True)
class GoldModel:
    """model: a sequence classifier with one output, by hub id or folder, at a revision; dtype: of its weights, as in
    bench.scoring.reward_model. threshold: in the model's own units, for prompts without a reference. A tie is not
    right, and neither is what the model can't score. label: the task's name."""

    label: str
    model: str | None
    revision: str = "main"
    dtype: str = "auto"
    threshold: float | None = None

    @property
    def judged_by(self) -> str:
        """The gold model by its content: another one gives other verdicts."""
        from bench.scoring.reward_model import find

        found = (
            f"{self.label} by {find(self._named(), self.revision, asking=ASKING).key} in {resolve_dtype(self.dtype)}"
        )
        return found if self.threshold is None else f"{found}, above {self.threshold!r}"

    def check(self) -> None:
        """Raise BenchError where there is no gold model, or it can't be found."""
        _ = self.judged_by

    def gold_reward(self, completions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """[D] the gold model's score of each completion, in its own units; NaN where it has none."""
        return self._scores(
            [(_parts(answer)["messages"], text) for text, answer in zip(completions, answers, strict=True)]
        )

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each completion scores above its prompt's reference or the threshold; never where a score is NaN."""
        parts = [_parts(answer) for answer in answers]
        against = [row for row, one in enumerate(parts) if one["reference"] is not None]
        cells = [(one["messages"], text) for one, text in zip(parts, completions, strict=True)]
        scores = self._scores([*cells, *((parts[row]["messages"], parts[row]["reference"]) for row in against)])
        to_beat = np.full(len(parts), np.nan if self.threshold is None else self.threshold)
        to_beat[against] = scores[len(parts) :]
        return (scores[: len(parts)] > to_beat).tolist()

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Never: there are no steps to judge."""
        return False

    def extract_answer(self, completion: str) -> str | None:
        """None: free text has no answer to vote on."""
        return None

    def path(self, completion: str) -> str | None:
        """None: free text has no reasoning to compare."""
        return None

    def _named(self) -> str:
        if self.model is None:
            raise BenchError(
                f"task={self.label} has no verifier for these prompts: name the reward model whose preference counts "
                "as gold, another one than the scorer's: task.gold_model=PATH_OR_HUB_ID."
            )
        return self.model

    def _scores(self, cells: Sequence[tuple[Sequence[Message], str]]) -> np.ndarray:
        """[D] of chats and what answers them, each distinct pair scored once."""
        from bench.scoring.reward_model import report

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
    """What a prompt's completions are judged by, as its `answer`."""
    return json.dumps({"messages": messages, "reference": reference}, ensure_ascii=False)


@lru_cache(maxsize=1 << 12)  # one chat object a prompt, by which the scorer sees that completions share it
def _parts(answer: str) -> dict:
    return json.loads(answer)


@lru_cache(maxsize=1)
def _known(model: str, revision: str, dtype: str) -> dict[str, float]:
    """The scores that one gold model has given in this process."""
    return {}


@lru_cache(maxsize=1)  # verdicts are asked for unit by unit of a pool
def _scorer(model: str, revision: str, dtype: str) -> "Scorer":
    from bench.scoring.reward_model import Scorer, find

    return Scorer(find(model, revision, asking=ASKING), max_length=None, dtype=resolve_dtype(dtype), batch_tokens=None)
