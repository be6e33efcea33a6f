"""The unit_tests scorer: what passes and what fails, each program once, never a silent 0 where nothing ran."""

import functools

import numpy as np
import pytest
from texts import pool_of, prompts_of

from bench.__main__ import main
from bench.errors import BenchError
from bench.evaluation.heldout import grade
from bench.sandbox import VERDICTS, Sandbox, SandboxError, verdicts
from bench.scoring import unit_tests as module
from bench.scoring.unit_tests import unit_tests
from bench.scoring.verifier import verify
from bench.store import Store
from bench.tasks.list_programs import ListPrograms
from bench.tasks.program_tests import from_answer, to_answer
from bench.tasks.word_problems import WordProblems

pytestmark = pytest.mark.usefixtures("isolation")
TASK = ListPrograms(test_prompts=2)
PROMPTS = prompts_of(
    ["Reverse the list.", "Double them."],
    [to_answer("f", [([[]], []), ([[1, 2]], [2, 1])]), to_answer("f", [([[]], []), ([[1, 2]], [2, 4])])],
)
REVERSED, DOUBLED, SELF_MADE = "xs = xs[::-1]", "xs = [x * 2 for x in xs]", "xs.reverse()"
POOL = pool_of([[REVERSED, DOUBLED, SELF_MADE, REVERSED, ""], [REVERSED, DOUBLED, "raise SystemExit(0)", DOUBLED, "!"]])
EXPECTED = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 0]], float)


def test_programs_that_pass_score_one(store: Store) -> None:
    assert (unit_tests(PROMPTS, POOL, task=TASK).value == EXPECTED).all()
    assert (verify(PROMPTS, POOL, task=TASK).value == EXPECTED).all()
    assert (verify(PROMPTS, POOL, task=TASK, every_step=True).value == EXPECTED * (POOL.text != SELF_MADE)).all()


def test_permuting_completions_permutes_scores(store: Store) -> None:
    order = [3, 1, 4, 0, 2]
    permuted = pool_of([[row[i] for i in order] for row in POOL.text.tolist()])
    assert (unit_tests(PROMPTS, permuted, task=TASK, workers=2).value == EXPECTED[:, order]).all()


def test_each_distinct_program_runs_once_and_outcomes_are_counted(store: Store, monkeypatch) -> None:
    ran = []

    def counting(jobs, **settings):
        ran.extend(jobs)
        return verdicts(jobs, **settings)

    monkeypatch.setattr(module, "verdicts", counting)
    unit_tests(PROMPTS, POOL, task=TASK)
    assert len(ran) == 8
    counts = store.uses[-1].counts
    assert counts["scored"] == 8
    assert {name: counts[name] for name in VERDICTS} == {
        "passed": 3, "wrong_output": 3, "exception": 2, "time_limit": 0, "stopped_early": 0
    }  # fmt: skip
    unit_tests(PROMPTS, POOL, task=TASK, workers=2, isolation="namespaces")  # neither changes a score
    assert len(ran) == 8
    unit_tests(PROMPTS, POOL, task=TASK, cpu_seconds=3)
    assert len(ran) == 16


def test_where_no_program_can_run_it_is_an_error_and_nothing_is_stored(store: Store, monkeypatch) -> None:
    def fails(self: Sandbox, configuration: dict) -> None:
        raise SandboxError("unshare: Operation not permitted")

    with monkeypatch.context() as broken:
        broken.setattr(Sandbox, "_start", fails)
        with pytest.raises(BenchError, match="No way to isolate"):
            unit_tests(PROMPTS, POOL, task=TASK)
        with pytest.raises(BenchError, match="No way to isolate"):
            verify(PROMPTS, POOL, task=TASK)
    assert (unit_tests(PROMPTS, POOL, task=TASK).value == EXPECTED).all()


def test_a_sandbox_that_fails_for_a_moment_is_tried_again(store: Store, monkeypatch) -> None:
    answers = iter([{"started": False, "timed_out": False, "message": "fork: out of processes"}] * 2)
    real = Sandbox._run

    def sometimes(self: Sandbox, content: bytes, enough: int):
        answer = None if b"[x, x]" in content else next(answers, None)  # the proof that it isolates runs
        return (b"", answer) if answer else real(self, content, enough)

    monkeypatch.setattr(Sandbox, "_run", sometimes)
    assert (unit_tests(PROMPTS, POOL, task=TASK).value == EXPECTED).all()
    answers = iter([{"started": False, "timed_out": False, "message": "fork: out of processes"}] * 3)
    with pytest.raises(BenchError, match=r"could not be started in the sandbox .*out of processes"):
        unit_tests(PROMPTS, POOL, task=TASK, cpu_seconds=7)


def test_a_task_without_programs_is_refused(store: Store) -> None:
    with pytest.raises(BenchError, match=r"scoring=unit_tests needs .* word_problems has none"):
        unit_tests(PROMPTS, POOL, task=WordProblems())


def test_a_task_without_programs_is_refused_before_any_work(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for settings in ("scoring=unit_tests", "scoring=combined scoring@scoring.parts.verifier.scorer=unit_tests"):
        monkeypatch.setattr("sys.argv", ["bench", *settings.split()])
        with pytest.raises(SystemExit) as stopped:
            main()
        key = "scoring" if "combined" not in settings else "scoring.parts.verifier.scorer"
        assert str(stopped.value.code) == (
            f"error: {key}.task=WordProblems is not allowed: it must be a task whose completions are programs, such as "
            "list_programs."
        )
    assert not list(tmp_path.rglob("*"))


def test_verdicts_on_programs_are_kept_and_each_distinct_program_runs_once(store: Store, monkeypatch) -> None:
    asked = []
    real = ListPrograms.are_correct
    monkeypatch.setattr(
        ListPrograms, "are_correct", lambda task, *cells: (asked.extend(cells[0]), real(task, *cells))[1]
    )
    first = verify(PROMPTS, POOL, task=TASK).value
    assert (verify(PROMPTS, POOL, task=TASK, every_step=False).value == first).all()
    assert (first == EXPECTED).all()
    assert len(asked) == 8
    assert [(use.stage, use.reused) for use in store.uses] == [("verify", False), ("verify", True)]
    graded = grade(PROMPTS, POOL, functools.partial(verify, task=TASK), TASK)
    assert (graded.gold == EXPECTED).all()
    assert len(asked) == 8  # what the scorer judged, gold need not run again


@pytest.mark.parametrize(
    "answer",
    [
        "17",
        "",
        "{}",
        '["entry"]',
        "null",
        '{"entry": "f", "cases": []}',
        '{"entry": 1, "cases": [[[1], 1]]}',
        '{"entry": "f", "cases": [1]}',
        '{"entry": "f", "cases": [[1, 1]]}',
        '{"entry": "f", "cases": [[[1], 1, 1]]}',
    ],
)
def test_an_answer_that_is_not_tests_is_refused(store: Store, answer: str) -> None:
    with pytest.raises(BenchError, match="is not unit tests"):
        unit_tests(prompts_of(["x"], [answer]), pool_of([["x"]]), task=TASK)


def test_tests_survive_as_text() -> None:
    cases = [([[1, 2], "a\n"], {"k": [None, True, 1.5]}), ([], 10**50)]
    assert from_answer(to_answer("g", cases)) == ("g", cases)
