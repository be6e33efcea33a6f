"""A search: judged on validation alone, chosen by rule, looked at on test once, resumed, and honest about all of it."""

import copy
import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from sharing import places, replaced

from bench import report as reports
from bench import search as searching
from bench import status
from bench.config.compose import CONF, composing
from bench.config.keys import run_folder
from bench.errors import BenchError
from bench.records.fingerprint import code_of
from bench.search import Search, loop, report, space
from bench.seeds import generator

SPACE = ["hydra/sweeper=optuna", "temperature=interval(0.5,1.5)", "top_p=interval(0.6,1.0)", "control=none"]
PROMPTS = 40


def reads(folder: Path, *settings: str) -> Search:
    """The search that these settings, after the usual ones, ask for."""
    found = searching.read(replaced([*SPACE, *places(folder)], *settings), CONF)
    assert found is not None
    return found


def parsed(override: str) -> Any:
    return space.distribution(OverridesParser.create().parse_override(override))


def configured(*job: str) -> DictConfig:
    """What these overrides compose, quicker for many cells."""
    values = ("temperature=", "top_p=", "split=", "num_completions=", "selection.k=")
    numbers = [override for override in job if override.startswith(values)]
    cfg = copy.deepcopy(genuinely_composed(*(override for override in job if override not in numbers)))
    OmegaConf.update(cfg, "split", "test")
    for override in OverridesParser.create().parse_overrides(numbers):
        OmegaConf.update(cfg, override.key_or_group, override.value())
    return cfg


@functools.cache
def genuinely_composed(*job: str) -> DictConfig:
    with composing(CONF):
        return compose("config", list(job))


class Cells:
    """In place of a launcher: leaves what cells would; accuracy is highest at temperature 0.8, KL is about top-p."""

    def __init__(self, *, fails_below: float = 0.0, stops_after: float = float("inf")) -> None:
        self.fails_below, self.stops_after = fails_below, stops_after
        self.rounds: list[list[tuple[str, float, float]]] = []  # (split, temperature, top-p)

    def __call__(self, jobs: Sequence[Sequence[str]]) -> None:
        self.rounds.append([])
        for job in jobs:
            if sum(map(len, self.rounds)) >= self.stops_after:
                raise KeyboardInterrupt
            cfg = configured(*job)
            self.rounds[-1].append((cfg.split, cfg.temperature, cfg.top_p))
            folder = run_folder(cfg)
            folder.mkdir(parents=True)
            if cfg.temperature < self.fails_below:
                (folder / "error.txt").write_text("too cold")
            else:
                leave_run(folder, cfg)

    @property
    def ran(self) -> list[tuple[str, float, float]]:
        return [cell for one in self.rounds for cell in one]


def leave_run(folder: Path, cfg: Any) -> None:
    rng = generator(0, cfg.split, str(cfg.temperature), str(cfg.top_p))
    mean = 0.6 - (cfg.temperature - 0.8) ** 2 - (0.1 if cfg.split == "test" else 0.0)
    values = {
        ("tuned", "pass", "accuracy", 1): mean + 0.1 * rng.standard_normal(PROMPTS),
        ("tuned", "policy", "kl", 1): cfg.top_p + 0.01 * rng.standard_normal(PROMPTS),
    }
    keys = ("policy", "method", "metric", "n")
    named = [dict(zip(keys, key, strict=True)) for key in values]
    curves = [one | {"value": v.mean(), "low": 0.0, "high": 1.0} for one, v in zip(named, values.values(), strict=True)]
    rows = [
        {"prompt_id": f"p{i}"} | one | {"value": float(v[i])}
        for one, v in zip(named, values.values(), strict=True)
        for i in range(PROMPTS)
    ]
    pq.write_table(pa.Table.from_pylist(curves), folder / "curves.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "per_prompt.parquet")
    for name in ("samples.parquet", "diagnostics.parquet", "chain.json", "lineage.json"):
        (folder / name).touch()
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    means = {"tuned/pass@1": curves[0]["value"], "tuned/kl": curves[1]["value"], "tuned/length": None, "note": "x"}
    ends = {f"{name}_{end}": 0.5 for name in ("tuned/pass@1", "tuned/kl", "tuned/length") for end in ("low", "high")}
    (folder / "metrics.json").write_text(json.dumps({"code": "any", "cost/flops": 1.0, **means, **ends}))
    (folder / "code.json").write_text(json.dumps(code_of(OmegaConf.to_container(cfg, resolve=True))))


def now(search: Search) -> loop.Progress:
    return loop.progress(search, search.study())


@pytest.mark.parametrize(
    ("override", "ends", "inside", "outside", "said"),
    [
        ("x=interval(0.5,1.5)", ["0.5", "1.5"], [0.5, 1, 1.2345], [0.4, True, "a"], "0.5 to 1.5"),
        ("x=tag(log,interval(1e-5,1e-3))", ["1e-05", "0.001"], [1e-4], [0], "1e-05 to 0.001 (log)"),
        ("x=int(interval(1,8))", ["1", "8"], [1, 8], [9], "1 to 8"),
        ("x=range(1,9,2)", ["1", "7"], [1, 3, 7], [2, 9], "1 to 7 by 2"),
        ("x=range(0.5,1.0,0.1)", ["0.5", "0.9"], [0.5, 0.7], [0.75, 1.0], "0.5 to 0.9 by 0.1"),
        ("x=softmax,rso", ["softmax", "rso"], ["rso"], ["mbr"], "softmax, rso"),
        ("x=4,16", ["4", "16"], [4, "16"], [8], "4, 16"),
    ],
)
def test_a_space_is_what_hydra_writes(override, ends, inside, outside, said):
    found = parsed(override)
    assert [space.as_text(found, value) for value in space.extremes(found)] == ends
    assert all(space.contains(found, value) for value in inside)
    assert not any(space.contains(found, value) for value in outside)
    assert space.described(found) == said
    drawn = [space.draw(found, generator(0, "draw", i)) for i in range(50)]
    assert all(space.contains(found, value) for value in drawn)
    assert len(set(drawn)) > 1


def test_numbers_are_typed_to_four_digits_and_stay_inside():
    assert space.as_text(parsed("x=interval(0,2)"), 0.123456789) == "0.1235"
    assert space.as_text(parsed("x=interval(0,2)"), 1) == "1.0"  # never a whole number: another configuration
    assert space.as_text(parsed("x=interval(0.123456,0.9)"), 0.899999) == "0.9"
    assert space.as_text(parsed("x=interval(0.123456,0.9)"), 0.123456) == "0.1235"
    assert space.as_text(parsed("x=interval(0.123486,0.9)"), 0.123486) == "0.1235"
    assert space.as_text(parsed("x=interval(0.5,0.99996)"), 0.99996) == "0.99996"  # 1.0 would be outside


def test_a_grid_is_no_search(tmp_path: Path):
    assert searching.read(["sweep=num_completions_by_temperature"], CONF) is None
    assert searching.read(["temperature=0.7,1.0", f"store={tmp_path}"], CONF) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["temperature=1.0", "top_p=1.0"], "needs settings to vary"),
        (["split=test"], "split is not a setting of a search"),
        (["temperature=interval(0,1)"], "temperature=0 is greedy"),
        (["top_p=interval(0.5,1.5)"], "top_p=1.5 is not allowed"),
        (["temprature=interval(0.5,1.5)"], "Could not override 'temprature'"),
        (["hydra.sweeper.trials=0"], "hydra.sweeper.trials=0 is not allowed: it must be a whole number of at least 1"),
        (["temperature=interval(1.6,0.4)"], "temperature=interval(1.6,0.4) can't be searched: "),
        (["temperature=tag(log,interval(0.0,1.6))"], "temperature=tag(log,interval(0.0,1.6)) can't be searched: "),
        (["num_completions=range(4,4)"], "num_completions=range(4,4) can't be searched: it gives no value."),
        (
            ["training.epochs=null", "training.updates=range(20,80)"],
            "The experiment without a search, which is judged at its end, can't be run: training.epochs=null",
        ),
        (["hydra.sweeper.limit=low"], "hydra.sweeper.limit=low is not allowed"),
        (["hydra.sweeper.maximize=null"], "hydra.sweeper.maximize=null is not allowed"),
        (["scoring=trained_reward_model", "scoring.pairs_from=validation"], "scoring.pairs_from=validation"),
    ],
)
def test_an_impossible_search_is_refused_before_it_begins(settings, said, tmp_path: Path):
    with pytest.raises((BenchError, ConfigCompositionException), match=re.escape(said)):
        reads(tmp_path, *settings)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_is_what_its_overrides_compose(tmp_path: Path):
    varied = [
        "selection=top_per_prompt,softmax",
        "num_completions=range(2,5)",
        "training.learning_rate=tag(log,interval(1e-4,1e-2))",
    ]
    found = reads(tmp_path, "seed=3", *varied)
    params = {"temperature": 0.77777, "top_p": 1.0, "num_completions": 3, "training.learning_rate": 2e-4}
    for selection in ("softmax", "top_per_prompt"):
        for split in ("validation", "test"):
            cell = found.cell(params | {"selection": selection}, split)
            job = found.overrides(params | {"selection": selection}, split)
            assert cell.folder == run_folder(genuinely_composed(*job))
            assert (cell.cfg.temperature, cell.cfg.generation.temperature, cell.cfg.split) == (0.7778, 0.7778, split)
            assert cell.cfg.selection._target_ == f"bench.selection.{selection}"


def test_the_baseline_is_the_experiment_without_a_search(tmp_path: Path):
    found = reads(tmp_path, "selection=top_per_prompt,softmax", "num_completions=2,4")
    assert found.baseline == {"temperature": 1.0, "top_p": 1.0, "selection": "top_per_prompt", "num_completions": 16}
    assert not found.baseline_is_inside  # 16 completions are not searched
    assert reads(tmp_path).baseline_is_inside


def test_a_baseline_among_listed_values_is_the_first_trial(tmp_path: Path):
    """A number, true or null, which Optuna knows by their texts."""
    listed = ["num_completions=8,16", "training.gradient_checkpointing=true,false", "training.micro_batch_size=4,null"]
    found, cells = reads(tmp_path, *listed, "hydra.sweeper.trials=2", "hydra.sweeper.at_once=2"), Cells()
    loop.run(found, cells)
    assert now(found).trials[0].cell.folder == found.cell(found.baseline).folder
    assert [len(one) for one in cells.rounds] in ([2, 1], [2, 2])


def test_a_default_of_null_beside_a_range_is_judged_as_null(tmp_path: Path):
    assert space.as_text(parsed("x=interval(0.5,1.5)"), None) == "null"
    found = reads(tmp_path, "training.micro_batch_size=range(1,3)")
    assert found.cell(found.baseline).cfg.training.micro_batch_size is None
    assert not found.baseline_is_inside


def test_test_prompts_are_looked_at_last_and_for_the_chosen_and_the_baseline_only(tmp_path: Path):
    found, cells = reads(tmp_path, "hydra.sweeper.trials=10", "hydra.sweeper.at_once=4"), Cells()
    loop.run(found, cells)
    assert [len(one) for one in cells.rounds] == [4, 4, 2, 2]
    assert {split for one in cells.rounds[:-1] for split, *_ in one} == {"validation"}
    assert cells.ran[0] == ("validation", 1.0, 1.0)
    known = now(found).trials
    best = max(known, key=lambda trial: trial.values[0])
    chosen = (float(space.as_text(found.space[key], best.params[key])) for key in ("temperature", "top_p"))
    assert cells.rounds[-1] == [("test", *chosen), ("test", 1.0, 1.0)]
    front = {
        one.number
        for one in known
        if not any(o.values[0] >= one.values[0] and o.values[1] <= one.values[1] and o is not one for o in known)
    }
    assert front == {trial.number for trial in known if trial.best}
    assert 0 < len(front) < 10


def test_proposals_learn(tmp_path: Path):
    cells = Cells()
    loop.run(reads(tmp_path, "hydra.sweeper.trials=24"), cells)
    tried = np.array([cell[1:] for cell in cells.ran[:24]])
    far = np.abs(tried[:, 0] - 0.8) + tried[:, 1] - 0.6  # from the best in both
    assert far[-8:].mean() < far[:8].mean() / 1.5


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path):
    whole, stopped, rest = Cells(), Cells(stops_after=3), Cells()
    sizes = ["hydra.sweeper.trials=4", "hydra.sweeper.at_once=2"]
    loop.run(reads(tmp_path / "whole", *sizes), whole)
    with pytest.raises(KeyboardInterrupt):
        loop.run(reads(tmp_path / "stopped", *sizes), stopped)
    loop.run(reads(tmp_path / "stopped", *sizes), rest)
    assert stopped.ran + rest.ran == whole.ran
    again = Cells()
    loop.run(reads(tmp_path / "stopped", *sizes), again)
    assert again.ran == []


def test_seeds_propose_differently(tmp_path: Path):
    one, other = Cells(), Cells()
    loop.run(reads(tmp_path / "one", "hydra.sweeper.trials=3"), one)
    loop.run(reads(tmp_path / "other", "hydra.sweeper.trials=3", "hydra.sweeper.seed=1"), other)
    assert one.ran[0] == other.ran[0]
    assert not set(one.ran[1:3]) & set(other.ran[1:3])


def test_a_failed_cell_is_told_and_the_search_goes_on(tmp_path: Path):
    found, cells = reads(tmp_path, "hydra.sweeper.trials=10"), Cells(fails_below=0.9)
    loop.run(found, cells)
    cold = [cell for cell in cells.ran if cell[1] < 0.9]
    known = now(found).trials
    assert 0 < len(cold) < 10
    assert sum(trial.failed for trial in known) == len(cold)
    assert {trial.state.detail for trial in known if trial.failed} == {"too cold"}
    text, complete = report.conclusion(found)
    assert complete
    assert f"10 trials: {10 - len(cold)} done, {len(cold)} failed" in text
    assert text.count("failed (too cold)") == len(cold)
    again = Cells()
    loop.run(found, again)  # a failure was an answer
    assert again.ran == []


def test_what_is_impossible_only_together_fails_unlaunched(tmp_path: Path):
    varied = ["temperature=1.0", "top_p=1.0", "selection=top_k_per_prompt"]
    found = reads(
        tmp_path, *varied, "num_completions=range(8,17)", "selection.k=range(1,13)", "hydra.sweeper.trials=20"
    )
    launched: list[list[str]] = []

    def launch(jobs: Sequence[Sequence[str]]) -> None:
        launched.extend(list(job) for job in jobs)
        Cells()(jobs)

    loop.run(found, launch)
    failed = [trial for trial in now(found).trials if trial.failed]
    assert failed
    assert all(trial.params["selection.k"] > trial.params["num_completions"] for trial in failed)
    assert all("is more than each prompt has" in trial.state.detail for trial in failed)
    assert len(launched) < 20


def test_the_choice_keeps_to_the_limit(tmp_path: Path):
    found, cells = reads(tmp_path, "hydra.sweeper.trials=10", "hydra.sweeper.limit=0.8"), Cells()
    loop.run(found, cells)
    known = now(found).trials
    chosen = now(found).chosen
    assert chosen is not None
    assert chosen.values[1] <= 0.8 < max(trial.values[1] for trial in known)
    assert chosen.values[0] == max(trial.values[0] for trial in known if trial.values[1] <= 0.8)
    assert "with tuned/kl at most 0.8" in report.conclusion(found)[0]


def test_where_no_trial_keeps_to_it_nothing_is_chosen_and_test_stays_unseen(tmp_path: Path):
    found, cells = reads(tmp_path, "hydra.sweeper.trials=4", "hydra.sweeper.limit=0.1"), Cells()
    loop.run(found, cells)
    assert {split for split, *_ in cells.ran} == {"validation"}
    text, complete = report.conclusion(found)
    assert not complete
    assert "no trial has tuned/kl at most hydra.sweeper.limit=0.1" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("hydra.sweeper.maximize=tuned/pass@2", "did you mean tuned/pass@1?"),
        ("hydra.sweeper.maximize=note", "hydra.sweeper.maximize=note is not a number"),
        ("hydra.sweeper.maximize=cost/flops", "has no value per prompt"),
        ("hydra.sweeper.minimize=tuned/kll", "did you mean tuned/kl or tuned/kl_low?"),
    ],
)
def test_an_objective_that_runs_do_not_have_stops_the_search(settings, said, tmp_path: Path):
    with pytest.raises(BenchError, match=re.escape(said)):
        loop.run(reads(tmp_path, settings, "hydra.sweeper.trials=2"), Cells())


def test_an_undefined_objective_is_a_failure(tmp_path: Path):
    found = reads(tmp_path, "hydra.sweeper.minimize=tuned/length", "hydra.sweeper.trials=2")
    loop.run(found, Cells())
    assert [trial.state.detail for trial in now(found).trials] == [
        "its objectives are undefined or it left no result"
    ] * 2
    assert "no trial has both objectives" in report.conclusion(found)[0]


def test_the_conclusion_by_hand(tmp_path: Path):
    found = reads(tmp_path, "hydra.sweeper.trials=6")
    loop.run(found, Cells())
    text, complete = report.conclusion(found)
    assert complete
    record = json.loads((found.root / report.RECORD).read_text())
    known = now(found).trials
    chosen = max(known, key=lambda trial: trial.values[0])
    on = {
        split: loop.per_prompt(report.read_run(found.cell(chosen.params, split).folder), "tuned/pass@1")
        for split in ("validation", "test")
    }
    curse = record["winners_curse"]
    assert curse["trials"] == 6
    assert curse["value"] == pytest.approx(on["validation"].mean() - on["test"].mean())
    error = np.sqrt(sum(values.var(ddof=1) / PROMPTS for values in on.values()))
    assert curse["high"] - curse["value"] == pytest.approx(1.991 * error, rel=0.002)  # t with 78 degrees of freedom
    # six cells with independent noise of standard deviation 0.1, and E[max of 6] = 1.267
    assert curse["if_equal"] == pytest.approx(1.267 * 0.1 / np.sqrt(PROMPTS), rel=0.15)
    before = loop.per_prompt(report.read_run(found.cell(found.baseline, "test").folder), "tuned/pass@1")
    assert record["chosen_less_baseline"]["value"] == pytest.approx((on["test"] - before).mean())
    assert record["chosen"]["run"] == found.cell(chosen.params, "test").folder.name
    assert f"trial {chosen.number}, {chosen.cell.label}" in text
    assert "had been looked at" not in text


def test_more_trials_go_on_and_a_second_look_at_test_is_told(tmp_path: Path):
    cells = Cells()
    loop.run(reads(tmp_path, "hydra.sweeper.trials=2"), cells)
    few = cells.ran
    more = reads(tmp_path, "hydra.sweeper.trials=16")
    loop.run(more, cells)
    assert len(set(cells.ran)) == len(cells.ran) >= len(few) + 15  # nothing ran twice
    assert len([cell for cell in cells.ran if cell[0] == "validation"]) == 16
    text, _ = report.conclusion(more)
    assert "The test prompts had been looked at before, after 2 trials" in text


def test_other_settings_are_another_search_in_the_same_folder(tmp_path: Path):
    one = reads(tmp_path, "hydra.sweeper.trials=2")
    loop.run(one, Cells())
    assert reads(tmp_path, "hydra.sweeper.trials=5", "hydra.sweeper.at_once=1").key == one.key
    for other in (
        "training.epochs=1",
        "temperature=interval(0.5,1.4)",
        "hydra.sweeper.seed=1",
        "hydra.sweeper.minimize=x",
    ):
        found = reads(tmp_path, other)
        assert found.key != one.key
        assert found.study() is None


def test_only_one_process_leads(tmp_path: Path):
    found = reads(tmp_path, "hydra.sweeper.trials=2")

    def launch(jobs: Sequence[Sequence[str]]) -> None:
        with pytest.raises(BenchError, match=r"is being led by .*process"):
            loop.run(found, Cells())
        Cells()(jobs)

    loop.run(found, launch)


def test_a_launcher_that_runs_nothing_is_no_failure_of_cells(tmp_path: Path):
    found = reads(tmp_path, "hydra.sweeper.trials=2")
    with pytest.raises(BenchError, match="None of 2 cells left anything"):
        loop.run(found, lambda jobs: None)
    cells = Cells()
    loop.run(found, cells)
    assert not any(trial.failed for trial in now(found).trials)


def test_plan_and_status_say_what_is_to_come(tmp_path: Path):
    found = reads(tmp_path, "hydra.sweeper.trials=6", "hydra.sweeper.at_once=2")
    before = report.summary(found)
    assert "6 trials, 2 at a time, over temperature 0.5 to 1.5; top_p 0.6 to 1" in before
    assert "6 trials: 6 to propose" in before
    # six on validation, the baseline among them; on test the baseline, and a drawn one for what will be chosen
    assert "8 cells: 8 missing" in before
    assert not tmp_path.joinpath("outputs").exists()
    assert report.status(found) == "6 trials: 6 to propose"
    with pytest.raises(KeyboardInterrupt):
        loop.run(found, Cells(stops_after=3))
    stopped = report.status(found)
    assert "6 trials: 3 done, 1 missing, 2 to propose" in stopped
    assert "| trial |" in stopped
    assert "on test" not in stopped
    assert "6 trials: 3 done, 1 missing, 2 to propose" in report.summary(found)
    loop.run(found, Cells())
    done = report.status(found)
    assert "6 trials: 6 done\n" in done
    assert "chosen on test: done" in done


def test_a_search_takes_parts_of_ones_own(tmp_path: Path, monkeypatch):
    own = Path(__file__).parent / "own"
    monkeypatch.syspath_prepend(str(own))
    found = reads(tmp_path, f"hydra.searchpath=[file://{own}/conf]", "selection=longest_correct")
    assert "to propose" in report.summary(found)
    cell = found.cell({"temperature": 1.0, "top_p": 0.9})
    assert cell.cfg.selection._target_ == "own_parts.longest_correct"


SMALL = [
    "task.train_prompts=12",
    "task.validation_prompts=7",
    "task.test_prompts=6",
    "policy.steps=4",
    "policy.demonstrations=400",
    "num_completions=2",
    "baseline_completions=4",
    "prompt_filter=all",  # this policy is never right
    "training.epochs=1",
    "evaluation.num_completions=2",
    "evaluation.temperatures=null",
    "evaluation.lm_eval=false",
    "hydra.sweeper.trials=2",
    "hydra.sweeper.at_once=2",
    "tracking=none",
]


def test_the_named_search_runs_in_processes_and_again_runs_nothing(tmp_path: Path, capsys, monkeypatch):
    named = ["sweep=search_temperature_top_p", *SMALL, "outputs=outputs", "store=store"]
    command = [*named, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    first = forked.run(command, tmp_path)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "outputs" / "search_temperature_top_p"
    runs = {path.parent: json.loads(path.read_text()) for path in folder.glob("*/metrics.json")}
    ids = {run: pq.read_table(run / "per_prompt.parquet")["prompt_id"].to_pylist() for run in runs}
    judged = sorted(name.partition("-")[0] for names in ids.values() for name in names[:1])
    assert judged.count("validation") == 2
    assert judged.count("test") in (1, 2)  # the chosen, and the baseline if that is another one
    assert {name.partition("-")[0] for names in ids.values() for name in names} == {"validation", "test"}
    record = json.loads((folder / "search.json").read_text())
    told = {trial["run"]: trial["values"] for trial in record["trials"]}
    for run, (accuracy, kl) in told.items():
        metrics = runs[folder / run]
        assert (accuracy, kl) == (metrics["tuned/pass@1"], metrics["tuned/kl"])
    assert "Winner's curse" in first.stdout

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    second = forked.run(command, tmp_path)
    assert second.returncode == 0, second.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert second.stdout[second.stdout.index("The Pareto") :] == first.stdout[first.stdout.index("The Pareto") :]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.report", *named])
    reports.main()
    of = {run["id"] for run in json.loads((folder / "report" / "report.json").read_text())["runs"]}
    assert of == {record["chosen"]["run"], record["baseline"]["run"]}
    assert "Winner's curse" in capsys.readouterr().err

    monkeypatch.setattr(sys, "argv", ["bench.status", *named])
    status.main()
    shown = capsys.readouterr().out
    assert "2 trials: 2 done" in shown
    assert "chosen on test: done" in shown
