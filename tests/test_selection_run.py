"""Selection as a run sees it: a filter before it, no control beside it, and the counts that it leaves."""

import json
from collections.abc import Callable

import pytest
from sharing import Finished

from bench.records.read import read_run
from bench.reporting.console import runs_table


@pytest.fixture(scope="module")
def runs(finished_run: Callable[..., Finished]) -> dict[str, Finished]:
    return {
        "alone": finished_run("name=alone", "selection=rso", "prompt_filter=decidable_only", "control=none"),
        "compared": finished_run("name=compared", "selection=mbr_embeddings", "prompt_filter=all"),
    }


def metrics(run: Finished) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())


def test_a_run_without_control_says_nothing_of_one(runs):
    run = runs["alone"]
    found = metrics(run)
    assert not [name for name in found if "control" in name]
    assert "control" not in run.out
    assert "tuned: rso" in run.out
    assert found["tuned_vs_base/pass@1/verdict"] in ("better", "worse", "not resolved")
    assert (run.folder / "frontier.png").is_file()


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
    entries = json.loads((runs["compared"].folder / "lineage.json").read_text())
    (entry,) = [entry for entry in entries if entry["stage"] == "text_similarity"]
    assert entry["counts"]["flops"] > 0


def test_runs_with_and_without_control_stand_in_one_table(runs):
    table = runs_table([read_run(run.folder) for run in runs.values()])
    alone, compared = sorted(table.splitlines()[2:], key=lambda line: "no control" not in line)
    assert "no control" in alone
    assert "no control" not in compared
