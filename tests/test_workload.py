"""A rehearsal asks for exactly what the experiment then does, and cells share in both what they share."""

from pathlib import Path

import numpy as np
import pytest
from sharing import CONF, composed

from bench.artifacts import Policy, Rewards
from bench.config import checks
from bench.procedures.parts import Parts
from bench.progress import told
from bench.store import Store, using
from bench.sweeps.cells import Cell, cells
from bench.sweeps.plan import Workload, record_of, workload

SMALL = [
    *("task.train_prompts=6", "task.validation_prompts=3", "task.test_prompts=4", "task.max_new_tokens=4"),
    *("num_completions=4", "baseline_completions=8", "generation.block_size=2", "evaluation.num_completions=2"),
    *("evaluation.lm_eval=false", "tracking=none", "training.epochs=2", "training.batch_size=1"),
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
    "generators": (["procedure.drawn_by=[student]"],),
}
FIXED = (  # selections that keep equally many completions whatever the rewards
    *("mbr", "mbr_tokens", "random_k_overall", "random_per_prompt", "softmax"),
    *("top_k_overall", "top_k_per_prompt", "top_per_prompt", "worst_per_prompt"),
)
SELECTIONS = sorted(
    path.stem for path in CONF.glob("selection/*.yaml") if path.stem != "mbr_embeddings"
)  # loads a model


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def planned_and_done(random_policy: Policy, shared_store: Path, monkeypatch):
    """Rehearse an experiment, then run it on random completions with rewards, answers and paths by their lengths."""

    def both(*given: str) -> tuple[Workload, dict[str, float]]:
        base = ["policy=folder", f"policy.path={random_policy.path}", f"store={shared_store}"]
        cfg = composed(*SMALL, *base, *given)
        cell = Cell("", cfg, ())
        planned = workload([cell])
        parts = checks.build_parts(cfg)
        del parts["tracking"]
        parts["scoring"] = lambda prompts, completions: Rewards(_lengths(completions.text) % 2)
        for name in ("path", "extract_answer"):
            monkeypatch.setattr(type(parts["task"]), name, lambda self, text: str(len(text) % 3))
        stages: list[str] = []
        with using(Store(shared_store)) as store, told(rehearse=stages.append):  # which hears real ones too
            parts.pop("procedure")(Parts(**parts, **{name: cfg[name] for name in checks.RUN_SETTINGS}))
            done = {(use.stage, use.key, use.part): use for use in store.uses}.values()
        assert stages == [stage.name for stage in record_of(cell).stages]
        trained = [use for use in done if use.stage == "sft"]
        return planned, {
            "completions": sum(use.counts.get("completions", 0) for use in done),
            "trainings": len(trained),
            "examples": sum(use.counts["steps"] for use in trained),  # one example each
            "evaluations": sum(use.stage == "divergence_samples" for use in done),
        }

    return both


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


@pytest.mark.parametrize("selection", SELECTIONS)
def test_each_selection_trains_on_what_was_planned(selection, planned_and_done):
    """Exactly where the number does not depend on rewards; else by random rewards, within what a pool can give."""
    texts_have_no_steps = ["selection.every_step=false"] if selection == "distinct_correct" else []
    planned, done = planned_and_done(f"selection={selection}", "training.epochs=1", *texts_have_no_steps)
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
    rounds = ["procedure=rounds", "procedure.rounds=2", "task.validation_prompts=7"]
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
    found = of("split=test,validation", "control=none")
    assert (found.pools, found.trainings, found.evaluations) == (1, 1, 4)


def test_an_unknown_number_of_validation_prompts_is_said_where_it_matters():
    few = ["experiment=gsm8k_qwen", "procedure=rounds"]
    assert of(*few).unknown == ()
    assert of(*few, "procedure.stop=validation").unknown == ("task.validation_prompts",)
