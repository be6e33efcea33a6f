"""What a report says of adaptive sampling, of gains kept and of pessimism: against the records it is made from."""

import re
from pathlib import Path

import made_runs
import numpy as np
import pytest
from made_runs import made_run
from omegaconf import OmegaConf

from bench.config.compose import CONF
from bench.estimators.training_seeds import ratio_over_seeds
from bench.evaluation import measures
from bench.evaluation.measures import Measure
from bench.records.read import Run
from bench.reporting.contrasts import contrast
from bench.reporting.exhibits import sentences as verdicts
from bench.reporting.exhibits.adaptive import adaptive_table, samples_budget
from bench.reporting.exhibits.adaptive import sentences as of_adaptive
from bench.reporting.exhibits.by_n import of_pessimism, pessimism_by_n
from bench.reporting.exhibits.comparison import gain_kept, main
from bench.reporting.exhibits.frontier import frontiers
from bench.reporting.exhibits.verdicts import of_gain_kept
from bench.reporting.files import drawn
from bench.reporting.groups import grouped, procedure_name

WAYS = {("none", "uniform"): 1.0, ("accepted", "uniform"): 0.6, ("none", "hard"): 1.0}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    outputs = tmp_path_factory.mktemp("reported")
    return [
        made_run(
            outputs,
            seed=seed,
            num_completions=n,
            prompts=40,
            skill={"tuned": 0.3 + 0.01 * n + (0.3 if allocate == "hard" else 0.0)},
            settings={"procedure": {"_target_": "bench.adaptive.adaptively", "stop": stop, "allocate": allocate}},
            metrics={
                "adaptive/samples_total": share * 90 * n,
                "adaptive/samples_a_prompt": share * n,
                "adaptive/samples_saved": (1 - share) * 90 * n,
                "adaptive/coverage": 0.5 + (0.2 if allocate == "hard" else 0.0),
                "adaptive/accepted": 45,
                "adaptive/pass@1": 0.25,
            },
        )
        for seed in (0, 1)
        for n in (4, 8)
        for (stop, allocate), share in WAYS.items()
    ]


def test_the_budget_figure_has_a_line_a_way_and_a_point_an_n(reported, tmp_path):
    figure = samples_budget(grouped(reported))
    assert figure is not None
    assert [(row["label"], row["samples"]) for row in figure.rows] == [
        ("stop=accepted allocate=uniform", pytest.approx(0.6 * 360)),
        ("stop=accepted allocate=uniform", pytest.approx(0.6 * 720)),
        ("stop=none allocate=hard", 360),
        ("stop=none allocate=hard", 720),
        ("stop=none allocate=uniform", 360),
        ("stop=none allocate=uniform", 720),
    ]
    with drawn(figure) as canvas:
        left, right = canvas.axes
        for axes, key in ((left, "accuracy"), (right, "kl")):
            shown = [
                np.asarray(line.get_ydata(), float)
                for line in axes.lines
                if line.get_marker() != "_" and len(line.get_xdata()) == 2
            ]
            for label in {row["label"] for row in figure.rows}:
                values = [row[key] for row in figure.rows if row["label"] == label]
                assert any(np.allclose(values, one) for one in shown)
            across = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() not in ("_", "None", "")]
            assert set(across) == {row["samples"] for row in figure.rows[::2]}  # drawn where measured, not beside it
    assert samples_budget(grouped([made_run(tmp_path)])) is None


def test_each_way_is_judged_against_the_same_n_of_every_prompt(reported, tmp_path):
    lines = of_adaptive(grouped(reported))
    assert len(lines) == 4
    (stopped,) = [line for line in lines if "stop=accepted" in line and "N=8" in line]
    assert "draws 432 samples and " in stopped
    assert "8 of every prompt are 720 samples" in stopped
    assert "not shown to differ from" in stopped
    (hard,) = [line for line in lines if "allocate=hard" in line and "N=4" in line]
    assert "covers 70% of the prompts; " in hard
    assert "cover 50%. " in hard
    groups = {group.label: group for group in grouped(reported)}
    ours, theirs = (
        groups[f"num_completions=4 procedure.stop=none procedure.allocate={way}"].per_prompt(
            "tuned", "pass", "accuracy", 1
        )
        for way in ("hard", "uniform")
    )
    assert str(contrast(ours, theirs, "any").difference) in hard
    assert set(lines) <= set(verdicts(reported))
    assert of_adaptive(grouped([made_run(tmp_path)])) == []


def test_the_table_has_a_row_a_configuration(reported, tmp_path):
    table = adaptive_table(grouped(reported))
    assert table is not None
    assert len(table.rows) == 6
    for row in table.rows:
        assert row["samples_total"] + row["samples_saved"] == 90 * int(row["config.num_completions"])
    assert adaptive_table(grouped([made_run(tmp_path)])) is None


def test_beside_other_procedures_adaptive_ones_keep_their_table_figure_and_sentences(reported, tmp_path):
    """As conf/procedure calls them."""
    others = [
        made_run(tmp_path, seed=seed, num_completions=4, prompts=40, settings={"procedure": procedure})
        for seed in (0, 1)
        for procedure in ({"_target_": "bench.experiment.run"}, {"_target_": "bench.rounds.in_rounds", "start": "base"})
    ]
    groups = grouped([*reported, *others])
    assert {group.settings["procedure"].split()[0] for group in groups} == {"single", "rounds", "adaptive"}
    table, figure = adaptive_table(groups), samples_budget(groups)
    assert table is not None
    assert len(table.rows) == 6
    assert figure is not None
    assert len(figure.rows) == 6
    alone = of_adaptive(grouped(reported))
    assert [line.partition("draws")[2] for line in of_adaptive(groups)] == [
        line.partition("draws")[2] for line in alone
    ]


def test_procedures_are_called_as_they_are_chosen():
    for path in sorted((Path(CONF) / "procedure").glob("*.yaml")):
        assert procedure_name(OmegaConf.load(path)["_target_"]) == path.stem
    assert procedure_name(None) == "single"


# --- stacking ------------------------------------------------------------------------------------------------------


def test_the_gain_that_is_kept_is_that_of_the_means(tmp_path):
    run = made_run(tmp_path, prompts=80)
    (group,) = grouped([run])
    means = {
        name: run.per_prompt(*cell).mean()
        for name, cell in {
            "base": ("base", "pass", "accuracy", 1),
            "tuned": ("tuned", "pass", "accuracy", 1),
            "best": ("base", "best_of_n", "accuracy", 4),
        }.items()
    }
    share = (means["tuned"] - means["base"]) / (means["best"] - means["base"])
    found = gain_kept(group)
    assert found[4] is not None
    assert found[4].value == run.metrics["distillation/best_of_4"] == pytest.approx(share)
    assert found[4].low == run.metrics["distillation/best_of_4_low"] < share < found[4].high
    assert of_gain_kept(group) == [f"The tuned policy's gain over the base is {found[4]} times Best-of-4's."]
    assert of_gain_kept(group)[0] in verdicts([run])
    rows = {row["arm"]: row["kept"] for row in main([group]).rows}
    assert rows["Best-of-4"] == found[4].value
    assert rows["base"] is None


@pytest.mark.parametrize(
    ("skill", "sign", "words"),
    [
        (0.1, -1, "The tuned policy is not above the base, so it keeps none of Best-of-4's gain (share -0."),
        (0.32, 1, "The tuned policy is not shown to keep a part of Best-of-4's gain over the base (share 0."),
    ],
)
def test_a_share_that_may_be_nothing_is_not_called_a_gain(skill, sign, words, tmp_path):
    (group,) = grouped([made_run(tmp_path, prompts=80, skill={"tuned": skill})])
    share = gain_kept(group)[4]
    assert share is not None
    assert np.sign(share.value) == sign
    assert share.low <= 0
    (sentence,) = of_gain_kept(group)
    assert sentence.startswith(words)
    assert "times" not in sentence


def test_the_gain_kept_of_several_seeds_is_for_new_ones(tmp_path):
    runs = [made_run(tmp_path, seed=seed) for seed in range(3)]
    (group,) = grouped(runs)
    base, tuned = (group.per_prompt(arm, "pass", "accuracy", 1) for arm in ("base", "tuned"))
    wanted = ratio_over_seeds(tuned - base, group.per_prompt("base", "best_of_n", "accuracy", 4) - base)
    found = gain_kept(group)[4]
    assert found is not None
    assert (found.value, found.low, found.high) == wanted


def test_without_a_gain_there_is_no_share_of_it(tmp_path):
    run = made_run(tmp_path, num_completions=2, skill={"base": 1e-6})
    (group,) = grouped([run])
    assert run.metrics["distillation/best_of_2"] is None
    assert gain_kept(group)[2] is None
    assert of_gain_kept(group) == ["Best-of-2 is not shown to be above the base, so no share of its gain is given."]


@pytest.mark.parametrize("skill", [0.15, 0.5])
@pytest.mark.parametrize("seeds", [1, 3])
def test_where_best_of_n_is_worse_than_the_base_there_is_no_share(skill, seeds, tmp_path, monkeypatch):
    """A reward that ranks wrong completions higher: a share of a loss is no gain that is kept."""
    graded = made_runs.graded
    monkeypatch.setattr(made_runs, "graded", lambda gold, proxy: graded(gold, gold if proxy is gold else -proxy))
    runs = [made_run(tmp_path, seed=seed, prompts=60, noise=1, skill={"tuned": skill}) for seed in range(seeds)]
    (group,) = grouped(runs)
    base, best = (group.mean("base", method, "accuracy", n) for method, n in (("pass", 1), ("best_of_n", 4)))
    assert best.high < base.low
    assert gain_kept(group)[4] is None
    assert of_gain_kept(group) == ["Best-of-4 is not shown to be above the base, so no share of its gain is given."]
    assert {row["kept"] for row in main([group]).rows} == {None}


def test_pessimism_is_recorded_where_the_scorer_is_not_gold(tmp_path):
    noisy, exact = made_run(tmp_path, noise=0.8, num_completions=8), made_run(tmp_path, seed=1)
    methods = {key[1] for key in noisy.curves if key[1].startswith("pessimism")}
    assert methods == {f"pessimism_of_n@{beta:g}" for beta in measures.PESSIMISM}
    assert noisy.metrics["pessimism_of_8@0.3/accuracy"] is not None
    assert not any(key[1].startswith("pessimism") for key in exact.curves)
    assert noisy.per_prompt("base", "pessimism_of_n@1", "accuracy", 1) == pytest.approx(
        noisy.per_prompt("base", "best_of_n", "accuracy", 1)
    )  # of one sample there is nothing to choose
    (group,) = grouped([noisy])
    figure = pessimism_by_n([group])
    assert figure is not None
    assert {(row["of"], row["beta"]) for row in figure.rows} == {
        *((of, None) for of in ("best_of_n", "pass", "weighted_majority")),
        *(("pessimism", beta) for beta in measures.PESSIMISM),
    }
    with drawn(figure) as canvas:
        shown = [np.asarray(line.get_ydata(), float) for line in canvas.axes[0].lines if len(line.get_xdata()) == 4]
        legend = {text.get_text() for text in canvas.legends[0].get_texts()}
    assert {"Best-of-n (learned reward)", "Best-of-n (oracle)", "weighted majority"} < legend
    for method in ("best_of_n", "oracle_of_n", *methods):
        values = [one.value for one in noisy.series("base", method, "accuracy").values()]
        assert any(np.allclose(values, one) for one in shown)
    (said,) = of_pessimism(group)
    for beta in measures.PESSIMISM:
        ours = group.per_prompt("base", f"pessimism_of_n@{beta:g}", "accuracy", 8)
        one = contrast(ours, group.per_prompt("base", "best_of_n", "accuracy", 8), f"pessimism {beta:g}")
        assert re.search(rf"beta = {beta:g} [a-z ]+ Best-of-8[a-z0-9 ]* \(\+?{re.escape(str(one.difference))}", said)
    assert said in verdicts([noisy])
    assert pessimism_by_n(grouped([exact])) is None
    assert of_pessimism(grouped([exact])[0]) == []


def test_what_gold_would_choose_stands_beside_what_the_learned_reward_chose(tmp_path):
    """On one pool, the oracle of a learned reward is the Best-of-n of a run that gold scored."""
    noisy = made_run(tmp_path, noise=0.8, settings={"top_p": 0.9}, metrics={"scorer/equals_gold": 0.4})
    exact = made_run(tmp_path)
    for metric in ("accuracy", "kl"):
        oracle = [found.value for found in noisy.series("base", "oracle_of_n", metric).values()]
        assert oracle == [found.value for found in exact.series("base", "best_of_n", metric).values()]
        assert not exact.series("base", "oracle_of_n", metric)
    assert noisy.metrics["oracle_of_4/accuracy"] == pytest.approx(noisy.series("sampler", "pass", "accuracy")[4].value)
    frontier, *_ = frontiers(grouped([noisy]))
    assert frontier is not None
    assert [row["value"] for row in frontier.rows if row["method"] == "oracle"] == [
        found.value for found in exact.series("base", "best_of_n", "accuracy").values()
    ]
    with drawn(frontier) as canvas:
        texts = {text.get_text() for text in canvas.axes[0].texts}
        legend = {text.get_text() for text in canvas.legends[0].get_texts()}
    assert "Best-of-n (oracle)" in texts
    assert "Best-of-n (learned reward)" in legend


def test_pessimism_of_a_held_out_pool_by_hand():
    """A beta far below the spread picks the best of two: pairs of (.9, .1, .4, .4) with gold (0, 1, 1, 1)."""
    from test_measures import POOL

    found = measures.of_pessimism(POOL, [1, 2])
    assert found[Measure("base", "pessimism_of_n@0.1", "accuracy", 1)] == pytest.approx([3 / 4, 1 / 4])
    assert found[Measure("base", "pessimism_of_n@0.1", "accuracy", 2)][0] == pytest.approx(1 / 2)
