"""Pessimism at inference and the share of a gain that is kept: against enumeration, bisection and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.estimators.best_of_n import best_of_n
from bench.estimators.distributions import t_quantile
from bench.estimators.soft_best_of_n import pessimism_of_n, pessimistic_weights
from bench.estimators.uncertainty import fieller, ratio_of_means, ratio_over_seeds
from bench.estimators.subsets import subset_method
from bench.estimators.uncertainty import seed_interval
from bench.selection import pessimism


def weights_by_bisection(rewards: np.ndarray, beta: float) -> np.ndarray:
    """relu((r - lambda) / beta) / N that sum to 1, lambda by halving."""
    low, high = rewards.min() - 2 * beta, rewards.max()
    for _ in range(200):
        middle = (low + high) / 2
        total = np.maximum((rewards - middle) / beta, 0).mean()
        low, high = (middle, high) if total > 1 else (low, middle)
    return np.maximum((rewards - low) / beta, 0) / len(rewards)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=6),
    st.sampled_from([0.05, 0.5, 3.0]),
)
def test_pessimism_is_the_mean_over_all_subsets(samples, beta):
    proxy, gold = np.array(samples, float).T
    sizes = list(range(1, len(samples) + 1))
    for n, found in zip(sizes, pessimism_of_n(proxy[None], gold[None], sizes, beta)[0], strict=True):
        subsets = [list(one) for one in itertools.combinations(range(len(samples)), n)]
        each = [weights_by_bisection(proxy[one], beta) @ gold[one] for one in subsets]
        assert found == pytest.approx(np.mean(each), abs=1e-9)


def test_its_weights_are_those_that_the_selection_trains_with():
    rewards = np.array([[0.0, 0.5, 1.0], [0.2, np.nan, 0.2]])
    chosen = pessimism(rewards, np.random.default_rng(0), beta=0.5)
    found = pessimistic_weights(rewards, 0.5)
    assert found[0] == pytest.approx([0, 1 / 3, 2 / 3])  # lambda = 0
    assert found[1] == pytest.approx([0.5, 0, 0.5])
    assert chosen.weight == pytest.approx(found[found > 0])


def test_pessimism_lies_between_the_mean_and_best_of_n():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(5, 8)), rng.integers(0, 2, (5, 8)).astype(float)
    sizes = [1, 3, 8]
    assert pessimism_of_n(proxy, gold, sizes, 1e-9) == pytest.approx(best_of_n(proxy, gold, sizes))
    means = np.repeat(gold.mean(axis=1)[:, None], 3, axis=1)
    assert pessimism_of_n(proxy, gold, sizes, 1e9) == pytest.approx(means, abs=1e-6)


def test_random_subsets_stay_within_their_error_and_missing_samples_are_never_drawn():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(4, 26))
    gold = (proxy + rng.normal(size=proxy.shape) > 0).astype(float)
    assert subset_method(26, 6) == "monte_carlo"
    several = [pessimism_of_n(proxy, gold, 6, 0.3, rng=np.random.default_rng(seed)) for seed in range(8)]
    chosen = np.argsort(rng.random((60_000, 26)), axis=1)[:, :6]
    for row in range(4):
        exact = (pessimistic_weights(proxy[row][chosen], 0.3) * gold[row][chosen]).sum(axis=1)
        assert np.mean(several, axis=0)[row] == pytest.approx(exact.mean(), abs=0.006)
    gappy = np.where(np.arange(26) < 4, proxy, np.nan)
    assert pessimism_of_n(gappy, gold, 2, 0.3) == pytest.approx(pessimism_of_n(proxy[:, :4], gold[:, :4], 2, 0.3))
    assert np.isnan(pessimism_of_n(gappy, gold, 5, 0.3)).all()
    with pytest.raises(ValueError, match="beta=0"):
        pessimism_of_n(proxy, gold, 2, 0)


# --- a ratio of means ----------------------------------------------------------------------------------------------


def pairs(prompts: int, seed: int, ratio: float = 0.6, gain: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.2, prompts)
    denominator = gain + shared + rng.normal(0, 0.3, prompts)
    return ratio * gain + shared + rng.normal(0, 0.3, prompts), denominator


def test_a_ratio_of_means_has_about_fiellers_interval():
    top, bottom = pairs(200, 0)
    ours, exact = ratio_of_means(top, bottom, np.random.default_rng(0)), fieller(top, bottom)
    assert ours.value == exact.value == pytest.approx(top.mean() / bottom.mean())
    assert ours[1:] == pytest.approx(exact[1:], abs=0.03)
    assert ours.low < ours.value < ours.high


def test_fiellers_ends_are_where_the_difference_is_just_resolved():
    top, bottom = pairs(30, 1)
    for end in fieller(top, bottom)[1:]:
        difference = top - end * bottom
        t = abs(difference.mean()) / (difference.std(ddof=1) / np.sqrt(30))
        assert t == pytest.approx(t_quantile(0.975, 29))


def test_both_intervals_hold_the_ratio_as_often_as_they_say():
    held = np.zeros(2)
    for seed in range(400):
        top, bottom = pairs(100, 100 + seed)
        found = ratio_of_means(top, bottom, np.random.default_rng(seed), resamples=1000), fieller(top, bottom)
        held += [one.low <= 0.6 <= one.high for one in found]
    assert (abs(held / 400 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400)).all()


def test_no_ratio_to_a_gain_that_is_not_resolved():
    top, bottom = pairs(200, 0, gain=0.0)
    for found in (ratio_of_means(top, bottom, np.random.default_rng(0)), fieller(top, bottom)):
        assert np.isnan(found).all()
    assert np.isnan(ratio_over_seeds(np.stack([top] * 3), np.stack([bottom] * 3))).all()


def test_a_prompt_without_one_value_is_left_out():
    top, bottom = pairs(50, 0)
    gappy = np.append(top, np.nan), np.append(bottom, 5.0)
    assert ratio_of_means(*gappy, np.random.default_rng(0)) == ratio_of_means(top, bottom, np.random.default_rng(0))


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
