"""A W&B server that answers, refuses, is slow or dies, and processes that die: what arrives, and what it costs."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from test_tracking import WANDB, inspect, records_of
from tracked_run import DEFINED, FILES, FLAT, FRONTIER, finished_run, without_user_settings
from wandb_server import HANG_UP, KEY, Run, Server, serving

from bench import tracking
from bench.progress import bar, making, stage, told
from bench.tracking import followed, log_to_wandb, wandb_process

ROOT = Path(__file__).parent.parent
LOGGING = """
import sys
from pathlib import Path
from bench.tracking import log_to_wandb
for folder in sys.argv[1:]:
    tracked = log_to_wandb(Path(folder), project="ours", mode="online")
    print(tracked.path.name.partition("run-")[0].strip("-") or "online", tracked.url)
"""


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_user_settings(monkeypatch, tmp_path / "home")
    return finished_run(tmp_path / "outputs" / "sweep" / "0123456789-a")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def start(*folders: Path, url: str, key: str | None = KEY, **streams: int) -> subprocess.Popen:
    """log_to_wandb in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", LOGGING, *map(str, folders)],
        env={**os.environ, "WANDB_BASE_URL": url, **({"WANDB_API_KEY": key} if key else {})},
        text=True,
        cwd=ROOT,
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def finish(process: subprocess.Popen) -> tuple[str, str]:
    """What it printed; the limit only catches a hang."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out, err


Log = Callable[..., tuple[list[tuple[str, str | None]], str]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Log:
    """log_to_wandb of these folders in this process; returns (how, url) of each, and what was said on stderr."""

    def call(*folders: Path, url: str, key: str = KEY, mode: str = "online", **settings):
        for name, value in {"WANDB_BASE_URL": url, "WANDB_API_KEY": key}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        tracked = [log_to_wandb(folder, project="ours", mode=mode, **settings) for folder in folders]
        hows = [entry.path.name.partition("run-")[0].strip("-") or "online" for entry in tracked]
        return [(how, entry.url) for how, entry in zip(hows, tracked, strict=True)], capsys.readouterr().err

    return call


def rows(run: Run) -> list[dict]:
    """The history, apart from W&B's own clock, and from files, whose names are drawn anew each time."""
    return [
        {name: value for name, value in row.items() if name[0] != "_" and not isinstance(value, dict)}
        for row in run.history
    ]


def values(config: dict) -> dict:
    return {name: entry["value"] for name, entry in config.items() if name != "_wandb"}


def assert_whole(run: Run, server: Server) -> None:
    """The server has everything of a run, once."""
    assert server.problems == []
    assert values(run.config) == FLAT
    assert DEFINED.items() <= run.summary.items()
    assert [(row["kl"], name, row[name]) for row in rows(run) for name in row if name[:8] == "frontier"] == FRONTIER
    assert [row["n"] for row in rows(run) if "curves/base/best_of_n/accuracy" in row] == [1, 2, 4]
    committed = {artifact.name: artifact for artifact in server.artifacts.values() if artifact.committed}
    assert {"policy-base", "pool-1", "rewards-2", "selection-3", "policy-tuned", "run-0123456789-a"} <= set(committed)
    assert set(committed["run-0123456789-a"].files) == FILES
    assert committed["pool-1"].files == {"content.bin": b"pool" * 100}
    for name in ("curves", "samples", "lineage", "figures/frontier"):
        assert run.summary[name]["path"] in run.files


def test_online_the_server_has_everything_and_is_not_told_it_twice(run_folder, server, log):
    online = ([("online", f"{server.url}/me/ours/runs/0123456789-a")], "")
    assert log(run_folder, url=server.url) == online
    run = server.runs["0123456789-a"]
    assert_whole(run, server)
    assert (run.info["groupName"], run.info["jobType"], run.exit_code) == ("sweep", "experiment", 0)
    asked = len(server.requests)
    assert log(run_folder, url=server.url) == online
    assert len(server.requests) == asked


def test_a_second_run_uses_the_artifacts_that_the_first_logged(run_folder, server, log):
    other = finished_run(run_folder.with_name("fedcba9876-a"), reused=True)
    log(run_folder, other, url=server.url)
    first, second = server.runs["0123456789-a"], server.runs["fedcba9876-a"]
    assert {"policy-base", "pool-1"} <= set(first.logged)
    assert first.used == []
    assert sorted(second.used) == ["policy-base", "pool-1"]
    assert not {"policy-base", "pool-1"} & set(second.logged)
    names = [artifact.name for artifact in server.artifacts.values()]
    assert names.count("pool-1") == names.count("policy-base") == 1  # the server knew them by their content


def test_a_rerun_with_another_result_updates_the_run(run_folder, server, log):
    log(run_folder, url=server.url)
    metrics = {**json.loads((run_folder / "metrics.json").read_text()), "tuned/kl": 0.75}
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    log(run_folder, url=server.url)
    assert list(server.runs) == ["0123456789-a"]
    run = server.runs["0123456789-a"]
    assert run.summary["tuned/kl"] == 0.75
    assert values(run.config) == FLAT
    assert [row["tuned/kl"] for row in rows(run) if "tuned/kl" in row] == [0.5, 0.75]
    assert [artifact.name for artifact in server.artifacts.values()].count("pool-1") == 1
    assert server.problems == []


def test_an_offline_run_is_synced_to_the_server_whole(run_folder, server, log):
    log(run_folder, url=server.url, mode="offline")
    assert server.requests == []
    (offline,) = (run_folder / "wandb").glob("offline-run-*")
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    command = [WANDB, "sync", offline]
    subprocess.run(command, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    assert_whole(server.runs["0123456789-a"], server)
    assert list(offline.glob("*.synced"))


def descendants(process: int) -> dict[int, bytes]:
    """The processes that a process started, and those they started; their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                name = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if parent == process:
                found |= {int(entry.name): name} | descendants(int(entry.name))
    return found


def kill(process: int, *only: bytes) -> None:
    """End what a process started; where words are given, those whose command lines have one of them."""
    for child, name in descendants(process).items():
        if not only or any(word in name for word in only):
            os.kill(child, signal.SIGKILL)


OUTAGES = [
    "unreachable",
    "bad key",
    "refuses",
    "silent",
    "slow uploads",
    "dies half-way",
    "service killed",
    "process killed",
    "no commit",
]
KILLED = {"service killed": b"wandb-core", "process killed": b"wandb_process"}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_costs_one_warning_and_the_run_is_logged_offline(run_folder, outage, log, monkeypatch):
    monkeypatch.setattr(wandb_process, "STARTUP", 8)
    released = threading.Event()

    def before(number: int, name: str) -> int | None:
        if outage == "refuses" and number > 2:
            return 403
        if outage == "no commit" and name == "CommitArtifact":
            return 403
        if outage == "silent" or (outage == "slow uploads" and name.startswith("PUT /upload/artifact")):
            released.wait(100)
        if outage == "dies half-way" and "CreateArtifact" in seen:
            return HANG_UP
        if outage in KILLED and name == "CreateArtifact":
            kill(os.getpid(), KILLED[outage])
        seen.add(name)
        return None

    seen: set[str] = set()
    files = records_of(run_folder)
    with serving(Server(before)) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}" if outage == "unreachable" else server.url
        limit = 2 if outage == "dies half-way" else 4  # seconds; a busy machine that takes longer is an outage as well
        key = "b" * 40 if outage == "bad key" else KEY
        try:
            found, err = log(run_folder, url=url, key=key, timeout=limit)
        finally:
            released.set()
    assert found == [("offline", None)]
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("warning: W&B could not be reached (")
    assert lines[0].endswith("the run was logged offline instead, to be synced later.")
    (offline,) = (run_folder / "wandb").glob("*run-*")
    summary = json.loads(inspect(offline, "--summary"))
    assert DEFINED.items() <= summary["summary"].items()
    assert summary["config"] == FLAT
    assert {name: content for name, content in records_of(run_folder).items() if name != "tracking.json"} == files


def test_after_an_outage_the_next_run_of_the_process_and_the_next_attempt_go_online(run_folder, log):
    """One process runs many cells: what an outage of the first left behind must not cost the second."""
    down = threading.Event()

    def before(number: int, name: str) -> int | None:
        if name == "UpsertBucket" and not down.is_set():
            down.set()
            return 403
        return None

    other = finished_run(run_folder.with_name("fedcba9876-a"))
    with serving(Server(before)) as server:
        found, err = log(run_folder, other, url=server.url)
        assert [how for how, _ in found] == ["offline", "online"]
        assert len(err.splitlines()) == 1
        assert log(run_folder, url=server.url) == ([("online", f"{server.url}/me/ours/runs/0123456789-a")], "")
        assert_whole(server.runs["0123456789-a"], server)
        assert not list((run_folder / "wandb").glob("offline-run-*"))


class Forgetful(Server):
    """Takes the first rows of a history, and says so to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.took, self.released, self.well = threading.Event(), threading.Event(), False

    def stream(self, run: Run, told: dict) -> None:
        if self.well or "wandb-history.jsonl" not in (told.get("files") or {}):
            super().stream(run, told)
            return
        part = told["files"]["wandb-history.jsonl"]
        if not run.history:
            run.history = [json.loads(line) for line in part["content"][:3]]
        self.took.set()


def test_a_run_whose_process_is_killed_goes_on_where_the_server_is(run_folder, log):
    with serving(Server()) as untroubled:
        log(run_folder, url=untroubled.url)
        expected = rows(untroubled.runs["0123456789-a"])
    (run_folder / "tracking.json").unlink()
    with serving(Forgetful()) as server:
        process = start(run_folder, url=server.url)
        assert server.took.wait(300)
        process.send_signal(signal.SIGSTOP)  # or it would see its child die, and log the run offline
        kill(process.pid)
        process.kill()
        process.communicate()
        run = server.runs["0123456789-a"]
        assert rows(run) == expected[:3]
        server.well = True
        _, err = log(run_folder, url=server.url)
        assert err == ""
        assert list(server.runs) == ["0123456789-a"]
        assert rows(run) == expected
        assert_whole(run, server)


def test_two_processes_log_two_runs_at_once(run_folder, server):
    other = finished_run(run_folder.with_name("fedcba9876-a"))
    processes = [start(folder, url=server.url) for folder in (run_folder, other)]
    assert [finish(process)[1] for process in processes] == ["", ""]
    for run in server.runs.values():
        assert_whole(run, server)
    assert set(server.runs) == {"0123456789-a", "fedcba9876-a"}


def test_two_processes_that_log_the_same_run_tell_it_once(run_folder, server):
    processes = [start(run_folder, url=server.url) for _ in range(2)]
    outputs = [finish(process) for process in processes]
    assert outputs[0] == outputs[1]
    assert_whole(server.runs["0123456789-a"], server)
    assert server.requests.count("RunResumeStatus") == 1


def test_online_without_a_key_nobody_is_asked_for_one_on_a_terminal(run_folder):
    ours, terminal = pty.openpty()
    out, _ = finish(start(run_folder, url="http://127.0.0.1:9", key=None, stdin=terminal, stderr=terminal))
    shown = os.read(ours, 10_000).decode()
    os.close(terminal)
    os.close(ours)
    assert out == "offline None\n"
    assert shown.startswith("warning: W&B could not be reached (No API key")
    assert len(shown.splitlines()) == 1


def test_a_sweep_agents_process_reports_online_under_the_agents_run(run_folder, server, log, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "grid")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    log(run_folder, url=server.url, mode="offline")
    run = server.runs["given"]
    assert (run.info["sweep"], run.info["jobType"]) == ("grid", "experiment")
    assert DEFINED.items() <= run.summary.items()


def unfinished(folder: Path) -> Callable[[], Path]:
    """Take the record away that a run writes last; the function that is returned brings it back."""
    metrics = (folder / "metrics.json").read_text()
    (folder / "metrics.json").unlink()
    return lambda: (folder / "metrics.json").write_text(metrics) and folder


def goes_on(folder: Path, stages: list[int], mode: str, look: Callable[[], object] = lambda: None) -> None:
    """Run the given of three stages; `look` before the end."""
    tracker = partial(log_to_wandb, project="ours", mode=mode)
    with told() as course, followed(tracker, folder, {"seed": 3, "tracking": {}}, course):
        course.stages = ["policy (base)", "fine-tune (tuned)", "fine-tune (control)"]
        for number in stages:
            kind, name = course.stages[number - 1][:-1].split(" (")
            with stage(kind, name), making(kind), bar("training", 8, "steps") as steps:
                steps.advance(8)
        look()


def progress_of(history: list[dict]) -> list[tuple[float, float]]:
    """(stage, stages done) of each row, in order of the run's own seconds."""
    rows = [row for row in history if "progress/seconds" in row]
    assert [row["progress/seconds"] for row in rows] == sorted(row["progress/seconds"] for row in rows)
    assert all(row["progress/training/steps_per_second"] > 0 and row["progress/stages"] == 3 for row in rows)
    return [(row["progress/stage"], row["progress/stages_done"]) for row in rows]


def until(true: Callable[[], bool]) -> None:
    """Wait; the limit only catches a hang."""
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_shows_its_progress_while_it_goes_on_and_after_a_kill_from_where_it_was(run_folder, server, monkeypatch):
    monkeypatch.setattr(tracking, "LIVE_AFTER", 0.0)
    for name, value in {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    finish_it = unfinished(run_folder)
    run: list[Run] = []

    def seen_then_killed() -> None:
        until(lambda: len(server.runs.get("0123456789-a", Run()).history) == 2)
        run.append(server.runs["0123456789-a"])
        assert values(run[0].config) == {"seed": 3}
        kill(os.getpid(), *KILLED.values())  # not the server of forks, which has imported wandb

    goes_on(run_folder, [1, 2], "online", seen_then_killed)
    goes_on(run_folder, [3], "online")
    assert progress_of(run[0].history) == [(1, 1), (2, 2), (3, 3)]
    finish_it()
    assert log_to_wandb(run_folder, project="ours", mode="online").url
    assert progress_of(run[0].history) == [(1, 1), (2, 2), (3, 3)]
    assert_whole(run[0], server)


def test_without_a_server_a_run_goes_on_and_says_once_why_it_is_not_shown(run_folder, capsys, monkeypatch):
    def opened_and_ended(*given: object) -> subprocess.Popen:
        process = opened(*given)
        until(lambda: process.poll() is not None)
        return process

    opened = tracking.open_live
    monkeypatch.setattr(tracking, "LIVE_AFTER", 0.0)
    monkeypatch.setattr(tracking, "open_live", opened_and_ended)
    unfinished(run_folder)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        goes_on(run_folder, [1, 2, 3], "online")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert line.startswith("warning: W&B shows no progress of this run (")
    assert "connection refused" in line
    rows = [json.loads(row) for row in (run_folder / "progress.jsonl").read_text().splitlines()]
    assert {row["progress/stages_done"] for row in rows} >= {1, 2, 3}  # a row more where a stage takes its time


def test_offline_the_one_run_that_is_kept_has_the_progress_of_all_attempts(run_folder, monkeypatch):
    monkeypatch.setattr(tracking, "LIVE_AFTER", 0.0)
    finish_it = unfinished(run_folder)

    def history() -> list[dict]:
        (offline,) = (run_folder / "wandb").glob("offline-run-*")
        lines = map(json.loads, inspect(offline).splitlines())
        return [record["history"]["item"] for record in lines if record["type"] == "history"]

    goes_on(run_folder, [1, 2], "offline")
    assert progress_of(history()) == [(1, 1), (2, 2)]
    with (run_folder / "progress.jsonl").open("a") as file:
        file.write('{"progress/seconds": 9')  # where a process was killed
    goes_on(run_folder, [3], "disabled")
    finish_it()
    log_to_wandb(run_folder, project="ours")
    assert progress_of(history()) == [(1, 1), (2, 2), (3, 3)]
    assert [row["n"] for row in history() if "curves/base/best_of_n/accuracy" in row] == [1, 2, 4]


def test_a_run_that_only_reads_or_has_no_wandb_starts_no_process(run_folder, monkeypatch):
    monkeypatch.setattr(tracking, "LIVE_AFTER", 0.0)
    monkeypatch.setattr(subprocess, "Popen", None)
    goes_on(run_folder, [1], "disabled")
    assert len((run_folder / "progress.jsonl").read_text().splitlines()) == 1
    with told() as course, followed(partial(log_to_wandb, project="ours"), run_folder, {}, course), stage("policy"):
        pass
    assert not (run_folder / "wandb").exists()
