"""Preference prompts with a gold reward model, and the generators of reasoning-gym."""

import json
from collections.abc import Sequence
from pathlib import Path

import fixtures_tasks as made
import numpy as np
import pytest
from test_configs import composed

from bench import settings
from bench.artifacts import Policy
from bench.errors import BenchError
from bench.tasks import reasoning, ultrafeedback
from bench.tasks.reasoning import ReasoningGym
from bench.tasks.ultrafeedback import UltraFeedback


def preferences(count: int, seed: int = 0) -> list[dict]:
    """prompt, prompt_id, chosen and rejected, as published."""
    rows = []
    for number, row in enumerate(made.gsm8k(count, seed)):
        chats = (
            [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": text}]
            for text in ("Good.", "No")
        )
        rows.append(
            {
                "prompt": row["question"],
                "prompt_id": str(number),
                **dict(zip(("chosen", "rejected"), chats, strict=True)),
            }
        )
    return rows


class ByLength:
    """A gold model that likes long answers, and can't score "?"."""

    def score(self, prompts: Sequence, texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        assert all(messages[-1]["role"] == "user" for messages in prompts)
        return np.array([np.nan if text == "?" else len(text) for text in texts]), {}


@pytest.fixture
def gold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrafeedback, "_scorer", lambda *_: ByLength())
    monkeypatch.setattr(UltraFeedback, "check", lambda self: None)


@pytest.mark.usefixtures("gold")
def test_right_is_what_the_gold_model_prefers_to_the_reference(tmp_path: Path) -> None:
    rows = preferences(12)
    rows.append(rows[0] | {"prompt": "Nothing was chosen", "chosen": []})
    task = UltraFeedback(
        path=made.write(tmp_path, train_prefs=rows, test_prefs=preferences(5, seed=1)), gold_model="anywhere"
    )
    prompts = task.prompts("test")
    assert len(prompts) == 5
    assert task.counts()["rows_unreadable"] == 1
    texts = ["Better!", "Worse", "?", "Good.", "A long answer."]
    assert task.are_correct(texts, prompts.answer.tolist()) == [True, False, False, False, True]
    assert task.are_correct([], []) == []


def test_without_a_gold_model_preferences_are_refused() -> None:
    with pytest.raises(BenchError, match=r"task\.gold_model has no value"):
        settings.check(composed("task=ultrafeedback"))
    with pytest.raises(BenchError, match="has no verifier: name the reward model"):
        UltraFeedback(path="anywhere").prompts("train")
    with pytest.raises(BenchError, match="is not a folder"):
        UltraFeedback(path="anywhere", gold_model="./nowhere").prompts("train")


def test_the_gold_model_itself_is_asked(random_policy: Policy, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(random_policy.path, num_labels=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "gold")
    AutoTokenizer.from_pretrained(random_policy.path).save_pretrained(tmp_path / "gold")
    task = UltraFeedback(path=made.write(tmp_path, test_prefs=preferences(4)), gold_model=str(tmp_path / "gold"))
    prompts = task.prompts("test")
    scorer = ultrafeedback._scorer(task.gold_model, "main", "auto")
    texts = ["One.", "Two, longer.", "Good.", "3"]
    ours, theirs = (scorer.score(prompts.messages, some)[0] for some in (texts, ["Good."] * 4))
    assert task.are_correct(texts, prompts.answer.tolist()) == (ours > theirs).tolist()
    assert "ultrafeedback by" in task.judged_by
    assert task.judged_by != UltraFeedback(path="x", gold_model=str(tmp_path / "gold"), gold_dtype="bfloat16").judged_by


def test_a_generator_of_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    task = ReasoningGym(generator="leg_counting", train_prompts=20, validation_prompts=5, test_prompts=5)
    prompts = {split: task.prompts(split) for split in ("train", "validation", "test")}
    assert [len(one) for one in prompts.values()] == [20, 5, 5]
    texts = [messages[0]["content"] for one in prompts.values() for messages in one.messages]
    assert len(set(texts)) == 30
    answers = prompts["test"].answer.tolist()
    right = [json.loads(answer)["answer"] for answer in answers]
    assert all(task.are_correct([f"Well.\nAnswer: {text}" for text in right], answers))
    assert not any(task.are_correct([f"Well.\nAnswer: {int(text) + 1}" for text in right], answers))
    assert not any(task.are_correct(right, answers))  # nothing is marked
    with pytest.raises(BenchError, match=r"task\.generator=nothing with .* is refused"):
        ReasoningGym(generator="nothing").prompts("test")
    with pytest.raises(BenchError, match=r"task\.options=.* is refused"):
        ReasoningGym(generator="leg_counting", options={"legs": 3}).prompts("test")


def test_reasoning_gym_missing_is_said_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match="add the extra `reasoning`"):
        ReasoningGym(generator="leg_counting").prompts("train")
    with pytest.raises(BenchError, match=r"task\.path does not apply"):
        ReasoningGym(generator="leg_counting", path="somewhere").prompts("train")
