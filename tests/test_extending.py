"""Parts that live outside the suite go through everything that the suite's own parts do, with no other file edited."""

import json
import os
import sys
from pathlib import Path

import forked
import pyarrow.parquet as pq
import pytest
from sharing import CONF, composed

from bench import report, size
from bench.artifacts import Policy
from bench.errors import BenchError
from bench.records.write import seal
from bench.reporting.groups import distinctions
from bench.sweeps.cells import cells, is_done
from bench.sweeps.plan import workload

OWN = Path(__file__).with_name("own")
SMALL = [
    *("task.train_prompts=12", "task.test_prompts=6", "num_completions=4", "baseline_completions=4"),
    *("evaluation.num_completions=2", "evaluation.temperatures=null", "evaluation.lm_eval=false"),
    *("training.epochs=1", "generation.block_size=2"),
]
CHOSEN = [
    f"hydra.searchpath=[file://{OWN}/conf]",
    *("procedure=at_two_temperatures", "selection=longest_correct", "scoring=ends_in_digit", "task=even_answers"),
    "+metric@evaluation.metrics.share_finished=share_finished",
]


def with_own_parts() -> None:
    sys.path.insert(0, str(OWN))
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Policy) -> list[str]:
    folder = tmp_path_factory.mktemp("own")
    places = [f"store={folder}/store", f"outputs={folder}/outputs", "policy=folder", f"policy.path={tiny_policy.path}"]
    return [*CHOSEN, *SMALL, *places]


@pytest.fixture(scope="module")
def folder(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that consists of such parts."""
    working = tmp_path_factory.mktemp("working")
    ended = forked.run(settings, working, prepare=with_own_parts)
    assert ended.returncode == 0, ended.stderr
    outputs = next(setting for setting in settings if setting.startswith("outputs="))
    (found,) = Path(outputs.partition("=")[2]).glob("*/*/metrics.json")
    return found.parent


def test_the_records_hold_what_each_part_has_to_tell(folder: Path):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"two_temperatures/reward_at_1", "two_temperatures/reward_at_2"} <= metrics.keys()
    assert 0 <= metrics["tuned/share_finished_low"] <= metrics["tuned/share_finished"] <= 1
    rows = pq.read_table(folder / "per_prompt.parquet").to_pylist()
    assert sum(row["metric"] == "share_finished" and row["policy"] == "base" for row in rows) == 6
    kept = pq.read_table(folder / "selection_tuned.parquet").to_pylist()
    assert {row["reward"] for row in kept} == {1.0}
    even = [row for row in pq.read_table(folder / "samples.parquet").to_pylist() if row["correct"]]
    assert all(int(row["answer"]) % 2 == 0 for row in even)


def test_its_code_is_part_of_what_the_run_is(folder: Path, monkeypatch: pytest.MonkeyPatch):
    code = json.loads((folder / "code.json").read_text())
    assert str(OWN / "own_parts.py") in code
    assert "bench.generation.pool" in code
    assert not {"bench.rounds", "bench.selection.similarity"} & code.keys()
    assert is_done(folder)
    for own, done in (({str(OWN / "own_parts.py"): "of another day"}, False), ({}, True)):
        (folder / "code.json").write_text(json.dumps(code | own))
        seal(folder)
        assert is_done(folder) == done


def test_the_run_is_tracked(folder: Path, tmp_path: Path):
    (logged,) = folder.rglob("*.wandb")
    assert b"two_temperatures" in logged.read_bytes()


def test_a_sweep_is_rehearsed_and_sized(settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.syspath_prepend(str(OWN))
    found = cells([*settings, "seed=0,1"], str(CONF))
    assert found is not None
    rehearsed = workload(found)
    assert rehearsed.pools == 4  # one per seed and temperature
    assert rehearsed.sampled == 2 * 12 * 4
    monkeypatch.setattr("sys.argv", ["size", *settings, "size.gpu=h100"])
    size.main()
    assert "fine-tuning" in capsys.readouterr().out


def test_the_report_shows_the_figure(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(OWN))
    monkeypatch.setattr("sys.argv", ["report", str(folder), f"folder={tmp_path}/report", f"config_dir={OWN}/conf"])
    report.main()
    (table,) = (tmp_path / "report").rglob("finished_samples.csv")
    assert folder.name in table.read_text()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["scoring=ends_in_digit", "scoring.wroth=2"], "scoring.worth"),
        (["task=even_answers", "task.train_promts=3"], "task.train_prompts"),
    ],
)
def test_a_misspelt_setting_of_an_own_part_is_answered_with_the_nearest(given, meant):
    from bench.config.compose import understood

    overrides = ["experiment=quick", *given, f"hydra.searchpath=[file://{OWN}/conf]"]
    with pytest.raises(BenchError, match=f"is not a setting; did you mean {meant}\\?"), understood(overrides):
        composed(*overrides)


def test_an_own_part_goes_by_its_functions_name_as_ours_do():
    def named(*targets: str) -> list[str]:
        return [row["selection"] for row in distinctions([{"selection": {"_target_": target}} for target in targets])]

    assert named("own_parts.longest_correct", "bench.selection.rso") == ["longest_correct", "rso"]
    assert named("own_parts.rso", "bench.selection.rso") == ["own_parts.rso", "rso"]  # two methods, two names
    procedures = [
        {"procedure": {"_target_": name}} for name in ("own_parts.at_two_temperatures", "bench.rounds.in_rounds")
    ]
    assert [row["procedure"] for row in distinctions(procedures)] == ["at_two_temperatures", "rounds"]
