"""Reports and records that were edited, cut short or mixed up: refused or found in one sentence, and built anew."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from made_runs import made_run

from bench import report
from bench.errors import BenchError
from bench.records.read import RECORDS, Run, read_run
from bench.records.write import seal
from bench.reporting import build as building
from bench.reporting.build import build, check
from bench.reporting.contrasts import of_group, recorded_primary
from bench.reporting.exhibit import Figure
from bench.reporting.groups import Group
from bench.sweeps import cells


def one_figure(runs: list[Run], own: object = (), axes: object = None) -> list[Figure]:
    rows = [{"run": run.folder.name} for run in runs]
    return [Figure("small", "A figure.", rows, runs, lambda canvas: canvas.subplots().set_title("costs $_{ or $_6"))]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "figures", one_figure)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_run(tmp_path / "outputs")


@pytest.fixture
def made(run: Run) -> Path:
    """A report of the run."""
    return build([run], run.folder.parent / "report", title="made").parent


def rewrite(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["report", *map(str, arguments)])
    report.main()


def said(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """The sentence that the command ends with."""
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *arguments)
    sentence = str(stopped.value.code)
    assert sentence.startswith("error: ")
    assert "\n" not in sentence
    return sentence


def test_a_manifest_can_not_have_files_removed_or_read_that_no_report_wrote(run: Run, made: Path, tmp_path: Path):
    victims = [tmp_path / "victim.txt", made / "mine.txt", made / "figures" / "folder" / "deep.txt"]
    victims[2].parent.mkdir()
    for victim in victims:
        victim.write_text("kept")
    shutil.copy(made / "figures" / "small.png", made / "figures" / "old.png")
    names = ["../../victim.txt", str(victims[0]), "mine.txt", "figures/folder/deep.txt", "figures/../mine.txt"]
    names += ["figures/folder", "figures/..", "figures/"]
    rewrite(
        made / "report.json", lambda content: content["files"].update(dict.fromkeys([*names, "figures/old.png"], ""))
    )
    problems = check(made)
    for name in names:
        expected = f"{made / name} is missing" if name == "figures/folder" else f"names {name}, which no report writes"
        assert any(expected in problem for problem in problems), name
    build([run], made, title="made")
    assert [victim.read_text() for victim in victims] == ["kept"] * 3
    assert not (made / "figures" / "old.png").exists()  # which a report may have written
    assert check(made) == []


@pytest.mark.parametrize("content", ['{"files": {', "[]", "{}", '"text"', '{"files": []}', "\udcff"])
def test_a_damaged_manifest_is_no_report_and_does_not_keep_one_from_being_built(content: str, run: Run, made: Path):
    (made / "report.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (problem,) = check(made)
    assert problem.startswith(f"{made} holds no report")
    build([run], made, title="made")
    assert check(made) == []


def test_one_damaged_report_does_not_keep_others_from_being_checked(run: Run, made: Path, monkeypatch, capsys):
    other, third = made.with_name("other"), made.with_name("third")
    build([run], other, title="made")
    third.mkdir()
    (made / "report.json").write_text("{}")
    with (other / "verdicts.md").open("a") as file:
        file.write("More.")
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "--check", made, other, third)
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert f"{made} holds no report" in printed
    assert f"{other / 'verdicts.md'} was changed" in printed
    assert f"no report: {third}" in printed


def test_an_edited_configuration_is_refused_and_a_renamed_folder_is_not(run: Run):
    path = run.folder / "config.yaml"
    whole = path.read_text()
    config = yaml.safe_load(whole)
    assert read_run(run.folder).config == config
    path.write_text(yaml.safe_dump(config | {"outputs": "elsewhere", "store": "elsewhere"}))  # places are not the run
    read_run(run.folder)
    path.write_text(yaml.safe_dump(config | {"temperature": 0.1}))
    with pytest.raises(BenchError, match=r"config\.yaml was changed since the run.*again"):
        read_run(run.folder)
    copied = shutil.copytree(run.folder, run.folder.with_name("a_copy"))
    assert read_run(copied).config["temperature"] == 0.1  # of which nothing says what it was


@pytest.mark.parametrize("word", ["better", "worse", "not resolved"])
def test_a_recorded_verdict_goes_by_its_own_numbers(word: str, run: Run):
    numbers = {
        "tuned_vs_control/pass@1": (0.1, 0.05, 0.15, 0.001),
        "tuned_vs_base/pass@1": (-0.1, -0.15, -0.05, 0.001),
        "control_vs_base/pass@1": (0.1, 0.05, 0.15, 0.2),  # by its interval alone it would be better
        "tuned_vs_control/greedy_accuracy": (0.1, -0.05, 0.25, 0.001),
    }

    def edit(metrics: dict[str, Any]) -> None:
        for name, values in numbers.items():
            keys = ("difference", "difference_low", "difference_high", "p_adjusted")
            metrics.update({f"{name}/{key}": value for key, value in zip(keys, values, strict=True)})
            metrics[f"{name}/verdict"] = word

    rewrite(run.folder / "metrics.json", edit)
    edited = read_run(run.folder)
    found = of_group(Group({}, (edited,)))
    verdicts = [found[name].verdict for name in numbers]
    assert verdicts == ["better", "worse", "not resolved", "not resolved"]
    assert recorded_primary(edited)[1] == "better (sampled only)"


def test_a_report_is_not_written_into_a_run(run: Run, monkeypatch):
    sentence = said(monkeypatch, run.folder, f"folder={run.folder}")
    assert f"folder={run.folder} is not allowed: it holds a run's config.yaml" in sentence
    assert not (run.folder / "report.json").exists()
    (run.folder / "report.json").write_text("{}")  # as one had been, before that was refused
    command(monkeypatch, run.folder)


def test_what_holds_no_run_is_named(made: Path, monkeypatch, tmp_path: Path):
    assert f"{made} holds a report and no run" in said(monkeypatch, made)
    assert f"{tmp_path} holds no finished run" in said(monkeypatch, tmp_path, made)


def test_a_folder_that_can_not_be_made_is_one_sentence(run: Run, monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    sentence = said(monkeypatch, run.folder, f"folder={tmp_path / 'file' / 'report'}")
    assert f"folder={tmp_path / 'file' / 'report'} can't be written (Not a directory)" in sentence


DAMAGE = {
    "lineage.json": ("[{", "is damaged"),
    "metrics.json": ("[]", "is damaged"),
    "samples.parquet": ("cut", "is damaged"),
    "per_prompt.parquet": ("cut", "is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("missing", [True, False])
def test_a_record_that_a_report_needs_is_found_damaged_before_anything_is_drawn(
    name: str, missing: bool, run: Run, monkeypatch
):
    if missing and name == "metrics.json":
        return
    drawn: list[str] = []
    monkeypatch.setattr(building, "write_figure", lambda figure, folder: drawn.append(figure.name))
    content, reason = DAMAGE[name]
    (run.folder / name).unlink() if missing else (run.folder / name).write_text(content)
    sentence = said(monkeypatch, run.folder)
    assert f"{run.folder / name} {'is not found' if missing else reason}" in sentence
    assert "run the experiment again" in sentence
    assert drawn == []


def test_rows_missing_of_a_prompt_or_a_cell_are_found(run: Run):
    path = run.folder / "per_prompt.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.slice(1), path)
    with pytest.raises(BenchError, match=r"per_prompt\.parquet is damaged \(.* has not one row for each"):
        read_run(run.folder).per_prompt("base", "greedy", "accuracy", 1)
    pq.write_table(whole.filter([one != "test-0" for one in whole["prompt_id"].to_pylist()]), path)
    with pytest.raises(BenchError, match=r"per_prompt\.parquet is damaged \(it has 59 prompts, where the run had 60"):
        read_run(run.folder).per_prompt("base", "greedy", "accuracy", 1)
    pq.write_table(whole.filter([one != "greedy" for one in whole["method"].to_pylist()]), path)
    with pytest.raises(BenchError, match=r"greedy accuracy 1 of curves\.parquet is not in it"):
        read_run(run.folder).per_prompt("tuned", "pass", "accuracy", 1)


@pytest.mark.parametrize("value", ["0.5", [0.5], {"value": 0.5}])
def test_a_number_of_metrics_as_anything_else_is_found(value: Any, run: Run):
    rewrite(run.folder / "metrics.json", lambda metrics: metrics.update({"tuned/pass@1": value}))
    with pytest.raises(BenchError, match=r"metrics\.json is damaged \(tuned/pass@1 should be a number"):
        read_run(run.folder)


def test_a_setting_with_two_dollars_can_be_drawn(made: Path):
    assert (made / "figures" / "small.png").is_file()


def test_what_a_configuration_refers_to_is_not_resolved(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "1234")
    copied = shutil.copytree(run.folder, run.folder.with_name("a_copy"))
    with (copied / "config.yaml").open("a") as file:
        file.write("other: ${oc.env:SECRET}\n")
    assert read_run(copied).config["other"] == "${oc.env:SECRET}"


FILES = (
    "config.yaml",
    "metrics.json",
    "curves.parquet",
    "per_prompt.parquet",
    "samples.parquet",
    "diagnostics.parquet",
)
OTHERS = ("lineage.json", "chain.json", "code.json", "environment.json", "frontier.png", "validation.parquet")


def flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def with_a_row_more(path: Path, other: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)


CHANGES = {
    "a bit": flipped,
    "half of it": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "another run's": lambda path, other: shutil.copy(other, path),
    "a row more": with_a_row_more,
    "no file": lambda path, other: path.unlink(),
    "a link": lambda path, other: (path.unlink(), path.symlink_to(other)),
    "a folder": lambda path, other: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, other: (path.unlink(), os.mkfifo(path)),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with their checksums, a figure and a further table."""
    made = []
    for seed in (0, 1):
        folder = made_run(tmp_path_factory.mktemp("originals"), seed=seed, prompts=20).folder
        (folder / "frontier.png").write_bytes(f"figure {seed}".encode())
        shutil.copy(folder / "curves.parquet", folder / "validation.parquet")
        seal(folder, [folder / "frontier.png"])
        made.append(folder)
    return made


@pytest.fixture
def sealed(originals: list[Path], tmp_path: Path) -> list[Path]:
    return [shutil.copytree(folder, tmp_path / "outputs" / folder.name) for folder in originals]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [*FILES, *OTHERS])
def test_a_file_that_is_not_as_the_run_left_it_is_named(name: str, change: str, sealed: list[Path]):
    if change == "a row more" and not name.endswith(".parquet"):
        return
    folder, other = sealed
    (other / "code.json").write_text('{"bench.experiment": "other"}')
    (other / "environment.json").write_text('{"python": "other"}')
    (other / "chain.json").write_text("[ ]")
    (other / "diagnostics.parquet").write_bytes((other / "curves.parquet").read_bytes())
    before = {path.name for path in folder.iterdir()}
    CHANGES[change](folder / name, other / name)
    if change == "no file" and name == "frontier.png":
        read_run(folder)  # figures can be drawn again
        return
    if not (folder / "metrics.json").is_file():
        assert name == "metrics.json"  # then it is no finished run
        return
    with pytest.raises(BenchError, match="run the experiment again") as stopped:
        read_run(folder)
    assert str(folder / name) in str(stopped.value)
    assert not [other for other in before - {name} if f"{folder / other} " in str(stopped.value)]
    assert cells.changed(folder) is not None  # so that the cell is not done


def test_checksums_are_of_their_run_and_of_every_record(sealed: list[Path]):
    folder = sealed[0]
    read_run(folder).verify()
    content = json.loads((folder / "checksums.json").read_text())
    assert {*RECORDS, "code.json", "environment.json", "frontier.png", "validation.parquet"} == set(content["files"])
    for changed in (
        {"files": {name: digest for name, digest in content["files"].items() if name != "metrics.json"}},
        {"files": content["files"] | {"../other.json": "00"}},
        {"hash": "00"},
        {"files": []},
    ):
        (folder / "checksums.json").write_text(json.dumps(content | changed))
        with pytest.raises(BenchError, match=r"checksums\.json was changed since the run"):
            read_run(folder)
    (folder / "checksums.json").write_text(json.dumps(content))
    shutil.copy(folder / "curves.parquet", folder / "rounds.parquet")
    with pytest.raises(BenchError, match=r"rounds\.parquet is not in checksums\.json, so it was added since the run"):
        read_run(folder)


def test_a_check_names_the_file_that_was_changed(sealed: list[Path], tmp_path: Path, monkeypatch, capsys):
    made = build([read_run(folder) for folder in sealed], tmp_path / "report", title="made").parent
    command(monkeypatch, "--check", made)
    assert "checksums" not in capsys.readouterr().out
    for folder, name in zip(sealed, ("samples.parquet", "chain.json"), strict=True):
        with (folder / name).open("ab") as file:
            file.write(b" ")
    assert len(check(made)) == 2
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "--check", made)
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert f"{sealed[0] / 'samples.parquet'} was changed since the run" in printed
    assert f"{sealed[1] / 'chain.json'} was changed since the run" in printed
    assert f"{sealed[0] / 'samples.parquet'} was changed" in said(monkeypatch, *sealed)


EDITS = {
    "tuned/pass@1": "metrics.json has tuned/pass@1 = 0.123, where curves.parquet gives",
    "base/kl_high": "metrics.json has base/kl_high = 0.123, where curves.parquet gives",
    "tuned_vs_base/pass@1/difference": "metrics.json has .* = 0.123, where per_prompt.parquet gives",
    "tuned_vs_best_of_2/accuracy/difference": "metrics.json has .* = 0.123, where per_prompt.parquet gives",
}


@pytest.mark.parametrize("name", EDITS)
def test_without_checksums_the_means_are_computed_again(name: str, run: Run, monkeypatch):
    rewrite(run.folder / "metrics.json", lambda metrics: metrics.update({name: 0.123}))
    with pytest.raises(BenchError, match=EDITS[name]):
        read_run(run.folder).verify()
    assert "metrics.json has" in said(monkeypatch, run.folder)


def test_a_run_without_checksums_is_said_to_have_none(run: Run, monkeypatch, capsys):
    for arguments in ((), ("--check",)):
        command(monkeypatch, *arguments, run.folder)
        assert f"{run.folder}: no checksums.json, so only the means were verified" in capsys.readouterr().out


def test_a_value_per_prompt_is_behind_every_mean(run: Run):
    path = run.folder / "per_prompt.parquet"
    table = pq.read_table(path)
    values = table["value"].to_pylist()
    values[7] = 1 - values[7]
    pq.write_table(table.set_column(table.column_names.index("value"), "value", pa.array(values)), path)
    with pytest.raises(
        BenchError, match=r"curves\.parquet has base/greedy_accuracy = .*, where per_prompt\.parquet gives"
    ):
        read_run(run.folder).verify()
