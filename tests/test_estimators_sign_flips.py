"""Verdicts where few prompts differ: sign flips against enumeration, and how often equal arms are told apart."""

from itertools import product

import numpy as np
import pytest

from bench.estimators.bootstrap import bootstrap_interval
from bench.estimators.uncertainty import mcnemar, paired_difference, paired_differences, sign_flip_p_values
from bench.reporting.contrasts import contrast


def rng(seed=0):
    return np.random.default_rng(seed)


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
    found = paired_difference(difference, np.zeros(40), rng())
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
        paired_difference(values, np.zeros(40), stream)
        after.append(stream.random())
    assert after[0] == after[1]


@pytest.mark.parametrize(
    ("prompts", "samples", "rate"), [(300, 1, 0.006), (300, 1, 0.010), (300, 16, 0.0005), (40, 4, 0.01), (300, 1, 0.03)]
)
def test_equal_arms_with_rare_successes_are_seldom_told_apart(prompts: int, samples: int, rate: float):
    """400 comparisons: five percent and two standard errors; the bootstrap alone resolves 6 to 29 % of them."""
    a, b = rng(3).binomial(samples, rate, (2, prompts, 400)) / samples
    found = paired_differences(a, b, rng(), resamples=1000)
    assert np.mean([one.verdict != "not resolved" for one in found]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_where_many_prompts_differ_the_power_is_that_of_the_bootstrap():
    chance = rng(4).random((300, 200))
    better = np.clip(chance + 0.3 * chance * (1 - chance), 0, 1)  # .05 in the mean
    a, b = rng(5).binomial(4, better) / 4, rng(6).binomial(4, chance) / 4
    resolved = np.mean([one.verdict == "better" for one in paired_differences(a, b, rng(), resamples=2000)])
    alone = np.mean(bootstrap_interval(a - b, rng(), resamples=2000)[0] > 0)
    assert alone > 0.7
    assert resolved >= alone - 0.03


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_arms_with_rare_successes_over_seeds(seeds: int):
    a, b = rng(seeds).binomial(1, 0.006, (2, 200, seeds, 300)).astype(float)
    found = [contrast(*pair, "rare") for pair in zip(a, b, strict=True)]
    assert np.mean([one.verdict != "not resolved" for one in found]) <= 0.05
