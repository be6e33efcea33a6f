"""Estimates from stopped pools, and the allocation of samples, against enumeration of all sequences and divisions."""

import itertools
import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from bench.estimators.arrays import StoppedOutcomes
from bench.estimators.curves import best_of_n, pass_at_k, pass_at_k_of_counts
from bench.estimators.kl import best_of_n_kl
from bench.estimators.sequential import (
    BetaPrior,
    allocate,
    beta_prior,
    expected_gains,
    sequentially_stopped,
    stopped_pass_at_k,
)
from bench.estimators.voting import majority_at_k

PLANS = [  # enough, limit, block
    (1, 1, 1),
    (1, 5, 1),
    (2, 6, 1),
    (3, 7, 1),
    (1, 6, 2),
    (2, 8, 3),  # the last block is shorter
    (3, 8, 4),
    (4, 3, 1),  # never enough: a pool of three
]


def stop(sequence: tuple[int, ...], enough: int, limit: int, block: int) -> tuple[int, int]:
    """(accepted, drawn) where sampling in this order ends."""
    drawn = 0
    while drawn < limit:
        drawn = min(drawn + block, limit)
        if sum(sequence[:drawn]) >= enough:
            break
    return sum(sequence[:drawn]), drawn


def expectation(plan: tuple[int, int, int], p: float, value) -> np.ndarray:
    """The mean of value(accepted [1], drawn [1]) -> [1, K] over all sequences of samples."""
    total: np.ndarray | float = 0.0
    for sequence in itertools.product((0, 1), repeat=plan[1]):
        chance = p ** sum(sequence) * (1 - p) ** (len(sequence) - sum(sequence))
        accepted, drawn = stop(sequence, *plan)
        total = total + chance * value(np.array([accepted]), np.array([drawn]))[0]
    return np.asarray(total)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_pass_at_k_of_a_stopped_pool_is_unbiased_at_every_k(plan, p):
    enough, limit, block = plan
    sizes = list(range(1, limit + 1))

    def estimate(accepted, drawn):
        return stopped_pass_at_k(accepted, drawn, sizes, enough=enough, limit=limit, block=block)

    assert expectation(plan, p, estimate) == pytest.approx([1 - (1 - p) ** k for k in sizes], abs=1e-12)


def test_the_share_of_accepted_samples_is_biased():
    """The test above can fail: the plain share does, and so does the fixed-N pass@1 of the same samples."""
    biased = expectation((1, 5, 1), 0.3, lambda accepted, drawn: (accepted / drawn)[:, None])
    assert biased[0] > 0.3 + 0.1


def test_haldanes_estimator_before_the_limit_and_the_first_sample_for_the_first_accepted():
    drawn = np.arange(3, 9)
    found = stopped_pass_at_k(np.full(6, 3), drawn, 1, enough=3, limit=9)
    assert found == pytest.approx(2 / (drawn - 1))
    assert stopped_pass_at_k(np.array([2]), np.array([9]), 1, enough=3, limit=9) == pytest.approx([2 / 9])
    assert stopped_pass_at_k(np.array([1, 1, 0]), np.array([1, 2, 4]), [1, 2], enough=1, limit=4).tolist() == [
        [1, 1],
        [0, 1],
        [0, 0],
    ]


def test_a_plan_that_never_stops_is_a_pool_of_fixed_n():
    for accepted in range(7):
        fixed = np.array([[1.0] * accepted + [0.0] * (6 - accepted)])
        found = stopped_pass_at_k(np.array([accepted]), np.array([6]), [1, 2, 5], enough=7, limit=6, block=2)
        assert found == pytest.approx(pass_at_k(fixed, [1, 2, 5]))


@pytest.mark.parametrize(
    ("drawn", "k", "block", "message"), [(3, 1, 1, "3 drawn and 0 accepted"), (4, 5, 1, "k=5"), (4, 1, 0, "block=0")]
)
def test_counts_that_no_plan_stops_with_are_refused(drawn, k, block, message):
    with pytest.raises(ValueError, match=message):
        stopped_pass_at_k(np.array([0]), np.array([drawn]), k, enough=1, limit=4, block=block)


def test_estimators_of_fixed_pools_refuse_stopped_outcomes():
    values = np.array([[0.0, 1.0, np.nan], [1.0, np.nan, np.nan]])
    marked = values.view(StoppedOutcomes)
    for refuse in (
        lambda: pass_at_k(marked, 1),
        lambda: best_of_n(marked, 1),
        lambda: best_of_n(values, 1, marked),
        lambda: best_of_n_kl(marked, 1),
        lambda: majority_at_k(np.full((2, 3), "a", object), marked, 1),
        lambda: pass_at_k(marked[:1], 1),
        lambda: pass_at_k(marked > 0.5, 1),
    ):
        with pytest.raises(ValueError, match="comes from a stopped pool"):
            refuse()
    assert pass_at_k(values, 1).shape == (2,)  # without the mark it would be taken


# --- whose next sample is worth most -------------------------------------------------------------------------------


def expected_useful(samples: int, accepted: int, drawn: int, prior: BetaPrior, enough: int) -> float:
    """E[min(accepted + those of `samples` more, enough)] by enumeration of the beta-binomial distribution."""
    a, b = prior.accepted + accepted, prior.refused + drawn - accepted

    def beta(x: float, y: float) -> float:
        return math.gamma(x) * math.gamma(y) / math.gamma(x + y)

    return sum(
        math.comb(samples, x) * beta(a + x, b + samples - x) / beta(a, b) * min(accepted + x, enough)
        for x in range(samples + 1)
    )


@pytest.mark.parametrize("enough", [1, 2, 3])
def test_gains_are_the_steps_of_the_expected_number_of_useful_samples(enough):
    prior, accepted, drawn = BetaPrior(0.7, 1.6), np.array([0, 0, 1, 2, 4]), np.array([0, 3, 4, 4, 4])
    found = expected_gains(accepted, drawn, prior, enough=enough, most=6)
    for row in range(5):
        now = [expected_useful(m, int(accepted[row]), int(drawn[row]), prior, enough) for m in range(7)]
        assert found[row] == pytest.approx(np.diff(now), abs=1e-12)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(0, 10),
)
def test_samples_go_where_the_sum_of_gains_is_largest(rows, budget):
    gains = -np.sort(-np.array(rows), axis=1)
    given_ = allocate(gains, budget, np.random.default_rng(0))
    assert given_.sum() <= budget

    def total(division) -> float:
        return sum(gains[row, :samples].sum() for row, samples in enumerate(division))

    best = max(total(one) for one in itertools.product(range(4), repeat=len(rows)) if sum(one) <= budget)
    assert total(given_) == pytest.approx(best, abs=1e-12)


def test_what_gains_nothing_gets_nothing_and_equal_gains_are_given_evenly():
    gains = np.array([[0.5, 0.25], [0.0, 0.0], [0.5, 0.25], [0.5, 0.25]])
    assert allocate(gains, 100, np.random.default_rng(0)).tolist() == [2, 0, 2, 2]
    assert allocate(gains, 3, np.random.default_rng(0)).tolist() == [1, 0, 1, 1]
    last = {tuple(allocate(gains, 4, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert last == {(2, 0, 1, 1), (1, 0, 2, 1), (1, 0, 1, 2)}  # not always the first of the file
    with pytest.raises(ValueError, match="rise"):
        allocate(np.array([[0.1, 0.2]]), 1, np.random.default_rng(0))


def test_the_prior_is_the_one_that_the_counts_were_drawn_from():
    rng = np.random.default_rng(0)
    for a, b in ((0.5, 1.5), (8.0, 24.0)):
        drawn = np.full(4000, 8)
        found = beta_prior(rng.binomial(drawn, rng.beta(a, b, 4000)), drawn)
        assert found.accepted / sum(found) == pytest.approx(0.25, abs=0.02)
        assert a + b == pytest.approx(sum(found))  # both strengths are on the grid
    silent = beta_prior(np.array([1, 0, 0]), np.ones(3))  # one sample per prompt tells nothing of the strength
    assert sum(silent) == pytest.approx(2)
    assert silent.accepted == pytest.approx(2 * 2 / 5)


def by_rule(
    rates: np.ndarray, *, block: int, limit: int, enough: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(correct, samples) [M] of prompts with these rates whose sampling stops by the rule."""
    drawn = np.random.default_rng(seed).random((len(rates), limit)) < rates[:, None]
    stops = [stop(tuple(row.astype(int)), enough, limit, block) for row in drawn]
    return np.array(stops).T


@pytest.mark.parametrize(("block", "limit", "enough"), [(1, 40, 1), (8, 80, 1), (4, 30, 1), (4, 40, 3)])
def test_counts_that_stopped_are_suspected(block, limit, enough):
    correct, samples = by_rule(np.linspace(0, 0.4, 60), block=block, limit=limit, enough=enough)
    found = sequentially_stopped(correct, samples)
    assert (found.suspected, found.block, found.limit) == (True, block, limit)
    assert found.first_success == (enough == 1)
    assert found.early == (samples < limit).sum() > 0
    assert found.unsolved == (correct == 0).sum() > 0


def test_the_chance_is_that_of_fishers_exact_test():
    correct, samples = np.array([0, 0, 5, 9, 4, 8, 7, 7]), np.array([9, 9, 9, 9, 8, 8, 7, 8])
    found = sequentially_stopped(correct, samples)
    expected = scipy.stats.fisher_exact([[0, 4], [2, 2]], alternative="less").pvalue
    assert (found.chance, found.suspected) == (pytest.approx(expected), False)


def test_counts_of_a_fixed_or_ragged_number_are_not_suspected():
    draw = np.random.default_rng(0)
    for _ in range(50):
        samples = draw.integers(90, 101, 40)  # some completions were lost
        correct = draw.binomial(samples, draw.choice([0.0, 0.02, 0.3, 0.9], 40))
        assert not sequentially_stopped(correct, samples).suspected
    assert not sequentially_stopped(np.array([0, 3]), np.array([10, 10])).suspected
    assert not sequentially_stopped(np.array([0, 30, 4]), np.array([100, 60, 100])).suspected


def test_pass_at_k_of_counts_that_stopped_at_the_first_success_of_a_block():
    """By hand: block 60. Its 3 successes are among the last block, the first k of whose samples are as good as any."""
    values = stopped_pass_at_k([3, 0], [180, 10020], [60, 120, 121, 150, 180], enough=1, limit=10020, block=60)
    hyper = [1 - math.comb(60 - k, 3) / math.comb(60, 3) for k in (1, 30)]
    assert values.tolist() == [pytest.approx([0, 0, hyper[0], hyper[1], 1]), [0] * 5]


def test_what_plain_pass_at_k_makes_of_such_counts():
    """Twice as much: 200 prompts of rate 0.01, stopped at their first success in blocks of 10."""
    correct, samples = by_rule(np.full(200, 0.01), block=10, limit=400)
    assert pass_at_k_of_counts(correct, samples, 1).mean() > 0.02
    assert stopped_pass_at_k(correct, samples, 1, enough=1, limit=400, block=10).mean() == pytest.approx(
        0.01, abs=0.006
    )
