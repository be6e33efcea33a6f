"""A rehearsal asks for exactly what the experiment then does, and cells share in both what they share."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sharing import CONF, Shared, composed, scaled

from bench.artifacts import Policy, Rewards
from bench.config import checks
from bench.procedures import elsewhere
from bench.procedures.parts import Parts
from bench.progress import duration, told
from bench.store import SHIPPED, Store, using
from bench.sweeps import plan
from bench.sweeps.cells import Cell, cells
from bench.sweeps.plan import Workload, record_of, workload

SMALL = [
    *("task.train_prompts=6", "task.validation_prompts=3", "task.test_prompts=4", "task.max_new_tokens=4"),
    *("num_completions=4", "baseline_completions=8", "generation.block_size=2", "evaluation.num_completions=2"),
    *("evaluation.temperatures=null", "evaluation.lm_eval=false", "tracking=none"),
    "prompt_filter=all",  # what the default leaves out depends on the rewards
    *("training.epochs=2", "training.batch_size=1"),  # one example per step
]
AT_RANDOM = "selection=random_per_prompt"
PROCEDURES = {
    "single": (
        [],
        ["control=none", "top_p=0.5"],
        ["training.keep_every=5"],
        ["evaluation.temperatures=[0,0.5,1]", "control=none"],
        ["training.updates=7", "training.epochs=null", "training.keep_every=5"],
    ),
    "rounds": (
        ["procedure.rounds=2", "procedure.train_on=union"],
        ["procedure.rounds=1", "procedure.stop=validation", "procedure.validation_completions=2"],
    ),
    "adaptive": (["control=none", "procedure.stop=none", "procedure.accept_above=-1"],),
    "hybrid": (["control=none", "procedure.hard=drop", "procedure.folds=2"],),
    "sft": (["control=none"],),
    "generators": (["procedure.drawn_by=[student]"], ["procedure.drawn_by=[student]", "procedure.solutions=true"]),
    "online": (
        ["control=none", "procedure.num_iterations=2", "training.keep_every=2"],
        ["procedure.num_generations=2", "procedure.prompts_per_update=4", "procedure.algorithm=rloo"],
    ),
}
FIXED = (  # selections that keep equally many completions whatever the rewards
    *("mbr", "mbr_tokens", "random_k_overall", "random_per_prompt", "softmax"),
    *("top_k_overall", "top_k_per_prompt", "top_per_prompt", "worst_per_prompt", "random pairs"),
)
PAIRS = {f"{path.stem} pairs": ["training=dpo", f"pairs={path.stem}"] for path in sorted(CONF.glob("pairs/*.yaml"))}
SELECTIONS = sorted(
    path.stem for path in CONF.glob("selection/*.yaml") if path.stem != "mbr_embeddings"
)  # loads a model


@pytest.fixture(scope="session")
def shared_store(shared: Shared) -> Path:
    """What all workers make for these tests, whose scores and answers are not those of other tests."""
    return shared.root / "planned_and_done"


@pytest.fixture
def planned_and_done(random_policy: Policy, shared_store: Path, monkeypatch):
    """Rehearse an experiment, then run it on random completions with rewards, answers and paths by their lengths."""

    def both(*given: str) -> tuple[Workload, dict[str, float]]:
        chosen = [] if "policy=warm_started" in given else ["policy=folder", "policy.path={folder}"]
        settings = [setting.format(folder=random_policy.path) for setting in (*chosen, *given)]
        cfg = composed(*SMALL, f"store={shared_store}", *settings)
        cell = Cell("", cfg, ())
        planned = workload([cell])
        parts = checks.build_parts(cfg)
        del parts["tracking"]
        parts["scoring"] = lambda prompts, completions: Rewards(_lengths(completions.text) % 2)
        for name in ("path", "extract_answer"):
            monkeypatch.setattr(type(parts["task"]), name, lambda self, text: str(len(text) % 3))
        stages: list[str] = []
        with using(Store(shared_store)) as store, told(rehearse=stages.append):  # which hears real ones too
            elsewhere.run(parts.pop("procedure"), Parts(**parts, **{name: cfg[name] for name in checks.RUN_SETTINGS}))
            done = {(use.stage, use.key, use.part): use for use in store.uses}.values()
        assert stages == [stage.name for stage in record_of(cell).stages]
        trained = [use for use in done if use.stage in ("sft", "dpo", "online")]
        return planned, {
            "completions": sum(use.counts.get("completions", 0) for use in done),
            "trainings": len(trained),
            "examples": sum(use.counts.get("trained_completions", use.counts["steps"]) for use in trained),
            "evaluations": sum(use.stage == "divergence_samples" for use in done),
        }

    return both


@pytest.fixture(scope="module")
def other_policies(random_policy: Policy, tmp_path_factory) -> list[str]:
    """Three policies from elsewhere, two of them checkpoints of one training."""
    root = tmp_path_factory.mktemp("arms")
    made = [str(scaled(random_policy.path, by, root / f"step_{by}")) for by in (0.25, 0.5, 0.75)]
    return [f"arms.mine={made[0]}", f"arms.path=[{made[1]},{made[2]}]"]


def _lengths(texts: np.ndarray) -> np.ndarray:
    return np.vectorize(len, otypes=[float])(texts)


def test_every_procedure_is_compared():
    assert PROCEDURES.keys() == {path.stem for path in CONF.glob("procedure/*.yaml")}


@pytest.mark.parametrize(
    "given", [[f"procedure={name}", *given] for name, cases in PROCEDURES.items() for given in cases], ids=" ".join
)
def test_each_procedure_does_exactly_what_was_planned(given, planned_and_done):
    planned, done = planned_and_done(AT_RANDOM, *given)
    assert {name: getattr(planned, name) for name in done} == done


WARM = ["policy=warm_started", "policy.start.path={folder}", "policy.training.epochs=1", "policy.training.batch_size=1"]
SOLVED = "procedure.generators.solved"
GENERATED = [  # RFT as published: the base after SFT draws, and the base is trained
    *("procedure=generators", "procedure.drawn_by=[solved]", "procedure.solutions=true", f"+{SOLVED}.weight=1"),
    *(f"+policy@{SOLVED}.policy=warm_started", f"{SOLVED}.policy.start.path={{folder}}"),
    *(f"{SOLVED}.policy.training.batch_size=1", f"{SOLVED}.policy.training.epochs=3"),
]


@pytest.mark.parametrize(("given", "compared"), [(WARM, 0), (GENERATED, 1)], ids=["base", "generator"])
def test_a_warm_start_is_planned_as_it_is_done(given, compared, planned_and_done):
    """compared: the KL of the tuned policy from a generator, which is read beside the evaluations."""
    planned, done = planned_and_done(AT_RANDOM, *given)
    done["evaluations"] -= compared
    assert {name: getattr(planned, name) for name in done} == done


ROUNDS = ["procedure=rounds", "procedure.rounds=2", "procedure.start=current", "procedure.train_on=union"]
UPDATES = [*WARM, "training.epochs=null", "training.updates=7"]


@pytest.mark.parametrize("given", [ROUNDS, UPDATES], ids=["rounds", "after a warm start"])
def test_preference_tuning_does_exactly_what_was_planned(given, planned_and_done):
    planned, done = planned_and_done(*PAIRS["random pairs"], *given)
    assert {name: getattr(planned, name) for name in done} == done


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_policies_from_elsewhere_are_planned_with_each_procedure(procedure, other_policies, planned_and_done):
    given = [f"procedure={procedure}", *PROCEDURES[procedure][0]]
    planned, done = planned_and_done(AT_RANDOM, *given, *other_policies)
    assert {name: getattr(planned, name) for name in done} == done
    assert planned.evaluations >= 3 + 2  # on test prompts and, for two of them, on validation prompts


@pytest.mark.parametrize("selection", [*SELECTIONS, *PAIRS])
def test_each_selection_trains_on_what_was_planned(selection, planned_and_done):
    """Exactly where the number does not depend on rewards; else by random rewards, within what a pool can give."""
    texts_have_no_steps = ["selection.every_step=false"] if selection == "distinct_correct" else []
    chosen = PAIRS.get(selection, [f"selection={selection}"])
    planned, done = planned_and_done(*chosen, "training.epochs=1", *texts_have_no_steps)
    assert planned.evaluations - planned.trainings == done["evaluations"] - done["trainings"] == 1
    if selection in FIXED:
        assert {name: getattr(planned, name) for name in done} == done
    else:
        assert 1 <= done["trainings"] <= 2 >= planned.trainings >= 1
        assert 0 < done["examples"] <= 2 * 6 * 4 >= planned.examples > 0
        each = 4 * (2 + 2)  # greedy and sampled held-out completions of each policy, in blocks of 2
        assert abs(planned.completions - done["completions"]) <= each * abs(planned.trainings - done["trainings"])


def of(*given: str):
    found = cells(list(given), str(CONF))
    assert found is not None
    return workload(found)


def test_validation_samples_that_say_when_to_stop_are_counted():
    rounds = ["procedure=rounds", "procedure.rounds=2", "task.validation_prompts=7", "evaluation.temperatures=null"]
    more = of(*rounds, "procedure.stop=validation", "procedure.validation_completions=5")
    assert (
        more.completions - of(*rounds).completions == 3 * 7 * 8
    )  # the base and both rounds' tuned policies, blocks of 4


def test_the_samples_that_choose_a_rounds_temperature_are_those_of_its_pool():
    """Two rounds probe four temperatures on all ten prompts, and go on with one of these pools."""
    few = ["experiment=b_star", "procedure.rounds=2", "task.train_prompts=10", "num_completions=4", "control=none"]
    adapted = of(*few)
    assert adapted.pools == 2 * 4
    assert adapted.completions - of(*few, "procedure.adapt=null").completions == 2 * (4 - 1) * 10 * 4


def test_held_out_samples_of_two_splits_are_not_one():
    found = of("split=test,validation", "control=none", "evaluation.temperatures=null")
    assert (found.pools, found.trainings, found.evaluations) == (1, 1, 4)


def test_an_unknown_number_of_validation_prompts_is_said_where_it_matters():
    few = ["experiment=gsm8k_qwen", "task.validation_prompts=null", "procedure=rounds"]
    alone = "evaluation.temperatures=null"
    assert of(*few, alone).unknown == ()
    assert of(*few).unknown == of(*few, alone, "procedure.stop=validation").unknown == ("task.validation_prompts",)


def test_a_plan_counts_what_lm_eval_judges_and_names_what_it_leaves_out(monkeypatch):
    per = {"artifacts": 3, "completions": 1e-3, "tokens": 10.0, "trainings": 1.0, "evaluations": 1.0, "harnessed": 60.0}
    monkeypatch.setattr(plan, "rates", lambda cfg: per)

    def said(*given: str) -> str:
        listed = cells(list(given), str(CONF))
        assert listed is not None
        return plan.estimate(listed)

    work = of()
    assert (work.harnessed, work.harness_completions) == (3, 3 * 300)
    seconds = work.completions / 1e3 + work.trainings + work.evaluations
    assert said("evaluation.lm_eval=false").startswith(
        f"time: about {10 * work.completions:,} tokens and {duration(seconds)} of work remain, by what 3 artifacts"
    )
    both = f"time: about {10 * (work.completions + 900):,} tokens and {duration(seconds + 3 * 60)} of work remain, by"
    assert said().startswith(both)
    assert said().endswith("in the store took, of any model")
    others = said("evaluation.harness_tasks=[arc_easy]")
    assert others.startswith(both)
    assert others.endswith("in the store took, of any model; without lm-eval on arc_easy")


@pytest.mark.parametrize("lm_eval", [True, False])
def test_the_stages_of_a_run_have_the_work_of_its_plan(lm_eval):
    (cell,) = cells([f"evaluation.lm_eval={lm_eval}"], str(CONF)) or ()
    staged = sum((stage.work for stage in record_of(cell).stages), Counter())
    planned = of(f"evaluation.lm_eval={lm_eval}")
    for kind in ("completions", "trainings", "evaluations"):
        assert staged[kind] == getattr(planned, kind)
    for kind in ("harnessed", "harness_completions"):
        assert staged[kind] == lm_eval * getattr(planned, kind)


def test_a_header_says_what_is_pretrained_and_how_long_it_takes(tmp_path):
    (cell,) = cells(["seed=5", f"store={tmp_path}"], str(CONF)) or ()
    said = plan.opening(cell, ())
    shipped = SHIPPED.glob("pretrain/*/manifest.json")  # of as many steps: the first estimate of an empty store
    seconds = [json.loads(manifest.read_text())["seconds"] for manifest in shipped]
    assert f"to come   1 policy to pretrain ({duration(sum(seconds) / len(seconds))}), 2 generate" in said
