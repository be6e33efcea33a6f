"""Where a report's runs come from: nothing unfinished is left out in silence, and W&B gives what the folders give."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run
from omegaconf import OmegaConf

from bench import report, search
from bench.config.keys import folder_of_settings, id_of_settings, task_name
from bench.errors import BenchError
from bench.records.fingerprint import code_of
from bench.records.read import Run, read_run
from bench.reporting.exhibits import tables
from bench.reporting.groups import mixed_code
from bench.reporting.sources import from_folders, from_sweep, from_wandb
from bench.sweeps import cells as sweep
from bench.sweeps.cells import Cell


def cell(folder: Path, label: str) -> Cell:
    made = Cell(label, OmegaConf.create({}), ())
    made.__dict__["folder"] = folder
    return made


CODE = code_of({"procedure": {"_target_": "bench.experiment.run"}})  # of today


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    """A sweep over two temperatures and two seeds, all finished by this very code."""
    found = []
    for temperature in (0.7, 1.0):
        for seed in (0, 1):
            run = made_run(tmp_path, seed=seed, settings={"temperature": temperature}, code=CODE)
            found.append(cell(run.folder, f"temperature={temperature} seed={seed}"))
    return found


def made_by(folder: Path, code: str) -> None:
    (folder / "code.json").write_text(json.dumps(dict.fromkeys(CODE, code)))


def unfinish(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def test_a_sweep_gives_its_cells_and_a_folder_beside_them(cells: list[Cell], tmp_path: Path):
    source = from_sweep(cells, ["sweep=x"])
    assert [run.folder for run in source.runs] == [one.folder for one in cells]
    assert source.notes == []
    assert (source.folder, source.title) == (tmp_path / "made" / "report", "made")


def test_unfinished_cells_are_said_and_counted(cells: list[Cell]):
    unfinish(cells[1].folder)
    unfinish(cells[3].folder)
    (cells[1].folder / "error.txt").write_text("The disk was full.")
    source = from_sweep(cells, ["sweep=x"])
    assert [run.folder for run in source.runs] == [cells[0].folder, cells[2].folder]
    assert source.notes[0] == "left out: 2 of 4 cells are not finished (2 done, 1 failed, 1 missing)"
    assert source.notes[1:] == [
        "  temperature=0.7 seed=1: failed (The disk was full.)",
        "  temperature=1.0 seed=1: missing",
    ]


def test_seeds_that_not_every_configuration_has_are_left_out_and_said(cells: list[Cell]):
    unfinish(cells[3].folder)
    source = from_sweep(cells, ["sweep=x"])
    assert [run.folder for run in source.runs] == [cells[0].folder, cells[2].folder]
    assert source.notes[-1] == "left out: 1 finished cells of seed 1, which not every configuration has finished"


def test_cells_of_other_code_are_refused_beside_those_of_this(cells: list[Cell]):
    made_by(cells[0].folder, "older")
    with pytest.raises(
        BenchError, match=r"different versions of the code .*3 done, 1 outdated.*python -m bench sweep=x seed=0,1"
    ):
        from_sweep(cells, ["sweep=x", "seed=0,1"])


@pytest.mark.parametrize(("hashes", "mixed"), [(("a", "a"), False), (("a", "b"), True)])
def test_runs_compare_by_the_modules_that_they_share(tmp_path: Path, hashes: tuple[str, str], mixed: bool):
    """As in a sweep over selections: each cell's code.json names the modules of its own parts."""
    codes = [{"bench.experiment": "a"}, *({"bench.experiment": "a", "mine.py": source} for source in hashes)]
    runs = [made_run(tmp_path, seed=seed, code=code) for seed, code in enumerate(codes)]
    assert (mixed_code(runs) is not None) == mixed
    (runs[0].folder / "code.json").unlink()  # an older record
    older = read_run(runs[0].folder)
    assert mixed_code([older]) is None
    assert mixed_code([older, runs[1]]) == (older, runs[1])


def test_a_sweep_made_wholly_by_other_code_is_reported_as_such(cells: list[Cell]):
    for one in cells:
        made_by(one.folder, "older")
    source = from_sweep(cells, ["sweep=x"])
    assert len(source.runs) == 4
    assert source.notes == ["made by other code than this: 4 cells; `python -m bench sweep=x` makes them anew"]


def test_a_sweep_without_a_finished_cell_says_what_would_run_it(cells: list[Cell], tmp_path: Path):
    for one in cells:
        unfinish(one.folder)
    with pytest.raises(
        BenchError, match=r"No cell of this sweep is finished \(4 missing\); `python -m bench sweep=x` runs it\."
    ):
        from_sweep(cells, ["sweep=x"])
    made_run(tmp_path, settings={"top_p": 0.5})
    with pytest.raises(
        BenchError, match=r"`python -m bench -m top_p=0.9,1` runs it; .*made holds 1 finished runs of other"
    ):
        from_sweep(cells, ["top_p=0.9,1"])


def test_a_sweep_whose_cells_are_chosen_as_it_goes_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweep, "cells", lambda overrides, conf: None)
    monkeypatch.setattr(search, "read", lambda overrides, conf: None)
    with pytest.raises(BenchError, match="give the runs' folders instead"):
        report._from_overrides(["hydra/sweeper=optuna"])


def test_runs_come_in_the_order_of_their_settings(tmp_path: Path):
    made = {n: made_run(tmp_path, num_completions=n) for n in (16, 4, 8)}
    source = from_folders([run.folder for run in made.values()])
    assert [run.folder for run in source.runs] == [made[n].folder for n in (4, 8, 16)]


def test_folders_without_a_run_are_said_and_an_earlier_report_is_no_run(tmp_path: Path):
    run = made_run(tmp_path)
    failed, report = run.folder.parent / "failed", run.folder.parent / "report"
    for folder in (failed, report):
        folder.mkdir()
    (report / "report.json").write_text("{}")
    source = from_folders([run.folder, failed, report])
    assert [one.folder for one in source.runs] == [run.folder]
    assert source.notes == [f"left out: {failed} holds no finished run"]
    assert source.folder == report
    with pytest.raises(BenchError, match="failed holds no finished run"):
        from_folders([failed])


@dataclass
class FakeArtifact:
    folder: Path
    type: str = "run-files"
    version: str = "v0"

    def download(self, root: str) -> str:
        shutil.copytree(self.folder, root, dirs_exist_ok=True)
        return root


@dataclass
class FakeRun:
    id: str
    name: str
    artifacts: list[FakeArtifact]
    state: str = "finished"

    def logged_artifacts(self) -> list[FakeArtifact]:
        return self.artifacts


@dataclass
class FakeApi:
    """As much of wandb.Api as a report asks."""

    found: list[FakeRun]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def runs(self, path: str, filters: dict[str, Any]) -> list[FakeRun]:
        self.asked.append((path, filters))
        return self.found


@pytest.fixture
def local(tmp_path: Path) -> list[Run]:
    return [
        made_run(tmp_path / "outputs", seed=seed, settings={"temperature": t}) for t in (0.7, 1.0) for seed in (0, 1)
    ]


def test_wandb_gives_the_tables_of_the_local_folders(local: list[Run], tmp_path: Path):
    mirrored = [
        FakeRun(f"id{i}", run.folder.name, [FakeArtifact(run.folder / "nothing", "dataset"), FakeArtifact(run.folder)])
        for i, run in enumerate(local)
    ]
    api = FakeApi([*mirrored[::-1], FakeRun("crashed", "crashed", [], state="crashed")])
    source = from_wandb("ours", entity="me", group="made", outputs=tmp_path / "elsewhere", api=api)
    assert api.asked == [("me/ours", {"group": "made"})]
    assert source.notes == ["left out: me/ours/crashed (crashed) has no artifact of type run-files"]
    assert source.folder == tmp_path / "elsewhere" / "wandb" / "ours" / "made" / "report"
    there = from_folders([run.folder for run in local])
    assert [table.as_csv for table in tables(source.runs)] == [table.as_csv for table in tables(there.runs)]


def test_the_newest_version_of_a_runs_files_counts(local: list[Run], tmp_path: Path):
    versions = [FakeArtifact(local[0].folder, version="v9"), FakeArtifact(local[1].folder, version="v10")]
    api = FakeApi([FakeRun("renamed", "a name that someone gave", versions)])
    (run,) = from_wandb("ours", entity=None, group=None, outputs=tmp_path, api=api).runs
    assert run.config["seed"] == local[1].config["seed"]
    assert run.folder == tmp_path / "wandb" / "ours" / "all" / "renamed"
    assert api.asked == [("ours", {})]


def test_a_server_that_refuses_is_one_sentence(tmp_path: Path):
    class Refusing(FakeApi):
        def runs(self, path: str, filters: dict[str, Any]) -> list[FakeRun]:
            raise RuntimeError("401 unauthorised\nlong explanation")

    with pytest.raises(BenchError, match=r"W&B could not be read at me/ours \(401 unauthorised\)"):
        from_wandb("ours", entity="me", group=None, outputs=tmp_path, api=Refusing([]))
    with pytest.raises(BenchError, match="no finished run of group g with its files"):
        from_wandb("ours", entity="me", group="g", outputs=tmp_path, api=FakeApi([]))


def test_runs_of_several_tasks_are_chosen_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The report's own command chooses; its report stands beside those of the other tasks."""
    theirs = [made_run(tmp_path, seed=seed) for seed in (0, 1)]
    ours = made_run(tmp_path, prompts=50, settings={"task": {"_target_": "own_parts.EvenAnswers", "seed": 0}})
    folders = [str(run.folder) for run in (*theirs, ours)]
    with pytest.raises(BenchError, match=r"several tasks \(even_answers, word_problems\).* task=even_answers$"):
        tables(from_folders([Path(folder) for folder in folders]).runs)
    for task, chosen in (("even_answers", [ours]), ("word_problems", theirs)):
        source = report._source({}, [*folders, f"task={task}"])
        assert [run.folder for run in source.runs] == [run.folder for run in chosen]
        assert source.folder == tmp_path / "made" / f"report_{task}"
        assert tables(source.runs)
    monkeypatch.setattr("sys.argv", ["bench.report", *folders, "task=gsm8k"])
    with pytest.raises(SystemExit, match="task=gsm8k is not among these runs; they are of word_problems, even_answers"):
        report.main()


def test_a_users_own_task_has_a_folder_of_its_own_and_the_same_run_id(tmp_path: Path):
    def settings(name: str, **task: Any) -> dict[str, Any]:
        return {"outputs": str(tmp_path), "name": name, "seed": 0, "task": task}

    word_problems = settings("default", _target_="bench.tasks.word_problems.WordProblems")
    own = settings("default", _target_="own_parts.EvenAnswers")
    prompts = settings("default", _target_="bench.tasks.jsonl.Jsonl", path="/data/my prompts.v2.jsonl")
    named = own | {"name": "mine"}
    expected = {"default": word_problems, "even_answers": own, "jsonl_my_prompts_v2": prompts, "mine": named}
    for folder, config in expected.items():
        assert folder_of_settings(config) == tmp_path / folder / id_of_settings(config)
    assert task_name(prompts["task"]) == "jsonl_my_prompts_v2"
    earlier = tmp_path / "default" / id_of_settings(own)
    earlier.mkdir(parents=True)
    (earlier / "metrics.json").write_text("{}")  # finished before there were such folders: found there
    assert folder_of_settings(own) == earlier
