"""Intervals against textbook values, enumeration and data with a known answer."""

from itertools import product

import numpy as np
import pytest
from selecting import rng

from bench.estimators import bootstrap
from bench.estimators.bootstrap import (
    bootstrap_interval,
    intervals_and_bands,
    normal_cdf,
    normal_quantile,
    ratio_of_means,
    resampled_means,
    simultaneous_band,
    t_cdf,
    t_quantile,
)
from bench.estimators.power import expected_maximum, prompts_needed, winners_curse
from bench.estimators.training_seeds import ratio_over_seeds, seed_interval
from bench.estimators.voting import majority_at_k


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


def test_an_interval_stays_within_what_a_mean_can_be():
    for seed in range(20):
        low, high = bootstrap_interval(np.eye(1, 40)[0], rng(seed))
        assert 0 <= low <= high <= 1
    assert bootstrap_interval(np.full(7, 0.1), rng()) == pytest.approx((0.1, 0.1))  # equal numbers: no width


def test_prompts_needed_has_the_published_numbers():
    assert prompts_needed(0.03, 1 / 9, 1 / 6, 1 / 6, 1, 1) == 3876
    assert prompts_needed(0.03, 1 / 9, 1 / 6, 1 / 6, 10, 10) == 1260


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


@pytest.mark.parametrize("of_seed", [0.0, 0.08, 0.16, 0.4])
def test_of_two_seeds_the_wider_interval_covers_new_seeds_on_new_prompts(of_seed):
    """600 studies; Satterthwaite's degrees alone miss the truth in up to 13 % of them."""
    found = [seed_interval(two_way(seed, seeds=2, of_prompt=0.2, of_seed=of_seed)) for seed in range(600)]
    missed = np.mean([not one.low <= 0 <= one.high for one in found])
    assert missed <= 0.065
    assert missed == np.mean([one.p_value < 0.05 for one in found])
    for one in found:
        assert one.high - one.mean >= one.high_same_prompts - one.mean
        assert one.high - one.mean == pytest.approx(t_quantile(0.975, one.freedom) * one.error)


def test_of_two_seeds_the_larger_p_value_is_taken():
    """Seeds' means of 0.1 and 0.3: t is 2 with one degree of freedom."""
    even = np.tile([-1.0, 1.0], 100)
    found = seed_interval(np.stack([0.1 + 0.1 * even, 0.3 + 0.1 * np.roll(even, 1)]))
    assert (found.low, found.high) == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1), rel=1e-4)
    assert (found.error, found.freedom) == pytest.approx((0.1, 1))
    assert found.p_value == pytest.approx(1 - 2 * np.arctan(2) / np.pi)  # Cauchy


def test_equal_values_under_all_seeds_have_an_interval_of_no_width():
    """Their squares are rounding alone, whose degrees of freedom mean nothing."""
    for value in (0.6362943611198907, 0.1 + 0.2, 0.0):
        found = seed_interval(np.full((3, 300), value))
        assert (found.low, found.high, found.error) == (found.mean, found.mean, 0.0)
    a = rng().normal(0.6, 0.1, (5, 300))
    assert seed_interval(a - (a - 0.3)).error == 0.0


def pairs(prompts, seed, ratio=0.6, gain=0.3):
    """Numerator and denominator of a ratio of means: two gains over the same prompts."""
    source = rng(seed)
    shared = source.normal(0, 0.2, prompts)
    denominator = gain + shared + source.normal(0, 0.3, prompts)
    return ratio * gain + shared + source.normal(0, 0.3, prompts), denominator


def test_a_ratio_of_means_has_about_fiellers_interval():
    """Its ends are near the ratios r at which a t-test just resolves mean(numerator − r · denominator) from 0."""
    top, bottom = pairs(200, 0)
    ratio = ratio_of_means(top, bottom, rng())
    assert ratio.value == pytest.approx(top.mean() / bottom.mean())
    for sign, end in ((1, ratio.low), (-1, ratio.high)):
        difference = top - end * bottom
        t = sign * difference.mean() / (difference.std(ddof=1) / np.sqrt(200))
        assert t == pytest.approx(t_quantile(0.975, 199), abs=0.15)


def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says():
    held = []
    for seed in range(400):
        ratio = ratio_of_means(*pairs(100, 100 + seed), rng(seed), resamples=1000)
        held.append(ratio.low <= 0.6 <= ratio.high)
    assert np.mean(held) == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 400))


def test_no_ratio_to_a_gain_that_is_not_resolved():
    top, bottom = pairs(200, 0, gain=0.0)
    assert np.isnan(ratio_of_means(top, bottom, rng())).all()
    assert np.isnan(ratio_of_means(top[:1], bottom[:1], rng())).all()
    assert np.isnan(ratio_over_seeds(np.stack([top] * 3), np.stack([bottom] * 3))).all()


def test_a_prompt_without_one_value_of_a_ratio_is_left_out():
    top, bottom = pairs(50, 0)
    gappy = np.append(top, np.nan), np.append(bottom, 5.0)
    assert ratio_of_means(*gappy, rng()) == ratio_of_means(top, bottom, rng())


def test_over_seeds_the_ends_are_where_the_two_way_interval_just_leaves_zero_out():
    drawn = [pairs(80, seed) for seed in range(3)]
    top, bottom = (np.stack(side) for side in zip(*drawn, strict=True))
    found = ratio_over_seeds(top, bottom)
    assert found.value == pytest.approx(top.mean() / bottom.mean())
    low, high = seed_interval(top - found.low * bottom), seed_interval(top - found.high * bottom)
    assert low.low == pytest.approx(0, abs=1e-6)
    assert high.high == pytest.approx(0, abs=1e-6)
    assert found.low < found.value < found.high
    certain = ratio_over_seeds(np.ones((2, 5)), np.full((2, 5), 2.0))
    assert certain == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.ones((2, 2, 2)), rng()), r"values has shape \[2, 2, 2\]"),
        (lambda: bootstrap_interval([np.nan, np.nan], rng()), r"values \[2\] holds only NaN"),
        (lambda: bootstrap_interval([1.0, np.inf], rng()), "holds an infinity"),
        (lambda: bootstrap_interval([1.0, 2.0], rng(), 95), "level=95 is not allowed"),
        (lambda: bootstrap_interval(np.array(["a"]), rng()), "dtype <U1"),
        (lambda: prompts_needed(0, 1, 1, 1, 1, 1), "delta=0 is not allowed"),
        (lambda: prompts_needed(0.1, 1, -1, 1, 1, 1), "var_a=-1"),
        (lambda: prompts_needed(0.1, 1, 1, 1, 1, 1, power=1), "power=1 must lie"),
        (lambda: seed_interval(np.ones((1, 9))), "1 seeds and 9 prompts"),
        (lambda: winners_curse(np.ones((5, 3)), np.ones((5, 2)), rng()), r"test has shape \[5, 2\]"),
        (lambda: simultaneous_band(np.ones(5), rng()), r"values has shape \[5\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_many_prompts_are_resampled_in_groups_to_the_same_intervals(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    values = np.stack([rng.random(3000) < 0.2, rng.exponential(size=3000), rng.normal(size=3000)], axis=1).astype(float)
    values[: 3000 // 3, 2] = np.nan
    values = values[np.argsort(values[:, 1])]  # neighbours are alike: groups are at random
    alone = np.array(bootstrap_interval(values, np.random.default_rng(1)))
    monkeypatch.setattr(bootstrap, "MOST_UNITS", 700)  # groups of four or five
    grouped = np.array(bootstrap_interval(values, np.random.default_rng(1)))
    width = alone[1] - alone[0]
    assert np.abs(grouped - alone).max(axis=0) / width == pytest.approx(0, abs=0.06)  # a standard error of 0.03


def test_intervals_by_groups_hold_the_truth_as_often_as_stated(monkeypatch: pytest.MonkeyPatch):
    """Groups of three and four of 420 prompts: skewed values, values of which most are NaN, and a ratio of means."""
    monkeypatch.setattr(bootstrap, "MOST_UNITS", 120)
    held = np.zeros(3)
    for repetition in range(300):
        draw = np.random.default_rng(repetition)
        values = np.stack([draw.lognormal(0, 0.8, 420), draw.normal(size=420)], axis=1)
        values[draw.random(420) < 0.8, 1] = np.nan
        low, high = bootstrap_interval(values, draw, resamples=400)
        truth = np.array([np.exp(0.32), 0])
        held[:2] += (low <= truth) & (truth <= high)
        bottom = draw.gamma(2, size=420)
        ratio = ratio_of_means(bottom / 2 + draw.normal(size=420), bottom, draw, resamples=400)
        held[2] += ratio.low <= 0.5 <= ratio.high
    assert (held >= 0.92 * 300).all()
    assert (held <= 0.98 * 300).all()


def test_a_vote_of_one_sample_is_that_sample():
    answers = np.array([["7"], [None], ["8"], ["9"]], object)
    correct = np.array([[1.0], [1.0], [0.0], [np.nan]])
    assert majority_at_k(answers, correct, [1])[:, 0] == pytest.approx([1, 0, 0, np.nan], nan_ok=True)
