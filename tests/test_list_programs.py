"""The list_programs task: splits apart, tests that tell mistakes apart, a verdict equal to the sandbox's."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.evaluation.harness import harness
from bench.sandbox import Job, Limits, Sandbox, verdicts
from bench.seeds import generator
from bench.tasks.list_programs import MOST, ListPrograms
from bench.tasks.list_programs_data import (
    LONGEST_KNOWN,
    PROBES,
    STEPS,
    function_of,
    known_lines,
    mistakes,
    outputs,
    question,
    random_lists,
    right_lines,
    split_of,
)
from bench.tasks.program_tests import from_answer, to_answer

pytestmark = pytest.mark.usefixtures("isolation")
SPLITS = ("train", "validation", "test")
task = ListPrograms()
WORDS = {step.words: index for index, step in enumerate(STEPS)}


def steps_in(text: str) -> tuple[int, ...]:
    """The steps that a question asks for, read from its words alone."""
    return tuple(WORDS[words[0].lower() + words[1:]] for words in text.removesuffix(".").split(", then "))


def questions(split: str) -> list[str]:
    return [turns[0]["content"] for turns in task.prompts(split).messages]


def by_hand(words: str, xs: list[int]) -> list[int]:
    """What a step's words ask for, in other code than the task's."""
    name = "".join(character for character in words if not character.isdigit())
    k = int("".join(character for character in words if character.isdigit()) or 0)
    n = len(xs)
    return {
        "add  to every number": lambda: list(map(k.__add__, xs)),
        "subtract  from every number": lambda: [sum((x, -k)) for x in xs],
        "multiply every number by ": lambda: [sum([x] * k) for x in xs],
        "square every number": lambda: [pow(x, 2) for x in xs],
        "flip every sign": lambda: [x * -1 for x in xs],
        "drop every sign": lambda: [int(str(x).lstrip("-")) for x in xs],
        "keep the even numbers": lambda: [x for x in xs if str(x)[-1] in "02468"],
        "keep the odd numbers": lambda: [x for x in xs if str(x)[-1] in "13579"],
        "drop the even numbers": lambda: [x for x in xs if str(x)[-1] not in "02468"],
        "drop the odd numbers": lambda: [x for x in xs if str(x)[-1] not in "13579"],
        "keep numbers above ": lambda: [x for x in xs if not x <= k],
        "keep numbers of at least ": lambda: [x for x in xs if not x < k],
        "keep numbers below ": lambda: [x for x in xs if not x >= k],
        "keep numbers of at most ": lambda: [x for x in xs if not x > k],
        "keep the first ": lambda: [x for i, x in enumerate(xs) if i < k],
        "drop the first ": lambda: [x for i, x in enumerate(xs) if i >= k],
        "keep the last ": lambda: [x for i, x in enumerate(xs) if i >= n - k],
        "drop the last ": lambda: [x for i, x in enumerate(xs) if i < n - k],
        "keep every other number": lambda: [x for i, x in enumerate(xs) if i % 2 == 0],
        "sort upwards": lambda: [xs[i] for i in np.argsort(xs, kind="stable")],
        "sort downwards": lambda: [xs[i] for i in np.argsort(xs, kind="stable")][::-1],
        "reverse the list": lambda: [xs[n - 1 - i] for i in range(n)],
        "drop repeats": lambda: [x for i, x in enumerate(xs) if x not in xs[:i]],
    }[name]()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.words)
def test_every_line_of_a_step_does_what_its_words_say_and_its_slip_does_not(step) -> None:
    lists = random_lists(300, generator(0, "test"))
    expected = [by_hand(step.words, list(xs)) for xs in lists]
    for line in step.lines:
        assert outputs((line,), lists) == expected, line
    assert outputs((step.slip,), lists) != expected


def test_splits_and_corpus_share_no_steps_and_no_function() -> None:
    corpus = {prompt for prompt, _ in task.demonstrations(3000, generator(1, "test"))}
    texts = {"corpus": sorted(corpus), **{split: questions(split) for split in SPLITS}}
    programs = {split: list(map(steps_in, lines)) for split, lines in texts.items()}
    assert min(map(len, programs.values())) >= 300
    steps = {split: {tuple(sorted(program)) for program in members} for split, members in programs.items()}
    functions = {
        split: {function_of(right_lines(program)) for program in members} for split, members in programs.items()
    }
    for one, other in itertools.combinations(texts, 2):
        assert not steps[one] & steps[other]
        assert not functions[one] & functions[other]
    for split in SPLITS:
        assert len(functions[split]) == len(programs[split])  # within a split every prompt has a function of its own
        assert {split_of(program) for program in programs[split]} == {split}


@pytest.mark.parametrize("split", SPLITS)
def test_more_prompts_than_a_split_gives_are_refused_with_both_numbers(split: str) -> None:
    with pytest.raises(BenchError, match=rf"{split}_prompts={MOST[split] + 1} .* up to {MOST[split]} prompts"):
        ListPrograms(**{f"{split}_prompts": MOST[split] + 1}).prompts(split)


def test_prompts_carry_tests_of_their_own_words_that_tell_mistakes_apart() -> None:
    prompts = task.prompts("test")
    for text, answer in zip(questions("test"), prompts.answer, strict=True):
        entry, cases = from_answer(answer)
        program = steps_in(text)
        assert entry == "f"
        assert len(cases) >= 8
        for (xs,), expected in cases:
            for step in program:
                xs = by_hand(STEPS[step].words, xs)
            assert xs == expected
        fails = [any(outputs(lines, [xs]) != [ys] for (xs,), ys in cases) for lines in mistakes(program)]
        differs = [function_of(lines) != function_of(right_lines(program)) for lines in mistakes(program)]
        assert all(failed or not different for failed, different in zip(fails, differs, strict=True))
        assert any(differs)


def test_a_prompt_has_several_right_programs() -> None:
    prompts = task.prompts("test")
    paths = []
    for text, answer in zip(questions("test")[:50], prompts.answer, strict=False):
        texts = ["\n".join(lines) for lines in itertools.product(*(STEPS[step].lines for step in steps_in(text)))]
        assert all(task.are_correct(texts, [answer] * len(texts)))
        paths.append(len({task.path(text) for text in texts}))
    assert min(paths) >= 1
    assert np.mean(paths) > 3


ANSWER = to_answer("f", [([[]], []), ([[3, -1, 4]], [8, 6])])  # keep the positive ones, double them, reverse
RIGHT = "xs = [x for x in xs if x > 0]\nxs = [x * 2 for x in xs]\nxs = xs[::-1]"


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        "\n" + RIGHT + "\n",
        RIGHT.replace("x * 2", "2 * x"),
        RIGHT.replace("x * 2", "x + x"),  # not one of the task's lines: it runs
        f"Here is my solution:\n```python\n{RIGHT}\n```\nIt first ...",
        "def f(xs):\n    return [2 * x for x in reversed(xs) if x > 0]",
        "```\ndef f(xs):\n    return [2 * x for x in reversed(xs) if x > 0]\n```",
        "import math\n\ndef f(values: list[int]) -> list[int]:\n    return [2 * x for x in values[::-1] if x > 0]",
        "ys = [x + x for x in xs if x > 0]; ys.reverse(); return ys",
        "    ys = []\n    for x in xs:\n        if x > 0:\n            ys.insert(0, 2 * x)\n\n    xs = ys",
    ],
)
def test_right_programs_are_accepted_however_they_are_written(completion: str) -> None:
    assert task.is_correct(completion, ANSWER)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "xs = xs",
        RIGHT.replace("x > 0", "x >= -1"),
        RIGHT.replace("\nxs = xs[::-1]", ""),
        RIGHT + "\nxs = xs[::-1]",
        RIGHT + "\nxs =",
        RIGHT.replace("[::-1]", "[::-1"),
        RIGHT + "\nxs = tuple(xs)",
        RIGHT.replace("\n", "\n "),
        RIGHT + "\nxs = [float(x) for x in xs]",
        "return [8, 6]",
        "exit(0)",
        "import os; os._exit(0)",
        "while True: pass",
        "def g(xs):\n    return [2 * x for x in reversed(xs) if x > 0]",
        "Keep the positive ones, then double them.",
    ],
)
def test_wrong_programs_are_refused(completion: str) -> None:
    assert not task.is_correct(completion, ANSWER)


def test_many_are_judged_as_one_by_one_and_in_their_order() -> None:
    completions = [RIGHT, "", RIGHT, "xs = [2 * x for x in xs[::-1] if 0 < x]", "xs = xs[1:]"]
    assert task.are_correct(completions, [ANSWER] * 5) == [True, False, True, True, False]
    assert task.are_correct([], []) == []


@settings(max_examples=6)
@given(st.integers(0, 2**32))
def test_looking_lines_up_is_the_same_as_running_them_in_the_sandbox(seed: int) -> None:
    rng = generator(seed, "test")
    lines = sorted(known_lines())
    prompts = task.prompts("test")
    completions, answers = [], []
    for _ in range(40):
        row = rng.integers(len(prompts))
        program = list(right_lines(steps_in(prompts.messages[row][0]["content"])))
        for _ in range(rng.integers(3)):
            program.insert(rng.integers(len(program) + 1), lines[rng.integers(len(lines))])
        completions.append("\n".join(program))
        answers.append(str(prompts.answer[row]))
    jobs = [Job(task.program(text), *from_answer(answer)) for text, answer in zip(completions, answers, strict=True)]
    found = [verdict == "passed" for verdict in verdicts(jobs, limits=Limits(), isolation="auto", workers=2)]
    assert found == task.are_correct(completions, answers)
    assert 5 < sum(found) < 40


def test_every_line_gives_in_the_sandbox_what_looking_it_up_gives() -> None:
    inputs = [list(xs) for xs in (*PROBES, *random_lists(20, generator(0, "lines")))]
    with Sandbox(Limits()) as sandbox:
        for line, does in known_lines().items():
            cases = [([xs], does(list(xs))) for xs in inputs]
            assert sandbox.run(Job(task.program(line), "f", cases)) == "passed", line


def test_long_programs_are_run_and_not_worked_out_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("bench.tasks.list_programs.verdicts", lambda jobs, **_: asked.extend(jobs) or [])
    squaring = "\n".join(["xs = [x * x for x in xs]"] * (LONGEST_KNOWN + 1))
    with pytest.raises(ValueError, match="zip"):
        task.are_correct([squaring], [ANSWER])
    assert len(asked) == 1
    assert task.extract_answer(squaring) is None


def test_votes_are_on_what_programs_do() -> None:
    assert task.extract_answer(RIGHT) == task.extract_answer(RIGHT.replace("x * 2", "2 * x")) is not None
    assert task.extract_answer(RIGHT) != task.extract_answer(RIGHT.replace("x > 0", "x >= 1").replace("* 2", "* 3"))
    assert task.extract_answer("xs = xs[") is None
    assert task.extract_answer("") is None


def test_path_is_the_lines() -> None:
    assert task.path("\n  xs = xs[1:]\n\n  xs = sorted(xs)  ") == "xs = xs[1:]; xs = sorted(xs)"
    assert task.path("```python\nxs = xs[1:]\n```") == "xs = xs[1:]"
    assert task.path(" \n") is None
    assert not task.steps_are_true("xs = xs[1:]\n  xs = sorted(xs)")


def test_steps_are_true_where_every_line_is_a_step() -> None:
    assert task.steps_are_true(RIGHT)
    assert not task.steps_are_true(RIGHT + "\nxs = xs[")
    assert not task.steps_are_true("")


def test_demonstrations_are_right_now_and_then_repeat_and_are_all_known_lines() -> None:
    one, other = (task.demonstrations(1500, generator(0, "test")) for _ in range(2))
    assert one == other
    right = []
    for prompt, completion in one:
        assert task.steps_are_true(completion)
        assert completion.startswith("\n")
        lines = tuple(completion.strip().split("\n"))
        right.append(function_of(lines) == function_of(right_lines(steps_in(prompt))))
    assert 0.3 < np.mean(right) < 0.55


def test_questions_read_as_they_should() -> None:
    steps = tuple(WORDS[words] for words in ("keep the even numbers", "add 3 to every number"))
    assert question(steps) == "Keep the even numbers, then add 3 to every number."
    assert steps_in(question(steps)) == steps


def test_lm_eval_has_no_say_where_a_program_has_to_run(random_policy) -> None:
    assert task.answer_pattern is None
    assert harness(random_policy, task.prompts("test")[:2], task) is None
