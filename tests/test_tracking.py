"""W&B mirrors a run folder: everything is found again in the offline run, and its failure costs one line."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tracked_run import (
    CURVES,
    DEFINED,
    FILES,
    FLAT,
    FRONTIER,
    METRICS,
    SAMPLES,
    ancestor,
    finished_run,
    without_user_settings,
)

from bench.errors import BenchError
from bench.tracking import TrackerEntry, log_nothing, log_to_wandb, mirror
from bench.tracking import __main__ as tracking
from bench.tracking.wandb_process import alone

WANDB = Path(sys.executable).parent / "wandb"
CORE = Path(find_spec("wandb").origin).parent / "bin" / "wandb-core"


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_user_settings(monkeypatch, tmp_path / "home")
    return finished_run(tmp_path / "outputs" / "sweep" / "0123456789-a")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TrackerEntry]]:
    """A run folder and where it was logged offline, shared by the tests that only read."""
    root = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        without_user_settings(patch, root / "home")
        folder = finished_run(root / "outputs" / "sweep" / "0123456789-a")
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
    """An offline run as W&B's own reader sees it: what `wandb leet inspect` starts, without a second of imports."""
    (file,) = path.glob("run-*.wandb")
    command = [CORE, "leet", "inspect", "--no-observability", *options, "--json", "--run-file", file, path.parent]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in inspect(path).splitlines()]


def records_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def table(path: Path, entry: dict) -> list[dict]:
    stored = json.loads((path / "files" / entry["path"]).read_text())
    return [dict(zip(stored["columns"], row, strict=True)) for row in stored["data"]]


def test_the_run_has_our_names_and_the_flat_configuration(logged, summary):
    assert (summary["run_id"], summary["project"], summary["tags"]) == ("0123456789-a", "ours", ["tiny"])
    run = next(record["run"] for record in records(logged[1].path) if record["type"] == "run")
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("sweep", "experiment", "0123456789-a")
    assert summary["exit_code"] == 0
    assert summary["config"] == FLAT


def test_settings_become_one_level_by_hand():
    nested = {"a": {"_target_": "bench.policies.tiny", "b": [1, 2], "c": [{"d": 1}, {"d": 2}]}, "e": {}}
    assert mirror.flat(nested) == {"a": "tiny", "a/b": [1, 2], "a/c/0/d": 1, "a/c/1/d": 2}
    assert mirror.flat({"x": {"_target_": "other.place.function", "_partial_": True}}) == {"x": "other.place.function"}


def test_wandbs_own_variables_have_the_last_word(run_folder, monkeypatch):
    for name, value in {"RUN_GROUP": "mine", "JOB_TYPE": "kind", "TAGS": "b,a", "NAME": "called"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tracked = log_to_wandb(run_folder, project="ours", tags=["z"])
    run = next(record["run"] for record in records(tracked.path) if record["type"] == "run")
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("mine", "kind", "called")
    assert run["tags"] == ["a", "b", "z"]


def test_metrics_are_in_the_summary_and_in_one_row_of_history(summary, history):
    assert DEFINED.items() <= summary["summary"].items()
    assert "undefined" not in summary["summary"]
    rows = [row for row in history if "base/pass@1" in row]
    assert len(rows) == 1
    assert DEFINED.items() <= rows[0].items()


def test_curves_are_steps_in_n_and_a_table(logged, summary, history):
    name = "curves/base/best_of_n/accuracy"
    steps = [(row["n"], row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in history if name in row]
    assert steps == [(n, n / 8, n / 8 - 0.125, n / 8 + 0.125) for n in (1, 2, 4)]
    assert table(logged[1].path, summary["summary"]["curves"]) == CURVES


def test_accuracy_is_a_step_series_in_kl_for_best_of_n_and_for_policies(logged, history):
    points = [(row["kl"], name, row[name]) for row in history for name in row if name.startswith("frontier/")]
    assert points == FRONTIER
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


def test_charts_show_accuracy_by_n_and_by_kl_of_every_method_at_once(logged, summary):
    shown = {name: value for name, value in summary["summary"].items() if name.startswith("charts/")}
    by_kl = table(logged[1].path, shown["charts/accuracy_by_kl_table"])
    assert [(row["kl"], f"frontier/{row['series'].replace(' ', '/')}", row["accuracy"]) for row in by_kl] == FRONTIER
    by_n = table(logged[1].path, shown["charts/accuracy_by_n_table"])
    accuracy = [row for row in CURVES if row["metric"] == "accuracy"]
    assert by_n == [row | {"series": f"{row['policy']} {row['method']}"} for row in accuracy]


def artifacts(path: Path) -> dict[str, dict]:
    found = [record["artifact"] for record in records(path) if record["type"] == "artifact"]
    return {artifact["name"]: artifact for artifact in found}


def paths(artifact: dict) -> set[str]:
    return {entry["path"] for entry in artifact["manifest"]["contents"]}


def test_an_artifact_holds_every_file_of_the_run(logged):
    artifact = artifacts(logged[1].path)["run-0123456789-a"]
    assert artifact["type"] == "run-files"
    assert paths(artifact) == FILES
    assert json.loads(artifact["metadata"]) == {
        "ancestors": ["pretrain/aa11", "sft/bb22"],
        "chain": ["policy-base", "pool-1", "rewards-2", "selection-3", "policy-tuned"],
    }


def test_the_chain_from_pool_to_policy_is_artifacts_that_name_their_parents(logged):
    found = artifacts(logged[1].path)
    chain = {name: found[name] for name in ("policy-base", "pool-1", "rewards-2", "selection-3", "policy-tuned")}
    assert [artifact["type"] for artifact in chain.values()] == ["policy", "pool", "rewards", "selection", "policy"]
    parents = {name: json.loads(artifact["metadata"])["parents"] for name, artifact in chain.items()}
    assert parents["policy-tuned"] == ["policy-base", "selection-3"]
    assert parents["selection-3"] == ["rewards-2"]
    assert parents["rewards-2"] == ["pool-1"]
    assert parents["pool-1"] == ["policy-base"]
    assert paths(chain["selection-3"]) == {"selection_tuned.parquet"}
    assert not any(artifact.get("use_after_commit") for artifact in chain.values())


def test_what_the_store_had_is_used_not_logged(tmp_path, monkeypatch):
    without_user_settings(monkeypatch, tmp_path / "home")
    tracked = log_to_wandb(finished_run(tmp_path / "outputs" / "sweep" / "fedcba9876-a", reused=True), project="ours")
    found = artifacts(tracked.path)
    used = {name for name, artifact in found.items() if artifact.get("use_after_commit")}
    assert used == {"policy-base", "pool-1"}


def test_a_large_file_is_referred_to_instead_of_copied(run_folder):
    size = (run_folder / "curves.parquet").stat().st_size
    large = {path.name: path for path in run_folder.iterdir() if path.stat().st_size >= size}
    tracked = log_to_wandb(run_folder, project="ours", reference_above=(size - 1) / 2**20)
    contents = artifacts(tracked.path)["run-0123456789-a"]["manifest"]["contents"]
    referred = {entry["path"]: entry["ref"] for entry in contents if "ref" in entry}
    assert referred == {name: path.as_uri() for name, path in large.items()}
    assert "curves.parquet" in referred
    assert len(referred) < len(contents)


def test_everything_lies_in_the_run_folder_and_the_commands_work(logged):
    folder, tracked = logged
    assert tracked.path.parent == folder / "wandb"
    assert tracked.url is None
    assert not list((folder.parents[2] / "home").rglob("*"))
    assert tracked.commands["view"] in (f"{WANDB} leet {tracked.path}", f"wandb leet {tracked.path}")
    assert str(tracked.path) in str(tracked)
    dry = subprocess.run(
        f"{tracked.commands['sync']} --dry-run",
        shell=True,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert f"{tracked.path}/run-0123456789-a.wandb" in dry.stdout + dry.stderr


def test_what_did_not_change_is_not_logged_again_and_can_still_be_uploaded(run_folder, capfd):
    """A run that finds everything in the store rewrites its records: only what it saved differs."""
    first = log_to_wandb(run_folder, project="ours")
    (run_folder / "metrics.json").write_text(json.dumps({**METRICS, "saved/seconds": 99.0}))
    lineage = [ancestor("pretrain", "aa11", reused=True), ancestor("sft", "bb22", reused=True)]
    (run_folder / "lineage.json").write_text(json.dumps(lineage))
    assert log_to_wandb(run_folder, project="ours") == first
    assert len(list((run_folder / "wandb").glob("offline-run-*"))) == 1
    for entry in artifacts(first.path)["run-0123456789-a"]["manifest"]["contents"]:
        content = Path(entry["local_path"]).read_bytes()
        assert base64.b64encode(hashlib.md5(content).digest()).decode() == entry["digest"]
    assert capfd.readouterr() == ("", "")


def test_a_changed_result_replaces_the_offline_run_unless_it_was_synced_and_a_deleted_one_is_logged_again(run_folder):
    def offline_runs() -> set[Path]:
        return set((run_folder / "wandb").glob("offline-run-*"))

    first = log_to_wandb(run_folder, project="ours")
    (run_folder / "metrics.json").write_text(json.dumps({**METRICS, "tuned/kl": 0.75}))
    second = log_to_wandb(run_folder, project="ours")
    assert second != first
    assert json.loads(inspect(second.path, "--summary"))["summary"]["tuned/kl"] == 0.75
    assert offline_runs() == {second.path}
    (second.path / "run-0123456789-a.wandb.synced").touch()
    third = log_to_wandb(run_folder, project="another")
    assert offline_runs() == {second.path, third.path}
    shutil.rmtree(third.path)
    again = log_to_wandb(run_folder, project="another")
    assert (again.path / "run-0123456789-a.wandb").is_file()


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


def test_a_failure_of_wandb_is_one_line_and_the_records_stay(run_folder, capfd):
    (run_folder / "wandb").write_text("a file where wandb would have its folder")
    before = records_of(run_folder)
    assert log_to_wandb(run_folder, project="ours") is None
    assert records_of(run_folder) == before
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("warning: W&B did not log this run ([Errno 17] File exists")
    assert err.endswith("); its local records are complete.\n")


def test_what_wandb_does_not_accept_is_one_line(run_folder, capfd):
    assert log_to_wandb(run_folder, project="no/such:project") is None
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("warning: W&B did not log this run (")
    assert not list((run_folder / "wandb").glob("*run-*"))


ONE_AFTER_ANOTHER = """
from pathlib import Path
import hydra
from bench.tracking import log_to_wandb

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    log_to_wandb(Path(cfg.folder), project="ours")

main()
"""
AT_ONCE = """
import sys
from pathlib import Path
from joblib import Parallel, delayed
from bench.tracking import log_to_wandb

Parallel(n_jobs=2)(delayed(log_to_wandb)(Path(folder), project="ours") for folder in sys.argv[1:])
"""


@pytest.mark.parametrize("code", [ONE_AFTER_ANOTHER, AT_ONCE], ids=["hydra", "joblib"])
def test_offline_runs_of_a_sweep_keep_config_and_summary(tmp_path, monkeypatch, code):
    """Cells in one process after another, and in processes of their own at once."""
    without_user_settings(monkeypatch, tmp_path / "home")
    folders = [finished_run(tmp_path / "outputs" / "sweep" / f"made-{i}") for i in range(2)]
    (tmp_path / "app.py").write_text(code)
    named = [str(folder) for folder in folders]
    if code == ONE_AFTER_ANOTHER:
        named = ["-m", f"+folder={','.join(named)}", f"hydra.sweep.dir={tmp_path}/.multirun"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "app.py", *named]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "warning" not in done.stderr, done.stderr
    for folder in folders:
        (offline,) = (folder / "wandb").glob("offline-run-*")
        summary = json.loads(inspect(offline, "--summary"))
        assert (summary["run_id"], summary["config"], summary["exit_code"]) == (folder.name, FLAT, 0)
        assert DEFINED.items() <= summary["summary"].items()


OURS = {"_target_": "bench.tracking.log_to_wandb", "_partial_": True, "project": "ours"}
NO_TRACKING = {
    "no tracking": None,
    "a text": "bench.tracking.log_to_wandb",
    "Python's own": {"_target_": "builtins.open", "_args_": ["made", "w"]},
    "a part of ours": {"_target_": "bench.tracking.shutil.copyfile"},
    "another function of ours": {"_target_": "bench.tracking.mirror.read"},
    "a list": {"_target_": ["bench.tracking.log_to_wandb"]},
    "part of a setting": OURS | {"tags": [{"_target_": "builtins.print"}]},
    "a setting of another": OURS | {"log_dir": "elsewhere"},
    "positional": OURS | {"_args_": ["elsewhere"]},
    "a variable": OURS | {"project": "${oc.env:HOME}"},
    "a wrong value": OURS | {"timeout": "long"},
    "a number too few": OURS | {"reference_above": -1},
}


@pytest.mark.parametrize("name", NO_TRACKING)
def test_a_recorded_tracking_is_one_of_ours_with_settings_that_it_allows(name):
    with pytest.raises(BenchError, match=r"^run/config\.yaml.*tracking[^\n]*\.$"):
        tracking.recorded(NO_TRACKING[name], Path("run/config.yaml"))


def test_a_recorded_tracking_is_used_as_it_stands(monkeypatch):
    monkeypatch.setenv("SECRET", "1234")
    found = tracking.recorded(OURS | {"tags": ["${oc.env:SECRET}"]}, Path("run/config.yaml"))
    assert (found.func, found.keywords) == (log_to_wandb, {"project": "ours", "tags": ["${oc.env:SECRET}"]})


@pytest.mark.parametrize("way", ["absolute", "outside", "linked", "picture"])
def test_only_files_of_the_run_a_store_and_a_model_are_uploaded(way, run_folder, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("1234")
    places = {"absolute": str(tmp_path / "secret"), "outside": "../../../secret", "linked": "linked"}
    if way == "linked":
        (run_folder / "linked").symlink_to(tmp_path / "secret")
    elif way == "picture":
        (run_folder / "frontier.png").unlink()
        (run_folder / "frontier.png").symlink_to(tmp_path / "secret")
    chain = json.loads((run_folder / "chain.json").read_text())
    for link in chain:
        link["files"] = {name: path for name, path in link["files"].items() if not path.startswith("/")}
    (run_folder / "chain.json").write_text(json.dumps(chain))
    if way != "picture":
        tracking.refuse_strangers(mirror.read(run_folder))
        chain[0]["files"]["secret"] = places[way]
        (run_folder / "chain.json").write_text(json.dumps(chain))
    monkeypatch.setattr("sys.argv", ["tracking", str(run_folder), "tracking=wandb"])
    with pytest.raises(SystemExit, match=r"^error: .* names .*/secret, which is no file of this run"):
        tracking.main()


def test_the_lock_of_a_run_is_no_link_to_another_file(tmp_path):
    (tmp_path / "mine").write_text("kept")
    (tmp_path / ".tracking.json.7").write_text("left by a killed process")
    with alone(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tracking.json.lock", "mine"]
    (tmp_path / ".tracking.json.lock").unlink()
    (tmp_path / ".tracking.json.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), alone(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "kept"
