"""softmax, rso and pessimism against their distributions: in closed form, by enumeration, by bisection."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selecting import UNSCORED, R, cells, fits, rng, weights

from bench import selection


def tilted(rewards: np.ndarray, beta: float) -> np.ndarray:
    unnormalised = np.exp(rewards / beta)
    return unnormalised / unnormalised.sum()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_softmax_draws_with_its_probabilities(temperature):
    rewards = np.array([0.0, 0.5, 1.0, 1.0])
    columns = selection.softmax(np.tile(rewards, (20_000, 1)), rng(), temperature=temperature).column
    assert fits(np.bincount(columns, minlength=4), tilted(rewards, temperature))


def test_softmax_by_hand():
    """Two samples whose rewards differ by log 3 temperatures: three to one."""
    columns = selection.softmax(np.tile([0.0, 0.2 * np.log(3)], (10_000, 1)), rng(), temperature=0.2).column
    assert fits(np.bincount(columns), np.array([1 / 4, 3 / 4]))


def test_softmax_at_its_ends():
    for tiny in (1e-3, 1e-300):
        assert cells(selection.softmax(R, rng(), temperature=tiny)) == [(0, 0), (1, 1), (2, 0), (3, 2), (4, 3)]
    columns = selection.softmax(np.tile(R[0], (8000, 1)), rng(), temperature=1e6).column
    assert fits(np.bincount(columns), np.full(4, 1 / 4))
    tied = selection.softmax(np.tile([0.0, 1.0, 1.0], (4000, 1)), rng(), temperature=1e-3).column
    assert fits(np.bincount(tied), np.array([0, 1 / 2, 1 / 2]))


def test_softmax_shifts_with_the_rewards():
    drawn = [cells(selection.softmax(R + shift, rng(), temperature=0.1)) for shift in (0, 2.0**20)]
    assert drawn[0] == drawn[1]


def rso_outcomes(rewards: list[float], k: int, beta: float) -> dict[frozenset, float]:
    """The probability of every chosen set, by enumeration of all orders and acceptances of every pass."""

    def passes(remaining: tuple[int, ...], accepted: frozenset, chance: float) -> None:
        if len(accepted) == k:
            outcomes[accepted] += chance
            return
        largest = max(rewards[i] for i in remaining)
        orders = list(itertools.permutations(remaining))
        for order in orders:
            ratios = [np.exp((rewards[i] - largest) / beta) for i in order]
            for pattern in itertools.product((True, False), repeat=len(order)):
                probability = np.prod([p if yes else 1 - p for p, yes in zip(ratios, pattern, strict=True)])
                if probability:
                    taken = [i for i, yes in zip(order, pattern, strict=True) if yes][: k - len(accepted)]
                    left = tuple(i for i in remaining if i not in taken)
                    passes(left, accepted | set(taken), chance * probability / len(orders))

    outcomes: dict[frozenset, float] = defaultdict(float)
    passes(tuple(range(len(rewards))), frozenset(), 1.0)
    return outcomes


@pytest.mark.parametrize("rewards", [[0.0, 0.4, 1.0], [0.3, 0.3, 0.9, 0.1], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize("k", [1, 2])
def test_rso_is_the_published_algorithm(rewards, k):
    exact = rso_outcomes(rewards, k, beta=0.5)
    assert sum(exact.values()) == pytest.approx(1)
    draws = 6000
    chosen = selection.rso(np.tile(rewards, (draws, 1)), rng(), k=k, beta=0.5)
    assert len(chosen) == k * draws
    found = Counter(frozenset(columns.tolist()) for columns in chosen.column.reshape(draws, k))
    assert set(found) <= set(exact)
    assert fits(np.array([found[outcome] for outcome in exact]), np.array(list(exact.values())))


def test_rso_enumerated_by_hand():
    """Two samples, k = 1: the worse is taken if it comes first and passes, p / 2."""
    assert rso_outcomes([0.0, 1.0], 1, beta=1.0)[frozenset({0})] == pytest.approx(np.exp(-1) / 2)


def test_rso_tends_to_the_tilt_of_the_base():
    values, shares, beta, rows = np.array([0.0, 0.5, 1.0]), np.array([0.6, 0.3, 0.1]), 0.5, 3000
    pools = rng(1).choice(3, size=(rows, 300), p=shares)
    chosen = selection.rso(values[pools], rng(2), k=1, beta=beta)
    target = shares * np.exp(values / beta)
    assert fits(np.bincount(pools[chosen.row, chosen.column], minlength=3), target / target.sum())


def test_rso_at_its_ends():
    assert cells(selection.rso(R, rng(), k=2, beta=1e-4)) == cells(selection.top_k_per_prompt(R, rng(), k=2))
    everything = selection.rso(R, rng(), k=4, beta=0.1)
    assert len(everything) == R.size
    columns = selection.rso(np.tile(R[0], (8000, 1)), rng(), k=1, beta=1e6).column
    assert fits(np.bincount(columns), np.full(4, 1 / 4))


def test_rso_tells_equal_completions_apart_and_gives_what_there_is():
    assert len(selection.rso(np.ones((2, 3)), rng(), k=3, beta=1.0)) == 6
    assert cells(selection.rso(UNSCORED, rng(), k=2, beta=1.0)) == [(0, 1), (2, 0)]


def by_bisection(rewards: np.ndarray, beta: float) -> np.ndarray:
    low, high = rewards.min() - beta * len(rewards), rewards.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(rewards - middle, 0).mean() / beta > 1 else (low, middle)
    return np.maximum(rewards - low, 0) / beta / len(rewards)


def test_pessimism_by_hand():
    chosen = selection.pessimism(np.array([[0.0, 0.5, 1.0]]), rng(), beta=0.5)  # lambda = 0
    assert cells(chosen) == [(0, 1), (0, 2)]
    assert (3 * chosen.weight).tolist() == pytest.approx([1, 2])
    # of .7 .3 .5 .2: lambda = -.075 at beta .5, .4 at .1, .5 at .05, where the second best is just left out
    for beta, expected in {0.5: [0.3875, 0.1875, 0.2875, 0.1375], 0.1: [0.75, 0, 0.25, 0], 0.05: [1, 0, 0, 0]}.items():
        found = selection.pessimism(R[:1], rng(), beta=beta)
        np.testing.assert_allclose(weights(found, (1, 4)), [expected], atol=1e-12)
        assert len(found) == np.count_nonzero(expected)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9), st.floats(0.01, 10))
def test_pessimism_solves_its_equation(rewards, beta):
    rewards = np.array(rewards)
    found = weights(selection.pessimism(rewards[None], rng(), beta=beta), (1, len(rewards)))
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[0], by_bisection(rewards, beta), atol=1e-9)


def test_pessimism_among_the_unscored_is_that_of_the_scored_alone():
    rewards = np.array([[0.0, np.nan, 0.5, 1.0, np.nan], [np.nan] * 5, [np.nan, np.nan, 2.0, np.nan, np.nan]])
    found = weights(selection.pessimism(rewards, rng(), beta=0.5), rewards.shape)
    np.testing.assert_allclose(found, [[0, 0, 1 / 3, 2 / 3, 0], [0] * 5, [0, 0, 1, 0, 0]], atol=1e-12)


def test_pessimism_at_its_ends():
    np.testing.assert_allclose(weights(selection.pessimism(R, rng(), beta=1e9), R.shape), 1 / 4, atol=1e-6)
    assert cells(selection.pessimism(R, rng(), beta=1e-6)) == cells(selection.top_per_prompt(R, rng()))
    np.testing.assert_allclose(weights(selection.pessimism(np.ones((2, 4)), rng(), beta=0.3), (2, 4)), 1 / 4)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("softmax", {"temperature": 1.0}),
        ("rso", {"k": 1, "beta": 1.0}),
        ("pessimism", {"beta": 1.0}),
        ("kl_regularised", {"beta": 1.0, "logprob": np.zeros((1, 2))}),
        ("mbr", {"beta": 1.0, "similarity": np.ones((1, 2, 2))}),
    ],
)
def test_infinite_rewards_are_refused(method, settings):
    with pytest.raises(ValueError, match="infinite"):
        getattr(selection, method)(np.array([[0.0, -np.inf]]), rng(), **settings)
