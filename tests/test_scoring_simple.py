"""Scorers that are arithmetic: length, self-consistency, and sums of scorers."""

import functools

import numpy as np
import pytest
from sharing import composed
from texts import pool_of, prompts_of, row_by_row

from bench.artifacts import Rewards
from bench.config import checks
from bench.errors import BenchError
from bench.scoring import Scorer, prepared, refuse_comparing, refuse_too_low
from bench.scoring.combined import combined, z_scores
from bench.scoring.length import length
from bench.scoring.self_consistency import self_consistency
from bench.tasks.word_problems import WordProblems

NAN = float("nan")
PROMPTS = prompts_of(["2 + 2?", "1 + 2?"], ["4", "3"])
POOL = pool_of(
    [
        ["2 + 2 = 4. #### 4", "4. #### 4", "2 + 2 = 5. #### 5", "no idea"],
        ["#### 3", "#### 2", "#### 3", "#### 3"],
    ]
)


def fixed(*rows):
    """A scorer that gives these scores."""
    return lambda prompts, completions: Rewards(np.array(rows, float))


def test_length_counts_tokens_with_the_preferred_sign():
    longest = length(PROMPTS, POOL, prefer="longest").value
    assert longest.tolist() == [[8, 4, 8, 3], [3, 3, 3, 3]]
    assert length(PROMPTS, POOL, prefer="shortest").value.tolist() == (-longest).tolist()


def test_self_consistency_is_the_share_with_the_same_answer():
    value = self_consistency(PROMPTS, POOL, task=WordProblems()).value
    assert value.tolist() == [[0.5, 0.5, 0.25, 0.0], [0.75, 0.25, 0.75, 0.75]]


def test_self_consistency_is_permuted_with_the_samples_and_depends_on_how_many_there_are():
    order = [3, 1, 0, 2]
    shuffled = pool_of([[row[column] for column in order] for row in POOL.text])
    value = self_consistency(PROMPTS, POOL, task=WordProblems()).value
    assert (self_consistency(PROMPTS, shuffled, task=WordProblems()).value == value[:, order]).all()
    prefix = self_consistency(PROMPTS, POOL.first(2), task=WordProblems()).value
    assert prefix.tolist() == [[1.0, 1.0], [0.5, 0.5]]


def test_self_consistency_of_a_pool_in_shards():
    value = self_consistency(PROMPTS, row_by_row(POOL), task=WordProblems()).value
    assert (value == self_consistency(PROMPTS, POOL, task=WordProblems()).value).all()


def test_z_scores_by_hand():
    values = np.array([[1.0, 3.0, 1.0, 3.0], [0.1, 0.1, 0.1, 0.1], [2.0, NAN, 4.0, NAN], [NAN, NAN, NAN, NAN]])
    expected = np.array([[-1, 1, -1, 1], [0, 0, 0, 0], [-1, NAN, 1, NAN], [NAN] * 4])
    assert z_scores(values, axis=1) == pytest.approx(expected, nan_ok=True)
    overall = np.array([[0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, NAN]])  # mean 9/7, variance 7 of 0 and 3
    mean, deviation = 9 / 7, np.sqrt(3 * 4 / 7 * 9 / 7)
    assert z_scores(overall, axis=None) == pytest.approx((overall - mean) / deviation, nan_ok=True)


def test_combined_by_hand():
    parts = {
        "good": {"scorer": fixed([1, 3, 1, 3], [5, 5, 5, 7]), "weight": 2.0},
        "brief": {"scorer": fixed([-1, -2, -2, -1], [-1, NAN, -1, -1]), "weight": -0.5},
    }
    none = combined(PROMPTS, POOL, parts=parts, normalise="none").value
    assert none == pytest.approx(np.array([[2.5, 7, 3, 6.5], [10.5, NAN, 10.5, 14.5]]), nan_ok=True)
    prompt = combined(PROMPTS, POOL, parts=parts, normalise="prompt").value
    third = 1 / np.sqrt(3)  # of 5, 5, 5, 7: deviation √3/2, so the z-scores are -1/√3 and √3
    assert prompt == pytest.approx(
        np.array([[-2.5, 2.5, -1.5, 1.5], [-2 * third, NAN, -2 * third, 6 * third]]), nan_ok=True
    )
    overall = combined(PROMPTS, POOL, parts=parts, normalise="overall")
    expected = 2 * z_scores(parts["good"]["scorer"](None, None).value, None) - 0.5 * z_scores(
        parts["brief"]["scorer"](None, None).value, None
    )
    assert overall.value == pytest.approx(expected, nan_ok=True)
    assert overall.unscored == 1


def test_the_verifier_decides_and_brevity_breaks_ties_in_the_default_sum():
    scoring = _parts("scoring=combined")["scoring"]
    value = scoring(PROMPTS, POOL).value
    assert value[0].argmax() == 1  # of the two right answers the shorter
    assert np.argsort(value[0])[:2].tolist() == [2, 3]  # of the wrong ones the longer is last
    assert value[1, 0] == value[1, 2] == value[1, 3] > value[1, 1]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["scoring.parts.length.weight=0.5"], {"verifier", "length"}),
        (["scoring@scoring.parts.verifier.scorer=self_consistency"], {"verifier", "length"}),
        (["~scoring.parts.length"], {"verifier"}),
        (
            ["+scoring@scoring.parts.agreement.scorer=self_consistency", "+scoring.parts.agreement.weight=0.5"],
            {"verifier", "length", "agreement"},
        ),
    ],
)
def test_parts_change_on_the_command_line(overrides, names):
    scoring = _parts("scoring=combined", *overrides)["scoring"]
    assert set(scoring.keywords["parts"]) == names
    assert scoring(PROMPTS, POOL).value.shape == (2, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "scoring.parts.length.weight=much",
            r"^scoring.parts.length.weight=much is not allowed: it must be a number\.$",
        ),
        (
            "+scoring.parts.length.wait=1",
            r"^scoring.parts.length={\w+, \w+, \w+} .* a scorer and a weight, nothing else\.$",
        ),
        ("+scoring.parts.more.weight=1", r"^scoring.parts.more={weight} .* a scorer and a weight"),
        ("scoring.parts.length=3", "^scoring.parts.length=3 .* a scorer and a weight"),
        ("scoring.parts.length.scorer.prefer=middling", "scoring.parts.length.scorer.prefer=middling .* shortest"),
        ("scoring.normalise=z", "scoring.normalise=z .* prompt, overall, none"),
    ],
)
def test_impossible_parts_are_refused_before_any_work(override, message):
    with pytest.raises(BenchError, match=message):
        _parts("scoring=combined", override)


def _parts(*overrides):
    cfg = composed(*overrides)
    checks.check(cfg)
    return checks.build_parts(cfg)


def test_a_part_that_is_made_from_the_base_is_made_for_the_sum():
    def made(*, base, bonus):
        return lambda prompts, completions: Rewards(np.full(completions.shape, float(base + bonus)))

    parts = {"made": {"scorer": functools.partial(made, bonus=1), "weight": 2.0}}
    scoring = prepared(functools.partial(combined, parts=parts, normalise="none"), base=10, task=None)
    assert (scoring(PROMPTS, POOL).value == 22).all()


def hidden_length(prompts, completions, *, most):
    return length(prompts, completions, prefer="longest")


def test_a_scorer_of_any_package_says_what_is_known_of_it():
    """Its highest reward, what it compares and what it needs, each a value or a function of its settings."""

    def missing(settings):
        if settings["most"] > 9:
            raise BenchError("there is no such length")

    known = Scorer(highest=lambda settings: settings["most"], compares="the ranks", check=missing)(hidden_length)
    low, high, absent = (functools.partial(known, most=most) for most in (0.5, 9, 10))
    with pytest.raises(BenchError, match=r"accept_above accepts rewards above 0\.5, .* gives 0\.5 at most"):
        refuse_too_low(low, 0.5, "procedure.accept_above")
    refuse_too_low(high, 0.5, "procedure.accept_above")
    for scoring in (high, functools.partial(combined, parts={"it": {"scorer": high, "weight": 1}}, normalise="none")):
        with pytest.raises(BenchError, match="this scoring, in which the ranks compares a completion with others"):
            refuse_comparing(scoring, "procedure=adaptive can't stop by")
    assert (prepared(high)(PROMPTS, POOL).value == length(PROMPTS, POOL, prefer="longest").value).all()
    with pytest.raises(BenchError, match="no such length"):
        prepared(absent)


def test_nothing_is_assumed_of_a_scorer_that_says_nothing():
    scoring = functools.partial(fixed([0.1] * 4, [0.2] * 4))
    refuse_too_low(scoring, 1e9, "procedure.accept_above")
    refuse_comparing(scoring, "procedure=adaptive can't stop by")
    assert prepared(scoring.func) is scoring.func
