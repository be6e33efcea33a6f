"""What a run says of its stages: numbered as planned, in lines without a terminal, and above the bars on one."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import progress
from bench.progress import Bar, RunStage, bar, found, making, stage, tell, told

ROOT = Path(__file__).parent.parent


def test_nothing_is_said_outside_and_on_a_terminal(capsys, monkeypatch):
    tell("a line")
    with stage("fine-tune", "tuned"), making("sft"), bar("fine-tuning", 3, "steps") as steps:
        steps.advance()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with told():
        tell("a line")
    names: list[str] = []
    with told(rehearse=names.append), stage("score", "train"):
        pass
    assert names == ["score (train)"]
    assert capsys.readouterr().err == ""


def test_a_stage_is_numbered_as_planned_and_begins_and_ends_once_for_all_its_artifacts(capsys):
    with told("cell 3 of 16: ") as course:
        course.stages = ["generate (base, train)", "score (train)", "fine-tune (tuned)", "generate (base, test)"]
        with (
            stage("generate", "base", "train"),
            stage("generate", "", "train"),
            bar("generate", 2, "completions") as drawn,
        ):
            for _ in range(2):
                with making("generate"):
                    drawn.advance()
        with stage("score", "train"):
            pass
        with stage("fine-tune", "tuned"), bar("fine-tuning", 3, "steps"):
            found()
        with stage("generate", "base", "test"), bar("generate", 6, "completions") as drawn:
            drawn.advance(4, found=True)
            found()
            with making("generate"):
                drawn.advance(2)
    lines = capsys.readouterr().err.splitlines()
    taken = [line.partition(" took 0.0 s: ")[2].partition(",")[0] for line in lines]
    assert [line.partition(" took")[0] for line in lines] == [
        "cell 3 of 16: stage 1 of 4: generate (base, train) begins",
        "cell 3 of 16: stage 1 of 4: generate (base, train)",
        "cell 3 of 16: stage 2 of 4: score (train)",
        "cell 3 of 16: stage 3 of 4: fine-tune (tuned) was in the store",
        "cell 3 of 16: stage 4 of 4: generate (base, test) begins",
        "cell 3 of 16: stage 4 of 4: generate (base, test)",
    ]
    assert (taken[1], taken[5]) == ("2 completions", "2 completions")
    assert lines[5].endswith("; the store had 1 of 2 artifacts")


def test_what_the_second_process_made_is_not_said_to_have_been_in_the_store(capsys):
    with told():
        with stage("evaluate", "base"):
            found(beside=True)
        with stage("evaluate", "tuned"), making("sft"):
            found(beside=True)
            found()
    (made, *_, mixed) = capsys.readouterr().err.splitlines()
    assert made == "evaluate (base) was made by the second process"
    assert mixed.endswith("s; the second process made 1 of 3 artifacts; the store had 1 of 3 artifacts")


def test_stages_that_were_not_planned_have_no_number_and_left_out_ones_are_behind(capsys):
    with told() as course:
        course.stages = ["policy (base)", "fine-tune (round_1)", "fine-tune (round_2)", "evaluate (round_1, test)"]
        for name in ("base", "another"):
            with stage("policy", name):
                pass
        with stage("evaluate", "round_1", "test"):  # the rounds stopped early
            pass
        with making("sft"):  # outside of every part
            pass
    begun = [line.partition(" took")[0] for line in capsys.readouterr().err.splitlines()]
    assert begun == [
        *("stage 1 of 4: policy (base)", "policy (another)", "stage 4 of 4: evaluate (round_1, test)"),
        *("sft begins", "sft"),
    ]


def test_a_stage_that_fails_is_not_said_to_end(capsys):
    with pytest.raises(ValueError, match="full"), told(), stage("policy"), making("pretrain"):
        raise ValueError("full")
    with told(), stage("policy"), making("pretrain"):
        pass
    assert capsys.readouterr().err.splitlines() == ["policy begins", "policy begins", "policy took 0.0 s"]


def test_work_of_several_kinds_has_no_common_rate():
    ended = RunStage("evaluate", seconds=8.0, made=3, bars=[Bar("KL", unit="completions", done=4)])
    assert ended.outcome() == "took 8.0 s: 4 completions, 0.50 completions/s"
    ended.bars += [Bar("  generate", unit="tokens", done=9)]  # inside another bar
    assert ended.outcome() == "took 8.0 s: 4 completions, 0.50 completions/s"
    ended.bars += [Bar("lm-eval", unit="prompts", done=9)]
    assert ended.outcome() == "took 8.0 s"


def test_work_that_takes_long_says_how_far_it_is_and_who_follows_is_told(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    rows: list[dict] = []
    with told() as course, stage("fine-tune", "tuned"), making("sft"), bar("fine-tuning", 100, "steps") as steps:
        course.stages, course.follow = ["fine-tune (tuned)"], rows.append
        steps.advance(10)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    going_on = [line for line in lines if "fine-tuning: 10 of 100 steps, " in line]
    assert len(going_on) >= 2
    assert all("steps/s, about" in line and line.endswith(" left") for line in going_on)
    assert all(line.startswith("fine-tune (tuned): 0.") for line in going_on)
    assert len(rows) >= 3
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert [row["progress/seconds"] for row in rows] == sorted(row["progress/seconds"] for row in rows)
    assert rows[-1]["progress/fine-tuning/steps_per_second"] > 0


def test_what_only_reads_is_not_followed():
    rows: list[dict] = []
    with told() as course:
        course.follow = rows.append
        with stage("generate", "base"), bar("generate", 4, "completions") as drawn:
            drawn.advance(4, found=True)
            found()
    assert rows == []


def test_a_state_in_words():
    now = time.perf_counter()
    assert str(Bar("generate", 48, "units", done=12, start=now - 60)).startswith(
        "generate: 12 of 48 units, 0.20 units/s"
    )
    assert str(Bar("generate", 48, "units", done=12, start=now - 60)).endswith(", about 3 min 0 s left")
    assert str(Bar("tokens", None, "tokens", done=6e6, start=now - 60)).startswith("tokens: 6,000,000 tokens, 1")
    assert str(Bar("generate", 48, "units", start=now - 60)).endswith(": 0 of 48 units, 0.00 units/s")
    assert str(Bar("sft", start=now - 7200)) == "sft: 2 h 0 min so far"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (100, "1 min 40 s")),
        *((599.4, "9 min 59 s"), (600, "10 min"), (3_569, "59 min"), (3_571, "1 h 0 min"), (5_000, "1 h 23 min")),
        *((35_900, "9 h 58 min"), (36_000, "10.0 h"), (360_000, "100.0 h")),
    ],
)
def test_durations_in_words(seconds, words):
    assert progress.duration(seconds) == words


def test_lines_of_one_of_several_processes_are_not_kept_for_the_end(capsys):
    kept: list[str] = []
    with progress.relayed(kept.append), told("cell 1 of 2: "):
        tell("seed=0 begins")
        progress.say("a warning")
    assert kept == ["a warning"]
    assert capsys.readouterr().err == "cell 1 of 2: seed=0 begins\n"


ON_A_TERMINAL = """
import sys, time
from bench.progress import bar, making, stage, told
with told() as course:
    course.stages = ["policy (base)", "fine-tune (tuned)"]
    for kind, name in (("policy", "base"), ("fine-tune", "tuned")):
        with stage(kind, name), making(kind), bar("training", 20, "steps") as steps:
            for _ in range(20):
                steps.advance()
                time.sleep(0.02)
            if len(sys.argv) > 1 and name == "tuned":
                raise KeyboardInterrupt
"""


@pytest.mark.parametrize("interrupted", [[], ["interrupted"]], ids=["whole", "interrupted"])
def test_on_a_terminal_ended_stages_stay_above_the_bars_and_the_cursor_comes_back(interrupted):
    ours, terminal = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, *interrupted]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=terminal, stdout=terminal, stdin=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 10_000)
        except OSError:  # the other end was closed
            break
    process.wait()
    os.close(ours)
    text = shown.decode()
    assert text.count("stage 1 of 2: policy (base) took 0.") == 1
    assert text.count("stage 2 of 2: fine-tune (tuned) took 0.") == (0 if interrupted else 1)
    assert "steps/s" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # the cursor is shown again
