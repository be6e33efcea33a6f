"""Intervals and verdicts against textbook values, enumeration and data with a known answer."""

from itertools import permutations, product

import numpy as np
import pytest

from bench.estimators.bootstrap import RESAMPLES, Bootstrap
from bench.estimators.distributions import normal_cdf, normal_quantile, t_cdf, t_quantile
from bench.estimators.uncertainty import (
    bootstrap_interval,
    expected_maximum,
    holm,
    intervals_and_bands,
    mcnemar,
    minimum_detectable_effect,
    paired_difference,
    prompts_needed,
    resampled_means,
    seed_interval,
    sign_flip_p_values,
    simultaneous_band,
    unpaired_difference,
    winners_curse,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_t_distribution_has_the_values_of_the_tables():
    table = {1: 12.706205, 2: 4.302653, 4: 2.776445, 10: 2.228139, 199: 1.971957, 100_000: 1.959988}
    for df, value in table.items():
        assert t_quantile(0.975, df) == pytest.approx(value, abs=2e-6)
        assert t_quantile(0.025, df) == pytest.approx(-value, abs=2e-6)
        assert t_cdf(value, df) == pytest.approx(0.975, abs=1e-7)
    assert t_cdf(1.0, 1) == pytest.approx(0.75, abs=1e-12)  # Cauchy
    assert t_cdf(np.sqrt(2), 2) == pytest.approx(0.5 + np.sqrt(2) / (2 * np.sqrt(2 + 2)), abs=1e-12)
    assert t_cdf(-40.0, 1000.5) == pytest.approx(0, abs=1e-10)
    assert normal_quantile(normal_cdf(1.3)) == pytest.approx(1.3)


def test_interval_of_a_normal_sample_is_about_the_t_interval():
    values = rng().normal(size=200)
    low, high = bootstrap_interval(values, rng())
    half = t_quantile(0.975, 199) * values.std(ddof=1) / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.03 * half + 0.005)
    assert high == pytest.approx(values.mean() + half, abs=0.03 * half + 0.005)


def test_interval_is_reproducible_narrows_with_the_level_and_leans_with_the_skew():
    values = rng().exponential(size=60)
    low, high = bootstrap_interval(values, rng())
    assert bootstrap_interval(values, rng()) == (low, high)
    inner = bootstrap_interval(values, rng(), 0.8)
    assert low < inner[0] < values.mean() < inner[1] < high
    assert high - values.mean() > 1.1 * (values.mean() - low)
    mirrored = bootstrap_interval(-values, rng())
    assert mirrored == pytest.approx((-high, -low), abs=0.02)


def test_shift_and_scale_carry_over():
    values = rng().exponential(size=40)
    low, high = bootstrap_interval(values, rng())
    assert bootstrap_interval(1000 + 3 * values, rng()) == pytest.approx((1000 + 3 * low, 1000 + 3 * high))


def test_columns_share_their_resamples_and_equal_single_calls():
    values = rng().random((50, 3))
    low, high = bootstrap_interval(values, rng())
    for column in range(3):
        assert (low[column], high[column]) == pytest.approx(bootstrap_interval(values[:, column], rng()))


def test_nan_is_left_out_column_by_column():
    values = rng().random((200, 4))
    values[100:, 1] = np.nan
    values[1:, 2] = np.nan
    values[:, 3] = np.nan
    low, high = bootstrap_interval(values, rng())
    alone = bootstrap_interval(values[:100, 1], rng())
    assert (low[1], high[1]) == pytest.approx(alone, abs=0.012)
    assert np.isnan(low[2:]).all()
    assert np.isnan(high[2:]).all()
    assert bootstrap_interval([0.3, np.nan], rng())[0] != bootstrap_interval([0.3, np.nan], rng())[0]  # NaN


def test_equal_numbers_give_no_width():
    assert bootstrap_interval(np.full(7, 0.1), rng()) == pytest.approx((0.1, 0.1))


def test_shares_without_a_success_end_where_none_would_be_seen():
    """The upper end p leaves M prompts without a success with probability (1 - p)^M = .05."""
    for prompts in (10, 300):
        low, high = bootstrap_interval(np.zeros(prompts), rng(), shares=True)
        assert low == 0
        assert (1 - high) ** prompts == pytest.approx(0.05)
        low, high = bootstrap_interval(np.ones(prompts), rng(), 0.9, shares=True)
        assert high == 1
        assert low**prompts == pytest.approx(0.1)
    values = np.column_stack(
        [np.zeros(300), np.zeros(300), np.full(300, 0.25), np.eye(1, 300)[0], np.full(300, np.nan)]
    )
    low, high, band = intervals_and_bands(
        values, [[0, 1], [2, 3]], rng(), shares=np.array([True, False, True, True, True])
    )
    assert high[:3] == pytest.approx([0.0099, 0, 0.25], abs=1e-4)
    assert band[1][:2] == pytest.approx(high[:2])
    assert (low[2], band[0][3]) == (0.25, 0)  # a band is not below 0 either
    assert simultaneous_band(values[:, 2:4], rng())[0][1] < 0  # as it would be
    assert np.isnan(high[4])


def test_blocks_of_resamples_give_the_distribution_of_all_resamples():
    """Three prompts: the resampled mean takes its values with the probabilities of all 27 equally likely draws."""
    values = np.array([0.0, 1.0, 5.0])
    means = np.sort(resampled_means(values[:, None], rng(), resamples=20_000)[:, 0])
    every = np.sort([np.mean(draw) for draw in product(values, repeat=3)])
    for threshold in np.unique(every):
        assert np.mean(means <= threshold + 1e-9) == pytest.approx(np.mean(every <= threshold + 1e-9), abs=0.012)


def test_the_band_is_wider_than_pointwise_intervals_and_as_wide_for_one_column():
    values = rng().normal(size=(150, 6))
    low, high = simultaneous_band(values, rng())
    point_low, point_high = bootstrap_interval(values, rng())
    assert (low < point_low).all()
    assert (high > point_high).all()
    assert high[0] - low[0] == pytest.approx((point_high - point_low)[0] * 2.64 / 1.97, rel=0.05)  # six independent
    one_low, one_high = simultaneous_band(values[:, :1], rng())
    assert one_high[0] - one_low[0] == pytest.approx(point_high[0] - point_low[0], rel=0.03)
    copies = np.repeat(values[:, :1], 6, axis=1)
    assert np.ptp(simultaneous_band(copies, rng())[1]) < 1e-12
    assert simultaneous_band(copies, rng())[1][0] == pytest.approx(one_high[0], rel=0.03)
    constant = simultaneous_band(np.column_stack([values[:, 0], np.ones(150)]), rng())
    assert constant[0][1] == constant[1][1] == 1


def test_verdicts():
    a = (rng(1).random(300) < 0.6).astype(float)
    b = (rng(2).random(300) < 0.4).astype(float)
    better = paired_difference(a, b, rng())
    assert better.verdict == "better"
    assert better.mean == pytest.approx((a - b).mean())
    assert 0 < better.low < better.mean < better.high
    assert better.p_value < 0.001
    worse = paired_difference(b, a, rng())
    assert worse.verdict == "worse"
    assert worse.high < 0
    same = paired_difference(a, a, rng())
    assert (same.verdict, same.p_value, same.mean) == ("not resolved", 1.0, 0.0)


def test_the_p_value_inverts_the_interval():
    for seed in range(12):
        difference = rng(seed).normal(0.2, 1, 80) if seed < 6 else rng(seed).exponential(1, 80) - 0.75  # skewed
        result = paired_difference(difference, np.zeros(80), rng())
        of_bootstrap = Bootstrap(difference[:, None], rng(), RESAMPLES).p_value_of_zero(0)
        ends = bootstrap_interval(difference, rng(), 1 - of_bootstrap)
        assert min(abs(ends[0]), abs(ends[1])) < 0.01
        of_signs = sign_flip_p_values(difference[:, None], rng(1))[0]
        assert result.p_value == pytest.approx(max(of_bootstrap, of_signs), abs=0.02)
        assert (result.verdict == "not resolved") == (result.low <= 0 <= result.high)


def test_pairing_uses_the_correlation():
    difficulty = rng().random(200)
    a, b = difficulty + 0.02 + 0.01 * rng(1).normal(size=200), difficulty
    assert paired_difference(a, b, rng()).verdict == "better"
    assert paired_difference(a, rng(3).permutation(b), rng()).verdict == "not resolved"


def test_too_few_prompts_resolve_nothing():
    five = paired_difference(np.ones(5), np.zeros(5), rng())
    assert (five.verdict, five.p_value) == ("not resolved", 0.0625)
    assert paired_difference(np.ones(6), np.zeros(6), rng()).verdict == "better"
    one = paired_difference([1.0], [0.0], rng())
    assert (one.verdict, one.prompts) == ("not resolved", 1)
    assert np.isnan(one.low)


def test_prompts_without_both_values_are_left_out_and_counted():
    a, b = rng(1).random(40), rng(2).random(40)
    a[3] = b[7] = np.nan
    kept = ~np.isnan(a - b)
    assert paired_difference(a, b, rng()) == paired_difference(a[kept], b[kept], rng())
    assert paired_difference(a, b, rng()).prompts == 38


def test_equal_differences_say_nothing_of_what_could_be_detected():
    result = paired_difference(np.zeros(300), np.zeros(300), rng())
    assert np.isnan(result.minimum_detectable_effect)
    assert result.verdict == "not resolved"


def test_an_interval_stays_within_what_a_mean_can_be():
    for seed in range(20):
        values = np.zeros(40)
        values[seed % 40] = 1.0
        low, high = bootstrap_interval(values, rng(seed))
        assert 0 <= low <= high <= 1


def test_minimum_detectable_effect_is_found_with_its_power():
    """Normal differences whose true mean is the effect: about 80 % of studies resolve it."""
    effect = 2.8016 / np.sqrt(100)
    found = [
        paired_difference(rng(s).normal(effect, 1, 100), np.zeros(100), rng(s), resamples=500).verdict
        for s in range(300)
    ]
    assert np.mean([verdict == "better" for verdict in found]) == pytest.approx(0.8, abs=0.07)
    result = paired_difference(rng(0).normal(effect, 1, 100), np.zeros(100), rng())
    assert result.minimum_detectable_effect == pytest.approx(effect, rel=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.ones((2, 2, 2)), rng()), r"values has shape \[2, 2, 2\]"),
        (lambda: bootstrap_interval([np.nan, np.nan], rng()), r"values \[2\] holds nothing but NaN"),
        (lambda: bootstrap_interval([1.0, np.inf], rng()), "holds an infinity"),
        (lambda: bootstrap_interval([1.0, 2.0], rng(), 95), "level=95 is not allowed"),
        (lambda: paired_difference([1.0, 2.0], [1.0], rng()), r"b has shape \[1\], but a has \[2\]"),
        (lambda: paired_difference([1.0, np.nan], [np.nan, 1.0], rng()), "no prompt with a number in both"),
        (lambda: bootstrap_interval(np.array(["a"]), rng()), "dtype <U1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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


def test_prompts_needed_has_the_published_numbers():
    assert prompts_needed(0.03, 1 / 9, 1 / 6, 1 / 6, 1, 1) == 3876
    assert prompts_needed(0.03, 1 / 9, 1 / 6, 1 / 6, 10, 10) == 1260
    effect = minimum_detectable_effect(3876, 1 / 9, 1 / 6, 1 / 6, 1, 1)
    assert effect == pytest.approx(0.03, abs=1e-5)
    assert prompts_needed(effect * (1 + 1e-9), 1 / 9, 1 / 6, 1 / 6, 1, 1) == 3876


def test_expected_maximum():
    assert expected_maximum([1, 2, 3]) == pytest.approx([0, 1 / np.sqrt(np.pi), 1.5 / np.sqrt(np.pi)], abs=1e-9)
    assert expected_maximum([5, 10, 50]) == pytest.approx([1.163, 1.539, 2.249], abs=5e-4)
    assert expected_maximum(1000) == pytest.approx(3.2414, abs=1e-4)


def test_the_winners_gap_of_equal_cells_is_what_choosing_adds():
    """200 sweeps of ten equal cells on the same prompts: the mean gap is the one foretold, and test is unbiased."""
    gaps, foretold, test_means = [], [], []
    for seed in range(200):
        source = rng(seed)
        shared = source.normal(0, 1, (2, 80, 1))  # the prompts' difficulty, common to all cells
        scores = 0.5 + shared + source.normal(0, 1, (2, 80, 10))
        found = winners_curse(scores[0], scores[1] - shared[1], rng(seed))
        gaps.append(found.validation - 0.5)
        foretold.append(found.gap_if_equal)
        test_means.append(found.test)
    assert np.mean(test_means) == pytest.approx(0.5, abs=0.03)
    assert np.mean(gaps) == pytest.approx(np.mean(foretold), abs=0.03)
    assert np.mean(foretold) == pytest.approx(1.539 / np.sqrt(80), rel=0.03)


def two_way(seed, seeds=3, prompts=60, of_prompt=0.4, of_seed=0.05, residual=0.3):
    source = rng(seed)
    return (
        source.normal(0, of_prompt, (1, prompts))
        + source.normal(0, of_seed, (seeds, 1))
        + source.normal(0, residual, (seeds, prompts))
    )


def test_seed_interval_covers_new_seeds_on_new_prompts():
    """300 studies of three seeds: t on the seeds' means misses the sampling of prompts, the two levels do not."""
    both = [seed_interval(two_way(seed)) for seed in range(300)]
    assert np.mean([b.low <= 0 <= b.high for b in both]) == pytest.approx(0.95, abs=0.035)
    assert np.mean([b.low_same_prompts <= 0 <= b.high_same_prompts for b in both]) < 0.9
    for name, value in (("prompt_variance", 0.16), ("seed_variance", 0.0025), ("residual_variance", 0.09)):
        assert np.mean([getattr(b, name) for b in both]) == pytest.approx(value, rel=0.2)


def test_seed_interval_on_the_same_prompts_is_the_t_interval_on_seed_means():
    values = two_way(1, seeds=4)
    found = seed_interval(values)
    means = values.mean(axis=1)
    half = t_quantile(0.975, 3) * means.std(ddof=1) / 2
    assert (found.low_same_prompts, found.high_same_prompts) == pytest.approx(
        (means.mean() - half, means.mean() + half)
    )
    # Both levels: the components add up to the variance of the mean, with degrees of freedom between the two.
    variance = found.prompt_variance / 60 + found.seed_variance / 4 + found.residual_variance / 240
    squares = np.array([4 * values.mean(axis=0).var(ddof=1), 60 * means.var(ddof=1), found.residual_variance])
    freedom = (240 * variance) ** 2 / (squares**2 / [59, 3, 177]).sum()
    assert 3 < freedom < 177
    assert found.high - found.mean == pytest.approx(t_quantile(0.975, freedom) * np.sqrt(variance))
    values[2, 5] = np.nan
    assert seed_interval(values) == seed_interval(np.delete(values, 5, axis=1))
    same = seed_interval(np.ones((2, 5)))
    assert (same.low, same.high) == (1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([0.5, 1], [1, 1]), r"a \[2\] holds values other than 0 and 1"),
        (lambda: mcnemar([1, np.nan], [np.nan, 1]), "no prompt with an outcome in both"),
        (lambda: holm([0.1, 1.2]), r"p_values \[2\] must all lie between 0 and 1"),
        (lambda: prompts_needed(0, 1, 1, 1, 1, 1), "delta=0 is not allowed"),
        (lambda: prompts_needed(0.1, 1, -1, 1, 1, 1), "var_a=-1"),
        (lambda: seed_interval(np.ones((1, 9))), "1 seeds and 9 prompts"),
        (lambda: winners_curse(np.ones((5, 3)), np.ones((5, 2)), rng()), r"test has shape \[5, 2\]"),
        (lambda: simultaneous_band(np.ones(5), rng()), r"values has shape \[5\]"),
    ],
)
def test_more_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_equal_values_under_all_seeds_have_an_interval_of_no_width():
    """Their squares are rounding alone, whose degrees of freedom mean nothing."""
    for value in (0.6362943611198907, 0.1 + 0.2, 0.0):
        found = seed_interval(np.full((3, 300), value))
        assert (found.low, found.high, found.error) == (found.mean, found.mean, 0.0)
    rng = np.random.default_rng(0)
    a = rng.normal(0.6, 0.1, (5, 300))
    assert seed_interval(a - (a - 0.3)).error == 0.0


def test_an_unpaired_difference_by_hand():
    # variances 2.5 and 10 over five each: SE = sqrt(2.5), and (0.5 + 2)^2 / ((0.25 + 4) / 4) = 5.882 degrees of freedom
    a, b = np.array([1.0, 2, 3, 4, 5, np.nan]), np.array([2.0, 4, 6, 8, 10])
    mean, low, high = unpaired_difference(a, b)
    assert mean == pytest.approx(-3)
    assert (high - mean) / np.sqrt(2.5) == pytest.approx(2.459, abs=0.002)  # t tables: 2.571 at 5, 2.447 at 6
    assert low + high == pytest.approx(2 * mean)
    assert unpaired_difference(np.ones(3), np.zeros(4)) == (1, 1, 1)
    with pytest.raises(ValueError, match="a has 1 numbers"):
        unpaired_difference(np.ones(1), np.zeros(4))
