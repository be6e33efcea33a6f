"""Two curves over k: the simultaneous band's coverage by simulation, and what it says in plain cases."""

import numpy as np
import pytest

from bench.estimators.bootstrap import bootstrap_interval
from bench.estimators.crossing import crossover
from bench.estimators.curves import pass_at_k

# The prompts of the population: a is better on those that both solve at times, b reaches more of the hard ones.
RATE_A = np.array([0.0, 0.0, 0.25, 0.65, 1.0])
RATE_B = np.array([0.0, 0.05, 0.2, 0.45, 0.95])
SHARES = np.array([0.15, 0.3, 0.2, 0.2, 0.15])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def population(k: np.ndarray) -> np.ndarray:
    """The true difference of pass@k at each k."""
    return SHARES @ ((1 - RATE_B[:, None]) ** k - (1 - RATE_A[:, None]) ** k)


def pools(prompts: int, samples: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """pass@k of both on new prompts, for every k up to the number of samples."""
    kind = draw.choice(len(SHARES), prompts, p=SHARES)
    k = np.arange(1, samples + 1)
    drawn = [draw.random((prompts, samples)) < rates[kind][:, None] for rates in (RATE_A, RATE_B)]
    return pass_at_k(drawn[0], k), pass_at_k(drawn[1], k)


@pytest.mark.parametrize(("prompts", "samples"), [(20, 16), (60, 24)])
def test_the_band_holds_the_whole_true_curve(prompts, samples):
    """In at least 93 % of 300 repetitions; intervals at each k alone hold it in far fewer."""
    k = np.arange(1, samples + 1)
    truth = population(k)
    assert truth[0] > 0 > truth[-1]  # the curves cross
    held, wrong_lead, pointwise = 0, 0, 0
    for repetition in range(300):
        draw = rng(repetition)
        a, b = pools(prompts, samples, draw)
        found = crossover(a, b, k, draw, resamples=400)
        held += ((found.low <= truth) & (truth <= found.high)).all()
        wrong_lead += (found.leader * np.sign(truth) < 0).any()
        if repetition < 100:
            low, high = bootstrap_interval(a - b, draw, resamples=400)
            pointwise += ((low <= truth) & (truth <= high)).all()
    assert held >= 0.93 * 300
    assert wrong_lead <= 0.05 * 300
    assert pointwise < 0.88 * 100


def test_leads_that_hold_for_new_training_seeds():
    """Three seeds on 60 prompts whose effects are as large as the prompts': prompts alone are far too narrow a band."""
    k = np.arange(1, 9)
    held, prompts_only = 0, 0
    for repetition in range(200):
        draw = rng(repetition)
        difficulty = draw.uniform(0.2, 0.8, 60)
        arms = [
            pass_at_k(draw.random((60, 8)) < np.clip(difficulty + shift, 0, 1)[:, None], k)
            for shift in (*draw.uniform(-0.15, 0.15, 3), 0)
        ]
        seeds, other = np.array(arms[:3]), arms[3]
        found = crossover(seeds, other, k, draw, resamples=400)
        held += found.low[0] <= 0 <= found.high[0]  # no difference at k = 1 on average over seeds
        alone = crossover(seeds.mean(axis=0), other, k, draw, resamples=400)
        prompts_only += alone.low[0] <= 0 <= alone.high[0]
    assert held >= 0.93 * 200
    assert prompts_only < 0.85 * 200


def test_where_either_leads_and_where_it_is_open():
    k = np.arange(1, 65)
    a, b = pools(600, 64, rng(3))
    found = crossover(a, b, k, rng())
    assert found.difference == pytest.approx((a - b).mean(axis=0))
    ((first, last),) = found.where(1)
    ((start, end),) = found.where(-1)
    assert (first, end) == (1, 64)
    assert found.where(0) == [(last + 1, start - 1)]
    assert last < np.flatnonzero(population(k) < 0)[0] + 1 <= start  # the true crossing is in the open stretch
    mirrored = crossover(b, a, k, rng())
    assert mirrored.where(-1) == found.where(1)
    assert mirrored.low == pytest.approx(-found.high)


def test_few_prompts_that_differ_resolve_nothing():
    """Four prompts of 40, all in one direction; seven are enough. Equal numbers of other prompts change nothing."""
    for differing, leads in ((0, 0), (4, 0), (9, 1)):
        a, b = np.zeros((40, 2)), np.zeros((40, 2))
        a[:differing] = 1
        assert crossover(a, b, [1, 2], rng()).leader.tolist() == [leads, leads]


def test_no_difference_has_a_width():
    """None of 100 prompts differs: up to about 3 % may (the rule of three)."""
    found = crossover(np.ones((100, 3)), np.ones((100, 3)), [1, 2, 3], rng())
    assert found.difference.tolist() == [0, 0, 0]
    assert found.high == pytest.approx(np.full(3, 1.984 / 102), rel=1e-3)
    assert found.low == pytest.approx(-found.high)
    rounding = crossover(np.ones((100, 3)) - 1e-16, np.ones((100, 3)), [1, 2, 3], rng())
    assert rounding.high == pytest.approx(found.high)


def test_a_prompt_without_a_value_at_some_k_is_left_out_of_all():
    a, b = pools(30, 8, rng(1))
    a[3, -1] = b[7, 0] = np.nan
    kept = ~np.isnan(a + b).any(axis=1)
    found, expected = crossover(a, b, range(1, 9), rng()), crossover(a[kept], b[kept], range(1, 9), rng())
    assert (found.prompts, found.left_out) == (28, 2)
    assert found.low == pytest.approx(expected.low)


def test_one_seed_is_no_level():
    a, b = pools(30, 8, rng(1))
    assert crossover(a[None], b, range(1, 9), rng()).low == pytest.approx(crossover(a, b, range(1, 9), rng()).low)


@pytest.mark.parametrize(
    ("a", "b", "k", "said"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), [1, 2], "a has 3 prompts, but b has 4; they must be the same"),
        (
            np.ones((3, 2)),
            np.ones((3, 2)),
            [1, 2, 3],
            r"a has shape \[3, 2\]; its last axis must have the 3 values of k",
        ),
        (np.full((3, 2), 1.5), np.ones((3, 2)), [1, 2], r"a \[3, 2\] holds 1.5 to 1.5; it must lie in 0 .. 1"),
        (np.full((1, 2), 1.0), np.ones((1, 2)), [1, 2], "1 prompts with a number in both at every k; at least 2"),
    ],
)
def test_what_can_not_be_compared_is_refused(a, b, k, said):
    with pytest.raises(ValueError, match=said):
        crossover(a, b, k, rng())
