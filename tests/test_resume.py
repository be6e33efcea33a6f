"""A training that is killed goes on from its last whole checkpoint and ends as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from drawing import generate

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.store import Store, using
from bench.training import checkpoints
from bench.training.lora import Lora
from bench.training.sft import fine_tune, training_log

SETTINGS = {"epochs": 4, "batch_size": 2, "seed": 0, "warmup": 0.2}
CELLS = Selection(np.arange(7), np.zeros(7, int), np.ones(7))
DROPPING = Lora(r=2, alpha=2, dropout=0.2, target_modules="all-linear", four_bit=False)  # draws from a generator
COLUMNS = ("text", "token_ids", "finish_reason", "logprob", "policy_logprob")


def train_and_die(store: Path, arguments: tuple, settings: dict[str, Any], updates: int) -> None:
    """Train, and kill the process while it writes the checkpoint after so many updates."""
    seal = checkpoints.seal

    def die_while_writing(checkpoint, log, tokens):
        if len(log) == updates:
            os.kill(os.getpid(), signal.SIGKILL)
        seal(checkpoint, log, tokens)

    checkpoints.seal = die_while_writing
    with using(Store(store)):
        fine_tune(*arguments, **settings)


@pytest.mark.parametrize("lora", [None, DROPPING])
def test_after_kill_9_the_result_is_the_same_to_the_last_bit(
    lora, random_policy: Policy, few_prompts: Prompts, store: Store, tmp_path: Path
):
    pool = generate(few_prompts, random_policy, num_completions=1)
    pool = Completions(*(np.asarray(getattr(pool, name)) for name in COLUMNS), key=pool.key)
    arguments = (random_policy, few_prompts, pool, CELLS)
    settings = {**SETTINGS, "lora": lora, "checkpoint_every": 3}
    assert forked.call(train_and_die, tmp_path / "store", arguments, settings, 9) == -signal.SIGKILL
    with using(Store(tmp_path / "store")):
        left = next((tmp_path / "store" / "sft").glob("*.checkpoints"))
        assert {path.name for path in left.iterdir()} >= {"checkpoint-6", "checkpoint-9"}  # the latter not sealed
        resumed = fine_tune(*arguments, **settings)
        assert not left.exists()
    with using(Store(tmp_path / "whole")) as whole:
        uninterrupted = fine_tune(*arguments, **{**settings, "checkpoint_every": None})
    assert training_log(resumed) == training_log(uninterrupted)
    assert len(training_log(resumed)) == 16
    assert resumed.fingerprint == uninterrupted.fingerprint
    with using(Store(tmp_path / "store")) as found:
        fine_tune(*arguments, **settings)
    assert found.uses[0].reused
    assert found.uses[0].counts == whole.uses[0].counts


def test_it_begins_at_the_checkpoint_and_not_anew(random_policy, few_prompts, store, monkeypatch):
    pool = generate(few_prompts, random_policy, num_completions=1)
    sealed = []

    def stop_at_the_second(checkpoint, log, tokens):
        if len(sealed) == 1:
            raise KeyboardInterrupt
        seal(checkpoint, log, tokens)
        sealed.append(len(log))

    seal = checkpoints.seal
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "seal", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(random_policy, few_prompts, pool, CELLS, **SETTINGS, checkpoint_every=5)
    monkeypatch.setattr(checkpoints, "seal", lambda *given: (sealed.append(len(given[1])), seal(*given)))
    fine_tune(random_policy, few_prompts, pool, CELLS, **SETTINGS, checkpoint_every=5)
    assert sealed == [5, 10, 15, 16]  # the first call: 5; the second went on with 6


def test_only_sealed_checkpoints_count_and_the_latest_of_them(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert checkpoints.last(tmp_path / "nothing") is None
    for step in (9, 10):
        checkpoints.seal(tmp_path / f"checkpoint-{step}", [{"step": step}], step)
    found = checkpoints.last(tmp_path)
    assert found == checkpoints.Checkpoint(tmp_path / "checkpoint-10", [{"step": 10}], 10)
    assert not (tmp_path / "checkpoint-100").exists()
