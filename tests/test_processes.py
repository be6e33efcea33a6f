"""Two processes that share a training make the updates that one makes, and say what went wrong in either."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsdp_on_cpu
import numpy as np
import pytest
import torch
from drawing import generate
from safetensors.torch import load_file

from bench.artifacts import Policy, Selection
from bench.errors import BenchError
from bench.store import Store, using
from bench.training import checkpoints, processes, sft
from bench.training.checkpoints import kept
from bench.training.lora import Lora
from bench.training.sft import fine_tune, training_log

# Seven rows in batches of four: the last update of an epoch is no full one, and accelerate fills it up.
CELLS = Selection(np.arange(7), np.array([0, 1, 0, 1, 0, 1, 0]), np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0]))
SETTINGS = {"epochs": 2, "batch_size": 4, "micro_batch_size": 1, "scheduler": "constant", "warmup": 0.0, "seed": 0}
ADAPTER = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear", four_bit=False)


@pytest.fixture
def tune(few_prompts, stopping_policy, store, tmp_path) -> Callable[..., tuple[Policy, dict[str, float]]]:
    """In a store of its own, so that nothing is found ready; the policy and the counts."""
    pool = generate(few_prompts, stopping_policy, num_completions=2)
    stores = iter(range(100))

    def call(name: str = "", **settings) -> tuple[Policy, dict[str, float]]:
        with using(Store(tmp_path / (name or f"store{next(stores)}"))) as own:
            policy = fine_tune(stopping_policy, few_prompts, pool, CELLS, **{**SETTINGS, **settings})
        return policy, own.uses[0].counts

    return call


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes are forks of one that has imported what a training needs, in place of torch.distributed.run's."""
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(run=fsdp_on_cpu.run_in_forks))


def same_training(ours: Policy, theirs: Policy) -> None:
    for name in ("loss", "grad_norm"):
        values = [[update[name] for update in training_log(policy)] for policy in (ours, theirs)]
        assert len(set(values[0])) == 4
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert list(kept(ours)) == list(kept(theirs)) == [2]
    for mine, other in ((ours, theirs), (kept(ours)[2], kept(theirs)[2])):
        assert {path.suffix for path in mine.path.glob("*.*")} == {".json", ".safetensors"}
        state = weights(other)
        for name, weight in weights(mine).items():
            assert float((weight - state[name]).abs().mean()) < 1e-6


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it is true; within two minutes."""
    end = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    """As they are stored: an adapter's own."""
    (path,) = policy.path.glob("*.safetensors")
    return load_file(path)


def test_two_processes_make_the_updates_of_one(tune):
    (ours, counts), (theirs, expected) = tune(processes=2, keep_every=2, packing=True), tune(keep_every=2)
    same_training(ours, theirs)
    assert counts == expected


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize(("fsdp", "lora"), [(False, ADAPTER), (True, None), (True, ADAPTER)])
def test_two_processes_one_of_them_killed_make_the_updates_of_one(tune, fsdp, lora, monkeypatch, tmp_path):
    """With whole or sharded weights; the second try goes on in the middle of an epoch."""
    alike = {"lora": lora, "keep_every": 2}
    ways = {**alike, "processes": 2, "fsdp": fsdp, "packing": fsdp, "checkpoint_every": fsdp_on_cpu.LAST_SEALED}
    monkeypatch.setattr(sft, "_fit", fsdp_on_cpu.shard_and_die if fsdp else fsdp_on_cpu.fit_and_die)
    with pytest.raises(BenchError, match="a process ended by itself"):
        tune("killed", **ways)
    (left,) = (tmp_path / "killed" / "sft").glob("*.checkpoints")
    (sealed,) = [path.parent for path in left.rglob(checkpoints.MEASURED)]
    assert sealed == left / ("sharded" if fsdp else "") / f"checkpoint-{fsdp_on_cpu.LAST_SEALED}"
    before = {path.name: path.stat().st_ino for path in (left / "after-2-updates").iterdir()}
    monkeypatch.setattr(sft, "_fit", fsdp_on_cpu.shard_and_fit if fsdp else fsdp_on_cpu.fit)
    ours, counts = tune("killed", **ways)
    assert counts["went_on_after"] == fsdp_on_cpu.LAST_SEALED
    assert counts.get("sharded", 0.0) == float(fsdp)
    assert not left.exists()
    assert {path.name: path.stat().st_ino for path in kept(ours)[2].path.iterdir()} == before  # not made again
    monkeypatch.undo()
    theirs, expected = tune(**alike)
    same_training(ours, theirs)
    assert {name: counts[name] for name in expected} == expected


@pytest.mark.usefixtures("forks")
def test_a_mistake_of_a_process_is_told_by_its_own_sentence(tune):
    with pytest.raises(BenchError, match=r"^training\.learning_rate=1e\+30 let the training diverge"):
        tune(processes=2, learning_rate=1e30)


def test_none_outlives_the_one_that_waits_for_them(tmp_path):
    """Killed, it can't tell them to stop, and they would write where the next try writes."""
    sleep = f"import os, time; open(f'{tmp_path}/pid.{{os.getpid()}}', 'w'); time.sleep(600)"
    waits = (
        "import pathlib, sys; from bench.training import processes;"
        "processes.call('', 2, pathlib.Path(sys.argv[1]), exec, sys.argv[2])"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", waits, str(tmp_path), sleep],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pids = until(
        lambda: [int(path.suffix[1:]) for path in files] if len(files := [*tmp_path.glob("pid.*")]) == 2 else []
    )
    caller.kill()
    caller.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_process_that_ends_by_itself_is_told(tmp_path):
    with pytest.raises(BenchError, match=r"training\.processes=2: a process ended by itself: .*ZeroDivisionError"):
        processes.call("training.processes=2", 2, tmp_path, divmod, 1, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"processes": 3}, r"training\.processes=3 is not allowed.*training\.batch_size=4"),
        ({"processes": 4, "micro_batch_size": 2}, r"training\.processes=4 is not allowed.*micro_batch_size=2"),
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
