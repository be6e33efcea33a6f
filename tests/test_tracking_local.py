"""TensorBoard and Trackio hold what a run left, once, however often it is logged; without them a run loses nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracked_run import CURVES, DEFINED, FLAT, FRONTIER, METRICS, SAMPLES, finished_run, without_user_settings

from bench.tracking import Tracked, log_to_tensorboard

ROOT = Path(__file__).parent.parent
NUMBERS = {name: value for name, value in DEFINED.items() if isinstance(value, float)}


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_user_settings(monkeypatch, tmp_path / "home")
    return finished_run(tmp_path / "outputs" / "sweep" / "0123456789")


def events(folder: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    read.Reload()
    return read


def text(read, name: str) -> str:
    (event,) = read.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_tensorboard_holds_metrics_curves_tables_and_figures(run_folder):
    pytest.importorskip("tensorboard")
    tracked = log_to_tensorboard(run_folder)
    assert tracked.path == run_folder / "tensorboard"
    assert tracked.commands["view"].endswith(f"--logdir {run_folder.parents[1]}")
    read = events(tracked.path)
    assert {name: [(event.step, event.value) for event in read.Scalars(name)] for name in NUMBERS} == {
        name: [(0, value)] for name, value in NUMBERS.items()
    }
    curve = "curves/base/best_of_n/accuracy"
    for end, shift in (("", 0.0), ("_low", -0.125), ("_high", 0.125)):
        points = [(event.step, event.value) for event in read.Scalars(curve + end)]
        assert points == [(n, n / 8 + shift) for n in (1, 2, 4)]
    for name in {name for _, name, _ in FRONTIER}:  # thousandths of a nat
        points = [(event.step, event.value) for event in read.Scalars(name)]
        assert points == [(round(1000 * kl), value) for kl, other, value in FRONTIER if other == name]
    for name, value in FLAT.items():
        assert f"| {name} | {value} |" in text(read, "config")
    assert "| verdict | better |" in text(read, "metrics")
    for sample in SAMPLES:
        assert sample["completion"].replace("\n", "<br>") in text(read, "samples")
    assert text(read, "curves").count("\n") == len(CURVES) + 1
    (image,) = read.Images("figures/frontier")
    assert (image.width, image.height) == (4, 3)
    assert image.encoded_image_string[:4] == b"\x89PNG"
    assert "custom_scalars__config__" in read.Tags()["tensors"]


def test_tensorboard_compares_runs_by_their_settings(run_folder):
    pytest.importorskip("tensorboard")
    from tensorboard.plugins.hparams import plugin_data_pb2

    read = events(log_to_tensorboard(run_folder).path)
    started = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(started).session_start_info.hparams
    assert settings["selection"].string_value == "top_per_prompt"
    assert settings["temperature"].number_value == 0.7
    assert set(settings) == set(FLAT)


def test_tensorboard_is_written_anew_each_time(run_folder):
    pytest.importorskip("tensorboard")
    log_to_tensorboard(run_folder)
    (run_folder / "metrics.json").write_text(json.dumps({**METRICS, "tuned/kl": 0.75}))
    read = events(log_to_tensorboard(run_folder).path)
    assert [event.value for event in read.Scalars("tuned/kl")] == [0.75]
    assert len(read.Scalars("curves/base/best_of_n/accuracy")) == 3
    assert not list(run_folder.glob(".tensorboard"))


LOGGING = """
import sys
from pathlib import Path
from bench.tracking import log_to_trackio
for folder in sys.argv[1:]:
    print(log_to_trackio(Path(folder), project="ours"))
"""
READING = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = [run.name for run in trackio.Api().runs("ours")]
read = {run: [SQLiteStorage.get_run_config("ours", run), SQLiteStorage.get_logs("ours", run)] for run in runs}
print(json.dumps([runs, read, str(trackio.TRACKIO_DIR)], default=str))
"""


def python(code: str, *arguments: Path, **variables: str) -> subprocess.CompletedProcess:
    """Trackio chooses its folder once a process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=arguments[0].parent)


def trackio_holds(folder: Path) -> tuple[list[str], dict[str, list]]:
    runs, read, _ = json.loads(python(READING, folder, TRACKIO_DIR=str(folder)).stdout.splitlines()[-1])
    return runs, read


def test_trackio_holds_config_metrics_curves_tables_and_figures(run_folder, tmp_path):
    pytest.importorskip("trackio")
    logged = python(LOGGING, run_folder)
    database = tmp_path / "outputs" / ".trackio"
    assert logged.stderr == ""
    assert logged.stdout.splitlines()[0] == f"trackio   {database}"
    assert "show --project ours" in logged.stdout
    runs, read = trackio_holds(database)
    assert runs == ["0123456789"]
    config, rows = read["0123456789"]
    assert FLAT.items() <= config.items()
    assert config["_Group"] == "sweep"
    name = "curves/base/best_of_n/accuracy"
    steps = [(row["n"], row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in rows if name in row]
    assert steps == [(n, n / 8, n / 8 - 0.125, n / 8 + 0.125) for n in (1, 2, 4)]
    points = [(row["kl"], name, row[name]) for row in rows for name in row if name.startswith("frontier/")]
    assert points == FRONTIER
    (last,) = (row for row in rows if "base/pass@1" in row)
    assert DEFINED.items() <= last.items()
    assert last["samples"]["_value"] == SAMPLES
    assert last["curves"]["_value"] == CURVES
    (figure,) = (database / "media").rglob("*.png")
    assert figure.stat().st_size > 0
    assert last["figures/frontier"]["file_path"].endswith(figure.name)


def test_trackio_holds_a_run_once_and_two_runs_side_by_side(run_folder, tmp_path):
    pytest.importorskip("trackio")
    other = finished_run(run_folder.with_name("fedcba9876"))
    python(LOGGING, run_folder, other)
    (run_folder / "metrics.json").write_text(json.dumps({**METRICS, "tuned/kl": 0.75}))
    python(LOGGING, run_folder)
    runs, read = trackio_holds(tmp_path / "outputs" / ".trackio")
    assert sorted(runs) == ["0123456789", "fedcba9876"]
    found = {run: [row["tuned/kl"] for row in rows if "tuned/kl" in row] for run, (_, rows) in read.items()}
    assert found == {"0123456789": [0.75], "fedcba9876": [0.5]}


def test_two_processes_write_trackios_database_at_once(run_folder, tmp_path):
    pytest.importorskip("trackio")
    folders = [run_folder, *(finished_run(run_folder.with_name(name)) for name in ("1111111111", "2222222222"))]
    command = [sys.executable, "-c", LOGGING]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([*command, str(folder)], env=environment, stdout=subprocess.DEVNULL) for folder in folders
    ]
    assert [process.wait(600) for process in processes] == [0, 0, 0]
    runs, read = trackio_holds(tmp_path / "outputs" / ".trackio")
    assert sorted(runs) == sorted(folder.name for folder in folders)
    assert {run: len(rows) for run, (_, rows) in read.items()} == {run: 3 + len(FRONTIER) + 1 for run in runs}


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio"])
@pytest.mark.parametrize("trouble", ["not installed", "no room"])
def test_without_the_library_or_the_folder_there_is_one_warning(run_folder, tracker, trouble):
    pytest.importorskip(tracker)
    missing = "import sys; sys.modules['tensorboard'] = sys.modules['trackio'] = None\n"
    call = f"""
import sys
from pathlib import Path
from bench.tracking import log_to_tensorboard, log_to_trackio
folder = Path(sys.argv[1])
tracked = {f"log_to_{tracker}(folder" + (", project='ours'" if tracker == "trackio" else "")})
assert tracked is None, tracked
"""
    if trouble == "no room":
        (run_folder / ".tensorboard").write_text("a file where a folder would be")
        (run_folder.parents[1] / ".trackio").write_text("likewise")
    files = {path: path.read_bytes() for path in run_folder.iterdir()}
    done = python((missing if trouble == "not installed" else "") + call, run_folder)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: ")
    assert "did not log this run" in line
    assert line.endswith("records are complete.")
    assert {path: path.read_bytes() for path in run_folder.iterdir()} == files


def test_what_is_printed_says_how_to_look(tmp_path):
    tracked = Tracked("trackio", tmp_path, {"view": "look here"})
    assert str(tracked).splitlines() == [f"trackio   {tmp_path}", "  view    look here"]


def test_finished_runs_are_logged_afterwards_by_command(run_folder, tmp_path):
    pytest.importorskip("trackio")
    command = [sys.executable, "-m", "bench.tracking", run_folder]

    def run(*settings: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run().stdout == f"{run_folder} was not logged\n"  # its own configuration says none
    done = run("tracking=trackio", f"tracking.directory={tmp_path}/there", "tracking.project=ours")
    assert (done.returncode, done.stderr) == (0, "")
    assert trackio_holds(tmp_path / "there")[0] == ["0123456789"]
    assert run("seed=1").stderr.startswith("error: seed=1 is not a setting of tracking")
    assert run("tracking.mode=foo").stderr.startswith("error: tracking.mode=foo is not allowed")
    (run_folder / "metrics.json").unlink()
    assert run().stderr == f"error: {run_folder} holds no finished run (no metrics.json).\n"
