"""Intervals and verdicts against textbook values, enumeration and data with a known answer."""

from itertools import product

import numpy as np
import pytest

from bench.estimators.distributions import normal_cdf, normal_quantile, t_cdf, t_quantile
from bench.estimators.uncertainty import bootstrap_interval, paired_difference, simultaneous_band


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


def test_blocks_of_resamples_give_the_distribution_of_all_resamples():
    """Three prompts: the resampled mean takes its values with the probabilities of all 27 equally likely draws."""
    from bench.estimators.uncertainty import _Bootstrap

    values = np.array([0.0, 1.0, 5.0])
    means = np.sort(_Bootstrap(values[:, None], rng(), 20_000).means[:, 0])
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
    for seed in range(6):
        difference = rng(seed).normal(0.2, 1, 80)
        result = paired_difference(difference, np.zeros(80), rng())
        level = 1 - result.p_value
        ends = bootstrap_interval(difference, rng(), level)
        assert min(abs(ends[0]), abs(ends[1])) < 0.01
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
