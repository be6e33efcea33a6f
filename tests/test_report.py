"""The report as a folder: complete, the same bytes from the same records, and found out where it is stale."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import made_run
from stamps import stamp_of

from bench import report, status
from bench.records.read import Run, read_run
from bench.reporting import build as building
from bench.reporting.build import build, check
from bench.reporting.exhibit import Figure
from bench.tracking import __main__ as tracking


def one_figure(runs: list[Run], own: object = (), axes: object = None) -> list[Figure]:
    """Instead of all figures, which have tests of their own: quick to draw."""
    rows = [{"run": run.folder.name, "tuned": run.series("tuned", "pass", "accuracy")[1].value} for run in runs]
    return [
        Figure("small", "A figure.", rows, runs, lambda canvas: canvas.subplots().plot([row["tuned"] for row in rows]))
    ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "figures", one_figure)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [made_run(tmp_path, seed=seed) for seed in (0, 1)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_a_greedy_answer(run: Run) -> None:
    """Of the base, to the first prompt."""
    path = run.folder / "per_prompt.parquet"
    rows = pq.read_table(path).to_pylist()
    assert (rows[0]["policy"], rows[0]["method"]) == ("base", "greedy")
    rows[0]["value"] = 1 - rows[0]["value"]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_everything_is_written_and_the_manifest_names_it(runs: list[Run], tmp_path: Path):
    page = build(runs, tmp_path / "report", title="made")
    written = bytes_of(page.parent)
    manifest = json.loads(written.pop("report.json"))
    assert set(manifest["files"]) == set(written)
    assert {"index.html", "tables.md", "verdicts.md", "methods.md", "references.bib"} < set(written)
    assert {f"figures/small.{kind}" for kind in ("pdf", "svg", "png", "csv")} < set(written)
    assert {f"tables/main.{kind}" for kind in ("md", "tex", "csv")} < set(written)
    assert [run["id"] for run in manifest["runs"]] == [run.folder.name for run in runs]
    assert check(page.parent) == []
    assert check(page.parent, runs) == []


def test_equal_records_give_equal_bytes_wherever_they_lie(runs: list[Run], tmp_path: Path):
    first = bytes_of(build(runs, tmp_path / "a" / "report", title="made").parent)
    for run in runs:
        shutil.copytree(run.folder, tmp_path / "b" / run.folder.name)
    moved = [read_run(tmp_path / "b" / run.folder.name) for run in runs]
    second = bytes_of(build(moved, tmp_path / "b" / "report", title="made").parent)
    del first["report.json"], second["report.json"]  # says where the runs lie
    assert first == second


def test_building_again_removes_what_is_no_longer_made(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = build(runs, tmp_path / "report", title="made").parent
    (folder / "mine.txt").write_text("kept")
    monkeypatch.setattr(building, "figures", lambda runs, own, axes: [])
    build(runs, folder, title="made")
    assert not list((folder / "figures").iterdir())
    assert (folder / "mine.txt").exists()
    assert check(folder) == []


def test_changed_records_make_what_shows_them_stale(runs: list[Run], tmp_path: Path):
    folder = build(runs, tmp_path / "report", title="made").parent
    change_a_greedy_answer(runs[0])
    problems = check(folder)
    assert "tables/main is stale: its records or runs have changed" in problems
    assert "figures/small is stale: its records or runs have changed" not in problems  # it shows none of that


def test_changed_samples_or_sentences_make_the_page_stale(tmp_path: Path):
    runs = [made_run(tmp_path, seed=seed) for seed in range(3)]  # two resolve no difference: no break-even is said
    folder = build(runs, tmp_path / "report", title="made").parent
    stale = "index.html is stale: the verdicts, the methods or the samples that it shows have changed"
    kept = (runs[0].folder / "samples.parquet").read_bytes()
    shutil.copy(made_run(tmp_path, seed=3).folder / "samples.parquet", runs[0].folder / "samples.parquet")
    assert check(folder) == [stale]
    (runs[0].folder / "samples.parquet").write_bytes(kept)
    assert check(folder) == []
    rewrite(runs[1].folder / "metrics.json", **{"break_even/queries": 1})
    assert check(folder) == [stale]


def test_another_run_or_one_less_makes_everything_stale(runs: list[Run], tmp_path: Path):
    folder = build(runs, tmp_path / "report", title="made").parent
    more = [*runs, made_run(tmp_path, seed=2)]
    assert "figures/small is stale: its records or runs have changed" in check(folder, more)
    assert "tables/main is stale: its records or runs have changed" in check(folder, runs[:1])


def test_missing_data_fails(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = build(runs, tmp_path / "report", title="made").parent
    (runs[1].folder / "metrics.json").unlink()
    (problem,) = check(folder)
    assert re.search(rf"{runs[1].folder.name} is missing: the report is of its records", problem)
    monkeypatch.setattr(building, "figures", lambda runs, own, axes: [])
    assert check(folder, runs[:2])[-1] == "figures/small can't be made any more: its data is missing"


def test_a_new_exhibit_is_missed(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "figures", lambda runs, own, axes: [])
    folder = build(runs, tmp_path / "report", title="made").parent
    monkeypatch.setattr(building, "figures", one_figure)
    assert check(folder) == ["figures/small is not in the report, though its records are there"]


def test_files_that_are_gone_or_were_changed_are_found_without_the_records(runs: list[Run], tmp_path: Path):
    folder = build(runs, tmp_path / "made" / "report", title="made").parent
    away = tmp_path / "far" / "away" / "report"
    shutil.copytree(folder, away)
    assert check(away) == []
    (away / "tables" / "main.md").unlink()
    with (away / "methods.md").open("a") as file:
        file.write("And more.")
    assert sorted(check(away)) == [
        f"{away / 'methods.md'} was changed since the report was made",
        f"{away / 'tables' / 'main.md'} is missing",
    ]


def test_every_file_of_an_exhibit_carries_its_stamp(runs: list[Run], tmp_path: Path):
    folder = build(runs, tmp_path / "report", title="made").parent
    for name, exhibit in json.loads((folder / "report.json").read_text())["exhibits"].items():
        assert exhibit["stamp"].startswith(f"runs {runs[0].folder.name} {runs[1].folder.name}; records "), name
        for file in exhibit["files"]:
            assert stamp_of(folder / file) == exhibit["stamp"], file


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["report", *arguments])
    report.main()


def test_the_command_builds_prints_and_checks(runs: list[Run], monkeypatch, capsys):
    folders = [str(run.folder) for run in runs]
    failed = runs[0].folder.parent / "failed"
    failed.mkdir()
    command(monkeypatch, *folders, str(failed))
    printed = capsys.readouterr()
    report_folder = runs[0].folder.parent / "report"
    assert f"left out: {failed} holds no finished run" in printed.err
    assert "| mean " in printed.out
    assert "better than its random control" in printed.out
    assert f"report    {report_folder / 'index.html'} (2 runs" in printed.out
    assert f"left out: {failed}" in (report_folder / "verdicts.md").read_text()
    command(monkeypatch, "--check", *folders)
    command(monkeypatch, "--check", str(report_folder))
    assert capsys.readouterr().out.count("up to date") == 2
    change_a_greedy_answer(runs[0])
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "--check", str(report_folder))
    assert stopped.value.code == 1
    assert "tables/main is stale" in capsys.readouterr().out


def test_a_report_goes_where_it_is_told(runs: list[Run], tmp_path: Path, monkeypatch):
    command(monkeypatch, str(runs[0].folder), f"folder={tmp_path / 'elsewhere'}")
    assert (tmp_path / "elsewhere" / "index.html").is_file()
    assert not (runs[0].folder.parent / "report").exists()


def test_settings_are_a_sweep(monkeypatch, tmp_path: Path):
    asked = []
    monkeypatch.setattr(report, "_from_overrides", asked.append)
    for given, expected in (
        (["sweep=x"], ["sweep=x"]),
        (["-m", "seed=0,1", "outputs=there", "folder=here"], ["seed=0,1", "outputs=there"]),
    ):
        report._source(*report._options([one for one in given if one != "-m"]))
        assert asked.pop() == expected


def test_a_pattern_that_no_shell_expanded_finds_runs_in_every_command(runs: list[Run], monkeypatch, tmp_path, capsys):
    pattern = f"{runs[0].folder.parent}/*"
    command(monkeypatch, pattern)
    assert f"{runs[0].folder.parent}/report/" in capsys.readouterr().out
    for main in (tracking.main, status.main):
        monkeypatch.setattr("sys.argv", ["it", pattern])
        main()
    printed = capsys.readouterr().out
    assert printed.startswith("".join(f"{folder} was not logged\n" for folder in sorted(run.folder for run in runs)))
    assert printed.endswith("2 runs: 2 outdated\n")
    for main in (report.main, tracking.main, status.main):
        monkeypatch.setattr("sys.argv", ["it", f"{tmp_path}/nowhere/*"])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert str(stopped.value) == f"error: {tmp_path}/nowhere/* finds no folder; --help lists the options."


def test_mistakes_are_one_sentence(monkeypatch, tmp_path: Path, capsys):
    for arguments, reason in (
        ((str(tmp_path),), "holds no finished run"),
        (("source=cloud", "x"), "source=cloud is not allowed: it must be local or wandb"),
        (("source=wandb",), "source=wandb takes project=NAME"),
        (("--check", str(tmp_path)), "holds no finished run"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command(monkeypatch, *arguments)
        assert str(stopped.value.code).startswith("error: ")
        assert reason in str(stopped.value.code)
    with pytest.raises(SystemExit, match="error: give run folders or sweep=NAME; --help lists the options"):
        command(monkeypatch)


def test_records_of_an_older_version_are_named(runs: list[Run], monkeypatch):
    metrics = json.loads((runs[0].folder / "metrics.json").read_text())
    del metrics["best_of_n/pool_size"]
    (runs[0].folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SystemExit, match="lack 'best_of_n/pool_size'; run the experiment again"):
        command(monkeypatch, str(runs[0].folder))


def test_a_whole_report_with_every_figure_in_a_process_of_its_own(runs: list[Run]):
    """As a user calls it; twice with different hash seeds, since sets must not decide an order."""
    made = []
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-m", "bench.report", *(str(run.folder) for run in runs)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert out.returncode == 0, out.stderr
        assert out.stderr == ""
        made.append(bytes_of(runs[0].folder.parent / "report"))
    assert made[0] == made[1]
    assert len([name for name in made[0] if name.endswith(".pdf")]) >= 1
