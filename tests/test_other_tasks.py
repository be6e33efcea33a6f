"""Preference prompts with a gold reward model, and the generators of reasoning-gym."""

import json
from pathlib import Path

import fixtures_tasks as made
import numpy as np
import pytest
from omegaconf import open_dict
from sharing import composed

from bench.artifacts import Policy
from bench.config import checks
from bench.errors import BenchError
from bench.tasks import gold_model, reasoning
from bench.tasks.jsonl import Jsonl
from bench.tasks.reasoning import ReasoningGym
from bench.tasks.ultrafeedback import UltraFeedback


@pytest.fixture
def gold(monkeypatch: pytest.MonkeyPatch) -> made.ByLength:
    return made.ByLength(monkeypatch)


def test_right_is_what_the_gold_model_prefers_to_the_reference(tmp_path: Path, gold: made.ByLength, capsys) -> None:
    rows = made.preferences(12)
    rows.append(rows[0] | {"prompt": "Nothing was chosen", "chosen": []})
    task = UltraFeedback(
        path=made.write(tmp_path, train_prefs=rows, test_prefs=made.preferences(5, seed=1)), gold_model="anywhere"
    )
    prompts = task.prompts("test")
    assert len(prompts) == 5
    assert task.counts()["rows_unreadable"] == 1
    texts = ["Better!", "Worse", "?", "Good.", "A long answer."]
    assert task.are_correct(texts, prompts.answer.tolist()) == [True, False, False, False, True]
    assert task.are_correct([], []) == []
    np.testing.assert_array_equal(task.gold_reward(texts, prompts.answer.tolist()), [7, 5, np.nan, 5, 14])
    said = capsys.readouterr()
    for count in ("1 of 9 inputs of the gold model were longer", "1 of 9 scores of the gold model were not finite"):
        assert (said.out + said.err).count(count) == 1
    assert len(gold.asked) == 9  # five completions, one of which is its reference, and five references


def test_own_prompts_without_answers_are_judged_by_a_gold_model(tmp_path: Path, gold: made.ByLength) -> None:
    rows = [{"prompt": f"Say something about {name}.", "answer": None} for name in made.PLACES]
    rows[0]["answer"], rows[1]["answer"] = "A reference of some length.", "  "
    path = made.write(tmp_path, test=rows)
    task = Jsonl(path=path, compare="reward_model", gold_model="anywhere", gold_threshold=6, near_duplicate=None)
    prompts = task.prompts("test")
    answers = prompts.answer.tolist()
    assert len(answers) == len(made.PLACES)
    referred = [json.loads(answer)["reference"] is not None for answer in answers]
    assert sum(referred) == 1
    assert task.are_correct(["8 chars."] * 6, answers) == [not one for one in referred]
    assert task.are_correct(["6 char"] * 6, answers) == [False] * 6
    assert task.are_correct(["Longer than that reference is."] * 6, answers) == [True] * 6
    assert task.are_correct(["?"] * 6, answers) == [False] * 6
    assert task.gold_reward(["one", "three"], answers[:2]).tolist() == [3, 5]
    assert Jsonl(path=path).gold_reward is None
    assert [task.extract_answer("x"), task.path("x"), task.steps_are_true("x")] == [None, None, False]
    without = Jsonl(path=path, compare="reward_model", gold_model="anywhere", near_duplicate=None)
    assert len(without.prompts("test")) == 1
    assert without.counts()["rows_unreadable"] == 5
    assert without.judged_by != task.judged_by


def test_own_prompts_without_references_need_a_threshold(tmp_path: Path, gold: made.ByLength) -> None:
    path = made.write(tmp_path, test=[{"prompt": "Hello?"}, {"prompt": "How are you?"}])
    with pytest.raises(BenchError, match=r"has no field 'answer' with a reference .* task\.gold_threshold=NUMBER"):
        Jsonl(path=path, compare="reward_model", gold_model="x").prompts("test")
    assert len(Jsonl(path=path, compare="reward_model", gold_model="x", gold_threshold=0).prompts("test")) == 2


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"compare": "reward_model"}, r"task=jsonl has no verifier for these prompts: name .* task\.gold_model="),
        ({"compare": "text", "gold_model": "x"}, r"task\.gold_model=x has no part in task\.compare=text"),
        ({"compare": "tests", "gold_threshold": 0.0}, r"task\.gold_threshold=0\.0 has no part"),
        ({"compare": "tests", "answer_regex": "(a)"}, r"task\.answer_regex has no part in task\.compare=tests"),
    ],
)
def test_settings_of_another_way_of_comparing_are_refused(given_: dict, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        Jsonl(path="anywhere", **given_).prompts("train")


@pytest.mark.parametrize(
    ("settings_", "refused"),
    [
        (["scoring.model=A/b"], True),
        (["scoring.model=A/b", "scoring.revision=main", f"task.gold_revision={'a' * 40}"], True),
        (["scoring.model=A/b", f"scoring.revision={'b' * 40}", f"task.gold_revision={'a' * 40}"], False),
        (["scoring.model=A/c"], False),
    ],
)
def test_the_gold_model_is_refused_as_the_scorer(settings_: list[str], refused: bool) -> None:
    cfg = composed("task=ultrafeedback", "task.gold_model=A/b", "scoring=reward_model", *settings_)
    if refused:
        with pytest.raises(BenchError, match=r"scoring\.model=A/b is not allowed: it is task\.gold_model too"):
            checks.check(cfg)
    else:
        checks.check(cfg)


def test_the_gold_model_is_found_as_a_folder_and_inside_other_scorers(tmp_path: Path) -> None:
    asked = ["task=ultrafeedback", f"task.gold_model={tmp_path}", "scoring=combined", "+scoring.parts.own.weight=1"]
    reward = {"_target_": "bench.scoring.reward_model.reward_model", "_partial_": True, "revision": "x"}
    cfg = composed(*asked)
    with open_dict(cfg):
        cfg.scoring.parts.own.scorer = {**reward, "model": str(tmp_path / "..") + f"/{tmp_path.name}"}
    with pytest.raises(BenchError, match=r"scoring\.parts\.own\.scorer\.model=.* is task\.gold_model too"):
        checks.check(cfg)


def test_without_a_gold_model_preferences_are_refused() -> None:
    with pytest.raises(BenchError, match=r"task\.gold_model has no value"):
        checks.check(composed("task=ultrafeedback"))
    with pytest.raises(BenchError, match="has no verifier for these prompts: name the reward model"):
        UltraFeedback(path="anywhere").prompts("train")
    with pytest.raises(BenchError, match=r"^task\.gold_model=\./nowhere is not a folder"):
        UltraFeedback(path="anywhere", gold_model="./nowhere").prompts("train")
    with pytest.raises(
        BenchError, match=r"^task\.gold_model=nobody/nothing at revision main is not in the local cache"
    ):
        UltraFeedback(path="anywhere", gold_model="nobody/nothing").prompts("train")


def test_the_gold_model_itself_is_asked(random_policy: Policy, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(random_policy.path, num_labels=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "gold")
    AutoTokenizer.from_pretrained(random_policy.path).save_pretrained(tmp_path / "gold")
    task = UltraFeedback(path=made.write(tmp_path, test_prefs=made.preferences(4)), gold_model=str(tmp_path / "gold"))
    prompts = task.prompts("test")
    scorer = gold_model._scorer(task.gold_model, "main", "auto")
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


class Picky:
    """A generator that fails on what is no number, as prime_factorization does."""

    def __getitem__(self, index: int) -> dict:
        return {"answer": "6"}

    def score_answer(self, answer: str, entry: dict) -> float:
        return float(int(answer) == int(entry["answer"]))


def test_an_answer_on_which_a_generator_fails_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "_generated", lambda *_: Picky())
    task = ReasoningGym(generator="leg_counting")
    answers = [json.dumps({"split": "test", "index": 0, "answer": "6"})] * 3
    assert task.are_correct(["Answer: 6", "Answer: six", "Answer: 7"], answers) == [True, False, False]


def test_reasoning_gym_missing_is_said_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match="add the extra `reasoning`"):
        ReasoningGym(generator="leg_counting").prompts("train")
    with pytest.raises(BenchError, match=r"task\.path does not apply"):
        ReasoningGym(generator="leg_counting", path="somewhere").prompts("train")
