"""Mistakes on a command line, answered in one sentence before any work."""

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from omegaconf import OmegaConf
from sharing import composed

from bench import __main__ as command
from bench import report, size, status
from bench.config import checks
from bench.config.compose import CONF, explained
from bench.errors import BenchError, did_you_mean, first_line, full_disk
from bench.launching import launch, runner
from bench.progress import say
from bench.records.fingerprint import code_of
from bench.records.read import RECORDS
from bench.speed import __main__ as speed
from bench.store import Store
from bench.store import __main__ as store_command
from bench.sweeps import cells
from bench.tracking import __main__ as tracking


def said(monkeypatch: pytest.MonkeyPatch, main: Any, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    sentence = str(stopped.value.code)
    assert sentence.startswith("error: ")
    assert "\n" not in sentence
    return sentence


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an empty folder, and no work may begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "experiment", lambda *given: pytest.fail("work began"))


@pytest.mark.parametrize("given", ["name=ünï", "seed 0", "'seed=0", "outputs/x"])
@pytest.mark.parametrize("main", [status.main, command.main])
def test_what_hydra_can_not_read_is_quoted_back(given: str, main: Any, monkeypatch):
    arguments = ("-m", given) if main is command.main else (given,)
    expected = f"{given!r} can't be read as a setting; write name=value, with quotes around special characters."
    assert said(monkeypatch, main, *arguments) == f"error: {expected}"


def test_an_axis_is_given_once(monkeypatch):
    for main in (status.main, command.main):
        arguments = ["seed=0,1", "top_p=0.5", "seed=2,3"]
        assert said(monkeypatch, main, *["-m"] * (main is command.main), *arguments) == (
            "error: seed is given 2 times (seed=0,1 seed=2,3); give it once, with all its values."
        )
    sentence = said(monkeypatch, command.main, "-m", "selection=top_per_prompt,all_correct", "selection=softmax,rso")
    assert sentence.startswith("error: selection is given 2 times (")


@pytest.mark.parametrize(
    "setting", ["hydra/launcher=slurm", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "hydra/sweeper=optuna"]
)
def test_what_is_of_several_runs_needs_several(setting: str, monkeypatch):
    given = [setting, *["hydra/launcher=joblib"] * setting.startswith("hydra.launcher")]
    assert said(monkeypatch, command.main, *given) == (
        f"error: {setting} is for several runs: add -m before the settings, or sweep=NAME."
    )


GRID = """\
# @package _global_
name: mine
hydra:
  sweeper:
    params:
      seed: 0,1,2
"""


def own(group: str, folder: Path) -> list[str]:
    """The settings of a choice of one's own, named mine, that has a grid."""
    (folder / group).mkdir()
    (folder / group / "mine.yaml").write_text(GRID)
    return [f"{group}=mine", f"hydra.searchpath=[file://{folder}]"]


def test_a_grid_outside_a_sweep_is_refused(monkeypatch, tmp_path: Path):
    given = own("experiment", tmp_path)
    for arguments in (given, [*given, "plan=true"], ["-m", *given], ["hydra.mode=MULTIRUN"]):
        assert said(monkeypatch, command.main, *arguments) == (
            "error: hydra.mode and hydra.sweeper.params go into a file of sweeps/, which sweep=NAME runs."
        )


def test_a_sweep_runs_every_cell_of_its_plan_without_a_mode_of_its_own(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr("bench.launching.runner.run_cell", lambda cfg, label: ran.append(cfg.seed))
    monkeypatch.setattr("bench.launching.runner.refuse_early", lambda *given: None)
    monkeypatch.setattr(sys, "argv", ["bench", *own("sweep", tmp_path)])
    with pytest.raises(SystemExit):  # no cell came to anything
        command.main()
    assert ran == [0, 1, 2]
    assert "3 cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["hydra.run.dir=/dev/null/x"], ["-m", "seed=0,1", "hydra.sweep.dir=/dev/null/x"]]
)
def test_a_folder_that_hydra_can_not_make_is_named(arguments: list[str], monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("bench.launching.runner.run_experiment", lambda *given, **others: pytest.fail("work began"))
    monkeypatch.setattr("bench.launching.runner.refuse_early", lambda *given: None)
    sentence = said(monkeypatch, command.main, *arguments)
    assert "hydra.run.dir or hydra.sweep.dir: /dev/null/x can't be made (Not a directory)" in sentence


def test_a_defect_is_shown_without_a_line_of_hydras_own(monkeypatch, tmp_path: Path, capsys):
    def fail(cfg: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.launching.runner.run_experiment", fail)
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(ZeroDivisionError):
        command.main()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings_of_a_sampler", "said_of_it"),
    [
        (
            ["temperature=0.005"],
            r"temperature=0\.005 is not allowed with generation=vllm: .* at least 0\.01",
        ),
        (["evaluation.temperature=3"], r"evaluation\.temperature=3 is not allowed with generation=vllm.* at most 2"),
        (["generation.max_model_len=48"], r"generation\.max_model_len=48 is not allowed with task\.max_new_tokens=48"),
    ],
)
def test_what_vllm_can_not_draw_is_refused(settings_of_a_sampler: list[str], said_of_it: str):
    with pytest.raises(BenchError, match=said_of_it):
        checks.check(composed("generation=vllm", *settings_of_a_sampler))


def test_of_what_vllm_says_its_reason_is_quoted():
    """vLLM checks its settings by pydantic, whose first line only counts the faults."""
    told = "1 validation error for ModelConfig\n  Value error, max_model_len (99) is too large [type=x, y=1]\n"
    assert first_line(ValueError(told)) == "Value error, max_model_len (99) is too large"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_a_full_temporary_folder_is_not_blamed_on_the_store(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "tmp" / "x"))
    assert full_disk(full, "store", tmp_path / "store") == (f"TMPDIR={tmp_path}/tmp", "TMPDIR")
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "store" / "x"))
    assert full_disk(full, "store", tmp_path / "store") == (f"store={tmp_path}/store", "store")
    assert full_disk(OSError(errno.ENOSPC, "full"), "store", tmp_path)[1] == "store"


@pytest.mark.parametrize("group", ["sweep", "selection"])
def test_an_empty_choice_is_answered_with_the_choices(group: str, monkeypatch):
    sentence = said(monkeypatch, status.main, f"{group}=")
    assert sentence.startswith(f"error: {group}= does not exist; {group} can be ")
    assert "provider" not in sentence


def test_only_our_launchers_are_offered(monkeypatch):
    sentence = said(monkeypatch, status.main, "hydra/launcher=nope")
    assert sentence == "error: hydra/launcher=nope does not exist; hydra/launcher can be joblib, local, ray, slurm."


def test_a_sweep_without_cells_is_refused_everywhere(monkeypatch):
    expected = "error: seed=range(0,0) gives no value, so there is no cell to run."
    given = ("num_completions=2,4", "seed=range(0,0)")
    assert said(monkeypatch, status.main, *given) == expected
    assert said(monkeypatch, command.main, "-m", *given) == expected
    assert said(monkeypatch, command.main, "-m", *given, "plan=true") == expected
    assert said(monkeypatch, report.main, *given) == expected


def test_two_sweeps_at_once_are_refused(monkeypatch):
    for main in (status.main, command.main, report.main):
        assert said(monkeypatch, main, "sweep=rounds", "sweep=generators") == (
            "error: sweep=rounds sweep=generators: give one sweep at a time."
        )


@pytest.mark.parametrize("plan", [["plan=true"], []])
def test_a_plan_and_a_status_read_the_launchers_settings(plan: list[str], monkeypatch):
    given = ("seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    expected = "error: hydra.launcher.n_jobs=0 is not allowed: it must be a whole number of at least 1, or null."
    assert said(monkeypatch, command.main, "-m", *given, *plan) == expected
    assert said(monkeypatch, status.main, *given) == expected


def test_a_plan_needs_nothing_of_what_a_launcher_needs(monkeypatch, capsys):
    """As on a machine without Slurm."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["bench", "-m", "seed=0,1", "hydra/launcher=slurm", "plan=true"])
    command.main()
    assert "2 cells: 2 missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("tags=5", "it must be a list"),
        ("tags=[1,{a: 2}]", "it must be a list of which each entry is a text of 1 to 64 characters"),
        ("tags=['']", "it must be a list"),
        ("project=''", "it must be a name"),
        ("project='a/b c'", "it must be a name of 1 to 128 characters without / \\ # ? % :"),
        ("entity=a/b", "it must be the name of an account or a team"),
        ("directory=5", "it must be the path of a folder"),
    ],
)
def test_tracking_that_could_not_be_is_refused_before_the_work(setting: str, allowed: str, monkeypatch):
    sentence = said(monkeypatch, status.main, f"tracking.{setting}")
    assert f"tracking.{setting.partition('=')[0]}=" in sentence
    assert allowed in sentence


def test_good_tracking_passes(monkeypatch, capsys):
    given = ["tracking.tags=[a,b c]", "tracking.project=our work", "tracking.entity=us", "tracking.directory=there"]
    monkeypatch.setattr(sys, "argv", ["status", *given])
    status.main()
    assert "1 missing" in capsys.readouterr().out


def test_a_tracking_folder_that_can_not_be_made_is_found_before_the_work(monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    cfg = composed(f"tracking.directory={tmp_path}/file/w", f"outputs={tmp_path}/o", f"store={tmp_path}/s")
    monkeypatch.setattr(runner, "busy", lambda folder: pytest.fail("work began"))
    with pytest.raises(BenchError, match=r"tracking\.directory=.*/file/w can't be written \(Not a directory\)"):
        runner.run_experiment(cfg)


def test_an_unknown_option_of_a_report_beside_folders_is_named(monkeypatch, tmp_path: Path):
    sentence = said(monkeypatch, report.main, "fodler=x", str(tmp_path))
    assert sentence.startswith("error: fodler=x is no option of a report (folder, source, ")


def test_a_store_is_named_as_runs_name_it(monkeypatch, tmp_path: Path, capsys):
    Store(tmp_path / "kept")
    (tmp_path / "kept" / ".locks").mkdir(parents=True, exist_ok=True)
    for given in (["store=kept"], ["--store", "kept"], ["verify", "store=kept"]):
        monkeypatch.setattr(sys, "argv", ["bench.store", *given])
        with contextlib.suppress(SystemExit):  # verify's status
            store_command.main()
    assert "0 of 0 artifacts match" in capsys.readouterr().out
    assert said(monkeypatch, store_command.main, "store=nowhere") == (
        "error: store=nowhere is not a store; give the folder that your runs name store=."
    )
    assert "no run under outputs=none" in said(monkeypatch, store_command.main, "prune", "store=kept", "outputs=none")


@pytest.fixture
def cell(tmp_path: Path) -> cells.Cell:
    """One whose folder is that of a complete run, by its files' names."""
    (found,) = cells.cells([f"outputs={tmp_path}/outputs"], command.CONF) or []
    found.folder.mkdir(parents=True)
    for name in RECORDS:
        (found.folder / name).write_text("")
    (found.folder / "config.yaml").write_text(OmegaConf.to_yaml(found.cfg, resolve=True))
    (found.folder / "metrics.json").write_text(json.dumps({"code": "any"}))
    (found.folder / "code.json").write_text(json.dumps(code_of(OmegaConf.to_container(found.cfg, resolve=True))))
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_a_run_that_lost_a_record_is_not_done(name: str, cell: cells.Cell):
    assert cells.is_done(cell.folder)
    assert cells.state(cell).kind == "done"
    (cell.folder / name).unlink()
    assert not cells.is_done(cell.folder)
    found = cells.state(cell)
    assert (found.kind, found.detail) == (
        ("missing", "") if name == "metrics.json" else ("incomplete", f"lacks {name}")
    )


@pytest.mark.parametrize("content", ["[]", '{"code":', '"text"', "{}"])
def test_damaged_metrics_are_no_finished_run(content: str, cell: cells.Cell):
    (cell.folder / "metrics.json").write_text(content)
    assert not cells.is_done(cell.folder)
    assert cells.state(cell) == cells.State("incomplete", "metrics.json is damaged")


@pytest.mark.parametrize("content", ['{"seconds": ', "[]", "{}", '{"seconds": null}'])
def test_a_damaged_time_leaves_a_run_done(content: str, cell: cells.Cell):
    (cell.folder / cells.TIMES).write_text(content)
    assert cells.state(cell).kind == "done"


def test_a_reason_in_another_encoding_can_be_read(cell: cells.Cell):
    (cell.folder / "metrics.json").unlink()
    (cell.folder / "error.txt").write_bytes(b"caf\xe9 was closed\n")
    assert cells.state(cell) == cells.State("failed", "caf\ufffd was closed")


def test_who_may_only_read_can_ask_who_runs_a_cell(cell: cells.Cell, monkeypatch):
    allowed = Path.open

    def reading_only(path: Path, mode: str = "r", **others: Any) -> Any:
        if mode != "r":
            raise PermissionError(13, os.strerror(13), str(path))
        return allowed(path, mode, **others)

    with cells.busy(cell.folder):
        monkeypatch.setattr(Path, "open", reading_only)
        found = cells.state(cell)
        monkeypatch.undo()
    assert (found.kind, found.detail.split(" on ")[0]) == ("running", f"process {os.getpid()}")
    (cell.folder / cells.BUSY).write_text("process 1 on elsewhere")  # as kill -9 leaves it
    monkeypatch.setattr(Path, "open", reading_only)
    assert cells.state(cell).kind == "interrupted"


def test_a_report_of_nothing_is_refused_and_so_is_an_unknown_option(monkeypatch):
    assert said(monkeypatch, report.main, "folder=here") == (
        "error: give run folders or sweep=NAME beside the options of the report."
    )
    assert said(monkeypatch, status.main, "--verbose") == (
        "error: --verbose is no option of python -m bench.status; --help lists the options."
    )


@pytest.mark.parametrize(
    ("main", "given", "sentence"),
    [
        (status.main, "--hepl", "--hepl is no option of python -m bench.status; did you mean --help?"),
        (report.main, "--chek x", "--chek is no option of python -m bench.report; did you mean --check?"),
        (report.main, "fodler=x", "fodler=x is no option of a report (folder, source, project, entity, group, outputs, "
         "config_dir); did you mean folder?"),
        (report.main, "there stlye=talk", "stlye=talk is no option of a report (folder, source, project, entity, "
         "group, outputs, config_dir), and a sweep's settings can't stand beside folders such as there; "
         "did you mean style?"),
        (report.main, "there style=tlak", "style=tlak can't be read (No such file or directory); give paper, talk or "
         "the path of a style sheet of matplotlib; did you mean talk?"),
        (report.main, "there figures.onyl=[frontier]", "figures.onyl is not known; did you mean only?"),
        (report.main, "there figures.frontier.curvs=[tuned]", "figures.frontier.curvs is not known: a setting of "
         "figures.frontier is curves, size, labels, x, y; did you mean curves?"),
        (store_command.main, "--stor x", "--stor is no option of python -m bench.store; did you mean --store?"),
        (store_command.main, "verfy", "action=verfy is not allowed: it must be one of list, verify, prune; did you "
         "mean verify?"),
        (size.main, "size.gpus=a100", "size.gpus is not a setting; there are size.gpu, size.flops, size.parameters, "
         "size.reward_parameters, size.prompt_tokens, size.completion_tokens; did you mean size.gpu?"),
        (lambda: speed.main(["estimatrs"]), "", "NAME=estimatrs is not allowed: it must be one of cli, estimators, "
         "generation, gpu, imports, pool, scoring, sft, sizing, verify; did you mean estimators?"),
        (lambda: speed.main(["cli", "--repeat=x"]), "", "--repeat=x is no option of python -m bench.speed cli; did you "
         "mean --repeats?"),
        (tracking.main, "--foo", "--foo is no option of python -m bench.tracking; --help lists the options."),
    ],
)  # fmt: skip
def test_a_misspelt_option_of_a_command_is_answered_with_the_nearest(main: Any, given: str, sentence: str, monkeypatch):
    assert said(monkeypatch, main, *given.split()) == f"error: {sentence}"


def test_names_that_are_clearly_farther_than_the_nearest_are_left_out():
    assert did_you_mean("tempreature", ["temperature", "template", "task"]) == "; did you mean temperature?"
    assert did_you_mean("top_k", ["top_p", "top_q", "store"]) == "; did you mean top_q or top_p?"
    assert did_you_mean("xyz", ["temperature"]) == ""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("two\nlines\r\tmore", r"two\nlines\r\tmore"),
        ("\u202eexe.txt \x9b2J \udcff \u2028", r"\u202eexe.txt \x9b2J \udcff \u2028"),
        ("Größe = 1\u00a0kB, 你好, é", "Größe = 1\u00a0kB, 你好, é"),
    ],
)
def test_a_message_sends_a_terminal_no_commands(given: str, shown: str, capsys):
    assert str(BenchError(f"The server said {given}.")) == f"The server said {shown}."
    say(given)
    assert capsys.readouterr().err.splitlines() == shown.replace(r"\n", "\n").replace(r"\t", "\t").splitlines()


def test_what_a_killed_run_left_is_removed_when_it_goes_on(cell: cells.Cell):
    names = [".curves.parquet.4711", ".config.yaml.host-12-ab", ".frontier.png.9"]
    for name in (*names, ".tracking.json.lock", ".mine", ".tracking.json.7"):
        (cell.folder / name).write_text("half")
    with cells.busy(cell.folder), cells.busy(cell.folder):
        (cell.folder / ".curves.parquet.live").write_text("half")
        with cells.busy(cell.folder):
            pass
        assert (cell.folder / ".curves.parquet.live").exists()  # another process may be writing it
    left = {path.name for path in cell.folder.iterdir() if path.name.startswith(".")}
    assert left == {".curves.parquet.live", ".tracking.json.lock", ".mine", ".tracking.json.7"}


def test_a_clock_that_is_set_back_takes_no_time_off_a_run(cell: cells.Cell, monkeypatch):
    monkeypatch.setattr("time.time", iter([1000.0, 10.0, 10.0, 10.0]).__next__)
    with cells.busy(cell.folder):
        pass
    assert 0 <= cells.seconds(cell.folder) < 60
    (cell.folder / "times.json").write_text('{"started": 5, "seconds": -3600}')
    assert cells.state(cell).kind == "done"
    assert str(cells.state(cell).seconds) == "nan"


def test_a_pipe_in_the_place_of_a_lock_is_no_running_cell(cell: cells.Cell):
    os.mkfifo(cell.folder / cells.BUSY)
    assert cells.state(cell).kind == "done"


KEYS = """
seed num_completions temperature top_p name store threads split control task policy selection scoring generation
tracking procedure sweep experiment training.lora task.seed policy._target_ scoring._partial_ training.epochs evaluation
evaluation.harness_tasks tracking.tags nope hydra/launcher hydra.sweep.dir hydra.job.name policy.steps a.b policy@task .
"""
VALUES = r"""
0 -1 1e999 nan null true [] {} [1,2 {a:1} {a:{b:1}} ' " \ ??? ${nope} ${seed} ${ ${oc.env:NOPE} ${.} ../config
/etc/passwd 0,1 range(0,0) range(1,4) choice(1,x) glob(*) interval(0,1) tag(a,b) int(x) tiny wandb top_p* … a=b =
os.system nope.nope bench.policies [[[[[[[[]]]]]]]] a.b.c @ ~ +1 1_0
"""
OVERRIDES = st.one_of(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "", "", "+", "++", "~"]),
        st.sampled_from(["", *KEYS.split()]),
        st.sampled_from(["=", "=", "=", "", "=="]),
        st.one_of(st.sampled_from(["", "a b", "9" * 5000, "x" * 300, *VALUES.split()]), st.text(max_size=6)),
    ),
    st.text(min_size=1, max_size=20).filter(lambda text: not text.startswith("-")),
)


@seed(17)
@settings(
    max_examples=int(os.environ.get("BENCH_FUZZ", "15")),  # the suite takes few; 2,000 once for a release
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@drawn(st.lists(OVERRIDES, min_size=1, max_size=3))
def test_malformed_settings_end_in_one_sentence_or_compose(overrides: list[str]):
    try:
        with explained(overrides):
            cells.cells(overrides, CONF)
            launch.check(overrides, CONF, devices=False)
    except SystemExit as stopped:
        sentence = str(stopped.code)
        assert sentence.startswith("error: ")
        assert "\n" not in sentence
        assert "object_type" not in sentence
