"""What a run's lineage says of its costs: which reward models read the pool, and what it took to train them."""

import dataclasses
import functools

import numpy as np
import pytest
from test_trained_reward_model import BY_LENGTH, SMALL, FewPrompts, generate, gold_length

from bench.artifacts import Selection
from bench.estimators.compute import Costs, fine_tuning_flops
from bench.evaluation.heldout import Graded
from bench.models import loading
from bench.procedures.findings import Findings, Results
from bench.records import costs
from bench.scoring import prepared
from bench.scoring.ensemble import seed_ensemble
from bench.scoring.length import length
from bench.scoring.trained_reward_model import trained_reward_model
from bench.store import unique

SIZES = [1, 2, 4]


@pytest.fixture
def finished(store, random_policy, few_prompts):
    """Results under a scorer, and the store they came from; what is not looked at is left out."""

    def run(scoring):
        scoring = prepared(scoring, base=random_policy, task=FewPrompts(few_prompts), generation=generate)
        pool = generate(few_prompts, random_policy, num_completions=4)
        rewards = scoring(few_prompts, pool)
        held_out = generate(few_prompts, random_policy, num_completions=4, seed=9)
        zeros = np.zeros(held_out.shape)
        graded = Graded(
            held_out, scoring(few_prompts, held_out).value, zeros, zeros.astype(object), zeros.astype(object)
        )
        rows = np.arange(7)
        return Results(
            train=few_prompts,
            pool=pool,
            rewards=rewards,
            prompts_filtered=0,
            selections={"tuned": Selection(rows, np.zeros(7, int), np.ones(7))},
            policies={"base": random_policy},
            split="test",
            test=few_prompts,
            outcomes={},
            best_of_n=graded,
        )

    return run


def break_even(results, store, tuned):
    """Best-of-n at .2, .4, .6 for 1, 2, 4 samples, against a policy as good as `tuned`."""
    curve = np.tile([0.2, 0.4, 0.6], (7, 1))
    rng = np.random.default_rng(0)
    paid = costs.costs_of(results, store.uses, {"epochs": 1})
    best_of_n = dict(zip(SIZES, curve.T, strict=True))
    return costs.break_even_metrics(results, store.uses, paid, best_of_n, np.full(7, tuned), rng)


def test_every_member_of_an_ensemble_reads_every_completion_and_is_trained_once(store, finished):
    member = functools.partial(trained_reward_model, gold=gold_length, **{**SMALL, **BY_LENGTH})
    settings = {"size": 2, "combine": "mean", "variance_weight": 0.5, "normalise": True, "seed": 0}
    results = finished(functools.partial(seed_ensemble, member=member, **settings))
    found = break_even(results, store, 0.4)
    folders = [store.root / "train_reward_model" / use.key for use in store.uses if use.stage == "train_reward_model"]
    assert len(folders) == 2
    parameters = sum(loading.count_parameters(loading.folder(folder)) for folder in folders)
    assert found["break_even/reward_parameters"] == parameters > 0

    # Pairs and reference samples have streams of their own; scoring them is scoring neither pool.
    ancestors = unique(store.uses)
    pools = results.pool.stored_as | results.best_of_n.completions.stored_as
    drawn = [use for use in ancestors if use.stage == "generate"]
    asked = [use for use in drawn if f"{use.key}/{use.part}" not in pools]
    assert 0 < len(asked) < len(drawn)
    scored = [use for use in ancestors if use.stage == "score_reward_model"]
    beside = [use for use in scored if not any(use.parents["completions"].startswith(unit) for unit in pools)]
    assert 0 < len(beside) < len(scored)
    trained = sum(use.counts["train_flops"] for use in ancestors if use.stage == "train_reward_model")
    once = trained + sum(use.counts["flops"] for use in [*asked, *beside])
    assert found["break_even/reward_training_flops"] == pytest.approx(once)

    policy = loading.count_parameters(results.policies["base"])
    prompt = sum(use.counts["prompt_tokens"] for use in drawn if f"{use.key}/{use.part}" in results.pool.stored_as) / 7
    completion = float(results.pool.length.mean())
    paid = (
        fine_tuning_flops(Costs(policy, parameters, prompt, completion, pool_size=4, prompts=7, epochs=1, selected=7))
        + once
    )
    a_query = 2 * policy * (prompt + 2 * completion) + 2 * parameters * 2 * (prompt + completion)
    assert found["break_even/queries"] == np.ceil(paid / (a_query - 2 * policy * (prompt + completion)))


def test_a_scorer_without_a_model_costs_no_flops(store, finished):
    found = break_even(finished(functools.partial(length, prefer="shortest")), store, 0.4)
    assert found["break_even/reward_parameters"] == found["break_even/reward_training_flops"] == 0
    assert found["break_even/queries"] is not None


def test_a_model_does_not_pay_beside_one_sample_that_nobody_scores(store, finished):
    scorer = functools.partial(trained_reward_model, gold=gold_length, **{**SMALL, **BY_LENGTH})
    found = break_even(finished(scorer), store, 0.1)
    assert (found["break_even/n"], found["break_even/queries"]) == (1, None)
    assert "never pays" in found["break_even/sentence"]


def test_work_that_a_procedure_asked_for_twice_is_paid_for_once(store, finished):
    """A hybrid reads its demonstrations for the gate and again for the probe; the store has them the second time."""

    @dataclasses.dataclass(frozen=True)
    class Reading(Findings):
        def cost(self, results, uses):
            read = tuple(use for use in uses if use.stage == "generate")
            return dataclasses.replace(super().cost(results, uses), probing=read)

    results = dataclasses.replace(finished(functools.partial(length, prefer="shortest")), findings=Reading())
    once = break_even(results, store, 0.4)
    store.uses.extend(list(store.uses))
    assert once["break_even/reward_training_flops"] > 0
    assert break_even(results, store, 0.4) == once
