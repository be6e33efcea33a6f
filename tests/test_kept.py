"""Policies kept along a training: those of shorter trainings, never made twice, and judged on validation prompts."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawing import generate
from sharing import composed

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.config import checks
from bench.errors import BenchError
from bench.evaluation.heldout import AlongTraining
from bench.evaluation.measures import along_counts
from bench.launching import runner
from bench.models import loading
from bench.records.read import read_run
from bench.reporting.exhibits import of_one_run
from bench.store import Store, using
from bench.training import sft
from bench.training.checkpoints import kept
from bench.training.lora import Lora
from bench.training.recipe import examples_read
from bench.training.sft import fine_tune, training_log

CELLS = Selection(np.arange(7), np.zeros(7, int), np.ones(7))
STEADY = {"batch_size": 2, "scheduler": "constant", "warmup": 0.0, "seed": 0}  # seven rows: four updates per epoch
DROPPING = Lora(r=2, alpha=2, dropout=0.2, target_modules="all-linear", four_bit=False)  # draws from a generator


@pytest.fixture
def pool(few_prompts: Prompts, random_policy: Policy, store: Store) -> Completions:
    return generate(few_prompts, random_policy, num_completions=1)


def weights(policy: Policy) -> bytes:
    (path,) = policy.path.glob("*.safetensors")
    return path.read_bytes()


@pytest.mark.parametrize("how", [{}, {"lora": DROPPING}, {"packing": True}])
def test_a_kept_policy_is_that_of_a_shorter_training(how, random_policy, few_prompts, pool, store):
    """And the last one is what it is without any kept: keeping draws no random number."""
    given = (random_policy, few_prompts, pool, CELLS)
    long = fine_tune(*given, **STEADY, **how, epochs=3, keep_every=4)
    assert list(kept(long)) == [4, 8]  # not 12, the last
    assert long.fingerprint == fine_tune(*given, **STEADY, **how, epochs=3).fingerprint
    for updates, epochs in ((4, 1), (8, 2)):
        short = fine_tune(*given, **STEADY, **how, epochs=epochs)
        assert len(training_log(short)) == updates
        assert weights(kept(long)[updates]) == weights(short)
        files = {path.name: path.read_text() for path in kept(long)[updates].path.glob("*.json")}
        assert files == {path.name: path.read_text() for path in short.path.glob("*.json") if path.name in files}
        assert loading.base_of(kept(long)[updates]).path == loading.base_of(short).path or not how.get("lora")
    uses = [use for use in store.uses if use.stage == "sft"]
    assert uses[0].counts == uses[1].counts
    assert uses[0].settings == {**uses[1].settings, "keep_every": 4}


@pytest.mark.parametrize("how", [{}, {"packing": True}, {"scheduler": "cosine", "warmup": 0.3}])
def test_a_training_makes_exactly_its_updates(how, random_policy, few_prompts, pool, store):
    """Seven rows in batches of two: three updates are less than an epoch, ten are two and a half."""
    given, steady = (random_policy, few_prompts, pool, CELLS), {**STEADY, **how}
    for updates in (3, 10):
        made = fine_tune(*given, **steady, epochs=None, updates=updates)
        assert len(training_log(made)) == updates
    of_epochs = fine_tune(*given, **steady, epochs=2)
    assert weights(fine_tune(*given, **steady, epochs=None, updates=8)) == weights(of_epochs)
    assert [use.settings.get("updates") for use in store.uses if use.stage == "sft"] == [3, 10, None, 8]


def test_examples_that_a_training_reads_are_counted():
    updates = {"epochs": None, "batch_size": 2}
    assert [examples_read(7, {**updates, "updates": n}) for n in (1, 3, 4, 5, 8)] == [2, 6, 7, 9, 14]
    assert examples_read(7, {"epochs": 2.5, "batch_size": 2}) == 17.5
    assert examples_read(0, {**updates, "updates": 3}) == 0


@pytest.mark.parametrize("length", [{"epochs": 3, "updates": 60}, {"epochs": None}])
def test_one_length_of_a_training_is_given(length, random_policy, few_prompts, pool, store):
    with pytest.raises(BenchError, match=r"training\.epochs"):
        fine_tune(random_policy, few_prompts, pool, CELLS, **STEADY, **length)


def test_a_training_too_short_to_keep_any_says_so(random_policy, few_prompts, pool, store, capsys):
    given = (random_policy, few_prompts, pool, CELLS)
    fine_tune(*given, **STEADY, epochs=1, keep_every=3)
    assert "training.keep_every" not in capsys.readouterr().err
    fine_tune(*given, **STEADY, epochs=1, keep_every=4)
    assert "training.keep_every=4 kept no policy on the way" in (said := capsys.readouterr().err)
    assert "the training had 4 updates" in said


def test_what_was_kept_before_a_kill_is_not_made_again(random_policy, few_prompts, pool, store, monkeypatch):
    """With and without checkpoints, beside one training that nothing stopped."""
    given, how = (random_policy, few_prompts, pool, CELLS), {**STEADY, "epochs": 2, "keep_every": 2}
    keep = sft.keep
    whole = fine_tune(*given, **how)
    assert list(kept(whole)) == [2, 4, 6]
    for checkpoint_every in (None, 3):
        made: list[int] = []

        def die_at_the_third(scratch, updates, write, made=made):
            def half(folder: Path) -> None:
                (folder / "config.json").write_text("{")
                raise KeyboardInterrupt

            keep(scratch, updates, half if len(made) == 2 else write)
            made.append(updates)

        def note(scratch, updates, write, made=made):
            made.append(updates)
            keep(scratch, updates, write)

        with using(Store(store.root.parent / f"killed {checkpoint_every}")) as killed:
            monkeypatch.setattr(sft, "keep", die_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(*given, **how, checkpoint_every=checkpoint_every)
            assert made == [2, 4]
            monkeypatch.setattr(sft, "keep", note)
            resumed = fine_tune(*given, **how, checkpoint_every=checkpoint_every)
            assert made == [2, 4, 6]
            assert [path.name for path in (killed.root / "sft").iterdir()] == [resumed.path.name]  # nothing beside it
            assert fine_tune(*given, **how) == resumed
            assert made == [2, 4, 6]
        for updates in (2, 4, 6):
            assert weights(kept(resumed)[updates]) == weights(kept(whole)[updates])
        assert list(kept(resumed)) == [2, 4, 6]


def experiment(folder: Path, policy: Policy, *given: str) -> Path:
    return runner.run_experiment(
        composed(
            *("task.train_prompts=7", "task.validation_prompts=6", "task.test_prompts=4", "task.max_new_tokens=12"),
            *("policy=folder", f"policy.path={policy.path}", "split=validation", "tracking=none", "threads=1"),
            *("num_completions=2", "baseline_completions=4", "temperature=0.7", "evaluation.lm_eval=false"),
            *("evaluation.num_completions=4", "evaluation.kl_completions=4", "evaluation.temperatures=null"),
            *("prompt_filter=all", "training.scheduler=constant", "training.batch_size=2", "training.warmup=0"),
            *(f"store={folder}/store", f"outputs={folder}/outputs"),
            *given,
        ),
        quiet=True,
    )


def test_an_experiment_judges_them_on_validation_prompts(random_policy, tmp_path):
    """A run that is itself judged there must say the same, and one that stopped earlier, of what was kept then."""
    long = experiment(tmp_path, random_policy, "training.epochs=2", "training.keep_every=4")
    short = experiment(tmp_path, random_policy, "training.epochs=1")
    found, other = (json.loads((folder / "metrics.json").read_text()) for folder in (long, short))
    for arm in ("tuned", "control"):
        assert found[f"{arm}/kl"] > 0.01
        for measured, name in (("kl", "kl"), ("accuracy", "pass@1"), ("greedy_accuracy", "greedy_accuracy")):
            at = {n: found[f"{arm}/validation@{n}/{measured}"] for n in (0, 4, 8)}
            expected = found[f"base/{name}"], other[f"{arm}/{name}"], found[f"{arm}/{name}"]
            assert tuple(at.values()) == pytest.approx(expected, abs=1e-6)
        assert found[f"{arm}/validation_updates"] == 8
    assert found["tuned/validation@4/kl"] != pytest.approx(found["tuned/validation@8/kl"], rel=1e-3)
    assert found["validation/prompts"] == 6
    assert found["cost/train_tokens"] == 2 * other["cost/train_tokens"]  # each training counts once
    assert found["cost/generated_tokens"] > other["cost/generated_tokens"]
    assert found["break_even/reward_training_flops"] == 0  # samples that judge are no part of what tuning costs
    assert not any("validation@" in name for name in other)
    assert not (short / "validation.parquet").exists()

    rows = pq.read_table(long / "validation.parquet").to_pylist()
    kl = [row["value"] for row in rows if (row["policy"], row["metric"], row["n"]) == ("tuned", "kl", 4)]
    assert len(kl) == 6
    assert np.mean(kl) == pytest.approx(found["tuned/validation@4/kl"])
    run = read_run(long)
    assert len(run.per_prompt("tuned", "pass", "accuracy", 1)) == 6
    frontier, along = of_one_run(run)
    assert (frontier.name, along.name) == ("frontier", "training")
    assert [(row["arm"], row["updates"]) for row in along.rows] == [
        (arm, n) for arm in ("tuned", "control") for n in (0, 4, 8)
    ]
    assert [row["kl"] for row in along.rows[:3]] == [found[f"tuned/validation@{n}/kl"] for n in (0, 4, 8)]
    assert [figure.name for figure in of_one_run(read_run(short))] == ["frontier"]


def test_the_best_is_the_earliest_of_the_most_accurate_and_never_the_base(few_prompts):
    path = {0: [1, 1], 5: [0, 1], 10: [1, 0], 12: [0, 0]}
    outcomes = {n: SimpleNamespace(sampled=SimpleNamespace(gold=np.array([right]))) for n, right in path.items()}
    assert along_counts(AlongTraining(few_prompts, {"tuned": outcomes})) == {
        "validation/prompts": 7,
        "tuned/validation_updates": 12,
        "tuned/validation_best_updates": 5,
    }
    assert along_counts(None) == {}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["procedure=rounds"], "training.keep_every=5 is not allowed with procedure=rounds, which judges only the"),
        (["task.validation_prompts=1"], "training.keep_every=5 is not allowed with task.validation_prompts=1"),
        (["training.keep_every=0"], "training.keep_every=0 is not allowed: it must be a whole number of at least 1"),
    ],
)
def test_where_they_can_not_be_judged_they_are_not_kept(given, complaint):
    with pytest.raises(BenchError, match=complaint):
        checks.check(composed("training.keep_every=5", *given))


def test_all_other_procedures_judge_them():
    """They end in one step, `Parts.train_and_judge`, which judges what the trainings kept."""
    for procedure in (
        ["procedure=single"],
        ["procedure=adaptive", "control=none"],
        ["procedure=hybrid", "control=none"],
        ["procedure=generators"],
    ):
        checks.check(composed("training.keep_every=5", *procedure))
