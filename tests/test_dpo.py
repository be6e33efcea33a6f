"""Preference tuning: the loss and updates of its formula, on tokens as they were drawn, the same way every time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawing import generate, nll
from sharing import Finished
from torch.nn.functional import logsigmoid

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.errors import BenchError
from bench.models import chat, loading
from bench.records.read import read_run
from bench.store import Store, using
from bench.training.dpo import preference_tune
from bench.training.lora import Lora
from bench.training.sft import training_log

PAIRS = Selection(np.array([0, 1, 3, 4, 6]), np.array([0, 1, 2, 3, 0]), np.ones(5), np.array([1, 0, 3, 2, 2]))
STEADY = {"scheduler": "constant", "warmup": 0.0, "seed": 0}
ADAPTER = Lora(r=2, alpha=4, dropout=0.0, target_modules="all-linear", four_bit=False)


@pytest.fixture
def pool(few_prompts: Prompts, stopping_policy: Policy, store: Store) -> Completions:
    """Four completions per prompt, some of which end in EOS and some are truncated."""
    drawn = generate(few_prompts, stopping_policy)
    assert set(drawn.finish_reason.ravel().tolist()) == {"stop", "length"}
    return drawn


@pytest.fixture
def trained(tmp_path: Path, stopping_policy: Policy, few_prompts: Prompts, pool: Completions) -> Callable[..., tuple]:
    """preference_tune in a store of its own, so that nothing is found ready; the policy and the counts."""
    stores = iter(range(100))

    def call(pairs: Selection = PAIRS, policy: Policy = stopping_policy, **settings) -> tuple[Policy, dict]:
        with using(Store(tmp_path / f"store{next(stores)}")) as store:
            tuned = preference_tune(policy, few_prompts, pool, pairs, **{**STEADY, **settings})
        assert [use.stage for use in store.uses] == ["dpo"]
        return tuned, store.uses[0].counts

    return call


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loading.load_model(policy).state_dict().items()}


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_first_updates_are_those_written_out_by_hand(trained, stopping_policy, few_prompts, pool, micro_batch_size):
    """Full-batch AdamW on the mean of equation 7 over five pairs, with clipping, by plain forwards on single rows."""
    beta, updates, rate = 0.3, 3, 1e-3
    ours, _ = trained(
        beta=beta,
        epochs=updates,
        batch_size=6,
        micro_batch_size=micro_batch_size,
        learning_rate=rate,
        max_grad_norm=1.0,
    )
    tokenizer = loading.load_tokenizer(stopping_policy)
    model, reference = loading.load_model(stopping_policy), loading.load_model(stopping_policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    expected = []
    for _ in range(updates):
        margins = []
        for row, better, worse in zip(PAIRS.row, PAIRS.column, PAIRS.rejected, strict=True):
            prompt = chat.encode(tokenizer, few_prompts.messages[row])
            sides = [pool.token_ids[row, column].tolist() for column in (better, worse)]
            with torch.no_grad():
                before = [-nll(reference, prompt, completion) for completion in sides]
            now = [-nll(model, prompt, completion) for completion in sides]
            margins.append(beta * ((now[0] - before[0]) - (now[1] - before[1])))
        margin = torch.stack(margins)
        loss = -logsigmoid(margin).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        right = float((margin > 0).float().mean())
        expected.append({"loss": loss.item(), "norm": norm, "margin": margin.mean().item(), "right": right})

    log = training_log(ours)
    assert [entry["loss"] for entry in log] == pytest.approx([each["loss"] for each in expected], rel=1e-4)
    assert [entry["grad_norm"] for entry in log] == pytest.approx([each["norm"] for each in expected], rel=1e-3)
    found = [entry["rewards/margins"] for entry in log]
    assert found == pytest.approx([each["margin"] for each in expected], rel=1e-3, abs=1e-5)
    accuracies = [entry["rewards/accuracies"] for entry in log]
    assert accuracies[1:] == pytest.approx([each["right"] for each in expected][1:])
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)  # the policy is the reference
    assert log[-1]["loss"] < 0.9 * np.log(2)
    by_hand, start = model.state_dict(), weights(stopping_policy)
    apart = max(float((value - by_hand[name]).abs().mean()) for name, value in weights(ours).items())
    moved = max(float((value - start[name]).abs().max()) for name, value in by_hand.items())
    assert moved > 1e-3
    assert apart < 1e-5


def test_beta_scales_the_implicit_reward(trained):
    weak, strong = (training_log(trained(beta=beta, epochs=2, batch_size=8)[0]) for beta in (0.1, 1.0))
    assert strong[0]["grad_norm"] == pytest.approx(10 * weak[0]["grad_norm"], rel=1e-3)  # sigmoid(0) beta grad log pi
    assert strong[1]["rewards/margins"] > 2 * weak[1]["rewards/margins"] > 0


def test_the_model_reads_tokens_as_they_were_drawn(trained, stopping_policy, few_prompts, pool, monkeypatch):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    collate = DataCollatorForPreference.torch_call

    def spy(self, examples):
        batch = collate(self, examples)
        for ids, learnt, real in zip(
            batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True
        ):
            prompt = ids[(learnt == 0) & (real == 1)].tolist()
            seen.append((tuple(prompt), tuple(ids[learnt == 1].tolist())))
        return batch

    monkeypatch.setattr(DataCollatorForPreference, "torch_call", spy)
    _, counts = trained(epochs=2, batch_size=2)
    tokenizer = loading.load_tokenizer(stopping_policy)
    expected = [
        (tuple(chat.encode(tokenizer, few_prompts.messages[row])), tuple(pool.token_ids[row, column].tolist()))
        for columns in (PAIRS.column, PAIRS.rejected)
        for row, column in zip(PAIRS.row, columns, strict=True)
    ]
    assert sorted(seen) == sorted(3 * expected)  # by the reference once, in two epochs twice
    read = sum(len(prompt) + len(completion) for prompt, completion in expected)
    parameters = sum(weight.numel() for weight in loading.load_model(stopping_policy).parameters())
    assert counts == {
        "pairs": 5,
        "train_tokens": 2 * read,
        "reference_tokens": read,
        "train_flops": (6 * 2 + 2) * parameters * read,
        "steps": 6,
    }


def test_a_finished_completion_without_its_eos_is_refused(stopping_policy, few_prompts, pool, store):
    cut = pool.finish_reason == "length"
    row = int(np.flatnonzero(cut.any(axis=1) & ~cut.all(axis=1))[0])
    finished, truncated = int((~cut[row]).argmax()), int(cut[row].argmax())
    reasons = np.full(pool.shape, "stop")
    wrong = Completions(pool.text, pool.token_ids, reasons, pool.logprob, pool.policy_logprob, "wrong")
    for better, worse in ((finished, truncated), (truncated, finished)):
        pairs = Selection(np.array([row]), np.array([better]), np.ones(1), np.array([worse]))
        with pytest.raises(ValueError, match="must end in the EOS"):
            preference_tune(stopping_policy, few_prompts, wrong, pairs, seed=0)


@pytest.mark.parametrize("how", [{}, {"lora": ADAPTER}])
def test_the_same_twice_bit_for_bit_and_another_seed_another_order(trained, how, capfd):
    first, again, other = (trained(batch_size=2, seed=seed, **how)[0] for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert training_log(first) == training_log(again)
    assert first.fingerprint != other.fingerprint
    assert capfd.readouterr() == ("", "")  # silent away from a terminal
    assert {file.suffix for file in first.path.iterdir()} == {".json", ".safetensors"}
    assert not [file for file in first.path.iterdir() if file.is_dir()]  # no copy of the reference


def test_exactly_so_many_updates_are_made(trained):
    """Whole passes over the pairs are those of as many epochs; else the last one is cut short."""
    by_epochs, counted = trained(epochs=3, batch_size=5)
    by_updates, counts = trained(epochs=None, updates=3, batch_size=5)
    assert counts == counted
    assert counts["steps"] == 3
    for name, value in weights(by_epochs).items():
        assert torch.equal(value, weights(by_updates)[name]), name
    cut, counts = trained(epochs=None, updates=7, batch_size=2)
    assert counts["steps"] == len(training_log(cut)) == 7  # 3 updates read the 5 pairs once
    assert training_log(cut)[-1]["epoch"] == pytest.approx(7 / 3)
    assert 2 * counted["train_tokens"] < 3 * counts["train_tokens"] < 3 * counted["train_tokens"]


def test_an_adapter_starts_from_the_policy_and_continues_from_one(trained, stopping_policy):
    """Whatever the start is, it is the reference: the first loss is log 2."""
    one, _ = trained(lora=ADAPTER, epochs=2, batch_size=8, learning_rate=1e-2)
    two, _ = trained(policy=one, lora=ADAPTER, epochs=2, batch_size=8, learning_rate=1e-2)
    whole, _ = trained(policy=one, epochs=2, batch_size=8)
    for policy in (one, two, whole):
        log = training_log(policy)
        assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
        assert log[1]["loss"] < log[0]["loss"] - 1e-3
    assert loading.base_of(two).path == loading.base_of(one).path == stopping_policy.path
    assert loading.base_of(whole) == whole


def test_equal_pairs_share_one_training_and_beta_is_in_its_key(stopping_policy, few_prompts, pool, store):
    given = (stopping_policy, few_prompts, pool)
    first = preference_tune(*given, PAIRS, **STEADY, epochs=1)
    again = preference_tune(*given, PAIRS, **STEADY, epochs=1, micro_batch_size=4)
    swapped = Selection(PAIRS.row, PAIRS.rejected, PAIRS.weight, PAIRS.column)
    others = [preference_tune(*given, PAIRS, **STEADY, epochs=1, beta=0.2)]
    others += [preference_tune(*given, swapped, **STEADY, epochs=1)]
    assert first == again
    assert len({policy.fingerprint for policy in [first, *others]}) == 3
    made = [use for use in store.uses if use.stage == "dpo"]
    assert [use.reused for use in made] == [False, True, False, False]
    assert set(made[0].settings) == {
        *("beta", "epochs", "learning_rate", "batch_size", "scheduler", "warmup", "weight_decay", "max_grad_norm"),
        "seed",
    }


def test_what_can_not_be_trained_on_is_said_and_leaves_nothing(stopping_policy, few_prompts, pool, store):
    given = (stopping_policy, few_prompts, pool)
    none = Selection(*(np.array([], kind) for kind in (int, int, float, int)))
    with pytest.raises(BenchError, match=r"No prompt gives a pair to train on: .* is kept in the store\."):
        preference_tune(*given, none, seed=0)
    with pytest.raises(BenchError, match=r"training\.learning_rate=1e\+30 let the training diverge"):
        preference_tune(*given, PAIRS, seed=0, learning_rate=1e30, batch_size=1)
    with pytest.raises(ValueError, match=r"selection\.rejected is None"):
        preference_tune(*given, Selection(PAIRS.row, PAIRS.column, PAIRS.weight), seed=0)
    with pytest.raises(ValueError, match=r"selection\.weight must be 1"):
        preference_tune(*given, replace(PAIRS, weight=np.array([1, 1, 2, 1, 1.0])), seed=0)
    assert not list(store.root.glob("dpo/*"))
    assert list(store.root.glob("generate/*"))


@pytest.fixture(scope="module")
def runs(finished_run: Callable[..., Finished]) -> dict[str, Finished]:
    """One round, and two from the current policy."""
    given = ("training=dpo", "pairs=right_wrong", "training.epochs=1", "training.learning_rate=1e-3")
    iterated = ("procedure=rounds", "procedure.rounds=2", "procedure.start=current")
    return {
        "single": finished_run("name=dpo", *given),
        "rounds": finished_run("name=iterated_dpo", *given, *iterated, "control=none"),
    }


def test_a_run_records_its_pairs_and_what_they_cost(runs):
    run = read_run(runs["single"].folder)
    pairs = pq.read_table(run.folder / "selection_tuned.parquet").to_pandas()
    control = pq.read_table(run.folder / "selection_control.parquet").to_pandas()
    assert set(pairs) == {"prompt_id", "sample", "weight", "rejected", "rejected_reward", "reward"}
    assert (pairs["reward"] > pairs["rejected_reward"]).all()
    assert control["prompt_id"].tolist() == pairs["prompt_id"].tolist()
    assert (control["sample"] != control["rejected"]).all()
    metrics = run.metrics
    assert metrics["selection/kept"] == metrics["selection/prompts_covered"] == len(pairs)
    assert metrics["selection/prompts_without_pair"] == 40 - len(pairs)
    assert 0 <= metrics["train/reward_accuracy"] <= 1
    assert metrics["tuned/kl"] > 0
    assert (run.folder / "frontier.png").is_file()
    trained = [entry for entry in run.lineage if entry["stage"] == "dpo"]
    assert len(trained) == 2
    assert metrics["cost/train_tokens"] >= sum(entry["counts"]["train_tokens"] for entry in trained)
    assert "tuned: right_wrong" in runs["single"].out


def test_rounds_of_preference_tuning_count_pairs_of_all_rounds(runs):
    folder = runs["rounds"].folder
    metrics = json.loads((folder / "metrics.json").read_text())
    last = pq.read_table(folder / "selection_tuned.parquet").to_pandas()
    assert metrics["round_2/kept"] == metrics["round_1/selected"] + metrics["round_2/selected"] == len(last)
    assert (last["round"] == last["rejected_round"]).all()
    assert set(last["round"]) == {1, 2}
    assert last["rejected"].max() < 4
