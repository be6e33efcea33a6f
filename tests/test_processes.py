"""Two processes that share a training make the updates that one makes, and say what went wrong in either."""

from collections.abc import Callable

import fsdp_on_cpu
import numpy as np
import pytest
import torch
from drawing import generate

from bench import policies, processes
from bench.artifacts import Policy, Selection
from bench.errors import BenchError
from bench.store import Store, using
from bench.training import sft
from bench.training.sft import fine_tune, training_log

# Seven rows in batches of four: the last update of an epoch is no full one, and accelerate fills it up.
CELLS = Selection(np.arange(7), np.array([0, 1, 0, 1, 0, 1, 0]), np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0]))
SETTINGS = {"epochs": 2, "batch_size": 4, "micro_batch_size": 1, "scheduler": "constant", "warmup": 0.0, "seed": 0}


@pytest.fixture
def tune(few_prompts, stopping_policy, store, tmp_path) -> Callable[..., tuple[Policy, dict[str, float]]]:
    """In a store of its own, so that nothing is found ready; the policy and the counts."""
    pool = generate(few_prompts, stopping_policy, num_completions=2)
    stores = iter(range(100))

    def call(**settings) -> tuple[Policy, dict[str, float]]:
        with using(Store(tmp_path / f"store{next(stores)}")) as own:
            policy = fine_tune(stopping_policy, few_prompts, pool, CELLS, **{**SETTINGS, **settings})
        return policy, own.uses[0].counts

    return call


def same_training(ours: Policy, theirs: Policy) -> None:
    for name in ("loss", "grad_norm"):
        values = [[update[name] for update in training_log(policy)] for policy in (ours, theirs)]
        assert len(set(values[0])) == 4
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    state = policies.load_model(theirs).state_dict()
    for name, weight in policies.load_model(ours).state_dict().items():
        assert float((weight - state[name]).abs().mean()) < 1e-6


def test_two_processes_make_the_updates_of_one(tune):
    (ours, counts), (theirs, expected) = tune(processes=2), tune()
    same_training(ours, theirs)
    assert counts == expected
    assert {path.suffix for path in ours.path.iterdir()} == {".json", ".safetensors"}


def test_sharded_weights_make_the_updates_of_whole_ones(tune, monkeypatch):
    monkeypatch.setattr(sft, "_fit", fsdp_on_cpu.shard_and_fit)
    ours, counts = tune(processes=2, fsdp=True)
    assert counts["sharded"] == 1.0
    monkeypatch.undo()
    theirs, expected = tune()
    same_training(ours, theirs)
    assert {name: counts[name] for name in expected} == expected


def test_a_mistake_of_a_process_is_told_by_its_own_sentence(tune):
    with pytest.raises(BenchError, match=r"^training\.learning_rate=1e\+30 let the training diverge"):
        tune(processes=2, learning_rate=1e30)


def test_a_process_that_ends_by_itself_is_told(tmp_path):
    with pytest.raises(BenchError, match=r"training\.processes=2: a process ended by itself: .*ZeroDivisionError"):
        processes.call("training.processes=2", 2, tmp_path, divmod, 1, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"processes": 3}, r"training\.processes=3 is not allowed.*training\.batch_size=4"),
        ({"processes": 4, "micro_batch_size": 2}, r"training\.processes=4 is not allowed.*micro_batch_size=2"),
        ({"processes": 2, "fsdp": True, "checkpoint_every": 1}, r"training\.checkpoint_every=1 is not allowed with"),
        ({"fsdp": True}, r"training\.fsdp=true needs training\.processes of 2 or more"),
    ],
)
def test_shares_that_do_not_come_out_are_refused(tune, settings, complaint):
    with pytest.raises(BenchError, match=complaint):
        tune(**settings)


def test_each_process_needs_a_gpu_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        BenchError, match=r"training\.processes=2 is not allowed: each process needs a GPU, and 1 are visible"
    ):
        processes.call("training.processes=2", 2, tmp_path, divmod, 1, 1)
