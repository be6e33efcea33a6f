"""What a run records of the base's held-out pool, against enumeration over its subsets and hand-counted prompts."""

import itertools
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.estimators.kl import best_of_n_kl
from bench.evaluation import measures
from bench.evaluation.heldout import Graded
from bench.evaluation.measures import Measure
from bench.records.metrics import contrasts, curves, distillation, flatten, on_same_prompts, provenance
from bench.scoring import gives_log_odds


def graded(
    proxy: list[list[float]], gold: list[list[float]], answers: list[list[Any]], paths: list[list[Any]]
) -> Graded:
    shape = np.shape(gold)
    completions = SimpleNamespace(logprob=np.full(shape, -2.0), policy_logprob=np.full(shape, -2.5))
    return Graded(
        cast(Any, completions), np.array(proxy), np.array(gold), np.array(answers, object), np.array(paths, object)
    )


POOL = graded(
    proxy=[[0.9, 0.1, 0.4, 0.4], [0.3, 0.2, 0.1, 0.0]],
    gold=[[0, 1, 1, 1], [0, 0, 1, 0]],
    answers=[["7", "5", "5", "5"], ["1", "2", "3", None]],
    paths=[["a", "b", "b", None], ["a", "b", "c", "d"]],
)


def test_the_sampler_is_measured_by_all_of_its_pool():
    found = measures.of_sampler(POOL)
    assert found[Measure("sampler", "pass", "accuracy", 2)] == pytest.approx([1, 1 / 2])
    assert found[Measure("sampler", "majority", "accuracy", 4)] == pytest.approx([1, 1 / 3])
    assert found[Measure("sampler", "best_of_n", "accuracy", 4)] == pytest.approx([0, 0])
    # the sum of rewards by answer: 7 has .9 and 5 has .9 (a tie), then 1 has most
    assert found[Measure("sampler", "weighted_majority", "accuracy", 4)] == pytest.approx([1 / 2, 0])
    pairs = [len({path for path in two if path}) for two in itertools.combinations([None, "b", "b", None], 2)]
    assert found[Measure("sampler", "distinct", "correct_paths", 2)] == pytest.approx([np.mean(pairs), 1 / 2])
    assert found[Measure("sampler", "distinct", "correct_paths", 4)] == pytest.approx([1, 1])


def test_votes_by_log_odds_do_not_depend_on_whether_a_reward_of_the_pool_is_negative():
    cell = Measure("sampler", "weighted_majority", "accuracy", 4)
    found = []
    for zero in (-20, 20):  # at -20 the sums of 5's rewards are lowest, at 20 highest
        proxy = np.array([[2.5, 1.0, 1.0, 1.0], [0.3, 0.2, 0.1, 0.0]]) + zero
        pool = graded(proxy.tolist(), POOL.gold.tolist(), POOL.answers.tolist(), POOL.paths.tolist())
        found.append(measures.of_sampler(pool, log_odds=True)[cell])
    assert found == [pytest.approx([0, 0])] * 2  # e^2.5 is more than 3 e
    assert measures.of_sampler(pool)[cell] == pytest.approx([1, 0])
    assert gives_log_odds({"_target_": "bench.scoring.trained_reward_model.trained_reward_model"})
    assert not gives_log_odds({"_target_": "bench.scoring.judge.judge"})


def test_a_vote_weighted_by_gold_is_not_recorded():
    found = measures.of_sampler(
        graded(POOL.gold.tolist(), POOL.gold.tolist(), POOL.answers.tolist(), POOL.paths.tolist())
    )
    assert not any(cell.method == "weighted_majority" for cell in found)


def test_soft_best_of_n_adds_the_way_from_the_raw_base():
    """The sampler's log-ratio is .5 everywhere, so every KL is half a nat above that from the sampler."""
    found = measures.of_soft_best_of_n(POOL, 1)
    assert {cell.method for cell in found} == {f"soft_best_of_n@{softness:g}" for softness in measures.SOFTNESS}
    for cell, values in found.items():  # of one sample there is nothing to choose
        expected = {"accuracy": POOL.gold, "proxy": POOL.proxy}.get(cell.metric, np.full((2, 4), 0.5))
        assert values == pytest.approx(expected.mean(axis=1), abs=1e-9)


def test_best_of_n_after_tuning_goes_on_from_the_policy_by_the_chain_rule():
    """One sample more decides the accuracy; the KL of Best-of-1 is the policy's own, the mean of its log-ratios."""
    sampled = graded([[1.0, 0.0], [0.0, 0.0]], [[1, 0], [0, 0]], [["5", "1"], ["1", "2"]], [["a", "a"], ["a", "a"]])
    log_ratio = np.array([[0.9, 0.1], [0.4, -0.2]])
    found = measures._of_best_of_n_after_tuning("tuned", sampled, log_ratio)
    assert found[Measure("tuned", "best_of_n", "accuracy", 2)] == pytest.approx([1, 0])
    assert found[Measure("tuned", "best_of_n", "kl", 1)] == pytest.approx([0.5, 0.1])
    ties = best_of_n_kl(sampled.proxy, 2)
    assert found[Measure("tuned", "best_of_n", "kl", 2)] == pytest.approx(ties + np.array([0.9, 0.1]))
    first = measures._of_best_of_n_after_tuning("tuned", sampled, log_ratio[:, :1])  # fewer have their ratio measured
    assert [cell.n for cell in first if cell.metric == "kl"] == [1]
    assert [cell.n for cell in first if cell.metric == "accuracy"] == [1, 2]


def test_softer_is_nearer_to_the_sampler():
    found = measures.of_soft_best_of_n(POOL, 4)
    proxies = [found[Measure("base", f"soft_best_of_n@{x:g}", "proxy", 4)].mean() for x in measures.SOFTNESS]
    assert proxies == sorted(proxies, reverse=True)
    assert proxies[-1] > POOL.proxy.mean()


def test_a_proxy_that_tells_nothing_apart_has_no_soft_best_of_n():
    flat = graded([[1.0] * 4] * 2, POOL.gold.tolist(), POOL.answers.tolist(), POOL.paths.tolist())
    assert measures.of_soft_best_of_n(flat, 4) == {}


def test_spread_is_within_prompts_and_of_what_was_scored():
    proxy = np.array([[0.0, 2.0, np.nan], [10.0, 10.0, 10.0], [np.nan] * 3])
    assert measures.spread(proxy) == pytest.approx(np.sqrt((1 + 0) / 2))


def test_all_points_of_a_curve_are_of_the_same_prompts():
    nan, names = np.nan, [measures.Measure("base", "best_of_n", "accuracy", n) for n in (1, 2, 4)]
    values = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, nan], [0.7, 0.8, 0.9], [nan] * 3])
    alone = measures.Measure("base", "pass", "accuracy", 1)
    cells = dict(zip(names, values.T, strict=True)) | {alone: np.array([0.1, 0.2, nan, 0.4])}
    found = on_same_prompts(cells)
    assert list(found) == list(cells)
    for name, value in zip(names, ([0.1, nan, 0.7, nan], [0.2, nan, 0.8, nan], [0.3, nan, 0.9, nan]), strict=True):
        np.testing.assert_array_equal(found[name], value)
    np.testing.assert_array_equal(found[alone], cells[alone])
    cells[names[2]] = np.array([0.3, nan, nan, nan])  # one prompt of three: too few to stand for all n
    np.testing.assert_array_equal(on_same_prompts(cells)[names[0]], values[:, 0])


def test_names_in_metrics():
    cells_of_pool = (
        measures.of_sampler(POOL) | measures.of_best_of_n(POOL, [1, 2, 4]) | measures.of_soft_best_of_n(POOL, 2)
    )
    rows = curves(cells_of_pool, seed=0)
    metrics = flatten(rows)
    assert metrics["sampler/pass@2"] == pytest.approx(3 / 4)
    assert metrics["sampler/distinct@4"] == pytest.approx(1)
    assert metrics["best_of_2/accuracy"] == pytest.approx(
        float(cells_of_pool["base", "best_of_n", "accuracy", 2].mean())
    )
    assert metrics["sampler/best_of_4/accuracy"] == 0
    assert metrics["median_of_1/proxy"] == pytest.approx(POOL.proxy.mean())
    assert "soft_best_of_2@0.5/kl" in metrics
    assert len(metrics) == 3 * len(cells_of_pool)  # no two numbers share a name
    assert provenance(rows)["soft_best_of_n@0.5/kl_estimator"] == "jackknife + chain rule"
    json.dumps(metrics)


def test_an_n_that_no_prompt_reaches_is_not_resolved_and_ends_no_run():
    rng = np.random.default_rng(0)
    of = {
        Measure(arm, method, "accuracy", 1): rng.integers(0, 2, 30).astype(float)
        for arm in ("base", "tuned", "control")
        for method in ("pass", "greedy")
    }
    of |= {Measure("base", "best_of_n", "accuracy", n): rng.random(30) for n in (1, 2)}
    without = contrasts(of, seed=0)
    of[Measure("base", "best_of_n", "accuracy", 4)] = np.full(30, np.nan)  # one sample of each prompt is not scored
    found, of_four = contrasts(of, seed=0), "tuned_vs_best_of_4/accuracy"
    assert found.items() >= without.items()
    assert found[f"{of_four}/verdict"] == "not resolved"
    assert np.isnan([found[f"{of_four}/{name}"] for name in ("difference", "p_adjusted", "minimum_detectable")]).all()
    shares = distillation(of, seed=0)
    assert np.isnan(shares["distillation/best_of_4"])
    assert "distillation/best_of_2" in shares
