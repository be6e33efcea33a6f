"""Soft Best-of-n from one pool against the enumeration of every draw, and against exact binomial sums."""

import itertools
import math

import numpy as np
import pytest
from selecting import rng

from bench.estimators.curves import best_of_n
from bench.estimators.kl import best_of_n_kl
from bench.estimators.soft import estimate_soft_best_of_n, soft_best_of_n

NAN = float("nan")


def enumerated(rewards: list[float], probability: list[float], n: int, temperature: float) -> np.ndarray:
    """[V]: the distribution of soft Best-of-n over a known discrete policy, by going through all n-tuples."""
    found = np.zeros(len(rewards))
    for drawn in itertools.product(range(len(rewards)), repeat=n):
        scaled = np.array([rewards[i] for i in drawn]) / temperature
        weight = np.exp(scaled - scaled.max())
        for i, share in zip(drawn, weight / weight.sum(), strict=True):
            found[i] += math.prod(probability[j] for j in drawn) * share
    return found


@pytest.mark.parametrize(("n", "temperature"), [(1, 1.0), (2, 0.3), (4, 1.0), (5, 0.05), (3, 40.0), (3, 0.001)])
def test_the_plug_in_is_exact_for_the_pool(n, temperature, monkeypatch):
    monkeypatch.setattr("bench.estimators.soft.JACKKNIFED", 0)
    rewards, gold = [0.2, 1.4, 0.9, 1.4, -1.0], rng(1).random(5)
    picked = enumerated(rewards, [0.2] * 5, n, temperature)
    found = estimate_soft_best_of_n(np.array([rewards]), gold[None, :, None], n, temperature)
    assert found.means == pytest.approx(np.array([[picked @ gold]]), abs=1e-9)
    assert found.kl == pytest.approx([(picked * np.log(np.maximum(picked, 1e-300) * 5)).sum()], abs=1e-9)


def test_the_jackknife_leaves_one_sample_out(monkeypatch):
    rewards, gold = rng(2).normal(size=(1, 6)), rng(3).random((1, 6, 1))
    found = estimate_soft_best_of_n(rewards, gold, 3, 0.5)
    monkeypatch.setattr("bench.estimators.soft.JACKKNIFED", 0)
    whole = estimate_soft_best_of_n(rewards, gold, 3, 0.5)
    parts = [
        estimate_soft_best_of_n(np.delete(rewards, i, axis=1), np.delete(gold, i, axis=1), 3, 0.5) for i in range(6)
    ]
    assert found.means == pytest.approx(6 * whole.means - 5 * np.mean([part.means for part in parts], axis=0))
    assert found.kl == pytest.approx(6 * whole.kl - 5 * np.mean([part.kl for part in parts], axis=0))


def test_near_temperature_0_it_is_best_of_n():
    rewards = rng(4).integers(0, 5, (8, 12)).astype(float)
    gold = rng(5).random((8, 12))
    found = estimate_soft_best_of_n(rewards, gold[..., None], 4, 0.01)
    assert found.kl == pytest.approx(best_of_n_kl(rewards, 4), abs=1e-8)
    # the same quantity estimated in another way, so only close on average
    assert found.means.mean() == pytest.approx(best_of_n(rewards, 4, gold).mean(), abs=0.02)


def test_it_estimates_what_a_known_verifier_gives():
    """Pass rates drawn, pools of 40: the mean over prompts of accuracy and KL against exact binomial sums."""
    source, n, temperature = rng(6), 8, 0.4
    rates = source.uniform(0.05, 0.95, 4000)
    correct = (source.random((4000, 40)) < rates[:, None]).astype(float)
    found = estimate_soft_best_of_n(correct, correct[..., None], n, temperature)
    up = math.exp(1 / temperature)
    j = np.arange(n + 1)
    binomial = np.array([math.comb(n, i) for i in j]) * rates[:, None] ** j * (1 - rates[:, None]) ** (n - j)
    q = binomial @ (j * up / (j * up + n - j))
    kl = q * np.log(q / rates) + (1 - q) * np.log((1 - q) / (1 - rates))
    assert found.means.mean() == pytest.approx(q.mean(), abs=4 * (found.means[:, 0] - q).std() / 4000**0.5)
    assert found.kl.mean() == pytest.approx(kl.mean(), abs=0.01)
    by_subsets = soft_best_of_n(correct[:200], correct[:200], n, temperature)
    assert found.means[:200, 0].mean() == pytest.approx(by_subsets.mean(), abs=0.003)


def test_unscored_samples_were_never_drawn():
    rewards, values = np.array([[1.0, NAN, 0.0, 2.0], [NAN, NAN, 1.0, NAN]]), np.ones((2, 4, 1))
    found = estimate_soft_best_of_n(rewards, values, 2, 1.0)
    whole = estimate_soft_best_of_n(np.array([[1.0, 0.0, 2.0]]), np.ones((1, 3, 1)), 2, 1.0)
    assert found.kl == pytest.approx(np.array([whole.kl[0], NAN]), nan_ok=True)
    assert found.means[:, 0] == pytest.approx(np.array([1, NAN]), nan_ok=True)


def test_soft_best_of_n_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="n=0"):
        estimate_soft_best_of_n(np.ones((1, 2)), np.ones((1, 2, 1)), 0, 1.0)
    with pytest.raises(ValueError, match="temperature is too small"):
        estimate_soft_best_of_n(np.array([[0.0, 1.0]]), np.ones((1, 2, 1)), 2, 1e-5)
