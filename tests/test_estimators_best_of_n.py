"""Best-of-N and its relatives against every n-subset, written out with itertools."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.estimators.best_of_n import (
    best_of_n,
    best_of_n_variance,
    best_of_n_weights,
    majority_at_k,
    majority_method,
    pass_at_k,
    soft_best_of_n,
    subset_method,
    weighted_majority_at_k,
)

small_rewards = st.lists(st.integers(0, 3), min_size=1, max_size=7)  # many ties


def every_subset(proxy, gold, n):
    """The mean over all n-subsets of the mean gold of the samples tied for the highest proxy."""
    values = []
    for subset in combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        values.append(np.mean([gold[i] for i in subset if proxy[i] == best]))
    return np.mean(values)


@given(small_rewards, st.randoms(use_true_random=False))
def test_best_of_n_is_the_mean_over_all_subsets(proxy, random):
    gold = [random.random() for _ in proxy]
    sizes = list(range(1, len(proxy) + 1))
    expected = [every_subset(proxy, gold, n) for n in sizes]
    np.testing.assert_allclose(best_of_n([proxy], [gold], sizes)[0], expected, atol=1e-12)
    weights = best_of_n_weights([proxy], sizes)[0]  # [N, K]
    np.testing.assert_allclose(gold @ weights, expected, atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=0), 1)


def test_worked_example():
    reward = np.array([[0.1, 0.5, 0.2, 0.9, 0.4]])
    np.testing.assert_allclose(
        best_of_n(reward, reward, [1, 2, 3, 4, 5])[0], [0.42, 0.61, 0.73, 0.82, 0.90], atol=1e-12
    )


@given(small_rewards, st.randoms(use_true_random=False))
def test_permuting_the_samples_changes_nothing(proxy, random):
    gold = [random.random() for _ in proxy]
    order = random.sample(range(len(proxy)), len(proxy))
    sizes = list(range(1, len(proxy) + 1))
    shuffled = best_of_n([[proxy[i] for i in order]], [[gold[i] for i in order]], sizes)
    np.testing.assert_allclose(shuffled, best_of_n([proxy], [gold], sizes), atol=1e-12)


@given(small_rewards)
def test_the_proxy_itself_never_falls_with_n(proxy):
    curve = best_of_n([proxy], [proxy], list(range(1, len(proxy) + 1)))[0]
    assert curve[0] == pytest.approx(np.mean(proxy))
    assert (np.diff(curve) >= -1e-12).all()
    assert curve[-1] == pytest.approx(max(proxy))


def test_all_tied_is_the_plain_mean_at_every_n():
    gold = np.array([[0.0, 1.0, 1.0, 0.0, 0.5]])
    np.testing.assert_allclose(best_of_n(np.full((1, 5), 7.0), gold, [1, 3, 5])[0], 0.5)


def test_a_nan_sample_counts_as_never_drawn():
    proxy = np.array([[1.0, np.nan, 3.0, 2.0], [np.nan, np.nan, np.nan, 4.0], [np.nan] * 4, [1.0, 1.0, 2.0, 3.0]])
    gold = np.array([[0.1, 0.9, 0.3, np.nan], [0.0, 0.0, 0.0, 0.5], [1.0] * 4, [0.0, 1.0, 0.0, 1.0]])
    values = best_of_n(proxy, gold, [1, 2, 3])
    np.testing.assert_allclose(values[0], [0.2, 0.3, np.nan])
    np.testing.assert_allclose(values[1], [0.5, np.nan, np.nan])
    assert np.isnan(values[2]).all()
    np.testing.assert_allclose(values[3], best_of_n(proxy[3:], gold[3:], [1, 2, 3])[0])
    weights = best_of_n_weights(proxy, 2)
    np.testing.assert_allclose(weights[0], [0, 0, 2 / 3, 1 / 3], atol=1e-12)
    assert np.isnan(weights[1:3]).all()


def test_an_int_gives_one_column_less():
    proxy = np.arange(12.0).reshape(3, 4)
    assert best_of_n(proxy, proxy, 2).shape == (3,)
    assert best_of_n(proxy, proxy, np.int64(2)).shape == (3,)
    assert best_of_n(proxy, proxy, [2]).shape == (3, 1)
    assert best_of_n(proxy, proxy, np.array([1, 2])).shape == (3, 2)
    assert best_of_n_weights(proxy, 2).shape == (3, 4)
    assert best_of_n_weights(proxy, [2, 3]).shape == (3, 4, 2)
    assert pass_at_k(proxy > 3, 2).shape == (3,)
    assert majority_at_k(proxy, proxy > 3, [1, 4]).shape == (3, 2)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(correct):
    sizes = list(range(1, len(correct) + 1))
    expected = [np.mean([any(s) for s in combinations(correct, k)]) for k in sizes]
    np.testing.assert_allclose(pass_at_k([correct], sizes)[0], expected, atol=1e-12)
    np.testing.assert_allclose(best_of_n([correct], [correct], sizes)[0], expected, atol=1e-12)


def test_pass_at_k_of_large_pools_neither_overflows_nor_loses_digits():
    correct = np.zeros((1, 10_000))
    correct[0, :5] = 1
    assert pass_at_k(correct, 100)[0] == pytest.approx(0.0490195589, abs=5e-11)
    correct = np.zeros((1, 12_600))
    correct[0, :7] = 1
    exact = 1 - math.comb(12_593, 6_000) / math.comb(12_600, 6_000)
    assert pass_at_k(correct, 6_000)[0] == pytest.approx(exact, abs=1e-12)
    reward = np.random.default_rng(0).permutation(100_000.0 * np.ones(100_000).cumsum())[None]
    expected = [100_000.0 * n * 100_001 / (n + 1) for n in (1, 2, 1000, 99_999)]  # mean of the maximum rank
    np.testing.assert_allclose(best_of_n(reward, reward, [1, 2, 1000, 99_999])[0], expected, rtol=1e-10)


def test_first_n_and_resampling_with_replacement_are_other_numbers():
    """What the estimator avoids: both differ from the mean over subsets on the worked example."""
    reward = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    exact = best_of_n(reward[None], reward[None], 3)[0]
    with_replacement = np.mean([max(a, b, c) for a in reward for b in reward for c in reward])
    assert exact - with_replacement > 0.05
    assert exact - reward[:3].max() > 0.2


def every_vote(answers, correct, k):
    values = []
    for subset in combinations(range(len(answers)), k):
        votes = {}
        for i in subset:
            if answers[i] is not None:
                votes.setdefault(answers[i], []).append(correct[i])
        most = max((len(v) for v in votes.values()), default=0)
        values.append(np.mean([np.mean(v) for v in votes.values() if len(v) == most]) if votes else 0.0)
    return np.mean(values)


@given(st.lists(st.sampled_from(["17", "8", "9", None]), min_size=1, max_size=7))
def test_majority_at_k_is_the_mean_over_all_subsets(answers):
    correct = [float(a == "17") for a in answers]
    sizes = list(range(1, len(answers) + 1))
    expected = [every_vote(answers, correct, k) for k in sizes]
    pool = np.array([answers], dtype=object)
    np.testing.assert_allclose(majority_at_k(pool, [correct], sizes)[0], expected, atol=1e-12)


def test_majority_by_hand():
    answers = np.array([["a", "b", "b", None], [None] * 4, ["a", "a", "b", "b"]], dtype=object)
    correct = np.array([[1.0, 0, 0, 0], [0.0] * 4, [1.0, 1, 0, 0]])
    values = majority_at_k(answers, correct, [1, 2, 4])
    # row 0, pairs: ab ½, ab ½, aN 1, bb 0, bN 0, bN 0
    np.testing.assert_allclose(values, [[0.25, 1 / 3, 0], [0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)


def two_answers(pool_size):
    """([40, N] answers, whether correct, the exact majority@15): a hypergeometric tail."""
    a = pool_size * 2 // 5
    answers = np.array([["a"] * a + ["b"] * (pool_size - a)] * 40, dtype=object)
    ways = sum(math.comb(a, j) * math.comb(pool_size - a, 15 - j) for j in range(8, 16))
    return answers, (answers == "a").astype(float), ways / math.comb(pool_size, 15)


def test_majority_is_exact_where_the_subsets_are_too_many_to_take():
    for pool_size in (30, 64):
        answers, correct, exact = two_answers(pool_size)
        np.testing.assert_allclose(majority_at_k(answers, correct, 15), exact, rtol=1e-12)
        assert majority_method(pool_size, 15) == "exact"


def test_many_answers_with_ties_are_counted_like_all_subsets():
    rng = np.random.default_rng(0)
    answers = rng.choice(np.array(["a", "b", "c", "d", "e", None], dtype=object), size=(6, 11))
    correct = np.where(answers == "a", 1.0, np.where(answers == "b", 0.5, 0.0))
    answers[0, :] = answers[0, ::-1]
    expected = weighted_majority_at_k(answers, np.ones(answers.shape), correct, [2, 3, 5, 10, 11])  # enumerates
    np.testing.assert_allclose(majority_at_k(answers, correct, [2, 3, 5, 10, 11]), expected, atol=1e-12)


def test_majority_by_monte_carlo_agrees_with_the_hypergeometric_law():
    """80 samples are too many to count."""
    answers, correct, exact = two_answers(80)
    assert majority_method(80, 15) == "monte_carlo"
    estimate = majority_at_k(answers, correct, 15, rng=np.random.default_rng(0))
    assert estimate[0] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4096))
    np.testing.assert_array_equal(estimate, majority_at_k(answers, correct, 15, rng=np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 4)), 1), r"gold has shape \[2, 4\], but proxy has \[2, 3\]"),
        ((np.ones(3), np.ones(3), 1), r"proxy has shape \[3\]; a non-empty array \[M, N\]"),
        ((np.ones((2, 3)), np.ones((2, 3)), 4), "n=4 is more than the 3 samples"),
        ((np.ones((2, 3)), np.ones((2, 3)), 0), "n=0 is not allowed"),
        ((np.ones((2, 3)), np.ones((2, 3)), [1, -2]), "n=-2 is not allowed"),
        ((np.ones((2, 3)), np.ones((2, 3)), 1.5), "n=1.5 is not allowed"),
        ((np.ones((2, 3)), np.ones((2, 3)), []), r"n=\[\] is not allowed"),
        ((np.full((2, 3), np.nan), np.ones((2, 3)), 1), r"proxy \[2, 3\] holds nothing but NaN"),
        ((np.ones((2, 3)), np.full((2, 3), np.inf), 1), r"gold \[2, 3\] holds an infinity"),
        ((np.array([["a", "b"]], dtype=object), np.ones((1, 2)), 1), "proxy has dtype object"),
        ((np.ones((0, 3)), np.ones((0, 3)), 1), r"proxy has shape \[0, 3\]"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        best_of_n(*arguments)


def test_pass_at_k_refuses_what_is_not_an_outcome():
    with pytest.raises(ValueError, match=r"correct \[1, 2\] holds values other than 0 and 1"):
        pass_at_k([[0.5, 1.0]], 1)


def outcome(proxy, gold, subset):
    """(mean, mean square) of the gold value of the subset's best, over the tie-break."""
    best = max(proxy[i] for i in subset)
    tied = [gold[i] for i in subset if proxy[i] == best]
    return np.mean(tied), np.mean(np.square(tied))


@given(st.lists(st.integers(0, 2), min_size=2, max_size=7), st.randoms(use_true_random=False))
def test_variance_from_all_pairs_of_disjoint_subsets(proxy, random):
    gold = [random.random() for _ in proxy]
    for n in range(1, len(proxy) // 2 + 1):
        each = {subset: outcome(proxy, gold, subset) for subset in combinations(range(len(proxy)), n)}
        squared = np.mean([each[s][0] * each[t][0] for s in each for t in each if not set(s) & set(t)])
        draw = np.mean([square for _, square in each.values()]) - squared
        estimate = np.mean([mean for mean, _ in each.values()]) ** 2 - squared
        assert best_of_n_variance([proxy], [gold], n)[0] == pytest.approx(draw, abs=1e-12)
        assert best_of_n_variance([proxy], [gold], n, of="estimate")[0] == pytest.approx(estimate, abs=1e-12)


def test_variance_at_n_1_is_the_sample_variance_and_needs_2n_samples():
    gold = np.random.default_rng(0).random((4, 9))
    np.testing.assert_allclose(best_of_n_variance(gold, gold, 1), gold.var(axis=1, ddof=1))
    np.testing.assert_allclose(best_of_n_variance(gold, gold, 1, of="estimate"), gold.var(axis=1, ddof=1) / 9)
    gold[0, :2] = np.nan
    values = best_of_n_variance(gold, gold, [1, 4])
    assert np.isfinite(values[0, 0])
    assert np.isnan(values[0, 1])
    with pytest.raises(ValueError, match="n=5 is more than the 4"):
        best_of_n_variance(gold, gold, 5)


def test_variance_of_the_estimate_is_what_pools_scatter_by():
    """4,000 pools of 12 from one prompt with ties: the mean estimate is the observed variance of best_of_n."""
    rng = np.random.default_rng(0)
    proxy = rng.integers(0, 4, (4000, 12)).astype(float)
    gold = proxy + rng.normal(size=proxy.shape)
    for n in (1, 3, 6):
        observed = best_of_n(proxy, gold, n).var(ddof=1)
        assert best_of_n_variance(proxy, gold, n, of="estimate").mean() == pytest.approx(observed, rel=0.1)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from([0.1, 1.0, 20.0]))
def test_soft_best_of_n_is_the_softmax_mean_over_all_subsets(proxy, temperature):
    gold = [0.1 * i * i for i in range(len(proxy))]
    for n in range(1, len(proxy) + 1):
        values = []
        for subset in combinations(range(len(proxy)), n):
            share = [math.exp(proxy[i] / temperature) for i in subset]
            values.append(sum(s * gold[i] for s, i in zip(share, subset, strict=True)) / sum(share))
        assert soft_best_of_n([proxy], [gold], n, temperature)[0] == pytest.approx(np.mean(values), abs=1e-10)


def test_soft_best_of_n_has_best_of_n_and_the_plain_mean_as_limits():
    rng = np.random.default_rng(0)
    proxy, gold = rng.integers(0, 4, (5, 8)).astype(float), rng.random((5, 8))
    np.testing.assert_allclose(soft_best_of_n(proxy, gold, [1, 3, 8], 1e-4), best_of_n(proxy, gold, [1, 3, 8]))
    plain = np.broadcast_to(gold.mean(axis=1, keepdims=True), (5, 3))
    np.testing.assert_allclose(soft_best_of_n(proxy, gold, [1, 3, 8], np.inf), plain)
    with pytest.raises(ValueError, match="temperature=0 is not allowed"):
        soft_best_of_n(proxy, gold, 2, 0)


def test_soft_best_of_n_by_monte_carlo_stays_within_its_error():
    """40 samples, n = 20, at a temperature so low that Best-of-n is the answer."""
    rng = np.random.default_rng(0)
    proxy, gold = rng.permuted(np.tile(np.arange(40.0), (3, 1)), axis=1), rng.random((3, 40))
    estimate = soft_best_of_n(proxy, gold, 20, 1e-3, rng=np.random.default_rng(1))
    np.testing.assert_allclose(estimate, best_of_n(proxy, gold, 20), atol=4 * 0.5 / math.sqrt(4096))
    assert subset_method(40, 20) == "monte_carlo"
    assert subset_method(16, 8) == "exact"


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(-2, 2)), min_size=1, max_size=6),
)
def test_weighted_majority_is_the_largest_sum_over_all_subsets(votes):
    answers, weights = [a for a, _ in votes], [float(w) for _, w in votes]
    correct = [float(a == "a") for a in answers]
    for k in range(1, len(votes) + 1):
        values = []
        for subset in combinations(range(len(votes)), k):
            sums = {}
            for i in subset:
                if answers[i] is not None:
                    sums[answers[i]] = sums.get(answers[i], 0) + weights[i]
            winners = [a for a in sums if sums[a] == max(sums.values())]
            values.append(np.mean([a == "a" for a in winners]) if winners else 0.0)
        pool = np.array([answers], dtype=object)
        assert weighted_majority_at_k(pool, [weights], [correct], k)[0] == pytest.approx(np.mean(values), abs=1e-12)


def test_equal_weights_are_a_plain_majority_even_where_sums_round():
    rng = np.random.default_rng(0)
    answers = rng.choice(["a", "b", "c", None], size=(6, 9))
    correct = (answers == "a").astype(float)
    weighted = weighted_majority_at_k(answers, np.full((6, 9), 0.1), correct, [2, 5, 9])
    np.testing.assert_allclose(weighted, majority_at_k(answers, correct, [2, 5, 9]))
    two_and_one = np.array([["a", "a", "b"]], dtype=object)  # .1 + .2 is not quite .3
    assert weighted_majority_at_k(two_and_one, [[0.1, 0.2, 0.3]], [[1.0, 1, 0]], 3)[0] == 0.5


def test_unscored_votes_count_as_never_drawn():
    answers = np.array([["a", "b", "b", "a"]], dtype=object)
    correct = np.array([[1.0, 0, np.nan, 1]])
    expected = majority_at_k(answers[:, [0, 1, 3]], correct[:, [0, 1, 3]], [1, 3])
    np.testing.assert_allclose(majority_at_k(answers, correct, [1, 3]), expected)
    assert np.isnan(majority_at_k(answers, correct, 4)[0])
    weights = np.array([[1.0, 1, 1, np.nan]])
    assert np.isnan(weighted_majority_at_k(answers, weights, correct, 3)[0])
    assert weighted_majority_at_k(answers, weights, correct, 2)[0] == 0.5


def test_a_nan_answer_is_unparsable_like_none():
    correct = np.array([[1.0, 0, 0]])
    with_nan = majority_at_k(np.array([["a", np.nan, np.nan]], dtype=object), correct, [1, 2, 3])
    np.testing.assert_allclose(with_nan, majority_at_k(np.array([["a", None, None]], dtype=object), correct, [1, 2, 3]))
