"""Means over n-subsets of a pool against every subset, written out with itertools."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import rng

from bench.estimators.curves import (
    best_of_n,
    distinct_at_k,
    fit_coverage,
    median_of_n,
    pass_at_k,
    pass_hat_k,
    pass_hat_k_of_counts,
)
from bench.estimators.soft import pessimism_of_n, pessimistic_weights, soft_best_of_n
from bench.estimators.voting import majority_at_k, majority_method, subset_method, vote_weights, weighted_majority_at_k
from bench.selection import pessimism

NAN = float("nan")


# Each estimator with its value on one subset: proxy [n], gold [n], answers [n]. The right answer is "a".


def best(proxy, gold, answers):
    return gold[proxy == proxy.max()].mean()


def vote(weights, answers):
    """The share of the answers with the largest sum of weights that are right."""
    sums = {}
    for weight, answer in zip(weights, answers, strict=True):
        if answer is not None:
            sums[answer] = sums.get(answer, 0) + weight
    return np.mean([answer == "a" for answer in sums if sums[answer] == max(sums.values())]) if sums else 0.0


def softmax_mean(temperature):
    def value(proxy, gold, answers):
        share = np.exp((proxy - proxy.max()) / temperature)
        return share @ gold / share.sum()

    return value


def bisected(rewards, beta):
    """relu((r - lambda) / beta) / N that sum to 1, lambda by halving."""
    low, high = rewards.min() - 2 * beta, rewards.max()
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum((rewards - middle) / beta, 0).mean() > 1 else (low, middle)
    return np.maximum((rewards - low) / beta, 0) / len(rewards)


SUBSET_MEANS = {
    "best_of_n": (lambda p, g, a, n: best_of_n(p, n, g), best),
    "pass_at_k": (lambda p, g, a, n: pass_at_k(g, n), lambda p, g, a: g.max()),
    "pass_hat_k": (lambda p, g, a, n: pass_hat_k(g, n), lambda p, g, a: g.min()),
    "median_of_n": (lambda p, g, a, n: median_of_n(p, n), lambda p, g, a: np.median(p)),
    "distinct_at_k": (lambda p, g, a, n: distinct_at_k(a, n), lambda p, g, a: len(set(a) - {None})),
    "majority": (lambda p, g, a, n: majority_at_k(a, right(p, a), n), lambda p, g, a: vote(np.ones(len(a)), a)),
    "weighted": (lambda p, g, a, n: weighted_majority_at_k(a, p - 1, right(p, a), n), lambda p, g, a: vote(p - 1, a)),
    **{
        f"soft at {t}": (lambda p, g, a, n, t=t: soft_best_of_n(p, g, n, t), softmax_mean(t))
        for t in (1e-4, 1.0, np.inf)
    },
    **{
        f"pessimism at {b}": (
            lambda p, g, a, n, b=b: pessimism_of_n(p, g, n, b),
            lambda p, g, a, b=b: bisected(p, b) @ g,
        )
        for b in (0.05, 0.5, 1e6)
    },
}


def right(proxy, answers):
    return np.where(np.isnan(proxy), NAN, answers == "a")


def arrays(samples):
    """proxy, gold and answers, one row of each."""
    proxy, gold, answers = zip(*samples, strict=True)
    return np.array([proxy], float), np.array([gold], float), np.array([answers], object)


samples = st.lists(  # with many ties
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.sampled_from(["a", "b", "c", None])), min_size=1, max_size=6
)


@pytest.mark.parametrize("name", SUBSET_MEANS)
@settings(max_examples=60)
@given(samples)
def test_it_is_the_mean_over_all_subsets(name, samples):
    estimate, statistic = SUBSET_MEANS[name]
    proxy, gold, answers = arrays(samples)
    sizes = list(range(1, len(samples) + 1))
    expected = []
    for n in sizes:
        subsets = [list(subset) for subset in combinations(range(len(samples)), n)]
        expected.append(np.mean([statistic(proxy[0, s], gold[0, s], answers[0, s]) for s in subsets]))
    np.testing.assert_allclose(estimate(proxy, gold, answers, sizes)[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    "name", [name for name in SUBSET_MEANS if name not in ("pass_at_k", "pass_hat_k", "distinct_at_k")]
)
def test_a_sample_without_proxy_counts_as_never_drawn(name):
    estimate, _ = SUBSET_MEANS[name]
    proxy = np.array([[1.0, NAN, 3.0, 2.0, 2.0], [NAN] * 4 + [1.0], [NAN] * 5, [0.0, 1.0, 1.0, 3.0, 2.0]])
    gold, answers = np.eye(4, 5), rng().choice(np.array(["a", "b", None], object), (4, 5))
    values = estimate(proxy, gold, answers, [1, 4, 5])
    kept = [0, 2, 3, 4]
    alone = estimate(proxy[:1, kept], gold[:1, kept], answers[:1, kept], [1, 4])
    np.testing.assert_allclose(values[0], [*alone[0], NAN])
    np.testing.assert_array_equal(np.isnan(values), [[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(values[3], estimate(proxy[3:], gold[3:], answers[3:], [1, 4, 5])[0])


def test_an_unscored_outcome_counts_as_never_drawn():
    gold = np.array([[1.0, 0.0, NAN, 1.0]])
    kept, proxy = [0, 1, 3], np.array([[1.0, 2, 2, 3]])
    answers = np.array([["a", "b", "b", "a"]], object)
    for estimate in (
        lambda p, g, a, k: pass_at_k(g, k),
        lambda p, g, a, k: pass_hat_k(g, k),
        lambda p, g, a, k: best_of_n(p, k, g),
        lambda p, g, a, k: majority_at_k(a, g, k),
        lambda p, g, a, k: weighted_majority_at_k(a, p, g, k),
    ):
        expected = [*estimate(proxy[:, kept], gold[:, kept], answers[:, kept], [1, 3])[0], NAN]
        np.testing.assert_allclose(estimate(proxy, gold, answers, [1, 3, 4])[0], expected)


@pytest.mark.parametrize("name", SUBSET_MEANS)
def test_an_int_gives_one_axis_less(name):
    estimate, _ = SUBSET_MEANS[name]
    proxy = np.arange(12.0).reshape(3, 4)
    call = (proxy, proxy > 3, np.full((3, 4), "a", object))
    for n, shape in ((2, (3,)), (np.int64(2), (3,)), ([2], (3, 1)), (np.array([1, 2]), (3, 2))):
        assert estimate(*call, n).shape == shape


@pytest.mark.parametrize("name", SUBSET_MEANS)
@pytest.mark.parametrize(
    ("n", "message"),
    [
        (4, "=4 is more than the 3 samples"),
        (0, "=0 is not allowed"),
        ([1, -2], "=-2 is not allowed"),
        (1.5, "=1.5 is not allowed"),
        ([], r"=\[\] is not allowed"),
    ],
)
def test_a_bad_n_is_named(name, n, message):
    with pytest.raises(ValueError, match=message):
        SUBSET_MEANS[name][0](np.ones((2, 3)), np.ones((2, 3)), np.full((2, 3), "a", object), n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_n(np.ones((2, 3)), 1, np.ones((2, 4))), r"gold has shape \[2, 4\], but rewards has \[2, 3\]"),
        (lambda: best_of_n(np.ones(3), 1), r"rewards has shape \[3\]; a non-empty array \[M, N\]"),
        (lambda: best_of_n(np.full((2, 3), NAN), 1, np.ones((2, 3))), r"rewards \[2, 3\] holds only NaN"),
        (lambda: best_of_n(np.ones((2, 3)), 1, np.full((2, 3), np.inf)), r"gold \[2, 3\] holds an infinity"),
        (lambda: best_of_n(np.array([["a", "b"]], object), 1, np.ones((1, 2))), "rewards has dtype object"),
        (lambda: best_of_n(np.ones((0, 3)), 1), r"rewards has shape \[0, 3\]"),
        (lambda: best_of_n([[1, 2], [3]], 1), r"rewards has rows of different lengths; fill them with NaN .* \[M, N\]"),
        (lambda: pass_at_k([[0.5, 1.0]], 1), r"correct \[1, 2\] holds values other than 0 and 1"),
        (lambda: distinct_at_k(np.array(["a"], object), 1), "labels has shape"),
        (lambda: soft_best_of_n(np.ones((1, 2)), np.ones((1, 2)), 2, 0), "temperature=0 is not allowed"),
        (lambda: pessimism_of_n(np.ones((1, 2)), np.ones((1, 2)), 2, 0), "beta=0 is not allowed"),
        (lambda: fit_coverage([1, 2], np.array([0.5, 1.0])), "fewer than two"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_worked_example_is_neither_the_first_n_nor_resampling_with_replacement():
    reward = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    curve = best_of_n(reward[None], [1, 2, 3, 4, 5])[0]
    np.testing.assert_allclose(curve, [0.42, 0.61, 0.73, 0.82, 0.90], atol=1e-12)
    with_replacement = np.mean([max(a, b, c) for a in reward for b in reward for c in reward])
    assert curve[2] - with_replacement > 0.05
    assert curve[2] - reward[:3].max() > 0.2


def test_large_pools_neither_overflow_nor_lose_digits():
    correct = np.zeros((1, 10_000))
    correct[0, :5] = 1
    assert pass_at_k(correct, 100)[0] == pytest.approx(0.0490195589, abs=5e-11)
    correct = np.zeros((1, 12_600))
    correct[0, :7] = 1
    exact = 1 - math.comb(12_593, 6_000) / math.comb(12_600, 6_000)
    assert pass_at_k(correct, 6_000)[0] == pytest.approx(exact, abs=1e-12)
    assert distinct_at_k(np.where(correct == 1, "a", None), 6_000)[0] == pytest.approx(exact, abs=1e-12)
    hat = math.comb(12_593, 50) / math.comb(12_600, 50)
    assert pass_hat_k_of_counts([12_593], [12_600], [50, 12_600])[0].tolist() == pytest.approx([hat, 0], abs=1e-12)
    reward = rng().permutation(100_000.0 * np.ones(100_000).cumsum())[None]
    expected = [100_000.0 * n * 100_001 / (n + 1) for n in (1, 2, 1000, 99_999)]  # mean of the maximum rank
    np.testing.assert_allclose(best_of_n(reward, [1, 2, 1000, 99_999])[0], expected, rtol=1e-10)
    evenly = np.linspace(0, 1, 20_001)[None]
    assert median_of_n(evenly, [1, 2, 3, 999, 20_001]) == pytest.approx(np.full((1, 5), 0.5))


def two_answers(pool_size):
    """([40, N] answers, whether correct, the exact majority@15): a hypergeometric tail."""
    a = pool_size * 2 // 5
    answers = np.array([["a"] * a + ["b"] * (pool_size - a)] * 40, object)
    ways = sum(math.comb(a, j) * math.comb(pool_size - a, 15 - j) for j in range(8, 16))
    return answers, (answers == "a").astype(float), ways / math.comb(pool_size, 15)


@pytest.mark.parametrize("pool_size", [30, 64])
def test_majority_is_exact_where_the_subsets_are_too_many_to_take(pool_size):
    answers, correct, exact = two_answers(pool_size)
    np.testing.assert_allclose(majority_at_k(answers, correct, 15), exact, rtol=1e-12)
    assert majority_method(pool_size, 15) == "exact"


def test_majority_by_monte_carlo_agrees_with_the_hypergeometric_law():
    """80 samples are too many to count."""
    answers, correct, exact = two_answers(80)
    assert majority_method(80, 15) == "monte_carlo"
    estimate = majority_at_k(answers, correct, 15, rng=rng())
    assert estimate[0] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4096))
    np.testing.assert_array_equal(estimate, majority_at_k(answers, correct, 15, rng=rng()))


def test_nan_among_answers_in_lists_is_no_answer():
    """NumPy would make the text 'nan' of it, which two of three samples here would vote for."""
    answers, correct = [["7", np.nan, float("nan")]], [[1, 0, 0]]
    expected = [[1 / 3, 2 / 3, 1.0]]
    np.testing.assert_allclose(majority_at_k(answers, correct, [1, 2, 3]), expected)
    np.testing.assert_allclose(weighted_majority_at_k(answers, [[1, 1, 1]], correct, [1, 2, 3]), expected)
    np.testing.assert_allclose(distinct_at_k(answers, [1, 2, 3]), expected)


def test_equal_weights_are_a_plain_majority_even_where_sums_round():
    answers = rng().choice(np.array(["a", "b", "c", "d", "e", None], object), (6, 11))
    correct = np.where(answers == "a", 1.0, np.where(answers == "b", 0.5, 0.0))
    weighted = weighted_majority_at_k(answers, np.full(answers.shape, 0.1), correct, [2, 3, 5, 10, 11])
    np.testing.assert_allclose(weighted, majority_at_k(answers, correct, [2, 3, 5, 10, 11]), atol=1e-12)
    two_and_one = np.array([["a", "a", "b"]], object)  # 0.1 + 0.2 is not quite 0.3
    assert weighted_majority_at_k(two_and_one, [[0.1, 0.2, 0.3]], [[1.0, 1, 0]], 3)[0] == 0.5


def test_a_nan_answer_is_unparsable_like_none():
    nan, none = (np.array([["a", blank, blank]], object) for blank in (NAN, None))
    correct = np.array([[1.0, 0, 0]])
    np.testing.assert_allclose(majority_at_k(nan, correct, [1, 2, 3]), majority_at_k(none, correct, [1, 2, 3]))


def test_soft_best_of_n_by_monte_carlo_stays_within_its_error():
    """40 samples, n = 20, at a temperature so low that Best-of-n is the answer."""
    proxy, gold = rng().permuted(np.tile(np.arange(40.0), (3, 1)), axis=1), rng(1).random((3, 40))
    estimate = soft_best_of_n(proxy, gold, 20, 1e-3, rng=rng(1))
    np.testing.assert_allclose(estimate, best_of_n(proxy, 20, gold), atol=4 * 0.5 / math.sqrt(4096))
    assert subset_method(40, 20) == "monte_carlo"
    assert subset_method(16, 8) == "exact"


def test_pessimism_by_monte_carlo_stays_within_its_error():
    source = rng()
    proxy = source.normal(size=(4, 26))
    gold = (proxy + source.normal(size=proxy.shape) > 0).astype(float)
    assert subset_method(26, 6) == "monte_carlo"
    several = [pessimism_of_n(proxy, gold, 6, 0.3, rng=rng(seed)) for seed in range(8)]
    chosen = np.argsort(source.random((60_000, 26)), axis=1)[:, :6]
    for row in range(4):
        exact = (pessimistic_weights(proxy[row][chosen], 0.3) * gold[row][chosen]).sum(axis=1)
        assert np.mean(several, axis=0)[row] == pytest.approx(exact.mean(), abs=0.006)


def test_pessimistic_weights_are_those_that_the_selection_trains_with():
    rewards = np.array([[0.0, 0.5, 1.0], [0.2, NAN, 0.2]])
    chosen = pessimism(rewards, rng(), beta=0.5)
    weights = pessimistic_weights(rewards, 0.5)
    assert weights[0] == pytest.approx([0, 1 / 3, 2 / 3])  # lambda = 0
    assert weights[1] == pytest.approx([0.5, 0, 0.5])
    assert chosen.weight == pytest.approx(weights[weights > 0])


def test_the_coverage_law_is_recovered_without_points_at_0_and_1():
    k = np.array([1, 2, 4, 8, 16, 1000])
    coverage = np.exp(-2.5 * k**-0.6)
    law = fit_coverage(k, coverage)
    assert law == pytest.approx((2.5, 0.6))
    assert law(np.array([32])) == pytest.approx(np.exp(-2.5 * 32**-0.6))
    coverage[[0, 4]] = 0, 1
    assert fit_coverage(k, coverage) == pytest.approx((2.5, 0.6))


def test_a_weighted_vote_does_not_depend_on_the_zero_of_log_odds():
    rng = np.random.default_rng(0)
    right = np.repeat([1.0, 0.0], [40, 24])[None]  # 40 right samples that agree, 24 wrong ones that all differ
    answers = np.array([["right"] * 40 + [f"wrong {i}" for i in range(24)]])
    rewards = right + rng.normal(0, 0.1, right.shape)
    votes = [
        weighted_majority_at_k(answers, vote_weights(rewards + zero), right, [1, 4, 16, 64]) for zero in (-1, -3, -40)
    ]
    assert votes[1] == pytest.approx(votes[0])
    assert votes[2] == pytest.approx(votes[0])
    assert votes[0][0, 3] == 1.0  # where the sum of negative rewards would give 0.0
    assert weighted_majority_at_k(answers, rewards - 3, right, 64)[0] == 0.0
    by_hand = np.exp([[-3.0, -2.0, np.nan], [1.0, 2.0, 2.0]]) / np.exp([[-2.0], [2.0]])
    assert vote_weights([[-3.0, -2.0, np.nan], [1.0, 2.0, 2.0]]) == pytest.approx(by_hand, nan_ok=True)
    assert np.array_equal(vote_weights([[0.0, 0.5, np.nan]]), [[0.0, 0.5, np.nan]], equal_nan=True)
    assert np.isnan(vote_weights([[np.nan, np.nan], [-1.0, 0.0]])[0]).all()


def test_a_weighted_vote_between_weak_answers_does_not_depend_on_a_strong_one_that_was_not_drawn():
    weights = vote_weights([[0.0, -30.0, -35.0, -40.0]])  # in each pair the earlier sample has e^5 times the weight
    right = [[0.0, 1.0, 0.0, 0.0]]
    assert weighted_majority_at_k([["a", "b", "c", "d"]], weights, right, 2) == pytest.approx([2 / 6])
