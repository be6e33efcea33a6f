"""Numbers that other people's code gave on these arrays; reports/estimators says which code and how it differs."""

import numpy as np
import pytest

from bench.estimators.curves import best_of_n, pass_at_k
from bench.estimators.policy_divergence import rao_blackwell_kl
from bench.estimators.voting import majority_at_k, weighted_majority_at_k


def wave(rows, columns, frequency):
    return np.sin(frequency * np.arange(1.0, rows * columns + 1)).reshape(rows, columns)


def test_best_of_n_as_in_llm_optimization():
    proxy, gold = wave(4, 30, 1.7), wave(4, 30, 2.9)  # no ties
    expected = [0.0008074759952912854, -0.45098422724076637, -0.7086770392238875]
    assert best_of_n(proxy, [2, 7, 30], gold).mean(axis=0) == pytest.approx(expected, abs=1e-13)


def test_pass_at_k_as_in_human_eval():
    expected = [0.37873563218390804, 0.8423876363100502, 0.9997200117889773]
    assert pass_at_k(wave(4, 30, 1.7) > 0.8, [2, 7, 20]).mean(axis=0) == pytest.approx(expected, abs=1e-13)


def test_rao_blackwell_kl_as_in_kl_rb():
    assert rao_blackwell_kl(3 * wave(6, 5, 1.3), 3 * wave(6, 5, 2.3)).sum() == pytest.approx(11.724869900197348)


def test_votes_as_in_nemo_skills_averaged_over_every_subset():
    answers = np.array(
        [
            [None, "17", "8", None, "8", None, "17", "17"],
            ["8", None, "8", "17", "9", None, None, "17"],
            ["17", "8", None, "17", None, None, "9", "9"],
            [None, None, "8", "8", "8", None, "8", None],
            ["8", "9", "8", "9", "17", "9", None, "8"],
        ],
        dtype=object,
    )
    correct = (answers == "17").astype(float)
    plain = [0.30238095238095236, 0.3160714285714286, 0.4]
    weighted = [0.36071428571428565, 0.38928571428571396, 0.6]
    assert majority_at_k(answers, correct, [3, 5, 8]).mean(axis=0) == pytest.approx(plain)
    weights = np.abs(wave(5, 8, 0.7))
    assert weighted_majority_at_k(answers, weights, correct, [3, 5, 8]).mean(axis=0) == pytest.approx(weighted)
