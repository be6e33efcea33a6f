"""The second process of an experiment: equal numbers, truthful costs, and no harm where either process ends early."""

import json
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
from omegaconf import OmegaConf
from sharing import SMALL, composed, given_by, places

from bench.artifacts import Policy
from bench.launching import second
from bench.launching.runner import run_experiment
from bench.store import Address, Store, walk

BOOKKEEPING = ("cost/seconds", "saved/")  # what may differ between two runs of one configuration
FULL = ["num_completions=16", "baseline_completions=64"]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is of use to small experiments too."""
    monkeypatch.setattr(second, "LEAST_COMPLETIONS", 1)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)


@pytest.fixture(scope="module")
def alone(tiny_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_experiment(composed(*given_by(tiny_policy), *SMALL, *places(tmp_path_factory.mktemp("alone"))))


def numbers(folder: Path) -> dict:
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith(BOOKKEEPING)}


def test_the_numbers_are_those_of_one_process(alone, two_cores, tiny_policy, tmp_path, capsys, monkeypatch) -> None:
    started = second.SecondProcess.start

    def start_and_wait(process: second.SecondProcess) -> None:  # else a small experiment ends before it has begun
        started(process)
        while process.process is not None and process.process.poll() is None and not process.made():
            time.sleep(0.02)

    monkeypatch.setattr(second.SecondProcess, "start", start_and_wait)
    folder = run_experiment(composed(*given_by(tiny_policy), *SMALL, *places(tmp_path)))
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


def test_a_second_process_that_is_killed_costs_nothing(
    alone, two_cores, tiny_policy, tmp_path, capsys, monkeypatch
) -> None:
    started = second.SecondProcess.start

    def start_and_kill(process: second.SecondProcess) -> None:
        started(process)
        assert process.process is not None
        process.process.kill()
        process.process.wait()

    monkeypatch.setattr(second.SecondProcess, "start", start_and_kill)
    folder = run_experiment(composed(*given_by(tiny_policy), *SMALL, *places(tmp_path)))
    assert numbers(folder) == numbers(alone)
    said = capsys.readouterr().err
    assert "the second process of this run ended early, and its work was done here" in said


def test_it_ends_where_the_experiment_ends(tiny_policy: Policy, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "bench.launching.second"], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    settings = OmegaConf.to_container(composed(*given_by(tiny_policy), *FULL, *places(tmp_path)), resolve=True)
    process.stdin.write(json.dumps(settings) + "\n")
    process.stdin.close()
    assert process.wait(timeout=300) == 1


def test_nothing_is_started_where_nothing_is_made(alone, two_cores, tiny_policy, monkeypatch) -> None:
    monkeypatch.setattr(second.subprocess, "Popen", lambda *given, **settings: pytest.fail("a process was started"))
    folder = run_experiment(composed(*given_by(tiny_policy), *SMALL, *places(alone.parents[2])))
    assert folder == alone


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
    assert second.is_of_use(composed(*settings), completions=39_300) is expected
    assert not second.is_of_use(composed(*settings), completions=2_000)


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
