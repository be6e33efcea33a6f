"""Claims, fits and the figure of over-optimisation, from records of known curves that are written here."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.estimators.reward_curve import fit_best_of_n
from bench.records.read import Run, read_run
from bench.reporting.exhibits import overoptimisation
from bench.reporting.exhibits.overoptimisation import Pushed, rows
from bench.reporting.groups import grouped

SIZES = (1, 2, 4, 8, 16)
KL = np.array([0.0, 0.2, 0.6, 1.1, 1.7])
BASE, PROMPTS = 0.3, 60
FALLS, RISES = 0.5 * np.sqrt(KL) - 0.45 * KL, 0.3 * np.sqrt(KL) - 0.05 * KL
LOUD = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
SHAPES = {  # pairs -> gain of gold, gain of proxy
    20: (FALLS, LOUD),
    100: (RISES, LOUD),
    3: (FALLS, LOUD * [1, 1, 1, 1, 0.2]),  # its proxy falls with gold: weak, but not over-optimised
}


def written(
    folder: Path,
    pairs: int,
    seed: int,
    *,
    is_gold: bool = False,
    reward: float | None = None,
    unscored: int = 0,
    away: float = 0.0,
    evaluated_at: float = 1.0,
) -> Run:
    """A run whose prompts scatter about the curves, the same way at every n, and a little for each n and seed.

    reward: a gold model's scores are this many times as large as accuracy, which then stays where it is.
    unscored: prompts that lack one score, so that they have no values at the largest n. away: nats per sequence of the
    sampler from the raw base, which is evaluated at temperature evaluated_at; gold follows its curve from there.
    """
    rng = np.random.default_rng([pairs, seed])
    gold, proxy = SHAPES[pairs]
    if away:
        gold = 0.5 * np.sqrt(np.maximum(KL + away, 0)) - 0.45 * np.maximum(KL + away, 0)
    level = np.random.default_rng(7).normal(0, 0.1, (PROMPTS, 1))
    values = {
        "accuracy": BASE + level + gold + rng.normal(0, 0.02, (PROMPTS, len(SIZES))) * (np.array(SIZES) > 1),
        "proxy": 5 + proxy + rng.normal(0, 0.1, (PROMPTS, len(SIZES))),
        "kl": np.tile(KL + away, (PROMPTS, 1)),
    }
    for v in values.values():
        v[seed : seed + unscored, -1] = np.nan
    cells = {("base", "best_of_n", metric, n): v[:, i] for metric, v in values.items() for i, n in enumerate(SIZES)}
    cells["tuned", "pass", "accuracy", 1] = values["accuracy"][:, 0] + 0.07
    cells["base", "pass", "accuracy", 1] = BASE + level[:, 0]
    cells["tuned", "policy", "kl", 1] = np.full(PROMPTS, 0.81)
    if reward is not None:
        for i, n in enumerate(SIZES):
            cells["base", "best_of_n", "gold_reward", n] = reward * values["accuracy"][:, i]
            cells["base", "best_of_n", "accuracy", n] = np.full(PROMPTS, 0.5)
        cells["tuned", "policy", "gold_reward", 1] = reward * cells["tuned", "pass", "accuracy", 1]
    names = ("policy", "method", "metric", "n")
    folder = folder / f"{pairs}-{seed}"
    folder.mkdir(parents=True)
    curves = [
        dict(zip(names, cell, strict=True)) | {"value": np.nanmean(v), "low": np.nanmean(v) - 0.1, "high": 1.0}
        for cell, v in cells.items()
    ]
    long = [
        dict(zip(names, cell, strict=True)) | {"prompt_id": f"p{m}", "value": float(v[m])}
        for cell, v in cells.items()
        for m in range(PROMPTS)
    ]
    pq.write_table(pa.Table.from_pylist(curves), folder / "curves.parquet")
    pq.write_table(pa.Table.from_pylist(long), folder / "per_prompt.parquet")
    scoring = f"_target_: bench.scoring.trained_reward_model.trained_reward_model, pairs: {pairs}, pairs_seed: {seed}"
    evaluation = f"_target_: bench.evaluation.heldout.evaluate, temperature: {evaluated_at}, top_p: 1.0"
    (folder / "config.yaml").write_text(
        f"seed: {seed}\nscoring: {{{scoring}}}\ntraining: {{_target_: bench.training.sft.fine_tune}}\n"
        f"temperature: {0.7 if away else 1.0}\ntop_p: 1.0\nevaluation: {{{evaluation}}}\n"
    )
    metrics = {"scorer/equals_gold": float(is_gold), "best_of_n/pool_size": 32, "code": "same", "test/prompts": PROMPTS}
    metrics |= {"scorer/auc": 0.7, "scorer/length_correlation": 0.1 * seed, "scorer/tie_rate": 0.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return read_run(folder)


def pushed(runs: list[Run]) -> list[Pushed]:
    return overoptimisation.pushed(grouped(runs))


def test_a_gold_models_reward_is_what_is_claimed_and_drawn_where_there_is_one(tmp_path):
    made = {
        reward: [written(tmp_path / str(reward), 20, seed, reward=reward) for seed in range(3)]
        for reward in (None, 10.0)
    }
    plain, rewarded = (pushed(runs)[0] for runs in made.values())
    assert (plain.measure, rewarded.measure) == ("accuracy", "gold_reward")
    np.testing.assert_allclose(rewarded.gold, 10 * plain.gold)
    assert rewarded.claim.verdict == "over-optimised"
    assert rewarded.claim.gold.value == pytest.approx(10 * plain.claim.gold.value)
    assert rewarded.tuned[1].value == pytest.approx(10 * plain.tuned[1].value)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [written(tmp_path, pairs, seed) for pairs in (100, 20, 3) for seed in (2, 0, 1)]


def test_only_a_fall_of_gold_under_a_rising_proxy_is_a_claim(runs):
    found = {one.name: one for one in pushed(runs)}
    assert list(found) == ["pairs=3", "pairs=20", "pairs=100"]  # by number, not by letter
    assert {name: one.claim.verdict for name, one in found.items()} == {
        "pairs=3": "not resolved",
        "pairs=20": "over-optimised",
        "pairs=100": "not resolved",
    }
    over = found["pairs=20"].claim
    assert (over.chosen, over.largest) == (2, 16)
    assert over.gold.value == pytest.approx(FALLS[4] - FALLS[1], abs=0.01)
    assert over.gold.low < FALLS[4] - FALLS[1] < over.gold.high < 0
    assert over.proxy.value == pytest.approx(3 / 4, abs=0.02)  # of a rise of 4
    assert found["pairs=3"].claim.gold.high < 0  # gold falls there too
    assert found["pairs=100"].claim.chosen == 16
    assert [claim.verdict for claim in found["pairs=20"].claims] == ["over-optimised"] * 3
    said = overoptimisation.sentences(grouped(runs))
    assert said[1].startswith("pairs=20: over-optimised: from n = 2, chosen on other prompts, to 16 gold changes by -")
    assert said[2].startswith("pairs=100: over-optimisation is not resolved: ")


def test_a_lone_seed_is_judged_over_prompts_alone(tmp_path: Path):
    (one,) = pushed([written(tmp_path, 20, 0)])
    assert one.name == "trained_reward_model"
    assert one.claim.verdict == "over-optimised"
    assert one.claim.gold.low < FALLS[4] - FALLS[1] < one.claim.gold.high
    third = one.gains(one.gold)[3]
    assert third.value == pytest.approx(FALLS[3], abs=4 * 0.02 / np.sqrt(PROMPTS))
    assert third.high - third.low == pytest.approx(2 * 1.96 * 0.02 / np.sqrt(PROMPTS), rel=0.25)


def test_the_largest_n_is_judged_on_prompts_that_did_not_choose(tmp_path: Path):
    """Pure noise: n̂* looks better than the largest n where it was chosen, and not elsewhere."""
    run = written(tmp_path, 20, 0)
    (one,) = pushed([run])
    rng = np.random.default_rng(0)
    claims = []
    for _ in range(40):
        one.__dict__["gold"] = rng.normal(0.5, 0.1, (3, PROMPTS, len(SIZES)))
        one.__dict__["proxy"] = LOUD + rng.normal(0, 0.1, (3, PROMPTS, len(SIZES)))
        one.__dict__.pop("claim", None)
        claims.append(one.claim.gold.value)
    chosen_there = [(-rng.normal(0.5, 0.1, (PROMPTS, 4)).mean(axis=0).max() + 0.5) for _ in range(40)]
    error = np.std(claims) / np.sqrt(40)
    assert abs(np.mean(claims)) < 4 * error
    assert np.mean(chosen_there) < -4 * np.std(chosen_there) / np.sqrt(40)  # what choosing on the same prompts gives


def test_the_fit_is_of_measured_n_alone_and_has_its_peak(runs):
    one = pushed(runs)[1]
    assert one.measured == 4  # 4 n <= 32
    gain = (one.gold - one.gold[..., :1]).mean(axis=(0, 1))[:4]
    alpha, beta = fit_best_of_n(KL[:4], gain)
    assert one.fit.alpha == pytest.approx(0.5, abs=0.02) == pytest.approx(alpha, abs=0.02)
    assert one.fit.beta == pytest.approx(0.45, abs=0.02) == pytest.approx(beta, abs=0.02)
    assert one.fit.peak == pytest.approx(0.5 / 0.9, abs=0.02)
    assert one.fit.peak_low < 0.5 / 0.9 < one.fit.peak_high


def test_the_rows_are_the_records_means(runs):
    one = pushed(runs)[1]
    found = rows(one)
    assert [(row["policy"], row["n"], row["measured"]) for row in found] == [
        *(("best_of_n", n, n <= 8) for n in SIZES),
        ("tuned", 16, True),
    ]
    values = np.stack([[run.per_prompt("base", "best_of_n", "accuracy", n).mean() for n in SIZES] for run in runs[3:6]])
    assert [row["gold_gain"] for row in found[:5]] == pytest.approx(values.mean(axis=0) - values[:, 0].mean())
    assert [row["kl"] for row in found] == pytest.approx([*KL, 0.81])
    assert [row["distance"] for row in found] == pytest.approx(np.sqrt([*KL, 0.81]))
    assert (found[5]["gold_gain"], found[5]["proxy_gain"]) == (pytest.approx(0.07), None)
    assert all(row["gold_gain_low"] <= row["gold_gain"] <= row["gold_gain_high"] for row in found)
    table = overoptimisation.overoptimisation_table(grouped(runs))
    assert [row["scorer"] for row in table.rows] == ["pairs=3", "pairs=20", "pairs=100"]
    assert table.rows[1]["length_correlation"] == pytest.approx(0.1)  # over seeds 0, 1, 2
    assert table.rows[1]["gold_at_largest_n"] == pytest.approx(values[:, 4].mean())
    assert table.rows[1]["seeds_alone"] == "3 of 3"


def test_the_figure_shows_every_point_its_curves_and_only_peaks_in_sight(runs):
    from bench.reporting.style import blank

    shown = overoptimisation.overoptimisation_figure(grouped(runs))
    with blank(shown.width, shown.height) as drawn:
        shown.draw(drawn)
        above, below = drawn.axes[:2]
        dashed = [line for line in above.lines if line.get_linestyle() == "--"]
        stars = [line for line in above.lines if line.get_marker() == "*"]
        assert len(above.containers) == 6  # a curve's points, and a tuned policy, of each scorer
        assert len(below.containers) == 3
        for one, curve in zip(pushed(runs), below.containers, strict=True):
            assert curve[0].get_xdata() == pytest.approx(np.sqrt(KL))
            assert curve[0].get_ydata() == pytest.approx([gain.value for gain in one.gains(one.proxy)])
        assert all(line.get_xdata().min() == pytest.approx(np.sqrt(KL[3])) for line in dashed)
        assert len(dashed) == 3
        peaks = sorted(float(line.get_xdata()[0]) for line in stars)
        assert peaks == pytest.approx(sorted(one.fit.peak for one in pushed(runs)[:2]))  # the third's is at d = 3
        assert below.get_ylabel() == "proxy: gain, log-odds"
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["pairs=3", "pairs=20", "pairs=100"]


def test_a_scorer_that_is_gold_has_no_place(tmp_path: Path):
    groups = grouped([written(tmp_path, 20, seed, is_gold=True) for seed in range(2)])
    assert overoptimisation.overoptimisation_figure(groups) is None
    assert overoptimisation.overoptimisation_table(groups) is None
    assert overoptimisation.sentences(groups) == []


def test_one_missing_score_drops_its_prompt_at_every_n_and_changes_no_claim(tmp_path: Path):
    groups = grouped([written(tmp_path, 20, seed, unscored=1) for seed in range(3)])
    (one,) = overoptimisation.pushed(groups)
    assert one.gold.shape == (3, PROMPTS - 3, len(SIZES))  # another prompt under each seed
    assert (one.claim.verdict, one.claim.chosen, one.claim.largest) == ("over-optimised", 2, 16)
    assert one.claim.proxy.value == pytest.approx(3 / 4, abs=0.02)
    assert one.claims[0].proxy.value == pytest.approx(3 / 4, abs=0.03)
    assert one.distance == pytest.approx(np.sqrt(KL))
    assert "trained_reward_model: 57 of 60 prompts have values at every n." in (
        overoptimisation.overoptimisation_table(groups).caption
    )


def test_the_largest_n_is_left_out_where_most_prompts_lack_a_score(tmp_path: Path):
    (one,) = pushed([written(tmp_path, 20, seed, unscored=31) for seed in range(2)])
    assert one.sizes == [1, 2, 4, 8]
    assert one.gold.shape == (2, PROMPTS, 4)


def test_gains_begin_at_the_raw_base_where_the_sampler_lies_away_from_it(tmp_path: Path):
    groups = grouped([written(tmp_path, 20, seed, away=0.25) for seed in range(3)])
    (one,) = overoptimisation.pushed(groups)
    truth = 0.5 * np.sqrt(KL + 0.25) - 0.45 * (KL + 0.25)
    assert (one.fit.alpha, one.fit.beta) == pytest.approx((0.5, 0.45), abs=0.03)
    assert [row["gold_gain"] for row in rows(one)[:5]] == pytest.approx(truth, abs=0.01)
    assert rows(one)[0]["proxy_gain"] == 0
    assert rows(one)[5]["gold_gain"] == pytest.approx(truth[0] + 0.07, abs=0.01)
    shown = overoptimisation.overoptimisation_figure(groups)
    assert "both as gains, at" in shown.caption
    assert "over the raw base, those of the proxy over Best-of-1 of the sampler." in shown.caption


def test_nothing_is_fitted_where_the_raw_base_is_unknown(tmp_path: Path):
    groups = grouped([written(tmp_path, 20, seed, away=0.25, evaluated_at=0.7) for seed in range(3)])
    (one,) = overoptimisation.pushed(groups)
    assert one.fit is None
    assert rows(one)[0]["gold_gain"] == 0
    assert "Gains are over Best-of-1 of the sampler" in overoptimisation.overoptimisation_figure(groups).caption


def test_a_kl_that_is_estimated_below_zero_is_fitted(tmp_path: Path):
    (one,) = pushed([written(tmp_path, 20, seed, away=-0.02) for seed in range(3)])
    assert one.kl[..., 0].mean() < -0.01
    assert one.fit.alpha > 0
