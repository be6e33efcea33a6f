"""W&B mirrors a run folder: everything is found again in the offline run, and its failure costs one line."""

import base64
import hashlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import tracking
from bench.tracking import Tracked, log_nothing, log_to_wandb

WANDB = Path(sys.executable).parent / "wandb"
CONFIG = "name: sweep\nseed: 3\nselection:\n  _target_: bench.selection.top_per_prompt\n  k: null\ntemperature: 0.7\n"
METRICS = {"base/pass@1": 0.25, "tuned/kl": 0.5, "verdict": "better", "undefined": None, "saved/seconds": 0.0}


def ancestor(stage: str, key: str, *, reused: bool = False) -> dict:
    counts = {"train_tokens": 7}
    return {"stage": stage, "key": key, "settings": {"seed": 3}, "counts": counts, "seconds": 1.5, "reused": reused}


def curve(policy: str, method: str, metric: str, n: int, value: float) -> dict:
    where = {"policy": policy, "method": method, "metric": metric, "n": n}
    return {**where, "value": value, "low": value - 0.125, "high": value + 0.125}


CURVES = [
    *(curve("base", "best_of_n", "accuracy", n, n / 8) for n in (1, 2, 4)),
    *(curve("base", "best_of_n", "kl", n, n / 16) for n in (1, 2, 4)),
    curve("tuned", "pass", "accuracy", 1, 0.625),
    curve("tuned", "pass", "accuracy", 4, 0.75),
    curve("tuned", "policy", "kl", 1, 0.1875),
]
SAMPLES = [{"prompt_id": f"p{i}", "completion": f" {i} + 1 = {i + 1}.\n#### é", "reward": 1.0} for i in range(3)]


def without_user_settings(patch: pytest.MonkeyPatch, home: Path) -> None:
    """No W&B settings of whoever runs the tests, and a home in which nothing may appear."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    home.mkdir()
    patch.setenv("HOME", str(home))


def finished_run(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "lineage.json").write_text(json.dumps([ancestor("pretrain", "aa11"), ancestor("sft", "bb22")]))
    pq.write_table(pa.Table.from_pylist(CURVES), folder / "curves.parquet")
    pq.write_table(pa.Table.from_pylist([{"prompt_id": "p0", "value": 1.0}]), folder / "per_prompt.parquet")
    pq.write_table(pa.Table.from_pylist(SAMPLES), folder / "samples.parquet")
    Image.new("RGB", (4, 3), "red").save(folder / "frontier.png")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_user_settings(monkeypatch, tmp_path / "home")
    return finished_run(tmp_path / "outputs" / "sweep" / "0123456789")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Tracked]]:
    """A run folder and where it was logged offline, shared by the tests that only read."""
    root = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        without_user_settings(patch, root / "home")
        folder = finished_run(root / "outputs" / "sweep" / "0123456789")
        tracked = log_to_wandb(folder, project="ours", tags=["tiny"])
        assert tracked is not None
        yield folder, tracked


@pytest.fixture(scope="module")
def summary(logged) -> dict:
    """What W&B's own viewer reads from the offline run."""
    return json.loads(inspect(logged[1].path, "--summary"))


@pytest.fixture(scope="module")
def history(logged) -> list[dict]:
    return [record["history"]["item"] for record in records(logged[1].path) if record["type"] == "history"]


def inspect(path: Path, *options: str) -> str:
    return subprocess.run(
        [WANDB, "leet", "inspect", *options, "--json", path], check=True, capture_output=True, text=True
    ).stdout


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in inspect(path).splitlines()]


def table(path: Path, entry: dict) -> list[dict]:
    stored = json.loads((path / "files" / entry["path"]).read_text())
    return [dict(zip(stored["columns"], row, strict=True)) for row in stored["data"]]


def test_the_run_has_our_names_and_the_configuration(logged, summary):
    assert (summary["run_id"], summary["project"], summary["tags"]) == ("0123456789", "ours", ["tiny"])
    run = next(record["run"] for record in records(logged[1].path) if record["type"] == "run")
    assert run["run_group"] == "sweep"
    assert summary["exit_code"] == 0
    selection = {"_target_": "bench.selection.top_per_prompt", "k": None}
    assert summary["config"] == {"name": "sweep", "seed": 3, "selection": selection, "temperature": 0.7}


def test_metrics_are_in_the_summary_and_in_one_row_of_history(summary, history):
    defined = {name: value for name, value in METRICS.items() if value is not None}
    assert defined.items() <= summary["summary"].items()
    assert "undefined" not in summary["summary"]
    rows = [row for row in history if "base/pass@1" in row]
    assert len(rows) == 1
    assert defined.items() <= rows[0].items()


def test_curves_are_steps_in_n_and_a_table(logged, summary, history):
    name = "curves/base/best_of_n/accuracy"
    steps = [(row["n"], row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in history if name in row]
    assert steps == [(n, n / 8, n / 8 - 0.125, n / 8 + 0.125) for n in (1, 2, 4)]
    assert table(logged[1].path, summary["summary"]["curves"]) == CURVES


def test_accuracy_is_a_step_series_in_kl_for_best_of_n_and_for_policies(logged, history):
    points = [(row["kl"], name, row[name]) for row in history for name in row if name.startswith("frontier/")]
    assert points == [
        (0.0625, "frontier/base/best_of_n", 0.125),
        (0.125, "frontier/base/best_of_n", 0.25),
        (0.1875, "frontier/tuned/pass", 0.625),
        (0.25, "frontier/base/best_of_n", 0.5),
    ]
    axes = [record["metric"] for record in records(logged[1].path) if record["type"] == "metric"]
    assert {axis["glob_name"]: axis["step_metric"] for axis in axes if "glob_name" in axis} == {
        "curves/*": "n",
        "frontier/*": "kl",
    }


def test_samples_figure_and_lineage_are_there_once(logged, summary, history):
    folder, tracked = logged
    assert table(tracked.path, summary["summary"]["samples"]) == SAMPLES
    assert sum("samples" in row or "samples._type" in row for row in history) == 1
    image = summary["summary"]["figures/frontier"]
    assert (tracked.path / "files" / image["path"]).read_bytes() == (folder / "frontier.png").read_bytes()
    lineage = table(tracked.path, summary["summary"]["lineage"])
    assert [(row["stage"], row["key"], json.loads(row["counts"])) for row in lineage] == [
        ("pretrain", "aa11", {"train_tokens": 7}),
        ("sft", "bb22", {"train_tokens": 7}),
    ]


def run_files(path: Path) -> dict:
    artifacts = [record["artifact"] for record in records(path) if record["type"] == "artifact"]
    return next(artifact for artifact in artifacts if artifact["type"] == "run-files")


def test_an_artifact_holds_every_file_of_the_run(logged):
    artifact = run_files(logged[1].path)
    assert {entry["path"] for entry in artifact["manifest"]["contents"]} == {
        "config.yaml",
        "metrics.json",
        "lineage.json",
        "curves.parquet",
        "per_prompt.parquet",
        "samples.parquet",
        "frontier.png",
    }
    assert json.loads(artifact["metadata"])["ancestors"] == ["pretrain/aa11", "sft/bb22"]


def test_a_large_file_is_referred_to_instead_of_copied(run_folder, monkeypatch):
    monkeypatch.setattr(tracking, "LARGE", (run_folder / "curves.parquet").stat().st_size - 1)
    contents = run_files(log_to_wandb(run_folder, project="ours").path)["manifest"]["contents"]
    assert {entry["path"]: entry["ref"] for entry in contents if "ref" in entry} == {
        "curves.parquet": (run_folder / "curves.parquet").as_uri()
    }


def test_everything_lies_in_the_run_folder_and_the_commands_work(logged):
    folder, tracked = logged
    assert tracked.path.parent == folder / "wandb"
    assert tracked.url is None
    assert not list((folder.parents[2] / "home").rglob("*"))
    assert tracked.view_command == f"{WANDB} leet {tracked.path}" or tracked.view_command.startswith("wandb leet ")
    dry = subprocess.run(
        f"{tracked.sync_command} --dry-run",
        shell=True,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert f"{tracked.path}/run-0123456789.wandb" in dry.stdout + dry.stderr


def test_what_did_not_change_is_not_logged_again_and_can_still_be_uploaded(run_folder, capfd):
    """A run that finds everything in the store rewrites its records: only what it saved differs."""
    first = log_to_wandb(run_folder, project="ours")
    (run_folder / "metrics.json").write_text(json.dumps({**METRICS, "saved/seconds": 99.0}))
    lineage = [ancestor("pretrain", "aa11", reused=True), ancestor("sft", "bb22", reused=True)]
    (run_folder / "lineage.json").write_text(json.dumps(lineage))
    assert log_to_wandb(run_folder, project="ours") == first
    assert len(list((run_folder / "wandb").glob("offline-run-*"))) == 1
    for entry in run_files(first.path)["manifest"]["contents"]:
        content = Path(entry["local_path"]).read_bytes()
        assert base64.b64encode(hashlib.md5(content).digest()).decode() == entry["digest"]
    assert capfd.readouterr() == ("", "")


def test_a_changed_result_replaces_the_offline_run_unless_it_was_synced(run_folder):
    def offline_runs() -> set[Path]:
        return set((run_folder / "wandb").glob("offline-run-*"))

    first = log_to_wandb(run_folder, project="ours")
    (run_folder / "metrics.json").write_text(json.dumps({**METRICS, "tuned/kl": 0.75}))
    second = log_to_wandb(run_folder, project="ours")
    assert second != first
    assert json.loads(inspect(second.path, "--summary"))["summary"]["tuned/kl"] == 0.75
    assert offline_runs() == {second.path}
    (second.path / "run-0123456789.wandb.synced").touch()
    third = log_to_wandb(run_folder, project="another")
    assert offline_runs() == {second.path, third.path}


def test_a_run_whose_folder_was_deleted_is_logged_again(run_folder):
    import shutil

    first = log_to_wandb(run_folder, project="ours")
    shutil.rmtree(first.path)
    again = log_to_wandb(run_folder, project="ours")
    assert (again.path / "run-0123456789.wandb").is_file()


def test_a_directory_can_be_chosen(run_folder, tmp_path):
    tracked = log_to_wandb(run_folder, project="ours", directory=str(tmp_path / "elsewhere"))
    assert tracked.path.parent == tmp_path / "elsewhere" / "wandb"
    assert not (run_folder / "wandb").exists()


def test_disabled_and_none_leave_nothing(run_folder, monkeypatch):
    before = sorted(run_folder.iterdir())
    assert log_nothing(run_folder) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert log_to_wandb(run_folder, project="ours", mode="online") is None
    assert sorted(run_folder.iterdir()) == before


def test_a_failure_of_wandb_is_one_line_and_the_records_stay(run_folder, monkeypatch, capfd):
    import wandb

    def fail(*args, **kwargs):
        raise RuntimeError("no such luck\nand a long story")

    monkeypatch.setattr(wandb, "init", fail)
    before = {path: path.read_bytes() for path in run_folder.iterdir()}
    assert log_to_wandb(run_folder, project="ours") is None
    assert {path: path.read_bytes() for path in run_folder.iterdir() if path.is_file()} == before
    warning = "warning: W&B did not log this run (no such luck); its local records are complete.\n"
    assert capfd.readouterr() == ("", warning)


class StandIn(BaseHTTPRequestHandler):
    """The little of W&B's server that a run needs; artifacts are said to be there already."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, bytes]]
    refuses_after: float  # requests

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if len(self.requests) >= self.refuses_after:
            self.reply(b"{}", status=403)
            return
        self.requests.append((self.path, content))
        answer = {"data": self.answer(json.loads(content))} if self.path == "/graphql" else {"exitcode": None}
        self.reply(json.dumps(answer).encode())

    def do_PUT(self) -> None:
        self.requests.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.reply(b"{}")

    def reply(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, request: dict) -> dict:
        variables = request.get("variables") or {}
        project = {"id": "P", "name": "ours", "entity": {"id": "E", "name": "me"}}
        artifact = {"id": "A", "state": "COMMITTED", "artifactSequence": {"id": "S", "latestArtifact": None}}
        files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables.get("files", [])]
        bucket = {"id": "B", "name": "0123456789", "config": "{}", "historyLineCount": 0, "project": project}
        answers = {
            "Viewer": {"viewer": {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
            "RunResumeStatus": {"model": {**project, "bucket": None}},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "CreateRunFiles": {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}},
            "CreateArtifact": {"createArtifact": {"artifact": artifact}},
        }
        return answers.get(request.get("operationName", ""), {"project": {"artifact": None}})

    def log_message(self, *args) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Callable[..., tuple[str, list]]]:
    """Starts a stand-in for W&B's server on a free port; its address, and the requests it had."""
    running = []

    def start(refuses_after: float = float("inf")) -> tuple[str, list]:
        handler = type("Handler", (StandIn,), {"requests": [], "refuses_after": refuses_after})
        httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        httpd.handle_error = lambda *args: None  # clients hang up as they like
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        running.append(httpd)
        return httpd.url, handler.requests

    yield start
    for httpd in running:
        httpd.shutdown()
        httpd.server_close()


def in_a_process_of_its_own(
    folder: Path, address: str, *, key: str | None = "a" * 40, mode: str = "online", **streams: int
) -> subprocess.CompletedProcess:
    """log_to_wandb against a server; wandb reads the address once a process. The limit only catches a hang."""
    call = f"print(log_to_wandb(Path({str(folder)!r}), project='ours', mode={mode!r}, timeout=10))"
    return subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; from bench.tracking import log_to_wandb; {call}"],
        env={**os.environ, "WANDB_BASE_URL": address, **({"WANDB_API_KEY": key} if key else {})},
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def test_online_the_server_gets_the_run_and_is_not_asked_again(run_folder, server):
    address, requests = server()
    finished = in_a_process_of_its_own(run_folder, address)
    assert finished.stderr == ""
    assert f"url='{address}/me/ours/runs/0123456789'" in finished.stdout
    uploaded = {path: content for path, content in requests if path.startswith("/wandb-")}
    assert json.loads(uploaded["/wandb-summary.json"])["base/pass@1"] == 0.25
    assert any(path.startswith("/media/images/figures/frontier") for path, _ in requests)
    asked = len(requests)
    assert in_a_process_of_its_own(run_folder, address).stdout == finished.stdout
    assert len(requests) == asked


@pytest.mark.parametrize("outage", ["unreachable", "bad key", "from the third request on"])
def test_an_outage_costs_one_warning_and_the_run_is_logged_offline(run_folder, server, outage):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        if outage == "unreachable":
            address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        else:
            address, _ = server(refuses_after=2 if outage == "from the third request on" else 0)
        finished = in_a_process_of_its_own(run_folder, address)
    lines = finished.stderr.splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("warning: W&B could not be reached (")
    assert lines[0].endswith("the run was logged offline instead, to be synced later.")
    (offline,) = (run_folder / "wandb").glob("*run-*")
    assert str(offline) in finished.stdout
    assert json.loads(inspect(offline, "--summary"))["summary"]["base/pass@1"] == 0.25


def test_online_without_a_key_nobody_is_asked_for_one_on_a_terminal(run_folder):
    ours, terminal = pty.openpty()
    finished = in_a_process_of_its_own(run_folder, "http://127.0.0.1:9", key=None, stdin=terminal, stderr=terminal)
    shown = os.read(ours, 10_000).decode()
    os.close(terminal)
    os.close(ours)
    assert finished.returncode == 0
    assert shown.startswith("warning: W&B could not be reached (No API key")
    assert len(shown.splitlines()) == 1


def test_a_sweep_agents_process_reports_online_under_the_agents_run(run_folder, server, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "grid")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    address, requests = server()
    finished = in_a_process_of_its_own(run_folder, address, mode="offline")
    assert f"{address}/me/ours/runs/0123456789" in finished.stdout  # the stand-in knows one run only
    bodies = [json.loads(content) for path, content in requests if path == "/graphql"]
    created = next(body["variables"] for body in bodies if body.get("operationName") == "UpsertBucket")
    assert (created["name"], created["sweep"]) == ("given", "grid")
