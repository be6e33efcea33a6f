"""FLOPs and break-even points counted by hand."""

import dataclasses
import math

import numpy as np
import pytest

from bench.estimators.compute import (
    Costs,
    best_of_n_query_flops,
    break_even,
    break_even_queries,
    fine_tuned_query_flops,
    fine_tuning_flops,
)

COSTS = Costs(
    policy_parameters=0.5e9,
    reward_parameters=0.5e9,
    prompt_tokens=100,
    completion_tokens=256,
    pool_size=16,
    prompts=1000,
    epochs=2,
    selected=1000,
)


def queries(n, **changes):
    return break_even_queries(dataclasses.replace(COSTS, **changes), n)


def test_worked_example():
    assert fine_tuning_flops(COSTS) == pytest.approx(1.2028e16, rel=1e-12)
    assert queries(8) == 2593


def test_break_even_is_the_first_query_at_which_the_totals_cross():
    for n in (2, 3, 8, 8.5):
        found = queries(n, selected=700, epochs=3)
        changed = dataclasses.replace(COSTS, selected=700, epochs=3)
        once = fine_tuning_flops(changed)
        each = best_of_n_query_flops(0.5e9, 0.5e9, 100, 256, n) - fine_tuned_query_flops(0.5e9, 100, 256)
        assert found * each >= once > (found - 1) * each


def test_best_of_one_with_a_verifier_never_costs_more():
    assert queries(1, reward_parameters=0) is None
    assert queries(np.nextafter(1, 2), reward_parameters=0) is None  # whatever its rounding
    assert queries(1.01, reward_parameters=0) > 0
    assert queries(1) is not None  # a reward model still reads every answer


def test_prompts_that_are_read_again_are_paid_for_again():
    """1000 prompts of 100 tokens, twice more by .5e9 parameters: 2e14 FLOPs."""
    again = dataclasses.replace(COSTS, prompt_reads=3)
    assert fine_tuning_flops(again) - fine_tuning_flops(COSTS) == pytest.approx(2e14)
    each = best_of_n_query_flops(0.5e9, 0.5e9, 100, 256, 8) - fine_tuned_query_flops(0.5e9, 100, 256)
    assert queries(8, prompt_reads=3) == np.ceil((1.2028e16 + 2e14) / each) > queries(8)


def test_what_the_reference_reads_is_paid_for_by_either_way_to_ask():
    """500 completions of 356 tokens, once by .5e9 parameters: 1.78e14 FLOPs."""
    read = dataclasses.replace(COSTS, compared=500)
    assert fine_tuning_flops(read) - fine_tuning_flops(COSTS) == pytest.approx(1.78e14)
    even = break_even([1, 8], np.tile([0.2, 0.6], (3, 1)), np.full(3, 0.6), read, np.random.default_rng(0))
    assert even.queries == queries(8, compared=500) > queries(8)


def test_reward_model_training_is_part_of_the_price():
    assert queries(8, reward_training_flops=1.2028e16) == 5185


def test_the_matching_n_is_linear_in_log_n():
    sizes, curve = [1, 2, 4, 8], np.array([0.2, 0.4, 0.6, 0.5])
    for quality, n in ((0.4, 2), (0.5, 2 * math.sqrt(2)), (0.1, 1), (0.61, math.inf)):
        found = break_even(sizes, np.tile(curve, (3, 1)), np.full(3, quality), COSTS, np.random.default_rng(0))
        assert (found.n, found.n_low, found.n_high) == pytest.approx((n, n, n))


def pool(prompts, seed=0):
    rng = np.random.default_rng(seed)
    difficulty = rng.beta(1, 2, (prompts, 1))
    sizes = np.array([1, 2, 4, 8, 16])
    return sizes, 1 - (1 - difficulty) ** sizes, rng


def test_the_interval_holds_the_point_and_says_so():
    sizes, best_of_n, rng = pool(300)
    fine_tuned = (rng.random(300) < best_of_n[:, 2]).astype(float)  # as good as n = 4
    found = break_even(sizes, best_of_n, fine_tuned, COSTS, np.random.default_rng(0))
    assert found.n_low < found.n < found.n_high
    assert found.n_low < 4 < found.n_high
    assert found.queries_low < found.queries < found.queries_high
    assert found.queries == queries(found.n)
    assert f"{found.queries:,} queries" in found.sentence
    assert found == break_even(sizes, best_of_n, fine_tuned, COSTS, np.random.default_rng(0))


def test_a_break_even_compares_the_curve_and_the_policy_on_the_same_prompts():
    """Hard prompts lack the largest n, and would pull down all but that point."""
    easy, hard = [0.4, 0.6, 0.8], [0.0, 0.0, math.nan]
    curve, tuned = np.array([easy] * 60 + [hard] * 40), np.repeat([0.7, 0.0], [60, 40])
    found = break_even([1, 2, 4], curve, tuned, COSTS, np.random.default_rng(0))
    assert (found.n, found.n_low, found.n_high) == pytest.approx([2 * math.sqrt(2)] * 3)


def test_a_policy_beyond_the_curve_or_below_it_has_no_break_even():
    sizes, best_of_n, _ = pool(300)
    above = break_even(sizes, best_of_n, np.ones(300), COSTS, np.random.default_rng(0))
    assert (above.n, above.queries) == (math.inf, None)
    assert "No n up to 16" in above.sentence
    free = dataclasses.replace(COSTS, reward_parameters=0)
    below = break_even(sizes, best_of_n, np.zeros(300), free, np.random.default_rng(0))
    assert (below.n, below.queries) == (1, None)
    assert "never pays" in below.sentence
    unscored = break_even(sizes, best_of_n, np.zeros(300), COSTS, np.random.default_rng(0))  # nobody scores one sample
    assert (unscored.n, unscored.queries) == (1, None)
    edge = break_even(sizes, best_of_n, best_of_n[:, 4] - 1e-9, COSTS, np.random.default_rng(0))
    assert edge.queries is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: queries(0.5), "n=0.5 at least 1"),
        (lambda: queries(8, prompts=-1), "prompts is not allowed"),
        (lambda: break_even([2, 1], np.ones((3, 2)), np.ones(3), COSTS, np.random.default_rng(0)), "at ascending n"),
        (lambda: break_even([1, 2], np.ones((3, 2)), np.ones(4), COSTS, np.random.default_rng(0)), r"shape \[3, 2\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
