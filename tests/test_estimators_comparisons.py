"""Comparisons of two arms: verdicts on data with a known answer, and the tests behind them against enumeration."""

from itertools import permutations, product

import numpy as np
import pytest
from selecting import rng

from bench.estimators.bootstrap import RESAMPLES, Bootstrap, bootstrap_interval
from bench.estimators.distributions import normal_cdf
from bench.estimators.uncertainty import (
    holm,
    mcnemar,
    paired_contrast,
    paired_contrasts,
    sign_flip_p_values,
    unpaired_difference,
)
from bench.reporting.contrasts import contrast


def test_verdicts():
    a = (rng(1).random(300) < 0.6).astype(float)
    b = (rng(2).random(300) < 0.4).astype(float)
    better = paired_contrast(a, b, rng())
    assert better.verdict == "better"
    assert better.mean == pytest.approx((a - b).mean())
    assert 0 < better.low < better.mean < better.high
    assert better.p_value < 0.001
    worse = paired_contrast(b, a, rng())
    assert worse.verdict == "worse"
    assert worse.high < 0
    same = paired_contrast(a, a, rng())
    assert (same.verdict, same.p_value, same.mean) == ("not resolved", 1.0, 0.0)
    assert np.isnan(same.minimum_detectable_effect)  # equal differences do not tell what could be detected


def test_the_p_value_inverts_the_interval():
    for seed in range(12):
        difference = rng(seed).normal(0.2, 1, 80) if seed < 6 else rng(seed).exponential(1, 80) - 0.75  # skewed
        result = paired_contrast(difference, np.zeros(80), rng())
        of_bootstrap = Bootstrap(difference[:, None], rng(), RESAMPLES).p_value_of_zero(0)
        ends = bootstrap_interval(difference, rng(), 1 - of_bootstrap)
        assert min(abs(ends[0]), abs(ends[1])) < 0.01
        of_signs = sign_flip_p_values(difference[:, None], rng(1))[0]
        assert result.p_value == pytest.approx(max(of_bootstrap, of_signs), abs=0.02)
        assert (result.verdict == "not resolved") == (result.low <= 0 <= result.high)


def test_pairing_uses_the_correlation():
    difficulty = rng().random(200)
    a, b = difficulty + 0.02 + 0.01 * rng(1).normal(size=200), difficulty
    assert paired_contrast(a, b, rng()).verdict == "better"
    assert paired_contrast(a, rng(3).permutation(b), rng()).verdict == "not resolved"


def test_too_few_prompts_resolve_nothing():
    five = paired_contrast(np.ones(5), np.zeros(5), rng())
    assert (five.verdict, five.p_value) == ("not resolved", 0.0625)
    assert paired_contrast(np.ones(6), np.zeros(6), rng()).verdict == "better"
    one = paired_contrast([1.0], [0.0], rng())
    assert (one.verdict, one.prompts) == ("not resolved", 1)
    assert np.isnan(one.low)


def test_prompts_without_both_values_are_left_out_and_counted():
    a, b = rng(1).random(40), rng(2).random(40)
    a[3] = b[7] = np.nan
    kept = ~np.isnan(a - b)
    assert paired_contrast(a, b, rng()) == paired_contrast(a[kept], b[kept], rng())
    assert paired_contrast(a, b, rng()).prompts == 38


def test_minimum_detectable_effect_is_found_with_its_power():
    """Normal differences whose true mean is the effect: about 80 % of studies resolve it."""
    effect = 2.8016 / np.sqrt(100)
    found = [
        paired_contrast(rng(s).normal(effect, 1, 100), np.zeros(100), rng(s), resamples=500).verdict for s in range(300)
    ]
    assert np.mean([verdict == "better" for verdict in found]) == pytest.approx(0.8, abs=0.07)
    result = paired_contrast(rng(0).normal(effect, 1, 100), np.zeros(100), rng())
    assert result.minimum_detectable_effect == pytest.approx(effect, rel=0.15)


def enumerated(differences: np.ndarray) -> float:
    """Every assignment of signs, one by one."""
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9))


def test_every_assignment_of_signs_is_counted():
    tied = np.array([0.25, -0.5, 0.75, 0.25, 0.25, -0.25, 0.5, 1.0, 0.0, 0.0])
    for differences in (rng(1).normal(0.4, 1, 10), rng(2).normal(0, 1, 9), tied, np.array([0.3])):
        padded = np.concatenate([differences, np.zeros(7)])
        found = sign_flip_p_values(padded[:, None], rng())[0]
        assert found == pytest.approx(enumerated(differences), abs=1e-12)


def test_of_many_differences_a_sample_of_assignments_is_counted_ties_half():
    values = rng(5).normal(0.45, 1, (17, 2))
    values[:, 1] = np.round(2 * values[:, 1]) / 2 + 0.25  # none is 0, and many sums are equal
    sampled = sign_flip_p_values(values, rng(), flips=40_000)
    signs = 1 - 2.0 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1)
    beyond = np.abs(signs @ values) - np.abs(values.sum(axis=0))
    exact = (beyond > 1e-9).mean(axis=0) + (np.abs(beyond) <= 1e-9).mean(axis=0) / 2
    assert (np.abs(beyond) <= 1e-9).mean(axis=0)[1] > 0.01  # ties
    assert ((exact > 0.02) & (exact < 0.98)).all()
    assert sampled == pytest.approx(exact, abs=0.01)  # four standard errors


def test_of_0_and_1_it_is_mcnemars_test():
    a = np.repeat([1.0, 0.0, 1.0, 0.0], [9, 2, 20, 20])
    b = np.repeat([0.0, 1.0, 1.0, 0.0], [9, 2, 20, 20])
    assert sign_flip_p_values((a - b)[:, None], rng())[0] == pytest.approx(mcnemar(a, b), abs=1e-12)


def test_columns_with_nan_and_without_a_difference():
    values = np.array([[1.0, 0.0, 0.5], [np.nan, 0.0, 0.1 + 0.2 - 0.3], [1.0, np.nan, 0.5]])
    assert sign_flip_p_values(values, rng()).tolist() == [0.5, 1.0, 0.5]


def test_three_prompts_that_differ_resolve_nothing():
    difference = np.concatenate([np.zeros(37), [-0.25, -0.25, -0.25]])
    assert bootstrap_interval(difference, rng())[1] < 0  # what the bootstrap alone says of it
    found = paired_contrast(difference, np.zeros(40), rng())
    assert (found.verdict, found.p_value, found.high) == ("not resolved", 0.25, 0.0)
    assert found.low < found.mean < 0
    one, other = (contrast(values, 0 * values, "three") for values in (difference[None], np.stack([difference] * 2)))
    assert (one.verdict, one.p_value, one.difference.high) == ("not resolved", 0.25, 0.0)
    assert (other.verdict, other.p_value) == ("not resolved", 0.25)


def test_the_callers_stream_goes_on_alike_however_many_prompts_differ():
    few, many = np.eye(1, 40)[0], np.arange(1.0, 41.0)
    after = []
    for values in (few, many):
        stream = rng()
        paired_contrast(values, np.zeros(40), stream)
        after.append(stream.random())
    assert after[0] == after[1]


@pytest.mark.parametrize(
    ("prompts", "samples", "rate"), [(300, 1, 0.006), (300, 1, 0.010), (300, 16, 0.0005), (40, 4, 0.01), (300, 1, 0.03)]
)
def test_equal_arms_with_rare_successes_are_seldom_told_apart(prompts: int, samples: int, rate: float):
    """400 comparisons: five percent and two standard errors; the bootstrap alone resolves 6 to 29 % of them."""
    a, b = rng(3).binomial(samples, rate, (2, prompts, 400)) / samples
    found = paired_contrasts(a, b, rng(), resamples=1000)
    assert np.mean([one.verdict != "not resolved" for one in found]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_where_many_prompts_differ_the_power_is_that_of_the_bootstrap():
    chance = rng(4).random((300, 200))
    better = np.clip(chance + 0.3 * chance * (1 - chance), 0, 1)  # .05 in the mean
    a, b = rng(5).binomial(4, better) / 4, rng(6).binomial(4, chance) / 4
    resolved = np.mean([one.verdict == "better" for one in paired_contrasts(a, b, rng(), resamples=2000)])
    alone = np.mean(bootstrap_interval(a - b, rng(), resamples=2000)[0] > 0)
    assert alone > 0.7
    assert resolved >= alone - 0.03


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_arms_with_rare_successes_over_seeds(seeds: int):
    a, b = rng(seeds).binomial(1, 0.006, (2, 200, seeds, 300)).astype(float)
    found = [contrast(*pair, "rare") for pair in zip(a, b, strict=True)]
    assert np.mean([one.verdict != "not resolved" for one in found]) <= 0.05


def test_mcnemar_is_the_share_of_sign_assignments_at_least_as_uneven():
    a = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 1.0])
    b = np.array([0, 0, 0, 0, 1, 0, 0, 1, 0, np.nan])
    differing = np.array([1, 1, 1, 1, 1, -1])  # five for a, one for b
    uneven = np.mean([abs(sum(signs)) >= abs(differing.sum()) for signs in product([-1, 1], repeat=6)])
    assert mcnemar(a, b) == pytest.approx(uneven)
    assert mcnemar(b, a) == mcnemar(a, b)
    assert mcnemar(a, a) == 1
    assert mcnemar([1, 0], [0, 1]) == 1
    large = mcnemar(np.repeat([1, 0], [2060, 1940]), np.repeat([0, 1], [2060, 1940]))
    assert large == pytest.approx(2 * (1 - normal_cdf(119 / np.sqrt(4000))), rel=0.005)


def test_holm_by_hand_in_every_order():
    adjusted = {0.01: 0.04, 0.02: 0.06, 0.03: 0.06, 0.04: 0.06}  # .01·4, .02·3, max(.03·2, .06), max(.04, .06)
    for order in permutations(adjusted):
        np.testing.assert_allclose(holm(order), [adjusted[p] for p in order])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    np.testing.assert_allclose(holm([0.03]), [0.03])


def test_holm_keeps_the_chance_of_any_false_rejection():
    """20,000 studies of four true null hypotheses: about 5 % have a rejection, not 18.5 %."""
    p_values = rng().random((20_000, 4))
    smallest = np.array([holm(row)[row.argmin()] for row in p_values])
    assert (p_values.min(axis=1) <= 0.05).mean() > 0.17
    assert (smallest <= 0.05).mean() == pytest.approx(1 - (1 - 0.05 / 4) ** 4, abs=0.006)


def test_an_unpaired_difference_by_hand():
    # variances 2.5 and 10 over five each: SE = sqrt(2.5), and (0.5 + 2)^2 / ((0.25 + 4) / 4) = 5.882 degrees of freedom
    a, b = np.array([1.0, 2, 3, 4, 5, np.nan]), np.array([2.0, 4, 6, 8, 10])
    mean, low, high = unpaired_difference(a, b)
    assert mean == pytest.approx(-3)
    assert (high - mean) / np.sqrt(2.5) == pytest.approx(2.459, abs=0.002)  # t tables: 2.571 at 5, 2.447 at 6
    assert low + high == pytest.approx(2 * mean)
    assert unpaired_difference(np.ones(3), np.zeros(4)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_contrast([1.0, 2.0], [1.0], rng()), r"b has shape \[1\], but a has \[2\]"),
        (lambda: paired_contrast([1.0, np.nan], [np.nan, 1.0], rng()), "no prompt with a number in both"),
        (lambda: mcnemar([0.5, 1], [1, 1]), r"a \[2\] holds values other than 0 and 1"),
        (lambda: mcnemar([1, np.nan], [np.nan, 1]), "no prompt with an outcome in both"),
        (lambda: holm([0.1, 1.2]), r"p_values \[2\] must all lie between 0 and 1"),
        (lambda: unpaired_difference(np.ones(1), np.zeros(4)), "a has 1 numbers"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
