"""Rounds: what each trains on, by hand; a small run's records and resume, and what it shares with a single round."""

import inspect
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pyarrow.parquet as pq
import pytest
from drawing import pool_of
from made_runs import made_run
from sharing import SMALL, Shared, given_by, places

from bench.artifacts import Policy, Rewards, Selection
from bench.balance import Adapted, balance_score, by_balance_score, with_threshold
from bench.config.compose import CONF
from bench.errors import BenchError
from bench.procedures.parts import Parts
from bench.reporting.exhibits.rounds import rounds_figure, rounds_table
from bench.reporting.files import drawn
from bench.reporting.groups import grouped
from bench.rounds import buffer, distinct_paths, in_rounds, kept_correct, round_seed
from bench.selection import all_correct, every_prompt, softmax, threshold, top_per_prompt
from bench.sweeps.cells import cells as cells_of_sweep
from bench.sweeps.plan import workload
from bench.tasks import Task
from bench.tasks.word_problems import WordProblems
from bench.training import sft


def cells(chosen: Selection) -> list[tuple[int, int, float]]:
    return list(zip(chosen.row.tolist(), chosen.column.tolist(), chosen.weight.tolist(), strict=True))


FIRST = Selection(np.array([0, 2]), np.array([1, 0]), np.array([1.0, 0.5]))
SECOND = Selection(np.array([0, 1]), np.array([0, 2]), np.array([2.0, 3.0]))


def test_the_union_holds_every_rounds_cells_row_by_row_and_the_last_its_own():
    assert cells(buffer([FIRST, SECOND], 3, "union")) == [(0, 1, 1.0), (0, 3, 2.0), (1, 5, 3.0), (2, 0, 0.5)]
    assert cells(buffer([FIRST, SECOND], 3, "last")) == [(0, 3, 2.0), (1, 5, 3.0)]
    for train_on in ("union", "last"):
        assert cells(buffer([FIRST], 3, train_on)) == cells(FIRST)


def test_distinct_paths_are_counted_a_prompt_over_all_rounds():
    task = WordProblems()
    one = pool_of([[" 1 + 2 = 3. #### 3", " 2 + 1 = 3. #### 3"], [" 1 + 2 = 3. #### 3", " nothing"]])
    two = pool_of([[" 1 + 2 = 3. #### 3"], [" 4 - 1 = 3. #### 3"]])
    everything = Selection(np.repeat([0, 1], 3), np.tile([0, 1, 2], 2), np.ones(6))
    assert distinct_paths(everything, [one, two], task) == 4  # two of the first prompt, two of the second


def test_what_is_kept_is_judged_cell_by_cell_whichever_round_drew_it(few_prompts):
    """Right are the digits below 5: of the cells kept twice, 3 and 4; each counts as often as it is kept."""
    one, two = pool_of([["1", "9"], ["7", "2"]], "one"), pool_of([["8"], ["3"]], "two")
    chosen = Selection(np.array([0, 0, 1, 1, 1]), np.array([1, 2, 1, 2, 1]), np.ones(5))
    assert kept_correct(chosen, [one, two], few_prompts, Numbers()) == 3
    assert kept_correct(Selection(*np.empty((3, 0), int)), [one], few_prompts, Numbers()) == 0


# --- the balance score -------------------------------------------------------------------------------------------


def test_balance_score_by_hand():
    """Kept of prompt 0: x, x, y, of which x is right: 1 of 2 distinct, expected 2: 1/2 x 1/2. Of prompt 1: all right,
    more than expected: 1. Of prompt 2: nothing."""
    texts = np.array([["x", "x", "y"], ["p", "q", "r"], ["s", "t", "u"]], object)
    right = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]], bool)
    kept = Selection(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2]), np.ones(6))
    assert balance_score(kept, texts, right, 2).tolist() == [0.25, 1.0, 0.0]


BASE = Policy(Path("base"), "base")


def stub_parts(task, generation, scoring, **given) -> Parts:
    """Parts of which a test gives what it looks at; the policy is BASE, and nothing can be trained or judged."""
    others: dict = {"policy": lambda task: BASE, "prompt_filter": every_prompt, "selection": top_per_prompt}
    others |= {"training": None, "evaluation": None, "baseline_completions": 3, "control": "none", "split": "test"}
    return Parts(task=task, generation=generation, scoring=scoring, **{**others, "seed": 5, **given})


class Readable(Task):
    """What selections may ask a task for."""

    def path(self, completion: str) -> str:
        return completion

    extract_answer = steps_are_true = path


class Numbers(Readable):
    """A task whose completions are right where they are a digit below 5."""

    def __init__(self, few_prompts=None):
        self.few = few_prompts

    def prompts(self, split):
        return self.few

    def is_correct(self, completion: str, answer: str) -> bool:
        return completion[0] in "01234"


def test_the_temperature_and_threshold_of_the_highest_score_are_taken(few_prompts):
    """Samples at the higher temperature are more and one is wrong with a low reward: only a threshold keeps it out."""
    drawn = {0.5: ["1", "1", "1", "1"], 1.0: ["1", "2", "3", "9"]}
    asked = []

    def generation(prompts, policy, *, num_completions, seed, temperature):
        asked.append((len(prompts), num_completions, seed, temperature))
        return pool_of([drawn[temperature]] * len(prompts))

    def scoring(prompts, completions):
        return Rewards(np.where(np.asarray(completions.text) == "9", 0.2, 0.8))

    def chosen(selection, thresholds) -> Adapted:
        parts = stub_parts(Numbers(few_prompts), generation, scoring, selection=selection, num_completions=4)
        return by_balance_score(
            parts, BASE, temperatures=[0.5, 1.0], thresholds=thresholds, expected=3, prompts_probed=3, seed=7
        )

    assert chosen(threshold, [0.1, 0.5]) == Adapted(1.0, 0.5, 1.0)
    assert chosen(threshold, [0.1]) == Adapted(1.0, 0.1, 0.75)  # all three that are expected, three of four right
    assert set(asked) == {(3, 4, 7, 0.5), (3, 4, 7, 1.0)}
    assert chosen(top_per_prompt, None).threshold is None
    with pytest.raises(BenchError, match="threshold"):
        with_threshold(softmax, 0.5)


def test_what_is_probed_is_chosen_by_log_probabilities_of_the_base_whoever_drew(few_prompts, monkeypatch):
    base, later = BASE, Policy(Path("later"), "later")
    asked, given = [], []

    def rescored(policy, prompts, completions):
        asked.append((policy.key, len(prompts)))
        return np.full(completions.shape, -7.0)

    def chosen(rewards, rng, *, logprob):
        given.append(float(logprob[0, 0]))
        return top_per_prompt(rewards, rng)

    monkeypatch.setattr("bench.selection.evidence.sequence_logprobs", rescored)
    for drawer in (base, later):
        parts = stub_parts(
            Numbers(few_prompts),
            lambda prompts, policy, **how: pool_of([["1", "9"]] * len(prompts)),
            lambda prompts, completions: Rewards(np.ones(completions.shape)),
            selection=chosen,
            num_completions=2,
        )
        by_balance_score(parts, drawer, temperatures=[1.0], thresholds=None, expected=1, prompts_probed=3, seed=7)
    assert given == [-2.0, -7.0]  # of the base's own pool, its own; of another's, counted anew
    assert asked == [("base", 3)]


# --- the loop, with parts that are seen through ---------------------------------------------------------------------


class Loop(Readable):
    """Parts that draw "policy, sample" and fine-tune by counting; what they were asked for is kept."""

    max_new_tokens = 4

    def __init__(self, few_prompts, validation=(0.0, 0.5, 0.4, 0.9)):
        self.few, self.validation = few_prompts, list(validation)
        self.drawn, self.trained, self.judged = [], [], []

    def prompts(self, split):
        return self.few

    def generation(self, prompts, policy, *, num_completions, seed, temperature=1.0, top_p=1.0, top_k=0):
        self.drawn.append((policy.key, num_completions, seed, temperature))
        texts = [[f"{policy.key}{sample}" for sample in range(num_completions)] for _ in range(len(prompts))]
        return pool_of(texts, key=f"{policy.key}-{seed}-{num_completions}")

    def scoring(self, prompts, completions):
        """Prompt m's best sample is number m modulo N; later policies' are better by their number of trainings."""
        better = np.array([[len(text) for text in row] for row in np.asarray(completions.text)], float)
        best = np.arange(len(prompts))[:, None] % completions.shape[1] == np.arange(completions.shape[1])
        return Rewards(better + best)

    def training(self, policy, prompts, completions, selection, *, seed):
        texts = [completions.text[cell] for cell in zip(selection.row, selection.column, strict=True)]
        self.trained.append((policy.key, tuple(texts), seed))
        return Policy(Path(f"made{len(self.trained)}"), f"made{len(self.trained)}")

    def evaluation(self, policy, base, prompts, generation, scoring, task, others, *, validation=None, seed):
        self.judged.append((policy.key, base.key))

    def run(self, monkeypatch, **settings):
        monkeypatch.setattr("bench.procedures.parts.grade", lambda *given: None)
        if "stop" in settings:
            values = iter(self.validation)
            monkeypatch.setattr("bench.procedures.parts.verify", lambda *a, **b: _Value(next(values)))
        given = {"rounds": 2, "start": "base", "train_on": "last", "stop": "none", "validation_completions": 2}
        given = {**given, "adapt": None, **settings}
        shared = {name: given.pop(name) for name in ("control", "num_completions") if name in given}
        work = {"training": self.training, "evaluation": self.evaluation}
        parts = stub_parts(self, self.generation, self.scoring, **work, **{"num_completions": 3, **shared})
        return in_rounds(parts, **given)


class _Value:
    def __init__(self, mean: float) -> None:
        self.value = np.array([[mean]])


@pytest.mark.parametrize("start", ["base", "current"])
def test_each_round_draws_from_the_last_policy_and_starts_where_it_is_told(few_prompts, monkeypatch, start):
    loop = Loop(few_prompts)
    loop.run(monkeypatch, start=start)
    assert [drawn[:3] for drawn in loop.drawn] == [("base", 3, 5), ("made1", 3, round_seed(5, 2)), ("base", 3, 5)]
    assert [trained[0] for trained in loop.trained] == ["base", "base" if start == "base" else "made1"]
    assert [trained[2] for trained in loop.trained] == [5, round_seed(5, 2)]
    assert round_seed(5, 1) == 5
    assert len({round_seed(5, number) for number in (1, 2, 3)}) == 3


def test_every_policy_is_judged_against_the_original_base_and_once(few_prompts, monkeypatch):
    loop = Loop(few_prompts)
    results = loop.run(monkeypatch, start="current", control="matched")
    assert loop.judged == [("base", "base"), *((f"made{i}", "base") for i in (1, 2, 3, 4))]
    assert set(results.outcomes) == {
        *("base", "tuned", "control", "round_1", "round_1_control", "round_2", "round_2_control")
    }


def test_what_is_trained_on_by_hand(few_prompts, monkeypatch):
    """Of seven prompts, number m's best is sample m modulo 3; round 2's samples all beat round 1's."""
    first = [f"base{m % 3}" for m in range(7)]
    second = [f"made1{m % 3}" for m in range(7)]
    expected = {
        "last": second,
        "best": second,
        "union": [text for pair in zip(first, second, strict=True) for text in pair],
    }
    for train_on, texts in expected.items():
        loop = Loop(few_prompts)
        results = loop.run(monkeypatch, train_on=train_on)
        assert list(loop.trained[0][1]) == first
        assert list(loop.trained[1][1]) == texts, train_on
        chosen = results.selections["tuned"]
        assert [results.pool.text[cell] for cell in zip(chosen.row, chosen.column, strict=True)] == texts
        assert results.rewards.value.shape == results.pool.shape == (7, 6)
        assert results.findings.cost(results, []).completions_trained == 7 + len(texts)


def test_the_best_so_far_may_be_an_earlier_rounds(few_prompts, monkeypatch):
    """With later samples worth less, the buffer keeps the first round's where the last round alone is worse."""
    loop = Loop(few_prompts)
    better = loop.scoring

    def worse(prompts, completions):
        return Rewards(-better(prompts, completions).value)

    loop.scoring = worse
    loop.run(monkeypatch, train_on="best")
    assert {text[:4] for text in loop.trained[1][1]} == {"base"}


@pytest.mark.parametrize("train_on", ["last", "union", "best"])
def test_the_control_keeps_as_many_of_each_prompt_from_its_own_policy(few_prompts, monkeypatch, train_on):
    loop = Loop(few_prompts)
    results = loop.run(monkeypatch, train_on=train_on, control="matched")
    assert [(drawn[0], drawn[2]) for drawn in loop.drawn[:4]] == [
        *[("base", 5)] * 2,
        *[("made1", round_seed(5, 2)), ("made2", round_seed(5, 2))],
    ]
    for tuned, control in zip(results.findings.each[::2], results.findings.each[1::2], strict=True):
        assert (tuned.arm, control.arm, tuned.number) == ("tuned", "control", control.number)
        assert tuned.chosen.row.tolist() == control.chosen.row.tolist()
        assert control.rewards is None
    assert {text[:5] for text in loop.trained[3][1]} <= {"base0", "base1", "base2", "made2"}


def test_it_stops_where_validation_does_not_rise_and_keeps_the_best(few_prompts, monkeypatch):
    """pass@1 of base, round 1, round 2: 0, .5, .4. Round 3 is not run, and round 1 is the result."""
    loop = Loop(few_prompts)
    results = loop.run(monkeypatch, rounds=3, stop="validation")
    assert (results.findings.base_validation, *[one.validation for one in results.findings.each]) == (0.0, 0.5, 0.4)
    assert results.policies["tuned"].key == "made1"
    falling = Loop(few_prompts, validation=(0.5, 0.1))
    assert falling.run(monkeypatch, rounds=3, stop="validation").policies["tuned"].key == "made1"
    assert len(falling.trained) == 1


def test_the_chosen_sampler_draws_both_arms_and_selects(few_prompts, monkeypatch):
    def adapt(parts, policy, *, seed):
        return Adapted(0.7, None, 0.5)

    loop = Loop(few_prompts)
    loop.run(monkeypatch, control="matched", adapt=adapt)
    assert [drawn[3] for drawn in loop.drawn] == [0.7] * 4 + [1.0]  # Best-of-N keeps the run's own


def test_a_filter_counts_the_prompts_of_the_result(few_prompts, monkeypatch):
    loop = Loop(few_prompts)
    assert loop.run(monkeypatch).prompts_filtered == 0
    assert all_correct(np.array([[1.0, 0.0]]), np.random.default_rng(0)).row.tolist() == [0]


# --- a small run, as a user starts it ------------------------------------------------------------------------------


def run(folder: Path, policy: Policy, *settings: str, **given: Any) -> subprocess.CompletedProcess:
    return forked.run([*given_by(policy), *SMALL, *places(folder), *settings], folder, **given)


def die_in_the_second_round() -> None:
    """End the process at the third fine-tuning."""
    fine_tune, trained = sft.fine_tune, []

    def fine_tune_or_die(*given, **settings):
        if len(trained) == 2:
            os._exit(9)
        trained.append(fine_tune(*given, **settings))
        return trained[-1]

    fine_tune_or_die.__signature__ = inspect.signature(fine_tune)  # type: ignore[attr-defined]
    sft.fine_tune = fine_tune_or_die


@pytest.fixture(scope="module")
def finished(shared: Shared, tiny_policy: Policy) -> Path:
    """Killed after its first round was trained, then run to its end; and a single round from the same store."""
    settings = ["procedure=rounds", "procedure.rounds=2", "procedure.start=current", "prompt_filter=all"]

    def make(folder: Path) -> None:
        first = run(folder, tiny_policy, *settings, prepare=die_in_the_second_round)
        assert first.returncode == 9, first.stderr
        before = {path: path.stat().st_mtime_ns for path in (folder / "store").glob("*/*/**/manifest.json")}
        assert len([path for path in before if "sft" in path.parts]) == 2
        for given in (settings, ["name=single", "procedure=single", "prompt_filter=all"]):
            ended = run(folder, tiny_policy, *given)
            assert ended.returncode == 0, ended.stderr
        assert {path: path.stat().st_mtime_ns for path in before} == before, "made again"

    return shared.once("rounds", make)


def records(folder: Path, name: str = "default") -> tuple[Path, dict]:
    (path,) = folder.glob(f"outputs/{name}/*/metrics.json")
    return path.parent, json.loads(path.read_text())


def test_every_round_is_in_the_records(finished):
    folder, found = records(finished)
    assert (found["rounds/run"], found["rounds/result"]) == (2, 2)
    for name in ("pass@1", "pass@4", "greedy_accuracy", "kl", "kept", "distinct_paths", "entropy", "entropy_per_token"):
        for policy in ("round_1", "round_2", "round_2_control"):
            assert found[f"{policy}/{name}"] is not None, (policy, name)
    assert found["tuned/pass@1"] == found["round_2/pass@1"]
    assert found["round_1/kept"] == found["round_1_control/kept"] == 40
    assert found["round_2/kept"] == found["round_2_control/kept"] == found["selection/kept"] == 80
    assert found["round_2/selected"] == 40
    best = round(found["round_1/pool_reward"] * 160)  # right ones in the pool: each prompt with one keeps one
    assert 0 < found["round_1/kept_correct"] <= min(40, best)
    assert found["round_1_control/kept_correct"] <= found["round_2_control/kept_correct"] <= 80
    assert "base/validation_pass@1" not in found
    assert found["round_2/entropy"] > 0
    curves = pq.read_table(folder / "curves.parquet").to_pylist()
    assert {"round_1", "round_2", "round_1_control", "round_2_control"} <= {row["policy"] for row in curves}


def test_the_kl_reference_of_every_round_is_the_original_base(finished, tiny_policy: Policy):
    entries = json.loads((records(finished)[0] / "lineage.json").read_text())
    measured = [entry for entry in entries if entry["stage"] == "divergence_samples"]
    assert len(measured) == 5  # base, two rounds, their controls
    assert {entry["parents"]["reference"] for entry in measured} == {tiny_policy.key}


def test_round_2_starts_from_round_1_and_draws_from_it(finished, tiny_policy: Policy):
    entries = json.loads((records(finished)[0] / "lineage.json").read_text())
    starts = [entry["parents"]["policy"] for entry in entries if entry["stage"] == "sft"]
    assert starts[:2] == [tiny_policy.key] * 2
    assert tiny_policy.key not in starts[2:]
    assert len(set(starts[2:])) == 2  # the tuned one and its control each go on from their own
    links = json.loads((records(finished)[0] / "chain.json").read_text())
    named = {link["role"]: link for link in links if link["type"] == "policy"}
    assert {"base", "round_1", "round_1_control", "tuned", "control"} == set(named)
    assert named["round_1"]["name"] in named["tuned"]["parents"]
    pools = [link for link in links if link["type"] == "pool"]
    assert [pool["parents"] for pool in pools] == [
        [named["base"]["name"]],
        [named["round_1"]["name"]],
        [named["round_1_control"]["name"]],
    ]
    names = [link["name"] for link in links]
    assert len(set(names)) == len(names)
    assert all(parent in names for link in links for parent in link["parents"])
    kept = pq.read_table(records(finished)[0] / "selection_tuned.parquet").to_pylist()
    assert [row["round"] for row in kept] == [1, 2] * 40
    assert {row["sample"] for row in kept} <= {0, 1, 2, 3}


def test_a_single_round_shares_the_first(finished):
    """What a single-round experiment needs of training is there already: its numbers are round 1's."""
    single, rounds = records(finished, "single")[1], records(finished)[1]
    for name in ("pass@1", "greedy_accuracy", "kl"):
        assert single[f"tuned/{name}"] == rounds[f"round_1/{name}"]
        assert single[f"control/{name}"] == rounds[f"round_1_control/{name}"]
    assert single["saved/generated_tokens"] == single["cost/generated_tokens"]
    # a query reads its prompt once, however many rounds read it for training; answers differ a little in length
    assert rounds["cost/tuned_query_flops"] == pytest.approx(single["cost/tuned_query_flops"], rel=0.1)


# --- the report ----------------------------------------------------------------------------------------------------

SKILL = {"round_1": 0.4, "round_2": 0.5, "round_1_control": 0.25, "round_2_control": 0.2}
COUNTS = {"rounds/run": 2, "base/entropy_per_token": 0.5, "round_1/kept": 40, "round_2/kept": 80}
VALIDATED = {"base/validation_pass@1": 0.25, "round_1/validation_pass@1": 0.5, "round_2/validation_pass@1": 0.4}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list:
    outputs = tmp_path_factory.mktemp("reported")
    return [
        made_run(outputs, seed=seed, skill=SKILL, metrics=COUNTS, settings={"procedure.start": start})
        for start in ("base", "current")
        for seed in (0, 1)
    ]


def test_the_table_has_a_row_a_round_and_arm(reported, tmp_path):
    table = rounds_table(grouped(reported))
    assert table is not None
    told = [(row["config.procedure.start"], row["arm"], row["round"]) for row in table.rows]
    arms = [("base", 0), ("tuned", 1), ("tuned", 2), ("random control", 1), ("random control", 2)]
    assert told == [(start, *arm) for start in ("base", "current") for arm in arms]
    of_two_seeds = reported[:2]
    for row in table.rows[1:3]:
        values = [run.per_prompt(f"round_{row['round']}", "pass", "accuracy", 1).mean() for run in of_two_seeds]
        assert row["pass"] == pytest.approx(np.mean(values))
        assert row["kept"] == 40 * row["round"]
    assert rounds_table(grouped([made_run(tmp_path)])) is None
    assert "validation_pass@1" not in table.columns
    stopped = rounds_table(grouped([made_run(tmp_path, seed=1, skill=SKILL, metrics=COUNTS | VALIDATED)]))
    assert stopped is not None
    assert [row["validation_pass@1"] for row in stopped.rows] == [0.25, 0.5, 0.4, None, None]


def test_the_figure_draws_its_rows(reported, tmp_path):
    figure = rounds_figure(grouped(reported))
    assert figure is not None
    with drawn(figure) as canvas:
        panels = canvas.axes
        assert len(panels) == 4
        for axes in panels[2:]:  # the lower ones have the numbers of the shared axis
            assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]
        for axes in panels:
            lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
            assert len(lines) == 4  # two groups, each with its control
            for line in lines:
                values = line.get_ydata()
                rows = [row for row in figure.rows if row["measure"] == axes.get_ylabel().replace("\n", " ")]
                assert any(
                    np.allclose(values, [row["value"] for row in rows[start : start + 3]])
                    for start in range(0, len(rows), 3)
                )
    assert {row["round"] for row in figure.rows} == {0, 1, 2}
    assert rounds_figure(grouped([made_run(tmp_path)])) is None


def test_a_plan_counts_what_cells_share():
    """A seed's six cells share the first pool and its trainings; the second round draws once from each policy of it."""
    grid = ["procedure.start=base,current", "procedure.train_on=last,union,best", "evaluation.temperatures=null"]
    found = cells_of_sweep(["procedure=rounds", "task.train_prompts=10", "num_completions=4", *grid], CONF)
    assert found is not None
    planned = workload(found)
    assert len(found) == 6
    assert planned.pools == 1 + 2 + 6 * 2  # round 1; round 2, of each arm; round 3, of each arm and cell
    assert planned.trainings == 2 + 6 * 2 + 6 * 2
    assert planned.evaluations == 1 + planned.trainings
