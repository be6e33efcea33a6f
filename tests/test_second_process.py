"""The second process of an experiment: equal numbers, truthful costs, and no harm where either process ends early."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from omegaconf import DictConfig, OmegaConf
from sharing import SMALL, Finished, Shared, composed, given_by, places

from bench.artifacts import Policy
from bench.launching import second
from bench.launching.runner import run_experiment
from bench.store import Address, Store, walk

BOOKKEEPING = ("cost/seconds", "saved/")  # what may differ between two runs of one configuration
STARTING = """
import json, sys, time
from omegaconf import OmegaConf
from bench.launching import second
second.is_of_use = lambda cfg, completions: True
with second.second_process(OmegaConf.create(json.loads(sys.argv[1]))) as process:
    process.completions = 1
    process.start()
    print(process.process.pid, flush=True)
    time.sleep(300)
"""
FULL = ["num_completions=16", "baseline_completions=64"]
FEW = ["task.train_prompts=20", "task.test_prompts=8", "control=none"]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is of use to small experiments too."""
    monkeypatch.setattr(second, "LEAST_COMPLETIONS", 1)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)


@pytest.fixture
def alone(finished_run: Callable[..., Finished]) -> Path:
    return finished_run(*FEW).folder


@pytest.fixture
def cfg(tiny_policy: Policy, tmp_path: Path) -> DictConfig:
    """The same experiment, in a store of its own."""
    return composed(*given_by(tiny_policy), *SMALL, *places(tmp_path), *FEW)


def numbers(folder: Path) -> dict:
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith(BOOKKEEPING)}


def test_the_numbers_are_those_of_one_process(alone, cfg, two_cores, tmp_path, capsys, monkeypatch) -> None:
    started = second.SecondProcess.start

    def start_and_wait(process: second.SecondProcess) -> None:  # else a small experiment ends before it has begun
        started(process)
        while process.process is not None and process.process.poll() is None and not process.made():
            time.sleep(0.02)

    monkeypatch.setattr(second.SecondProcess, "start", start_and_wait)
    folder = run_experiment(cfg)
    said = capsys.readouterr().err
    assert numbers(folder) == numbers(alone)
    for name in ("per_prompt.parquet", "curves.parquet"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes()
    theirs, ours = (json.loads((run / "lineage.json").read_text()) for run in (alone, folder))
    assert [entry["key"] for entry in ours] == [entry["key"] for entry in theirs]
    assert not any(entry["reused"] for entry in ours)  # neither process found anything that was there before
    assert "s beside it in a second process: " in said
    assert "ended early" not in said
    assert not [path for path, whole in walk(tmp_path / "store") if not whole]


@pytest.mark.parametrize("end", ["killed", "disk full"])
def test_a_second_process_that_ends_early_costs_nothing(
    end, alone, cfg, two_cores, tmp_path, capsys, monkeypatch
) -> None:
    started = second.SecondProcess.start
    (tmp_path / "said").touch()
    files = iter([Path("/dev/full"), tmp_path / "said"])

    def start_and_end(process: second.SecondProcess) -> None:
        started(process)
        if process.process is not None:
            if end == "killed":
                process.process.kill()
            process.process.wait()

    if end == "disk full":
        monkeypatch.setattr(second.tempfile, "TemporaryFile", lambda: next(files).open("r+b", buffering=0))
    monkeypatch.setattr(second.SecondProcess, "start", start_and_end)
    folder = run_experiment(cfg)
    assert numbers(folder) == numbers(alone)
    said = capsys.readouterr().err
    assert "the second process of this run ended early, and its work was done here" in said
    assert end == "killed" or "No space left on device" in said


def test_one_that_can_not_start_is_said(two_cores, capsys, monkeypatch) -> None:
    def refuse(*given, **settings):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(second.subprocess, "Popen", refuse)
    with second.second_process(composed()) as process:
        process.completions = 1
        process.start()
        assert process.made() == set()
    assert "this run can't start (Cannot allocate memory), so its work is done here" in capsys.readouterr().err


def test_a_run_that_is_killed_leaves_no_process_and_no_file(tiny_policy: Policy, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    settings = OmegaConf.to_container(composed(*given_by(tiny_policy), *FULL, *places(tmp_path)), resolve=True)
    run = subprocess.Popen(
        [sys.executable, "-c", STARTING, json.dumps(settings)],
        env=os.environ | {"TMPDIR": str(temporary)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    process = Path("/proc", run.stdout.readline().strip())
    assert process.is_dir()
    run.kill()
    run.wait()
    deadline = time.monotonic() + 300
    while process.is_dir() and (process / "stat").read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not process.is_dir() or (process / "stat").read_text().split()[2] == "Z"
    assert list(temporary.iterdir()) == []


def test_it_ends_where_the_experiment_ends(tiny_policy: Policy, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "bench.launching.second"], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    settings = OmegaConf.to_container(composed(*given_by(tiny_policy), *FULL, *places(tmp_path)), resolve=True)
    process.stdin.write(json.dumps(settings) + "\n")
    process.stdin.close()
    assert process.wait(timeout=300) == 1


def test_nothing_is_started_where_nothing_is_made(alone, cfg, two_cores, shared: Shared, monkeypatch) -> None:
    monkeypatch.setattr(second.subprocess, "Popen", lambda *given, **settings: pytest.fail("a process was started"))
    cfg.store = str(shared.root / "store")  # of the run that has ended
    folder = run_experiment(cfg)
    assert folder.name == alone.name
    assert numbers(folder) == numbers(alone)


@pytest.mark.parametrize(
    ("settings", "cores", "expected"),
    [
        ([], 2, True),
        ([], 1, False),
        (["threads=2"], 3, False),
        (["threads=2"], 4, True),
        (["threads=0"], 8, False),
        (["generation=vllm"], 2, False),
        (["generation=ray"], 2, False),
        (["selection._target_=own_parts.longest_correct"], 2, False),
    ],
)
def test_it_is_started_where_it_is_of_use(settings, cores, expected, monkeypatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    cfg = composed(*settings)
    assert second.is_of_use(cfg, completions=39_300) is expected
    assert not second.is_of_use(cfg, completions=2_000)


def test_a_limit_that_is_no_number_starts_nothing(monkeypatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "many")
    assert not second.is_of_use(composed(), completions=39_300)


def test_a_store_says_what_it_is_about_to_make(tmp_path: Path) -> None:
    calls: list[int] = []
    store = Store(tmp_path, before_making=lambda: calls.append(1))
    place = Address("stage", 1, {}, {})
    for _ in range(2):
        store.make(place, lambda folder: {}, Path)
    assert calls == [1]
