"""The whole chain as a user runs it, from the command line: what it leaves, repeats, survives and mends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pyarrow.parquet as pq
import pytest
from sharing import Shared, given_by

from bench.artifacts import Policy
from bench.records.environment import environment
from bench.records.read import RECORDS, read_run
from bench.store import MANIFEST, check, walk

KILLS = 5
BOOKKEEPING = ("cost/seconds", "saved/")  # what may differ between two runs of one command


def arguments(policy: Policy) -> list[str]:
    return [
        *given_by(policy),
        "task.train_prompts=60",
        "task.test_prompts=40",
        "num_completions=4",
        "baseline_completions=8",
        "evaluation.num_completions=4",
        "evaluation.temperatures=null",
        "generation.shard_size=20",
        "temperature=0.8",
        "generation.top_k=50",
        "top_p=0.95",
        "training.epochs=1",
    ]


def finish(folder: Path, policy: Policy, *settings: str) -> str:
    """Run the command in this folder; return what it said on stderr."""
    ended = forked.run([*arguments(policy), *settings], folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def metrics(folder: Path) -> dict:
    (path,) = folder.glob("outputs/*/*/metrics.json")
    return {name: value for name, value in json.loads(path.read_text()).items() if not name.startswith(BOOKKEEPING)}


def manifests(folder: Path) -> dict[Path, float]:
    paths = [artifact / MANIFEST for artifact, whole in walk(folder / "store") if whole]
    return {path: json.loads(path.read_text())["created"] for path in paths}


@pytest.fixture(scope="module")
def finished(shared: Shared, tiny_policy: Policy) -> tuple[Path, str, str]:
    """The folder of a run by the very command of a user, and what it printed."""

    def run(folder: Path) -> None:
        command = [sys.executable, "-m", "bench", *arguments(tiny_policy)]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        for stream, printed in (("stdout", ended.stdout), ("stderr", ended.stderr)):
            (folder / stream).write_text(printed)

    folder = shared.once("end_to_end", run)
    return folder, (folder / "stdout").read_text(), (folder / "stderr").read_text()


@pytest.fixture
def again(finished: tuple[Path, str, str], tmp_path: Path) -> Path:
    """A copy of the finished run's folder and store, for a test that writes there."""
    return shutil.copytree(finished[0], tmp_path / "again")


def run_folder(folder: Path) -> Path:
    (path,) = folder.glob("outputs/default/*/metrics.json")
    return path.parent


def test_what_is_printed(finished):
    folder, out, err = finished
    for name in ("base", "tuned: top_per_prompt", "random control", "Best-of-2", "Best-of-4"):
        assert f"| {name}" in out
    assert str(run_folder(folder) / "frontier.png") in out
    assert "wandb" in out
    assert "generate" in err
    assert "reused    0 of" in err


def test_every_record_is_there(finished):
    folder = run_folder(finished[0])
    names = {path.name for path in folder.iterdir()}
    records = set(RECORDS)
    assert records | {"frontier.png", "frontier.pdf"} <= names
    assert "error.txt" not in names
    listed = json.loads((folder / "checksums.json").read_text())["files"]
    assert records | {"frontier.png", "frontier.csv", "code.json", "environment.json"} <= set(listed)
    assert json.loads((folder / "environment.json").read_text()) == environment()
    read_run(folder).verify()


def test_the_means_are_those_of_the_records(finished):
    folder = run_folder(finished[0])
    found = json.loads((folder / "metrics.json").read_text())
    table = pq.read_table(folder / "per_prompt.parquet").to_pylist()

    def mean(policy: str, method: str, metric: str, n: int) -> float:
        key = (policy, method, metric, n)
        values = [row["value"] for row in table if (row["policy"], row["method"], row["metric"], row["n"]) == key]
        assert len(values) == 40
        return float(np.mean(values))

    assert found["tuned/pass@1"] == pytest.approx(mean("tuned", "pass", "accuracy", 1))
    assert found["base/greedy_accuracy"] == pytest.approx(mean("base", "greedy", "accuracy", 1))
    assert found["best_of_4/kl"] == pytest.approx(mean("base", "best_of_n", "kl", 4))
    for name in ("base/pass@1", "tuned/kl", "best_of_4/accuracy", "control/greedy_accuracy"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_the_numbers_hang_together(finished):
    found = metrics(finished[0])
    assert found["base/kl"] == pytest.approx(0, abs=1e-5)  # the gate
    assert found["tuned/kl"] > 0
    assert found["selection/kept"] == 60 - found["selection/prompts_filtered"] > 0
    assert found["best_of_1/kl"] > 0  # the sampler at 0.8, .95 is not the raw base: the chain rule's second term
    assert found["best_of_4/kl"] <= found["best_of_4/kl_bound"] + 1e-9
    assert found["best_of_4/accuracy"] >= found["best_of_1/accuracy"]
    assert found["tuned_vs_control/pass@1/verdict"] in ("better", "worse", "not resolved")


def test_lm_eval_agrees_with_the_suite(finished):
    found = metrics(finished[0])
    for arm in ("base", "tuned"):
        (name,) = (name for name in found if name.startswith(f"{arm}/lm_eval/") and name.endswith("/exact_match"))
        assert found[name] == found[f"{arm}/greedy_accuracy"]


def test_lineage_names_every_stage(finished):
    entries = json.loads((run_folder(finished[0]) / "lineage.json").read_text())
    assert {"generate", "divergence_samples"} <= {entry["stage"] for entry in entries}
    assert sum(entry["counts"].get("generated_tokens", 0) for entry in entries) > 0


def test_policies_are_sampled_as_the_evaluation_says_and_best_of_n_as_the_run_says(finished):
    entries = json.loads((run_folder(finished[0]) / "lineage.json").read_text())
    samplers = {
        tuple(entry["settings"][name] for name in ("temperature", "top_p", "top_k"))
        for entry in entries
        if entry["stage"] == "generate"
    }
    assert samplers == {(0.8, 0.95, 50), (1.0, 1.0, 0), (0.0, 1.0, 0)}
    (divergence, *_) = (entry for entry in entries if entry["stage"] == "divergence_samples")
    assert divergence["settings"]["top_k"] == 0


def test_again_makes_nothing(again: Path, tiny_policy: Policy):
    before, numbers = manifests(again), metrics(again)
    (run_folder(again) / "environment.json").write_text('{"python": "of another machine"}')
    err = finish(again, tiny_policy)
    assert manifests(again) == before
    assert metrics(again) == numbers
    assert json.loads((run_folder(again) / "environment.json").read_text()) == {"python": "of another machine"}
    assert f"reused    {len(before)} of {len(before)} artifacts" in err


def test_a_damaged_artifact_is_made_again(again: Path, tiny_policy: Policy):
    numbers = metrics(again)
    block = max((again / "store" / "generate").glob("*/*/*.parquet"))
    weights = max((again / "store").glob("*/*/model.safetensors"))
    for path in (block, weights):
        os.truncate(path, path.stat().st_size // 2)
    err = finish(again, tiny_policy)
    assert err.count("warning") == 2
    assert metrics(again) == numbers
    assert json.loads((run_folder(again) / "environment.json").read_text()) == environment()


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(finished, tiny_policy: Policy, tmp_path: Path):
    """kill -9 at spread-out moments, mid-artifact: nothing finished is made twice, and the numbers are the same."""
    total = len(manifests(finished[0]))
    moments = np.unique(np.linspace(0, total - 2, KILLS).round().astype(int))
    assert len(moments) == KILLS
    folder, kept = tmp_path / "killed", {}
    folder.mkdir()
    dawdle = np.random.default_rng(0)
    for moment in moments:
        command = forked.Command([*arguments(tiny_policy), "tracking=none"], folder)
        while sum(whole for _, whole in walk(folder / "store")) <= moment and not command.ended():
            time.sleep(0.02)
        time.sleep(dawdle.uniform(0, 0.3))  # into the making of the next one
        command.kill()
        assert command.wait().returncode == -signal.SIGKILL
        assert manifests(folder).items() >= kept.items()  # what was finished before is not made again
        kept = manifests(folder)
        assert len(kept) > moment
    finish(folder, tiny_policy, "tracking=none")
    assert manifests(folder).items() >= kept.items()
    assert len(manifests(folder)) == total
    assert metrics(folder) == metrics(finished[0])


def test_failure_leaves_its_reason_and_no_metrics(tmp_path: Path, tiny_policy: Policy):
    ended = forked.run([*arguments(tiny_policy), f"policy.path={tmp_path / 'nowhere'}"], tmp_path)
    assert ended.returncode == 1
    (reason,) = tmp_path.glob("outputs/default/*/error.txt")
    assert "nowhere" in reason.read_text()
    assert not list(tmp_path.glob("outputs/default/*/metrics.json"))


@pytest.mark.parametrize("place", ["store", "outputs"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    again: Path, tiny_policy: Policy, full_disk, place
):
    ended = forked.run([*arguments(tiny_policy), f"{place}={full_disk}", "tracking=none"], again)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: The disk of {place}=")
    assert ended.stderr.count("error: ") == 1
    assert "Traceback" not in ended.stderr
    if place == "store":
        assert not list(full_disk.glob("**/.making*"))
        for manifest in full_disk.glob("*/**/manifest.json"):
            check(manifest.parent)
    else:
        assert not list(full_disk.glob("**/metrics.json"))
        assert not [path for path in full_disk.glob("**/.*") if path.is_file()]
