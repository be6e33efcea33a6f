"""TensorBoard holds what a run left, once, however often it is logged; without TensorBoard a run loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tracked_run import CURVES, DEFINED, FLAT, FRONTIER, METRICS, SAMPLES, finished_run, without_user_settings

from bench.tracking import TrackerEntry, log_to_tensorboard

ROOT = Path(__file__).parent.parent
NUMBERS = {name: value for name, value in DEFINED.items() if isinstance(value, float)}


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_user_settings(monkeypatch, tmp_path / "home")
    return finished_run(tmp_path / "outputs" / "sweep" / "0123456789-a")


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


@pytest.mark.parametrize("trouble", ["not installed", "no room"])
def test_without_the_library_or_the_folder_there_is_one_warning(run_folder, trouble, monkeypatch, capfd):
    pytest.importorskip("tensorboard")
    if trouble == "not installed":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    else:
        (run_folder / ".tensorboard").write_text("a file where a folder would be")
    files = {path: path.read_bytes() for path in run_folder.iterdir()}
    assert log_to_tensorboard(run_folder) is None
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("warning: TensorBoard did not log this run")
    assert line.endswith("records are complete.")
    assert {path: path.read_bytes() for path in run_folder.iterdir()} == files


def test_what_is_printed_says_how_to_look(tmp_path):
    entry = TrackerEntry("events", tmp_path, {"view": "look here"})
    assert str(entry).splitlines() == [f"events    {tmp_path}", "  view    look here"]


def test_finished_runs_are_logged_afterwards_by_command(run_folder):
    pytest.importorskip("tensorboard")
    command = [sys.executable, "-m", "bench.tracking", run_folder]

    def run(*settings: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run().stdout == f"{run_folder} was not logged\n"  # its own configuration says none
    done = run("tracking=tensorboard")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"events    {run_folder}/tensorboard\n  view    ")
    assert [event.value for event in events(run_folder / "tensorboard").Scalars("tuned/kl")] == [0.5]
    assert run("seed=1").stderr.startswith("error: seed=1 is not a setting of tracking")
    assert run("tracking.mode=foo").stderr.startswith("error: tracking.mode=foo is not allowed")
    (run_folder / "metrics.json").unlink()
    assert run().stderr == f"error: {run_folder} holds no finished run (no metrics.json).\n"
