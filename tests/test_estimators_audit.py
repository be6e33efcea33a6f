"""The audit of a verifier: intervals against enumeration, simulation and scipy; what no audit can tell is refused."""

import math

import numpy as np
import pytest
import scipy

from bench.estimators.audit import (
    Rate,
    agreement_table,
    audit_verifier,
    rogan_gladen,
    stratified_sample,
    wilson_interval,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_wilson_as_in_scipy():
    for right, total in ((0, 7), (1, 40), (20, 40), (40, 40)):
        expected = scipy.stats.binomtest(right, total).proportion_ci(method="wilson")
        found = wilson_interval(right / total, total)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.size() == pytest.approx(total)


def test_the_corrected_accuracy_holds_the_truth_as_often_as_stated():
    """The exact coverage of rogan_gladen: all outcomes of three binomials, weighted by their probabilities."""
    tested, labelled = 40, 30
    for accuracy, se, sp in ((0.05, 0.9, 0.95), (0.3, 0.8, 0.9), (0.6, 0.95, 0.8)):
        apparent = accuracy * se + (1 - accuracy) * (1 - sp)
        chances = [
            scipy.stats.binom.pmf(np.arange(n + 1), n, p)
            for n, p in ((tested, apparent), (labelled, se), (labelled, sp))
        ]
        covered = 0.0
        for i, first in enumerate(chances[0]):
            for j, second in enumerate(chances[1]):
                for k, third in enumerate(chances[2]):
                    if first * second * third < 1e-9:
                        continue
                    rate = rogan_gladen(i / tested, tested, j / labelled, labelled, k / labelled, labelled)
                    covered += first * second * third * (rate.low <= accuracy <= rate.high)
        assert 0.94 < covered <= 1, (accuracy, se, sp)


def test_a_perfect_verifier_with_many_labels_changes_nothing():
    """Then the interval is that of Agresti and Coull, which Wilson's lies in the middle of."""
    rate = rogan_gladen(0.3, 200, 1.0, 1e9, 1.0, 1e9)
    z = scipy.stats.norm.ppf(0.975)
    middle = (60 + z**2 / 2) / (200 + z**2)
    half = z * math.sqrt(middle * (1 - middle) / (200 + z**2))
    assert rate == pytest.approx((0.3, middle - half, middle + half), abs=1e-6)


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "said"),
    [
        (0.4, 0.5, "sensitivity=0.4 and specificity=0.5 sum to at most 1"),
        (0.5, 0.5, "no accuracy follows from them"),
        (1.5, 0.5, "must lie in 0 .. 1"),
    ],
)
def test_verdicts_that_tell_nothing_are_refused(sensitivity, specificity, said):
    with pytest.raises(ValueError, match=said):
        rogan_gladen(0.4, 100, sensitivity, 50, specificity, 50)


def population(draw: np.random.Generator, *, clustered: bool) -> tuple[np.ndarray, np.ndarray]:
    """(verdicts, truth) [120, 6]: 25 % of correct answers are rejected, 4 % of wrong ones accepted; mean truth 0.3."""
    truth = draw.random((120, 6)) < draw.choice([0.0, 0.1, 0.3, 0.8], (120, 1))
    chance = np.broadcast_to(draw.random((120, 1)), truth.shape) if clustered else draw.random(truth.shape)
    return np.where(truth, chance < 0.75, chance < 0.04).astype(float), truth.astype(float)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("by_cell", [False, True])
def test_an_audit_holds_the_true_accuracy_and_error_rates(clustered, by_cell):
    """300 repetitions with 100 labels each; the verdicts alone miss the truth too often."""
    held = {"accuracy": 0, "sensitivity": 0, "specificity": 0, "verdicts alone": 0}
    for repetition in range(300):
        draw = rng(repetition)
        verdicts, truth = population(draw, clustered=clustered)
        came_along = np.where(draw.random(truth.shape) < 0.9, truth, 1 - truth)
        strata = 2 * verdicts + came_along if by_cell else verdicts
        sample = stratified_sample(strata, 100, draw)
        labels = truth[sample.prompts, sample.columns]
        audit = audit_verifier(verdicts, sample.prompts, sample.columns, labels, strata=strata)
        held["accuracy"] += audit.accuracy.low <= 0.3 <= audit.accuracy.high
        for name, right in (("sensitivity", truth == 1), ("specificity", truth == 0)):
            rate, pool = getattr(audit, name), (verdicts == truth)[right].mean()
            held[name] += rate.low - 1e-9 <= pool <= rate.high + 1e-9
        error = verdicts.mean(axis=1).std(ddof=1) / math.sqrt(120)
        held["verdicts alone"] += abs(audit.apparent - 0.3) <= 1.96 * error
        rest = audit.sensitivity.share + audit.specificity.share - 1
        assert audit.accuracy.share == pytest.approx((audit.apparent + audit.specificity.share - 1) / rest)
    assert min(held[name] for name in ("accuracy", "sensitivity", "specificity")) >= 0.93 * 300, held
    assert held["verdicts alone"] < 0.75 * 300


def test_no_error_found_leaves_room_where_most_completions_were_rejected():
    """98 % rejected: 50 right rejections do not exclude as many missed completions as there are accepted ones."""
    verdicts = np.zeros((100, 10))
    verdicts[:20, 0] = 1
    sample = stratified_sample(verdicts, 70, rng())
    audit = audit_verifier(verdicts, sample.prompts, sample.columns, verdicts[sample.prompts, sample.columns])
    assert audit.labels == 70
    assert (audit.accuracy.share, audit.apparent) == pytest.approx((0.02, 0.02))
    assert audit.sensitivity.share == 1
    assert audit.sensitivity.low < 0.3
    assert audit.specificity.low == 1  # all 20 accepted ones are labelled


def test_a_sample_takes_equally_many_of_each_stratum_and_weighs_them():
    strata = np.repeat([[0.0, 0.0, 0.0, 1.0, 2.0]], 50, axis=0)
    strata[1:, 4] = np.nan
    sample = stratified_sample(strata, 41, rng())
    drawn = strata[sample.prompts, sample.columns]
    assert [int((drawn == stratum).sum()) for stratum in (0, 1, 2)] == [20, 20, 1]
    assert [set(sample.weights[drawn == stratum]) for stratum in (0, 1, 2)] == [{150 / 20}, {50 / 20}, {1.0}]
    assert len(set(zip(sample.prompts, sample.columns, strict=True))) == 41
    every = stratified_sample(strata, 1000, rng())
    assert len(every.prompts) == 201
    assert set(every.weights) == {1.0}


def test_prompts_count_equally_however_many_completions_they_have():
    """One prompt of ten wrong completions and one of two right ones: accuracy 1/2, as for pass@1."""
    verdicts = np.full((2, 10), np.nan)
    verdicts[0], verdicts[1, :2] = 0, 1
    places = np.argwhere(~np.isnan(verdicts))
    audit = audit_verifier(verdicts, *places.T, verdicts[tuple(places.T)])
    assert (audit.accuracy.share, audit.apparent) == (0.5, 0.5)


def test_agreement():
    a, b = [[1, 1, 0, np.nan, 0]], [[1, 0, 0, 1, np.nan]]
    assert agreement_table(a, b).tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [1, 0, 2]}, "labels .* holds values other than 0 and 1"),
        ({"columns": [0, 1, 9]}, r"must be places of verdicts \[2, 2\]"),
        ({"prompts": [0, 0, 0], "columns": [0, 0, 0]}, "stratum 0 must have completions of one verdict, and at least"),
        ({"strata": [[1, 1], [1, 1]]}, "stratum 1 must have completions of one verdict"),
        ({"strata": [[1, np.nan], [1, 1]]}, "has none for 1 judged completions"),
        ({"labels": [1, 0]}, "labels"),
    ],
)
def test_an_audit_that_can_not_be_made_is_refused(change, said):
    given = {"prompts": [0, 0, 1], "columns": [0, 1, 1], "labels": [1, 0, 1], "strata": None} | change
    with pytest.raises(ValueError, match=said):
        audit_verifier([[1, 0], [0, 1]], **given)


def test_a_rate_without_width_stands_for_any_number_of_labels():
    assert Rate(0.5, 0.5, 0.5).size() == math.inf
