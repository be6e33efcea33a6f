"""Every completion of a run's pools can be had: from whatever procedure, with the run's own rewards, from the store."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sharing import Finished

import bench
from bench.errors import BenchError
from bench.records.read import read_run

HYBRID = ["easy_by=probe_solves", "folds=2", "probe_epochs=1", "stop_at_first_accept=true", "fallback=rationalise"]
PROCEDURES = {
    "single": ["control=none"],
    "rounds": ["procedure=rounds", "procedure.rounds=2", "control=none"],
    "adaptive": ["procedure=adaptive", "control=none", "num_completions=8", "evaluation.num_completions=2"],
    "hybrid": ["experiment=hybrid", *(f"procedure.{setting}" for setting in [*HYBRID, "noise=0.25"])],
}


@pytest.fixture(scope="module", params=PROCEDURES)
def finished(request, finished_run: Callable[..., Finished]) -> Path:
    return finished_run(*PROCEDURES[request.param]).folder


def store_of(folder: Path) -> Path:
    return Path(read_run(folder).config["store"])


def test_they_are_those_of_the_samples_and_of_the_rewards(finished):
    runs = bench.load(finished)
    drawn = runs.completions("train")
    assert drawn["run"].eq(finished.name).all()
    for path in finished.glob("rewards.parquet"):  # runs in rounds have a table for each round
        rewards = pd.read_parquet(path)
        both = rewards.merge(drawn, on=["prompt_id", "sample"], suffixes=("_recorded", ""))
        assert len(both) == len(rewards) == len(drawn)
        np.testing.assert_array_equal(both["reward"], both["reward_recorded"])
    assert (drawn["correct"] == (drawn["reward"] > 0.5)).all()  # the scorer is the verifier
    few = runs.samples.query("split == 'train'").merge(drawn, on=["prompt_id", "sample"], suffixes=("_recorded", ""))
    held = few[few["text"].notna()]
    assert len(held) > 20
    for name in ("finish_reason", "length", "policy", "reward", "correct"):
        assert (held[name] == held[f"{name}_recorded"]).all()
    assert (held["text"] == held["completion"]).all()
    assert (held["policy_logprob"] <= 0).all()


def test_the_held_out_pool_gives_the_runs_own_accuracies(finished):
    run = bench.load(finished)
    test = run.completions("test")
    assert test.groupby("prompt_id").size().eq(run[0].metrics["best_of_n/pool_size"]).all()
    accuracy = test.groupby("prompt_id")["correct"].mean().mean()
    assert accuracy == pytest.approx(run[0].series("base", "best_of_n", "accuracy")[1].value)
    assert test["text"].notna().all()
    with pytest.raises(BenchError, match=r"has no pool of split 'dev': it has train, test\."):
        run.completions("dev")


def test_what_the_store_lacks_is_said(finished_run, tmp_path):
    folder = finished_run(*PROCEDURES["single"]).folder
    runs = bench.load(folder)
    with pytest.raises(BenchError, match=r"is gone: the store that has the pool .* is elsewhere \(give store=PATH\)"):
        runs.completions("train", store=tmp_path)
    shutil.copytree(store_of(folder) / "generate", tmp_path / "generate")
    assert runs.completions("train", store=tmp_path).equals(runs.completions("train"))
    for file in tmp_path.glob("generate/*/*/completions.parquet"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BenchError, match=r"completions.parquet is missing or truncated; run the experiment again"):
        runs.completions("train", store=tmp_path)


def test_a_changed_record_reads_no_other_file(finished_run, tmp_path):
    folder = finished_run(*PROCEDURES["single"]).folder
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    cells = pd.read_parquet(copy / "completions.parquet").assign(unit="../../etc")
    cells.to_parquet(copy / "completions.parquet")
    with pytest.raises(BenchError, match=r"is no part of a pool|was changed"):
        bench.load(copy).completions("train")


def test_a_run_that_lost_its_checksums_is_not_taken_for_an_older_one(finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run(*PROCEDURES["single"]).folder, copy)
    (copy / "checksums.json").unlink()
    with pytest.raises(BenchError, match=r"checksums\.json is missing"):
        bench.load(copy)
    (copy / "checksums.json").symlink_to("nowhere")
    with pytest.raises(BenchError, match=r"checksums\.json links to nothing"):
        bench.load(copy)
