"""Selection as a run sees it: a filter before it, no control beside it, and the counts that it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.artifacts import Policy
from bench.records.read import read_run
from bench.reporting.console import runs_table

SETTINGS = [
    "task.train_prompts=40",
    "task.test_prompts=20",
    "num_completions=4",
    "baseline_completions=8",
    "evaluation.num_completions=4",
    "evaluation.lm_eval=false",
    "training.epochs=1",
    "tracking=none",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Policy) -> dict[str, tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("selection")

    def run(name: str, *settings: str) -> tuple[Path, str]:
        policy = ("policy=folder", f"policy.path={tiny_policy.path}", f"name={name}")
        command = [sys.executable, "-m", "bench", *policy, *SETTINGS, *settings]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
        assert process.returncode == 0, process.stderr
        (path,) = folder.glob(f"outputs/{name}/*")
        return path, process.stdout

    return {
        "alone": run("alone", "selection=rso", "prompt_filter=decidable_only", "control=none"),
        "compared": run("compared", "selection=mbr_embeddings"),
    }


def metrics(run: tuple[Path, str]) -> dict:
    return json.loads((run[0] / "metrics.json").read_text())


def test_a_run_without_control_says_nothing_of_one(runs):
    folder, printed = runs["alone"]
    found = metrics(runs["alone"])
    assert not [name for name in found if "control" in name]
    assert "control" not in printed
    assert "tuned: rso" in printed
    assert found["tuned_vs_base/pass@1/verdict"] in ("better", "worse", "not resolved")
    assert (folder / "frontier.png").is_file()


def test_the_primary_contrast_without_control_is_that_with_the_base(runs):
    """Judged by its own interval: its p-value is not multiplied, as the others' are."""
    found = metrics(runs["alone"])
    primary = found["tuned_vs_base/pass@1/p_adjusted"]
    excludes_zero = (
        found["tuned_vs_base/pass@1/difference_low"] > 0 or found["tuned_vs_base/pass@1/difference_high"] < 0
    )
    assert excludes_zero == (found["tuned_vs_base/pass@1/verdict"] != "not resolved")
    assert 0 <= primary <= 1


def test_counts_of_what_was_left_out(runs):
    found = metrics(runs["alone"])
    assert 0 < found["selection/prompts_filtered"] < 40
    assert found["selection/prompts_covered"] == 40 - found["selection/prompts_filtered"]
    assert found["selection/kept"] == 2 * found["selection/prompts_covered"]
    assert found["selection/prompts_below_k"] == 0
    found = metrics(runs["compared"])
    assert found["selection/prompts_filtered"] == 0
    assert found["selection/kept"] == 40
    assert "selection/prompts_below_k" not in found


def test_what_embeddings_cost_is_in_the_lineage(runs):
    entries = json.loads((runs["compared"][0] / "lineage.json").read_text())
    (entry,) = [entry for entry in entries if entry["stage"] == "text_similarity"]
    assert entry["counts"]["flops"] > 0


def test_runs_with_and_without_control_stand_in_one_table(runs):
    table = runs_table([read_run(folder) for folder, _ in runs.values()])
    alone, compared = sorted(table.splitlines()[2:], key=lambda line: "no control" not in line)
    assert "no control" in alone
    assert "no control" not in compared
