"""A rehearsal asks for exactly what the experiment then does, and cells share in both what they share."""

from pathlib import Path

import pytest
from sharing import CONF, composed

from bench.artifacts import Policy
from bench.config import checks
from bench.procedures.parts import Parts
from bench.store import Store, using
from bench.sweeps.cells import Cell, cells
from bench.sweeps.workload import workload

SMALL = [
    *("task.train_prompts=6", "task.validation_prompts=3", "task.test_prompts=4", "task.max_new_tokens=4"),
    *("num_completions=4", "baseline_completions=8", "generation.block_size=2", "evaluation.num_completions=2"),
    *(
        "evaluation.lm_eval=false",
        "tracking=none",
        "selection=random_per_prompt",
        "training.epochs=2",
        "training.batch_size=1",
    ),
]


@pytest.mark.parametrize(
    "given",
    [
        ["seed=0"],
        ["control=none", "top_p=0.5"],
        ["training.keep_every=5"],
        ["procedure=rounds", "procedure.rounds=2", "procedure.train_on=union"],
        ["procedure=rounds", "procedure.rounds=1", "procedure.stop=validation", "procedure.validation_completions=2"],
        ["procedure=adaptive", "control=none", "procedure.stop=none", "procedure.accept_above=-1"],
        ["procedure=hybrid", "control=none", "procedure.hard=drop", "procedure.folds=2"],
    ],
)
def test_a_run_draws_trains_and_judges_what_was_asked(given, random_policy: Policy, tmp_path: Path):
    cfg = composed(*SMALL, "policy=folder", f"policy.path={random_policy.path}", f"store={tmp_path}", *given)
    asked = workload([Cell("", cfg, ())])
    parts = checks.build_parts(cfg)
    del parts["tracking"]
    with using(Store(tmp_path)) as store:
        parts.pop("procedure")(Parts(**parts, **{name: cfg[name] for name in checks.RUN_SETTINGS}))
        done = {(use.stage, use.key, use.part): use for use in store.uses}.values()
    assert asked.completions == sum(use.counts.get("completions", 0) for use in done)
    trained = [use for use in done if use.stage == "sft"]
    assert asked.trainings == len(trained)
    assert asked.examples == sum(use.counts["steps"] for use in trained)  # one example each
    assert asked.evaluations == sum(use.stage == "divergence_samples" for use in done)


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
