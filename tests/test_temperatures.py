"""Policies over sampling temperatures: the choice on validation prompts, and what a run records of them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_runs import made_run
from sharing import composed

from bench.artifacts import Policy
from bench.config.keys import id_of_settings
from bench.errors import BenchError
from bench.estimators.compute import Costs, break_even_queries
from bench.evaluation.heldout import AtTemperature, OverTemperatures
from bench.evaluation.measures import Measure
from bench.launching import runner
from bench.records.costs import break_even_at_best
from bench.records.read import Estimate, read_run
from bench.reporting.exhibits import of_one_run, sentences, tables
from bench.reporting.exhibits.compute import rival
from bench.reporting.exhibits.frontier import frontiers
from bench.reporting.files import drawn
from bench.reporting.groups import grouped

TEMPERATURES = (0, 0.5, 1)


def over(golds: dict[float, list[float]]) -> OverTemperatures:
    """Without any test sample: reading one would be an error."""
    unread: Any = None
    at = {T: AtTemperature(unread, unread, None, np.array([gold])) for T, gold in golds.items()}
    return OverTemperatures(at, None)


def test_the_best_temperature_is_chosen_on_validation_prompts_alone():
    assert over({0.0: [0, 1, 0], 0.5: [1, 1, 0], 1.0: [0, 0, 0]}).best == 0.5
    assert over({0.0: [0, 1], 0.5: [1, 0], 1.0: [0, 0]}).best == 0.0  # the lowest of equals
    (only,) = over({1.0: [1.0]}).at.values()
    assert OverTemperatures({1.0: replace(only, validation_gold=None)}, None).best is None


def test_a_run_without_temperatures_and_updates_keeps_its_id():
    import omegaconf

    settings: Any = omegaconf.OmegaConf.to_container(composed("evaluation.temperatures=null"), resolve=True)
    before = json.loads(json.dumps(settings))
    del before["evaluation"]["temperatures"], before["training"]["updates"]
    assert id_of_settings(before) == id_of_settings(settings)
    settings["evaluation"]["temperatures"] = [0]
    assert id_of_settings(before) != id_of_settings(settings)


@pytest.mark.parametrize("value", ["[]", "[0.5,0.5]", "[-1]", "0.5", "[hot]"])
def test_lists_that_are_no_temperatures_are_refused(value):
    from bench.config import checks

    with pytest.raises(BenchError, match=r"evaluation\.temperatures=.*a list of one or more temperatures, each once"):
        checks.check(composed(f"evaluation.temperatures={value}"))


@pytest.fixture(scope="module")
def folder(random_policy: Policy, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("run")
    return runner.run_experiment(
        composed(
            *("task.train_prompts=7", "task.validation_prompts=6", "task.test_prompts=4", "task.max_new_tokens=6"),
            *("policy=folder", f"policy.path={random_policy.path}", "control=none", "tracking=none", "threads=1"),
            *("num_completions=2", "baseline_completions=4", "evaluation.lm_eval=false", "training.epochs=1"),
            *("evaluation.num_completions=4", f"evaluation.temperatures={list(TEMPERATURES)}", "prompt_filter=all"),
            *(f"store={place}/store", f"outputs={place}/outputs"),
        ),
        quiet=True,
    )


def test_a_run_records_each_temperature_under_its_name(folder):
    found = json.loads((folder / "metrics.json").read_text())
    for arm in ("base", "tuned"):
        assert found[f"{arm}/at_1/kl"] == found[f"{arm}/kl"]  # the same samples at evaluation.temperature
        assert found[f"{arm}/at_1/kl_k1"] == found[f"{arm}/kl_k1"]
        assert found[f"{arm}/at_1/pass@1"] == found[f"{arm}/pass@1"]
        assert found[f"{arm}/at_0/pass@1"] == found[f"{arm}/greedy_accuracy"]
        assert found[f"{arm}/at_0/kl"] == found[f"{arm}/at_0/kl_k1"] > found[f"{arm}/at_0.5/kl"] > 0
        assert found[f"{arm}/at_0.5/kl_estimator"] == "rao_blackwell"
        best = found[f"{arm}/best_temperature"]
        on_validation = {T: found[f"{arm}/validation_at_{T:g}/pass@1"] for T in TEMPERATURES}
        assert on_validation[best] == max(on_validation.values())
        assert found[f"{arm}/at_best/pass@1"] == found[f"{arm}/at_{best:g}/pass@1"]
        gap = on_validation[best] - found[f"{arm}/at_best/pass@1"]
        assert found[f"{arm}/at_best/winners_curse"] == pytest.approx(gap)
    assert found["base/at_1/kl"] == 0
    assert "tuned_vs_base/at_best/verdict" in found
    assert found["break_even/reward_training_flops"] == 0  # samples that judge are no part of what tuning costs
    rows = pq.read_table(folder / "validation.parquet").to_pylist()
    assert len({row["prompt_id"] for row in rows}) == 6
    assert len(rows) == 6 * 2 * len(TEMPERATURES)


def test_its_report_draws_and_lists_them(folder):
    run = read_run(folder)
    run.verify()
    frontier = of_one_run(run)[0]
    for method in ("base_temperature", "tuned_temperature"):
        assert [row["temperature"] for row in frontier.rows if row["method"] == method] == list(TEMPERATURES)
    (table,) = [table for table in tables([run]) if table.name == "temperatures"]
    assert [(row["arm"], row["temperature"]) for row in table.rows] == [
        (arm, f"{T:g}") for arm in ("base", "tuned") for T in TEMPERATURES
    ]
    assert [row["chosen"] for row in table.rows].count("yes") == 2
    assert any("temperature that validation prompts chose" in sentence for sentence in sentences([run]))


def test_break_even_is_against_every_way_to_answer_with_the_base():
    """The vote reaches .5 halfway in log n between 2 and 4, Best-of-n at 2; one sample of the base never does."""
    costs = Costs(1e6, 5e5, prompt_tokens=10, completion_tokens=20, pool_size=4, prompts=7, epochs=1, selected=7)
    curves = {
        ("sampler", "majority"): {1: 0.2, 2: 0.4, 4: 0.6},
        ("base", "best_of_n"): {1: 0.2, 2: 0.5, 4: 0.9},
        ("base", "at_best"): {1: 0.3},
        ("tuned", "at_best"): {1: 0.5},
    }
    measures = {
        Measure(*of, "accuracy", n): np.full(6, value) for of, curve in curves.items() for n, value in curve.items()
    }
    found = break_even_at_best(measures, costs, np.random.default_rng(0))
    assert found["break_even/at_best/majority/n"] == pytest.approx(2 * 2**0.5)
    assert found["break_even/at_best/best_of_n/n"] == pytest.approx(2)
    assert found["break_even/at_best/one_sample/n"] == np.inf
    assert "break_even/at_best/weighted_majority/n" not in found
    for way, reward in (("majority", 0.0), ("best_of_n", 5e5)):  # a vote is not scored
        n = found[f"break_even/at_best/{way}/n"]
        expected = break_even_queries(Costs(1e6, reward, 10, 20, 4, 7, 1, 7), n)
        assert found[f"break_even/at_best/{way}/queries"] == expected
    del measures[Measure("tuned", "at_best", "accuracy", 1)]
    assert break_even_at_best(measures, costs, np.random.default_rng(0)) == {}


def at_best(of: str, value: float, low: float, high: float) -> dict[str, Any]:
    """A number as it is recorded, with its ends; None where infinite."""
    numbers = {"": value, "_low": low, "_high": high}
    return {f"break_even/at_best/{of}{end}": number if np.isfinite(number) else None for end, number in numbers.items()}


BETTER, WORSE, OPEN = (0.1, 0.05, 0.15, 0.01), (-0.1, -0.15, -0.05, 0.01), (0.01, -0.04, 0.06, 0.6)
NOWHERE = (np.inf, np.inf, np.inf)


@pytest.mark.parametrize(
    ("difference", "best_of_n", "queries", "words"),
    [
        (
            *(BETTER, (2.5, 2.1, np.inf), (1700, np.inf, 2100)),
            "by Best-of-n (oracle) at n = 2.5 [2.1, above all]: fine-tuning pays after 1,700 [fewer, 2,100] queries.",
        ),
        (BETTER, (1.0, 1.0, 2.0), NOWHERE, "No break-even is given: one sample of the base is as accurate."),
        (
            BETTER,
            NOWHERE,
            NOWHERE,
            "No break-even is given: no Best-of-n up to n = 2 and no vote up to n = 4 is as accurate.",
        ),
        (
            *(OPEN, (1.0, 1.0, np.inf), NOWHERE),
            "No break-even is given: the tuned policy is not shown to be better than the base at its best temperature.",
        ),
        (
            WORSE,
            (1.0, 1.0, 1.0),
            NOWHERE,
            "Fine-tuning never pays for itself: the base at its best temperature is more accurate.",
        ),
    ],
)
def test_what_a_break_even_claims_rests_on_its_comparison(difference, best_of_n, queries, words, folder):
    run = read_run(folder)
    name = "tuned_vs_base/at_best"
    keys = ("difference", "difference_low", "difference_high", "p_adjusted")
    numbers = {f"{name}/{key}": value for key, value in zip(keys, difference, strict=True)}
    numbers |= at_best("best_of_n/n", *best_of_n) | at_best("best_of_n/queries", *queries)
    for way in ("one_sample", "majority"):
        numbers |= at_best(f"{way}/n", *NOWHERE) | at_best(f"{way}/queries", *NOWHERE)
    said = " ".join(sentences([replace(run, metrics=run.metrics | numbers)]))
    assert words in said
    assert ("fine-tuning pays" in said) == (best_of_n[0] == 2.5)


@pytest.mark.parametrize(
    ("seeds", "way", "reason"),
    [
        ([{"majority": (5.0, 4800), "best_of_n": (4.0, 2200)}] * 3, "majority", ""),  # cheaper, as it is not scored
        ([{"majority": (5.0, 4800), "best_of_n": (4.0, 2200)}, {"best_of_n": (6.0, 9000)}], "best_of_n", ""),
        (
            [{"one_sample": (1.0, None), "best_of_n": (3.5, 3500)}, {"best_of_n": (6.0, 6000)}],
            *("best_of_n", "one sample of the base is as accurate under 1 of 2 seeds"),
        ),
        (
            [{"best_of_n": (1.0, None)}, {}],
            *(
                "one_sample",
                "no Best-of-n up to n = 4 and no vote up to n = 16 is as accurate under 1 of 2 seeds, and one sample "
                "of the base is as accurate under 1 of 2 seeds",
            ),
        ),
        ([{"majority": (3.0, None)}], "one_sample", "fine-tuning saves no FLOPs per query"),
        ([{"majority": (3.0, 10)}, {"best_of_n": (3.0, 10)}], "", "no way is as accurate under all seeds"),
    ],
)
def test_the_rival_is_the_way_against_which_training_pays_last(seeds, way, reason, tmp_path):
    """Under every seed; n and queries are None where a way is never as accurate, queries alone where it is for less."""
    runs = []
    for seed, ways in enumerate(seeds):
        metrics = {}
        for name in ("one_sample", "majority", "best_of_n"):
            n, queries = ways.get(name, (None, None))
            metrics |= {f"break_even/at_best/{name}/n": n, f"break_even/at_best/{name}/queries": queries}
        runs.append(made_run(tmp_path, seed=seed, metrics=metrics))
    (group,) = grouped(runs)
    found = rival(group, {"tuned_vs_base/at_best": SimpleNamespace(verdict="better")})
    assert found.reason == reason
    assert found.way == way or not way


def test_the_base_over_temperatures_has_a_line_for_each_scorer_in_the_scorers_reward(tmp_path):
    """Its accuracies are those of one base, whose samples each scorer rewards in its own way."""
    runs = [
        made_run(tmp_path, noise=0.5, settings={"scoring.label_noise": noise}, metrics={"scorer/equals_gold": 0.4})
        for noise in (0.0, 0.2)
    ]
    rewards = {run.folder: scale * np.arange(60) for scale, run in enumerate(runs, 1)}
    for run in runs:
        for T in (0, 1):
            of = {"accuracy": np.full(60, 0.5 - 0.1 * T), "kl": np.full(60, 1.0 - T), "proxy": rewards[run.folder] - T}
            for metric, values in of.items():
                run._per_prompt["base", f"at_{T}", metric, 1] = values
                run.curves["base", f"at_{T}", metric, 1] = Estimate(float(values.mean()), 0.0, 99.0)
    accuracy, reward = frontiers(grouped(runs))
    for figure, curves in ((accuracy, {"": [0.5, 0.4]}), (reward, {"noise=0.0": [29.5, 28.5], "noise=0.2": [59, 58]})):
        found: dict[str, list[float]] = {}
        for row in figure.rows:
            if row["method"] == "base_temperature":
                found.setdefault(row["label"].removeprefix("label_"), []).append(row["value"])
        assert {label: pytest.approx(values) for label, values in found.items()} == curves


def test_a_tuned_policy_over_temperatures_has_a_line_of_its_own_for_each_sampler(tmp_path):
    """Policies that differ in their sampler alone have no label: one line through all would go back and forth."""
    runs = [made_run(tmp_path, settings={"top_p": top_p}) for top_p in (0.8, 0.9)]
    for run in runs:
        for T in (0, 0.5, 1):
            for metric in ("accuracy", "kl"):
                run.curves["tuned", f"at_{T}", metric, 1] = Estimate(run.config["top_p"] - 0.2 * T, 0.0, 1.0)
    with drawn(frontiers(grouped(runs))[0]) as canvas:
        lines = [line.get_xdata() for line in canvas.axes[0].lines]
    colder = [x for x in lines if len(x) == 3 and (np.diff(x) < 0).all()]
    assert sorted(x[0] for x in colder) == pytest.approx([0.8, 0.9])
    assert max(map(len, lines)) == 3
