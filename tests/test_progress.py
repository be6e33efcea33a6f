"""What a run says of itself where there is no terminal."""

import sys
import time

import pytest

from bench import progress
from bench.progress import Bar, bar, stage, tell, told


def test_nothing_is_said_outside_and_on_a_terminal(capsys, monkeypatch):
    tell("a line")
    with stage("sft"), bar("fine-tuning", 3, "steps") as steps:
        steps.advance()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with told():
        tell("a line")
    assert capsys.readouterr().err == ""


def test_a_stage_begins_and_ends_once_for_all_its_pieces(capsys):
    with told("cell 3 of 16: "):
        with bar("generate", 2, "units") as units, bar("  completions", None, "tokens"):
            for _ in range(2):
                with stage("generate"):
                    pass
                units.advance()
        with stage("sft"), bar("fine-tuning", 3, "steps"):
            pass
        with bar("generate", 2, "units") as units:  # all were in the store
            units.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "cell 3 of 16: generate begins: 2 units",
        "cell 3 of 16: generate ends: 2 units in 0 s",
        "cell 3 of 16: sft begins",
        "cell 3 of 16: sft ends after 0 s",
    ]


def test_a_stage_that_fails_is_not_said_to_end(capsys):
    with pytest.raises(ValueError, match="full"), told(), stage("sft"):
        raise ValueError("full")
    with told(), stage("sft"):
        pass
    assert capsys.readouterr().err.splitlines() == ["sft begins", "sft begins", "sft ends after 0 s"]


def test_work_that_takes_long_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with told(), stage("sft"), bar("fine-tuning", 100, "steps") as steps:
        steps.advance(10)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    going_on = [line for line in lines if "fine-tuning: 10 of 100 steps, " in line]
    assert len(going_on) >= 2
    assert all("steps/s, about" in line and line.endswith(" left") for line in going_on)
    assert all(line.startswith("sft: 0 s so far; ") for line in going_on)


def test_a_state_in_words():
    now = time.perf_counter()
    assert str(Bar("generate", 48, "units", done=12, start=now - 60)).startswith(
        "generate: 12 of 48 units, 0.20 units/s"
    )
    assert str(Bar("generate", 48, "units", done=12, start=now - 60)).endswith(", about 3 min left")
    assert str(Bar("tokens", None, "tokens", done=6e6, start=now - 60)).startswith("tokens: 6,000,000 tokens, 1")
    assert str(Bar("generate", 48, "units", start=now - 60)).endswith(": 0 of 48 units, 0.00 units/s")
    assert str(Bar("sft", start=now - 7200)) == "sft: 2.0 h so far"


def test_lines_of_one_of_several_processes_are_not_kept_for_the_end(capsys):
    kept: list[str] = []
    with progress.relayed(kept.append), told("cell 1 of 2: "):
        tell("seed=0 begins")
        progress.say("a warning")
    assert kept == ["a warning"]
    assert capsys.readouterr().err == "cell 1 of 2: seed=0 begins\n"
