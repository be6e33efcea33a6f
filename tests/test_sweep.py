"""Sweeps: listed and refused before they run, priced, survived, shared, resumed."""

import gc
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import forked
import pytest
from sharing import Shared, composed, given_by, places, replaced

from bench import status
from bench.config.compose import CONF
from bench.errors import BenchError
from bench.launching import runner
from bench.sweeps import cells
from bench.sweeps.plan import workload

SMALL = [
    "task.train_prompts=12",
    "task.test_prompts=6",
    "policy.steps=4",
    "policy.demonstrations=400",
    "num_completions=2,4",
    "baseline_completions=4",
    "prompt_filter=all",  # this policy is never right
    "training.epochs=1",
    "evaluation.num_completions=2",
    "evaluation.temperatures=null",
    "evaluation.lm_eval=false",
    "generation.shard_size=8",
    "selection=top_per_prompt,random_per_prompt",
    "control=none",
    "tracking=none",
]


def start(folder: Path, *settings: str) -> forked.Command:
    """gc.freeze: what was imported before the fork is never garbage, which each training collects."""
    return forked.Command(["-m", *replaced([*SMALL, *places(folder)], *settings)], folder, prepare=gc.freeze)


def run(folder: Path, *settings: str) -> subprocess.CompletedProcess:
    return start(folder, *settings).wait()


def metrics(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("outputs/*/*/metrics.json")}


def listed(folder: Path, *settings: str) -> list[cells.Cell]:
    found = cells.cells(replaced([*SMALL, *places(folder)], *settings), CONF)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def finished(shared: Shared) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder of a sweep that has ended, for reading, and what it printed."""
    folder = shared.once("sweep", lambda folder: (folder / "ended").write_bytes(pickle.dumps(run(folder))))
    return folder, pickle.loads((folder / "ended").read_bytes())


@pytest.fixture
def again(finished, tmp_path: Path) -> Path:
    """A copy of that folder, for a test that writes there."""
    return shutil.copytree(finished[0], tmp_path / "again")


def test_cells_are_the_grid_each_configuration_once(tmp_path: Path):
    found = listed(tmp_path, "seed=0,0,1")
    assert len(found) == len({cell.folder for cell in found}) == 8
    assert found[0].label == "num_completions=2 selection=top_per_prompt seed=0"
    assert found[-1].label == "num_completions=4 selection=random_per_prompt seed=1"


def test_a_named_sweep_gives_the_axes_and_the_command_line_has_the_last_word(tmp_path: Path):
    one_seed = ["sweep=num_completions_by_temperature", "seed=0", *places(tmp_path)]
    named, fewer = (cells.cells([*one_seed, *given], CONF) for given in ([], ["temperature=1.0"]))
    assert named is not None
    assert fewer is not None
    assert {cell.cfg.name for cell in named} == {"num_completions_by_temperature"}
    assert len(named) == 3 * len(fewer)
    assert {cell.cfg.temperature for cell in fewer} == {1.0}


def test_a_bad_cell_stops_a_sweep_before_its_first(tmp_path: Path):
    with pytest.raises(BenchError, match="temperature=-1"):
        listed(tmp_path, "temperature=1.0,-1")


def test_the_work_of_cells_together_by_hand(tmp_path: Path):
    found = workload(listed(tmp_path, "temperature=0.7,1.0", "control=matched"))
    # 2 temperatures; 12 prompts x 4 samples for training and 6 x 4 for Best-of-N each; per temperature and N, three
    # fine-tunings: on each of 2 methods, and on the random control that they share; the base and each of those
    # greedily on 6 prompts, and each of those at 2 samples, for which a block of 4 is drawn: the base's are among its
    # Best-of-N at temperature 1
    assert (found.pools, found.trainings, found.evaluations) == (2, 12, 13)
    assert found.completions == 2 * 12 * 4 + 2 * 6 * 4 + 13 * 6 + 12 * 6 * 4


def test_a_sweep_says_its_price_runs_every_cell_and_sums_up(finished):
    folder, result = finished
    assert result.returncode == 0, result.stderr
    assert "4 cells: 4 missing" in result.stdout
    assert re.search(r"pools +1 +4\n", result.stdout)
    assert "4 done" in result.stdout
    assert len(metrics(folder)) == 4
    assert result.stderr.count("tuned pass@1") == 4


def test_one_pool_serves_every_cell_and_the_savings_add_up(finished):
    folder, result = finished
    cells = listed(folder)
    units = list(folder.glob("store/generate/*/*/manifest.json"))
    drawn = sum(json.loads(path.read_text())["counts"]["generated_tokens"] for path in units)
    lines = result.stdout.splitlines()
    shared, keyed, alone = (
        int(next(line for line in lines if line.strip().startswith(label)).split()[-2].replace(",", ""))
        for label in ("shared by content", "shared where N", "without sharing")
    )
    assert shared == drawn
    assert alone == sum(found["cost/generated_tokens"] for found in metrics(folder).values())
    assert shared < keyed < alone
    assert [cell.folder.name for cell in cells if cell.folder.name not in metrics(folder)] == []


def test_the_same_command_again_runs_only_a_cell_that_was_killed_before_it_was_tracked(again):
    (cell, *others) = listed(again)
    before = {other.folder: (other.folder / "metrics.json").stat().st_mtime_ns for other in others}
    assert cells.is_done(cell.folder)
    (cell.folder / cells.BUSY).write_text("process 1 on elsewhere")  # as kill -9 leaves it
    assert not cells.is_done(cell.folder)
    assert cells.state(cell).kind == "interrupted"
    result = run(again)
    assert result.returncode == 0
    assert result.stderr.count("done before") == 3, result.stderr
    assert cells.is_done(cell.folder)
    assert before == {folder: (folder / "metrics.json").stat().st_mtime_ns for folder in before}


def test_plan_runs_nothing_and_knows_what_like_work_took(finished):
    folder, _ = finished
    before = sorted(folder.rglob("*"))
    result = run(folder, "plan=true", "temperature=0.9")
    assert result.returncode == 0, result.stderr
    assert "4 cells: 4 missing" in result.stdout
    assert re.search(r"about [\d,]+ tokens and [\d. minsh]+ of work", result.stdout)
    assert sorted(folder.rglob("*")) == before


def test_a_failed_cell_is_recorded_and_the_rest_go_on(tmp_path: Path):
    # nothing is correct after four steps of pretraining, so that all_correct keeps nothing to train on
    methods = ["selection=all_correct,top_per_prompt", "num_completions=2"]
    result = run(tmp_path, *methods)
    assert result.returncode == 1
    assert "selection=all_correct: FAILED" in result.stderr
    assert "selection=top_per_prompt: tuned pass@1" in result.stderr
    assert "1 done, 1 failed" in result.stdout
    assert len(metrics(tmp_path)) == 1
    states = {cell.label: cells.state(cell) for cell in listed(tmp_path, *methods)}
    assert {label: found.kind for label, found in states.items()} == {
        "selection=all_correct": "failed",
        "selection=top_per_prompt": "done",
    }
    assert "kept no completion" in states["selection=all_correct"].detail


def test_status_tells_done_running_killed_failed_and_missing(again):
    found = listed(again, "temperature=1.0,0.8")  # four are done, four are not
    todo = [cell for cell in found if cell.cfg.temperature == 0.8]
    for cell in todo:
        cell.folder.mkdir(parents=True)
    (todo[0].folder / "error.txt").write_text("Traceback\nValueError: too hot")
    (todo[1].folder / cells.BUSY).write_text("process 1 on elsewhere")  # nobody holds it any more
    with cells.busy(todo[2].folder):
        kinds = [cells.state(cell).kind for cell in todo]
        printed = status.table({cell: cells.state(cell) for cell in found})
    assert kinds == ["failed", "interrupted", "running", "missing"]
    assert "ValueError: too hot" in printed
    assert f"process {os.getpid()}" in printed
    assert "4 done, 1 running, 1 failed, 1 interrupted, 1 missing" in printed
    assert re.search(r"about [\d. minsh]+ left, 1 at a time", printed)


def test_a_run_that_failed_after_its_records_is_not_done_and_one_of_other_code_is_outdated(again, monkeypatch):
    cell = listed(again)[0]
    (cell.folder / "error.txt").write_text("OSError: no space for a figure")
    assert cells.state(cell) == cells.State("failed", "OSError: no space for a figure")
    (cell.folder / "error.txt").unlink()
    assert cells.state(cell).kind == "done"
    monkeypatch.setattr(cells, "is_current", lambda folder: False)
    assert cells.state(cell).kind == "outdated"


def test_a_run_that_ends_well_is_done_though_another_process_of_it_failed(random_policy, tmp_path, monkeypatch):
    record_of = runner.record_of

    def fail_elsewhere(cell):
        (cell.folder / "error.txt").write_text("The GPU's memory ran out.")
        return record_of(cell)

    monkeypatch.setattr(runner, "record_of", fail_elsewhere)
    small = [setting for setting in SMALL if not setting.startswith(("policy.", "num_", "selection="))]
    cfg = composed(*given_by(random_policy), *small, *places(tmp_path), "num_completions=2", "task.max_new_tokens=4")
    assert cells.state_of(runner.run_experiment(cfg, quiet=True)).kind == "done"


def test_the_first_of_two_processes_to_end_leaves_the_mark_of_the_other(tmp_path):
    with cells.busy(tmp_path):
        with cells.busy(tmp_path):
            pass
        assert cells.state_of(tmp_path).kind == "running"
        with pytest.raises(ZeroDivisionError), cells.busy(tmp_path):
            print(1 / 0)
        assert cells.state_of(tmp_path).kind == "running"
    assert not (tmp_path / cells.BUSY).exists()


def test_three_processes_make_one_pool_once_and_a_killed_holder_of_the_lock_costs_nothing(tmp_path: Path):
    one = ["num_completions=4", "selection=top_per_prompt"]
    commands = {command.pid: command for command in (start(tmp_path, *one, f"name=sweep{i}") for i in range(3))}
    holder = commands.pop(_lock_holder(tmp_path / "store", set(commands)))
    holder.kill()
    assert holder.wait().returncode == -signal.SIGKILL
    ended = [command.wait() for command in commands.values()]
    assert [result.returncode for result in ended] == [0, 0], ended
    assert len(metrics(tmp_path)) >= 1
    made = [json.loads(path.read_text()) for path in (tmp_path / "store").rglob("manifest.json")]
    assert len({(one["stage"], one["key"], one["part"]) for one in made}) == len(made)
    assert not list((tmp_path / "store").rglob(".making*"))


def _lock_holder(store: Path, candidates: set[int]) -> int:
    """The process that is making the first artifact."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for lock in (store / ".locks").glob("pretrain-*") if store.exists() else ():
            words = lock.read_text().split()  # "process 1234 on host"
            if len(words) == 4 and int(words[1]) in candidates:
                return int(words[1])
        time.sleep(0.02)
    raise AssertionError("nobody began")
