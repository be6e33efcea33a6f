"""Divergences against policies small enough to write out: every draw of n, every tie."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.estimators.kl import (
    best_of_n_kl,
    best_of_n_kl_bias,
    best_of_n_kl_bound,
    best_of_n_kl_from_reference,
    best_of_n_kl_sensitivity,
    best_of_n_win_rate,
    exact_best_of_n_kl,
    exact_best_of_n_win_rate,
)

policies = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=4)


def written_out(probabilities, rewards, n):
    """The Best-of-n policy over outcomes, from every sequence of n draws with a uniform tie-break."""
    best = np.zeros(len(probabilities))
    for draws in product(range(len(probabilities)), repeat=n):
        top = max(rewards[i] for i in draws)
        winners = [i for i in draws if rewards[i] == top]
        for i in winners:
            best[i] += math.prod(probabilities[j] for j in draws) / len(winners)
    return best


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def binary_kl(p, n):
    """KL of Best-of-n by a verifier with pass rate p; exact at 0 and 1."""
    return 0.0 if p in (0, 1) else kl([1 - (1 - p) ** n, (1 - p) ** n], [p, 1 - p])


@given(policies, st.integers(1, 4))
def test_exact_kl_and_win_rate_of_a_discrete_policy_with_ties(policy, n):
    weight, rewards = np.array(policy, dtype=float).T
    p = weight / weight.sum()
    best = written_out(p, rewards, n)
    assert exact_best_of_n_kl(p, rewards, n) == pytest.approx(kl(best, p), abs=1e-12)
    assert exact_best_of_n_kl(p, rewards, n) <= best_of_n_kl_bound(n) + 1e-12
    wins = best @ (np.sign(rewards[:, None] - rewards) + 1) / 2 @ p
    assert exact_best_of_n_win_rate(p, rewards, n) == pytest.approx(wins, abs=1e-12)


def test_printed_numbers():
    assert exact_best_of_n_kl([0.5, 0.5], [0, 1], 10) == pytest.approx(0.6854, abs=5e-5)
    assert best_of_n_kl_bound(10) == pytest.approx(1.4026, abs=5e-5)
    rates = [0, 0.1, 0.5, 1]
    assert np.mean([exact_best_of_n_kl([1 - p, p], [0, 1], 8) for p in rates]) == pytest.approx(0.3352, abs=5e-5)
    assert exact_best_of_n_kl([0.6, 0.4], [0, 1], 8) == pytest.approx(0.8242, abs=5e-5)  # the pooled pass rate


def test_rare_and_certain_successes_keep_their_digits():
    p = 1e-9
    assert exact_best_of_n_kl([1 - p, p], [0, 1], 4) == pytest.approx(4 * p * math.log(4) - 3 * p, rel=1e-6)
    assert exact_best_of_n_kl([p, 1 - p], [0, 1], 64) == pytest.approx(p, rel=1e-6)
    assert exact_best_of_n_kl([0, 1], [0, 1], 4) == 0


def test_a_continuous_stretch_is_the_limit_of_many_atoms():
    """An atom of 0.3, a stretch of 0.5 above it and an atom of 0.2 at the top, against 40,000 atoms in the stretch."""
    pieces, sizes = 40_000, [1, 2, 5, 20]
    probabilities = np.concatenate([[0.3], np.full(pieces, 0.5 / pieces), [0.2]])
    many = exact_best_of_n_kl(probabilities, np.arange(pieces + 2.0), sizes)
    mixed = exact_best_of_n_kl([0.3, 0.5, 0.2], [0, 1, 2], sizes, continuous=[False, True, False])
    np.testing.assert_allclose(mixed, many, atol=1e-7)
    alone = exact_best_of_n_kl([1.0], [0], sizes, continuous=[True])
    np.testing.assert_allclose(alone, best_of_n_kl_bound(sizes), atol=1e-12)


def test_the_win_rate_of_distinct_rewards_is_n_over_n_plus_1():
    p, rewards = np.full(2000, 1 / 2000), np.arange(2000.0)
    assert exact_best_of_n_win_rate(p, rewards, [1, 8]) == pytest.approx([1 / 2, 8 / 9], abs=1e-3)


def empirical(rewards):
    """Probabilities of the distinct rewards, ascending, and F(v)^n − F(v−)^n by plain subtraction for a given n."""
    p = np.unique(rewards, return_counts=True)[1] / len(rewards)
    upper = np.append(np.cumsum(p)[:-1], 1.0)
    return p, lambda n: np.diff(upper**n, prepend=0.0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9))
def test_plug_in_and_jackknife_by_leaving_each_sample_out(rewards):
    size = len(rewards)
    (p, best), *rest = [empirical(r) for r in (rewards, *(np.delete(rewards, i) for i in range(size)))]
    for n in range(1, size + 1):
        whole, left_out = kl(best(n), p), np.mean([kl(b(n), q) for q, b in rest])
        assert best_of_n_kl([rewards], n, "plug_in")[0] == pytest.approx(whole, abs=1e-10)
        expected = size * whole - (size - 1) * left_out
        assert best_of_n_kl([rewards], n)[0] == pytest.approx(expected, abs=1e-9)


def test_jackknife_of_a_verifier_has_its_closed_form():
    size = 16
    for passed, n in product(range(size + 1), range(1, size + 1)):
        fewer = passed * binary_kl((passed - 1) / (size - 1), n) if passed else 0
        other = (size - passed) * binary_kl(passed / (size - 1), n) if passed < size else 0
        expected = size * binary_kl(passed / size, n) - (size - 1) / size * (fewer + other)
        assert best_of_n_kl(np.arange(size)[None] < passed, n)[0] == pytest.approx(expected, abs=1e-10)


def test_jackknife_removes_most_of_the_plug_in_bias():
    """The exact expectation over k ~ Binomial(N, p), N = 32, n = 8; the plug-in is low."""
    size, n = 32, 8
    pools = np.arange(size)[None] < np.arange(size + 1)[:, None]  # every possible count of successes
    for p in (0.05, 0.1, 0.2):
        law = np.array([math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)])
        truth = exact_best_of_n_kl([1 - p, p], [0, 1], n)
        plug_in = law @ best_of_n_kl(pools, n, "plug_in") - truth
        jackknife = law @ best_of_n_kl(pools, n) - truth
        assert plug_in < -0.03
        assert abs(jackknife) < 0.1 * abs(plug_in)


@pytest.mark.parametrize("estimator", ["jackknife", "plug_in", "beirami"])
def test_distinct_rewards_come_near_the_bound_which_is_exact_there(estimator):
    rewards, sizes = np.random.default_rng(0).random((50, 64)), [1, 2, 4, 8, 16]
    bound = best_of_n_kl(rewards, sizes, "bound")
    np.testing.assert_array_equal(bound, np.broadcast_to(best_of_n_kl_bound(sizes), (50, 5)))
    np.testing.assert_allclose(best_of_n_kl(rewards, sizes, estimator), bound, atol=0.004)


def test_beirami_treats_each_outcome_as_one_atom_above_distinct_ones():
    """By hand for 3 of 4 samples tied at the top, n = 2: Σ Δ K(ε), and above the truth under ties."""
    rewards = np.array([[0.0, 1.0, 1.0, 1.0]])

    def single_atom(e, n):
        rest = (1 - e) ** n * (math.log(n) + (n - 1) * math.log(1 - e) - (n - 1) / n)
        return rest + (1 - (1 - e) ** n) * math.log((1 - (1 - e) ** n) / e)

    expected = (1 / 4) ** 2 * single_atom(0.25, 2) + (1 - (1 / 4) ** 2) * single_atom(0.75, 2)
    assert best_of_n_kl(rewards, 2, "beirami")[0] == pytest.approx(expected, abs=1e-12)
    assert expected > exact_best_of_n_kl([0.25, 0.75], [0, 1], 2)


def test_degenerate_pools():
    for constant in (0, 1):
        assert (best_of_n_kl(np.full((3, 8), constant), [1, 4, 8]) == 0).all()
    assert best_of_n_kl([[0.7]], 1)[0] == 0  # N = 1
    mixed = np.array([[0.0, 1, 1, 0, np.nan, np.nan], [0.0, 1, 1, 0, 0, 1], [np.nan] * 6])
    values = best_of_n_kl(mixed, [2, 5])
    assert values[0, 0] == pytest.approx(best_of_n_kl(mixed[:1, :4], 2)[0])
    np.testing.assert_array_equal(np.isnan(values), [[0, 1], [0, 0], [1, 1]])


def test_permuting_samples_and_relabelling_rewards_monotonically_change_nothing():
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, 5, (20, 16)).astype(float)
    expected = best_of_n_kl(rewards, [2, 4, 8])
    for same in (rng.permuted(rewards, axis=1), np.exp(rewards)):
        np.testing.assert_allclose(best_of_n_kl(same, [2, 4, 8]), expected)


def test_chain_rule_to_a_reference_by_writing_out_both_policies():
    """A sampler that truncates the base: KL(BoN ‖ base) = KL(BoN ‖ sampler) + E_BoN[log sampler − log base]."""
    base = np.array([0.4, 0.3, 0.2, 0.1])
    sampler = np.array([0.5, 0.3, 0.2, 0.0])
    rewards = np.array([0.0, 1.0, 1.0, 5.0])
    best = written_out(sampler, rewards, 3)
    truth = kl(best, base)
    ratio = np.log(sampler[:3] / base[:3])
    assert exact_best_of_n_kl(sampler, rewards, 3) + best[:3] @ ratio == pytest.approx(truth, abs=1e-12)
    # a pool that holds the sampler's distribution exactly: 1,000 samples
    draws = np.repeat([0, 1, 2], [500, 300, 200])[None]
    assert best_of_n_kl_from_reference(rewards[draws], ratio[draws], 3)[0] == pytest.approx(truth, abs=2e-3)


def test_a_nan_log_ratio_takes_its_sample_out_of_both_terms():
    rewards, ratio = np.array([[0.0, 1.0, 1.0, 0.0]]), np.array([[0.1, 0.2, np.nan, 0.4]])
    expected = best_of_n_kl_from_reference(rewards[:, [0, 1, 3]], ratio[:, [0, 1, 3]], 2)
    np.testing.assert_allclose(best_of_n_kl_from_reference(rewards, ratio, 2), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_n_kl(np.ones((2, 3)), 4), "n=4 is more than the 3 samples"),
        (lambda: best_of_n_kl(np.ones((2, 3)), 2, "median"), "estimator='median' is not known"),
        (lambda: best_of_n_kl(np.full((2, 3), -np.inf), 2), r"rewards \[2, 3\] holds an infinity"),
        (lambda: exact_best_of_n_kl([0.5, 0.6], [0, 1], 2), r"sum to 1 \(they sum to 1.1\)"),
        (lambda: exact_best_of_n_kl([0.5, 0.5], [0, 1, 2], 2), r"rewards has shape \[3\], but probabilities has \[2\]"),
        (lambda: exact_best_of_n_kl([0.5, 0.5], [1, 1], 2, continuous=[True, False]), "shares its reward"),
        (lambda: best_of_n_kl_from_reference(np.ones((2, 3)), np.ones(3), 2), r"log_ratio has shape \[3\]"),
        (lambda: best_of_n_kl_sensitivity(np.ones((2, 3)), 2, level=95), "level=95 is not allowed"),
        (lambda: best_of_n_kl_bound(0), "n=0 is not allowed"),
        (lambda: best_of_n_win_rate(np.ones((2, 3)), 3), "n=3 leaves no opponent"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_estimated_win_rate_is_the_mean_over_all_contests(rewards):
    for n in range(1, len(rewards)):
        wins = []
        for subset in combinations(range(len(rewards)), n):
            best = max(rewards[i] for i in subset)
            for opponent in set(range(len(rewards))) - set(subset):
                wins.append(0.5 + 0.5 * np.sign(best - rewards[opponent]))
        assert best_of_n_win_rate([rewards], n)[0] == pytest.approx(np.mean(wins), abs=1e-12)


def test_estimated_win_rate_without_ties_and_with_unscored_samples():
    rewards = np.random.default_rng(0).random((2, 10))
    rewards[0, :3] = np.nan
    expected = [[1 / 2, 4 / 5, np.nan], [1 / 2, 4 / 5, 9 / 10]]
    np.testing.assert_allclose(best_of_n_win_rate(rewards, [1, 4, 9]), expected)


def test_unsolved_prompts_are_at_their_largest_kl():
    correct = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [np.nan, 0, 0, np.nan], [np.nan] * 4])
    estimate = best_of_n_kl(correct, [1, 2])
    bound = best_of_n_kl_sensitivity(correct, [1, 2])
    np.testing.assert_array_equal(estimate[0], 0)
    np.testing.assert_array_equal(bound[1], estimate[1])
    for row, size in ((0, 4), (2, 2)):
        rates = np.linspace(0, 1 - 0.05 ** (1 / size), 50_001)[1:]
        largest = max(binary_kl(rate, 2) for rate in rates)
        assert bound[row] == pytest.approx([0, largest], rel=1e-4, abs=1e-12)
    assert np.isnan(bound[3]).all()
    # 64 failures, n = 8: the KL still rises up to p = 1 − 0.05^(1/64)
    assert best_of_n_kl_sensitivity(np.zeros((1, 64)), 8)[0] == pytest.approx(binary_kl(1 - 0.05 ** (1 / 64), 8))


@pytest.mark.parametrize("levels", [8, 32, 128, None])
@pytest.mark.parametrize(("pool", "n"), [(16, 4), (16, 16), (64, 16), (64, 64)])
def test_an_interval_that_extends_down_by_the_bias_without_ties_covers_the_truth(levels, pool, n):
    """And one over prompts alone does not, where few rewards tie: all prompts have one bias, and hardly a spread."""
    rng = np.random.default_rng(0)
    truth = (
        best_of_n_kl_bound(n) if levels is None else exact_best_of_n_kl(np.full(levels, 1 / levels), range(levels), n)
    )
    plain, extended = 0, 0
    for _ in range(40):
        rewards = rng.random((100, pool)) if levels is None else rng.integers(0, levels, (100, pool))
        values = best_of_n_kl(rewards, n)
        half = 2.6 * values.std(ddof=1) / 10 + 1e-9  # 99 %, so that 40 repetitions are enough
        low, high = values.mean() - half, values.mean() + half
        plain += low <= truth <= high
        extended += low - best_of_n_kl_bias(n, pool) <= truth <= high
    assert extended >= 37
    if levels is None or (levels == 128 and n < 64):
        assert plain == 0


def test_the_bias_without_ties_falls_with_the_square_of_n_over_the_pool():
    for pool in (16, 64, 256):
        for share in (1, 2, 4):
            assert best_of_n_kl_bias(pool // share, pool) == pytest.approx(0.04 / share**2, rel=0.3)
        assert best_of_n_kl_bias(1, pool) == 0
