"""Diagnostics of a proxy against gold: hand-computed rows, and brute force over all pairs."""

import itertools
from dataclasses import replace
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selecting import rng
from texts import pool_of

from bench.estimators import bootstrap
from bench.estimators.reward_diagnostics import (
    as_probabilities,
    decidable,
    midranks,
    rank_correlation,
    reliability,
    tie_rate,
    turning_point,
    within_prompt_auc,
)
from bench.evaluation.heldout import Graded
from bench.evaluation.reward_diagnostics import diagnose
from bench.records.read import Run
from bench.reporting.exhibits.reward_diagnostics import reward_diagnostics
from bench.reporting.files import write_figure
from bench.reporting.groups import Group

NAN = float("nan")


def random_pool(seed, rows=40, columns=9):
    """Proxies with ties, 0/1 outcomes of different rates, lengths, and a sixth of the cells unscored."""
    source = rng(seed)
    proxy = source.integers(0, 5, (rows, columns)).astype(float)
    proxy[source.random((rows, columns)) < 1 / 6] = np.nan
    gold = (source.random((rows, columns)) < source.random((rows, 1))).astype(float)
    return proxy, gold, source.integers(1, 6, (rows, columns)).astype(float)


@pytest.mark.parametrize(
    ("statistic", "arguments", "expected"),
    [
        (midranks, ([[3.0, 1.0, 3.0, NAN, 2.0]],), [[3.5, 1, 3.5, NAN, 2]]),
        # pairs (.9, .8) 1, (.9, .1) 1, (.8, .8) 1/2, (.8, .1) 1
        (within_prompt_auc, ([[0.9, 0.8, 0.1, 0.8]], [[1, 0, 0, 1]]), [3.5 / 4]),
        (within_prompt_auc, ([[0.2] * 4, [1, 2, 3, 4]], [[1, 0, 1, 0], [1] * 4]), [0.5, NAN]),
        (within_prompt_auc, ([[1, NAN, 3, 2]], [[0, 1, 1, 0]]), [1]),  # (3, 1) and (3, 2), the unscored left out
        (decidable, ([[1, 2], [1, 2], [1, NAN]], [[1, 0], [1, 1], [1, 0]]), [1, 0, 0]),
        (tie_rate, ([[1, 1, 2, 3], [5, 5, 5, 5], [1, 2, 3, 4], [NAN, NAN, NAN, 1]],), [1 / 6, 1, 0, NAN]),
        (rank_correlation, ([[1, 2, 3, 4]] * 2, [[2, 4, 8, 9], [4, 3, 2, 1]]), [1, -1]),
        (rank_correlation, ([[1, 1, 1, 1]], [[1, 2, 3, 4]]), [NAN]),
        # ranks (1, 2, 3) and (1, 3, 2), so 1 - 6 (0 + 1 + 1) / (3 * 8) = 0.5
        (rank_correlation, ([[10, 20, NAN, 30]], [[1, 3, 9, 2]]), [0.5]),
        # midranks (1.5, 1.5, 3) and (1, 2, 3): covariance 1.5, variances 1.5 and 2
        (rank_correlation, ([[1, 1, 2]], [[1, 2, 3]]), [1.5 / np.sqrt(3)]),
    ],
)
def test_rows_by_hand(statistic, arguments, expected):
    assert statistic(*arguments) == pytest.approx(np.array(expected), nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_ties_over_all_pairs(seed):
    proxy, gold, _ = random_pool(seed)
    for row, (auc, tied, decides) in enumerate(
        zip(within_prompt_auc(proxy, gold), tie_rate(proxy), decidable(proxy, gold), strict=True)
    ):
        cells = [(r, g) for r, g in zip(proxy[row], gold[row], strict=True) if not np.isnan(r)]
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, x in cells if x == 1 for b, y in cells if y == 0]
        pairs = [a == b for (a, _), (b, _) in itertools.combinations(cells, 2)]
        assert auc == pytest.approx(np.mean(wins) if wins else NAN, nan_ok=True)
        assert tied == pytest.approx(np.mean(pairs) if pairs else NAN, nan_ok=True)
        assert decides == bool(wins)


def test_a_permuted_row_and_a_rising_transform_change_nothing():
    proxy, gold, length = random_pool(7)
    order = rng(3).permutation(proxy.shape[1])
    assert within_prompt_auc(proxy[:, order], gold[:, order]) == pytest.approx(
        within_prompt_auc(proxy, gold), nan_ok=True
    )
    assert rank_correlation(np.exp(proxy), length) == pytest.approx(rank_correlation(proxy, length), nan_ok=True)
    assert within_prompt_auc(-proxy, gold) == pytest.approx(1 - within_prompt_auc(proxy, gold), nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_ranks_counted_by_comparison(seed):
    proxy, _, length = random_pool(seed)

    def ranks(values):
        return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]

    for row, found in enumerate(rank_correlation(proxy, length)):
        kept = ~np.isnan(proxy[row])
        x, y = ranks(proxy[row][kept].tolist()), ranks(length[row][kept].tolist())
        constant = len(set(x)) < 2 or len(set(y)) < 2
        assert found == pytest.approx(NAN if constant else np.corrcoef(x, y)[0, 1], nan_ok=True)


def test_what_can_be_read_as_a_probability():
    scores = np.array([[0.0, 0.25, 1.0, NAN]])
    assert as_probabilities(scores)[0] is scores
    assert as_probabilities(scores)[1] == "score"
    probability, how = as_probabilities(np.array([[0.0, np.log(3), -np.log(3), -800.0, NAN]]))
    assert probability == pytest.approx(np.array([[0.5, 0.75, 0.25, 0, NAN]]), nan_ok=True)
    assert how == "sigmoid of the score"
    assert as_probabilities(np.array([[-21.0, -3.0]])) is None
    assert as_probabilities(np.array([[3.0, 21.0]])) is None


def test_reliability_by_hand():
    probability = [[0.1, 0.3, 1.0], [0.2, NAN, 0.5], [0.9, 0.2, 0.3]]
    gold = [[0, 1, 1], [0, 1, 1], [0, 0, 0]]
    found = reliability(probability, gold, rng(), bins=2)
    # below .5: .1 .3 .2 .2 .3 with one correct; from .5: 1 .5 .9 with two correct
    assert found.count.tolist() == [5, 3]
    assert found.expected == pytest.approx([1.1 / 5, 2.4 / 3])
    assert found.observed == pytest.approx([1 / 5, 2 / 3])
    assert found.error == pytest.approx((0.1 + 0.4) / 8)
    assert (found.observed_low <= found.observed).all()
    assert (found.observed <= found.observed_high).all()


def test_reliability_of_what_is_calibrated_and_of_what_is_not():
    source = rng(1)
    probability = source.random((400, 20))
    gold = (source.random((400, 20)) < probability).astype(float)
    found = reliability(probability, gold, rng())
    assert found.error < 0.02
    inside = (found.observed_low <= found.expected) & (found.expected <= found.observed_high)
    assert inside.sum() >= 8
    overconfident = reliability(np.where(probability > 0.5, 1.0, 0.0), gold, rng())
    assert overconfident.error == pytest.approx(0.25, abs=0.02)
    assert overconfident.error_low < overconfident.error < overconfident.error_high
    assert np.isnan(overconfident.observed[1:-1]).all()
    assert overconfident.count[1:-1].tolist() == [0] * 8


def test_reliability_resamples_whole_prompts():
    """With every prompt's completions alike, 20 copies of each say no more than one of each."""
    source = rng(2)
    once = (source.random((100, 1)) < 0.5).astype(float)
    many = np.repeat(once, 20, axis=1)
    single = reliability(np.full((100, 1), 0.5), once, rng())
    copied = reliability(np.full((100, 20), 0.5), many, rng())
    assert copied.observed_low[5] == pytest.approx(single.observed_low[5])
    assert copied.observed_high[5] == pytest.approx(single.observed_high[5])


def test_reliability_with_a_bin_that_most_resamples_miss():
    probability = np.full((50, 4), 0.15)
    probability[0, 0] = 0.95
    gold = np.zeros((50, 4))
    gold[0, 0] = 1
    found = reliability(probability, gold, rng())
    assert (found.observed_low[9], found.observed_high[9]) == (1, 1)
    assert 0 <= found.error_low <= found.error_high <= 1


def overoptimised_pool(prompts=400, columns=32, *, tempting):
    """The proxy ranks by quality, but where `tempting`, the rare top of its scale is worthless."""
    source = rng(5)
    proxy = source.random((prompts, columns))
    gold = (source.random((prompts, columns)) < proxy).astype(float)
    if tempting:
        gold[proxy > 0.9] = 0
    return proxy, gold


def test_the_turning_point_of_a_proxy_whose_top_is_worthless():
    sizes = [1, 2, 4, 8, 16, 32]
    found = turning_point(*overoptimised_pool(tempting=True), sizes, rng())
    # gold of Best-of-n, x uniform: the integral of x n x^(n-1) to .9 is n/(n+1) .9^(n+1) = .41 .49 .47 .34 .16 .03
    assert found.n in (2, 4)
    expected = [n / (n + 1) * 0.9 ** (n + 1) for n in (found.n, 32)]
    assert found.found.gold.mean == pytest.approx(expected[1] - expected[0], abs=0.03)
    assert found.largest == 32
    assert found.found.verdict == "over-optimised"
    assert found.found.gold.high < 0 < found.found.proxy.low


def test_no_turning_point_where_gold_rises_throughout():
    found = turning_point(*overoptimised_pool(tempting=False), [1, 2, 4, 8, 16, 32], rng())
    assert found.found.verdict == "not resolved"
    assert found.n >= 16


def test_a_turning_point_needs_prompts_with_enough_scored_samples():
    proxy, gold = overoptimised_pool(prompts=40, columns=4, tempting=False)
    proxy[3:, 0] = np.nan
    with pytest.raises(ValueError, match="3 of 40 prompts have 4 scored samples"):
        turning_point(proxy, gold, [1, 2, 4], rng())
    proxy[3:9, 0] = 0.5
    assert turning_point(proxy, gold, [1, 2, 4], rng()).found.gold.prompts <= 9


@pytest.mark.parametrize(
    ("proxy", "gold", "message"),
    [
        ([[0.1, 0.2]], [[0.5, 1]], "values other than 0 and 1"),
        ([[0.1, 0.2]], [[0, 1, 1]], "must be equal"),
        ([[0.1, NAN]], [[NAN, 1]], "no cell with a number in both"),
        ([[0.1, 1.2]], [[0, 1]], "between 0 and 1"),
    ],
)
def test_bad_arrays_are_refused(proxy, gold, message):
    with pytest.raises(ValueError, match=message):
        reliability(proxy, gold, rng())


def graded(proxy, gold):
    """As evaluation grades a pool; the length of a completion is its column, in tokens."""
    proxy, gold = np.asarray(proxy, float), np.asarray(gold, float)
    pool = pool_of([["word " * column for column in range(proxy.shape[1])] for _ in proxy])
    nothing = np.full(proxy.shape, None, object)
    return Graded(pool, proxy, gold, answers=nothing, paths=nothing)


def test_diagnose_names_every_quantity_and_counts_what_it_leaves_out():
    proxy = [[0.9, 0.8, 0.1, 0.2], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, NAN, 0.1], [1, 1, 0, 0]]
    gold = [[1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0]]
    metrics, rows = diagnose(graded(proxy, gold), seed=0)
    # AUC: row 0 has .9 above both wrong ones and .2 above one, 3/4; then 1/2, undecidable, 1, 1
    assert metrics["scorer/auc"] == pytest.approx((0.75 + 0.5 + 1 + 1) / 4)
    assert metrics["scorer/auc_low"] <= metrics["scorer/auc"] <= metrics["scorer/auc_high"]
    assert metrics["scorer/auc_prompts"] == 4
    assert metrics["scorer/decidable"] == pytest.approx(4 / 5)
    assert metrics["scorer/tie_rate"] == pytest.approx((0 + 1 + 0 + 0 + 2 / 6) / 5)
    # ranks 4 3 1 2, none, 1 2 3 4, 3 2 1, and 3.5 3.5 1.5 1.5 against rising lengths
    assert metrics["scorer/length_correlation"] == pytest.approx((-0.8 + 1 - 1 - 2 / np.sqrt(5)) / 4)
    assert metrics["scorer/length_correlation_prompts"] == 4
    assert metrics["scorer/unscored"] == 1
    assert metrics["scorer/equals_gold"] == pytest.approx(4 / 19)
    assert metrics["scorer/calibration"] == "of the score"
    assert metrics["scorer/gold_largest_n"] == 4
    of = {name: [row for row in rows if row["diagnostic"] == name] for name in ("gold", "proxy", "auc", "reliability")}
    assert [row["x"] for row in of["gold"]] == [1, 2, 4]
    assert of["gold"][0]["value"] == pytest.approx(np.mean([0.5, 0.5, 1, 0.5]))  # without the row that lacks a score
    assert [row["count"] for row in of["gold"]] == [4, 4, 4]
    assert [row["x"] for row in of["auc"]] == [0, 1, 3, 4]
    assert sum(row["count"] for row in of["reliability"]) == 19
    assert diagnose(graded(proxy, gold), seed=0)[0] == metrics


def test_diagnose_says_what_does_not_apply():
    proxy, gold = -np.arange(1.0, 25).reshape(6, 4), np.ones((6, 4))
    metrics, rows = diagnose(graded(proxy, gold), seed=0)
    assert metrics["scorer/calibration"].startswith("not applicable")
    assert "scorer/calibration_error" not in metrics
    assert np.isnan(metrics["scorer/auc"])
    assert (metrics["scorer/decidable"], metrics["scorer/auc_prompts"]) == (0, 0)
    assert not [row for row in rows if row["diagnostic"] in ("reliability", "auc")]
    one, _ = diagnose(graded(proxy[:, :1], gold[:, :1]), seed=0)
    assert one["scorer/overoptimisation"].startswith("not measured")
    assert np.isnan(one["scorer/tie_rate"])


def test_a_gold_models_reward_has_its_own_curve_and_verdict():
    generator = rng(5)
    proxy = generator.normal(size=(60, 8))
    gold = (generator.random((60, 8)) < 0.5).astype(float)
    reward = -3 * proxy + generator.normal(size=(60, 8))  # what the proxy likes most, the gold model likes least
    reward[0, 0] = NAN
    plain, _ = diagnose(graded(proxy, gold), seed=0)
    metrics, rows = diagnose(replace(graded(proxy, gold), gold_reward=reward), seed=0)
    assert {name: value for name, value in metrics.items() if name in plain} == plain
    curve = {row["x"]: row["value"] for row in rows if row["diagnostic"] == "gold_reward"}
    pairs = [
        np.mean([reward[m, i if proxy[m, i] > proxy[m, j] else j] for i, j in combinations(range(8), 2)])
        for m in range(1, 60)
    ]
    assert curve[2] == pytest.approx(np.mean(pairs))
    assert curve[1] == pytest.approx(reward[1:].mean())
    assert metrics["scorer/gold_reward_peak_n"] == 1
    assert metrics["scorer/overoptimisation_of_gold_reward"] == "over-optimised"
    assert metrics["scorer/gold_reward_beyond_peak_high"] < 0 < metrics["scorer/proxy_by_gold_reward_beyond_peak_low"]
    assert not [name for name in plain if "gold_reward" in name]


def written(folder, proxy, gold):
    """A run's records as the figure reads them."""
    metrics, rows = diagnose(graded(proxy, gold), seed=0)
    metrics |= {"test/prompts": len(proxy), "best_of_n/pool_size": proxy.shape[1]}
    pq.write_table(pa.Table.from_pylist(rows), folder / "diagnostics.parquet")
    return Run(folder, {"scoring": {"_target_": "bench.scoring.x.proxy"}, "seed": 0}, metrics, {})


def drawn(runs):
    figure = reward_diagnostics([Group({}, tuple(runs))])
    assert figure is not None
    return figure


@pytest.mark.parametrize("scale", [1.0, -20.0])
def test_the_figure_is_drawn_and_repeats(tmp_path, scale):
    proxy, gold = overoptimised_pool(prompts=40, columns=8, tempting=True)
    run = written(tmp_path, scale * (proxy + 0.01) / 1.01, gold)
    paths = write_figure(drawn([run]), tmp_path)
    assert [path.name for path in paths] == [f"reward_diagnostics.{kind}" for kind in ("png", "pdf", "svg", "csv")]
    first = [path.read_bytes() for path in paths]
    assert first[0][:4] == b"\x89PNG"
    assert [path.read_bytes() for path in write_figure(drawn([run]), tmp_path)] == first


def test_no_figure_of_the_gold_verifier_itself(tmp_path):
    _, gold = overoptimised_pool(prompts=40, columns=8, tempting=True)
    assert reward_diagnostics([Group({}, (written(tmp_path, gold, gold),))]) is None


def test_calibration_of_many_prompts_is_resampled_in_groups_to_the_same_intervals(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    probability = draw.random((3000, 2))
    gold = (draw.random((3000, 2)) < probability).astype(float)
    alone = reliability(probability, gold, np.random.default_rng(1))
    monkeypatch.setattr(bootstrap, "MOST_UNITS", 700)
    grouped = reliability(probability, gold, np.random.default_rng(1))
    assert (grouped.observed, grouped.error) == (pytest.approx(alone.observed), pytest.approx(alone.error))
    width = alone.observed_high - alone.observed_low
    for end in ("observed_low", "observed_high"):
        assert (getattr(grouped, end) - getattr(alone, end)) / width == pytest.approx(0, abs=0.12)
