"""Published programming problems: their assertions as cases, and programs however they are written."""

from dataclasses import replace
from pathlib import Path

import fixtures_tasks as made
import pytest
from omegaconf import OmegaConf
from sharing import composed

from bench.config import checks
from bench.config.keys import id_of_settings, run_id
from bench.errors import BenchError
from bench.tasks.humaneval import HumanEval, preamble
from bench.tasks.jsonl import Jsonl
from bench.tasks.mbpp import Mbpp
from bench.tasks.program_tests import entry_of, prepared
from bench.tasks.programs import VERSION

pytestmark = pytest.mark.usefixtures("isolation")


@pytest.mark.parametrize(
    "sources", [["f(1) == 1"], ["assert f(1) =="], ["assert True"], ["assert (f(1) == 1, 'one')"], []]
)
def test_what_is_no_test_is_refused(sources: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no assertion|no Python"):
        prepared("\n".join(sources))


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("assert f(3) == 6", "f"),
        ("assert set(sorted(f(3))) == {6}", "f"),
        ("assert sum(10, 15) == 25", "sum"),  # MBPP tests functions of such names
        ("import math\nassert math.isclose(f(3), 6)", "f"),
        ("from math import isclose\nassert isclose(f(3), 6)", "f"),
        ("def near(x, y):\n    return x == y\nassert near(f(3), 6)", "f"),
        ("def check(candidate):\n    assert candidate(3) == 6", ""),
    ],
)
def test_the_function_that_assertions_test(source: str, function: str) -> None:
    assert entry_of(source) == function


@pytest.fixture(scope="module")
def mbpp(tmp_path_factory: pytest.TempPathFactory) -> Mbpp:
    folder = tmp_path_factory.mktemp("mbpp")
    unreadable = made.mbpp(1, seed=9)[0] | {"test_list": ["job()"], "text": "Left out."}
    made.write(folder, train=[*made.mbpp(12), unreadable], validation=made.mbpp(8, seed=3), test=made.mbpp(8, seed=6))
    return Mbpp(path=str(folder), near_duplicate=None)


def test_mbpp_problems_are_passed_by_their_own_programs_and_not_by_each_others(mbpp: Mbpp) -> None:
    prompts, rows = mbpp.prompts("test"), made.mbpp(8, seed=6)
    assert mbpp.counts() == {"near_duplicates_removed": 0, "rows_unreadable": 1}
    assert [len(mbpp.prompts(split)) for split in ("train", "validation", "test")] == [12, 8, 8]
    code = {row["text"]: row["code"] for row in rows}
    right = [code[messages[0]["content"].split("\n")[0]] for messages in prompts.messages]
    answers = prompts.answer.tolist()
    assert all(mbpp.are_correct(right, answers))
    assert not any(mbpp.are_correct([text.replace("return ", "return 77 or ") for text in right], answers))
    assert not any(mbpp.are_correct(right[1:] + right[:1], answers))
    assert all("assert job_" in messages[0]["content"] for messages in prompts.messages)


ANSWER_OF = {
    "bare": "{code}",
    "fenced": "```python\n{code}\n```",
    "explained": "Here it is:\n\n```python\n{code}\n```\nIt does what you ask. Usage:\n```python\nprint(1)\n```",
    "usage first": "Call it so:\n```\nprint(1)\n```\nand define it so:\n```python\n{code}\n```",
    "cut after the code": "```python\n{code}\n",
    "with its own tests": "```python\n{code}\n\nassert True\nif __name__ == '__main__':\n    raise SystemExit\n```",
    "shadowing": "```python\nlist_ = list\n{code}\nint = 'no'; isinstance = None\n```",
    "windows": "```Python\r\n{code}\r\n```",
    "python3": "```python3\n{code}\n```\nThat is it.",
    "after another language": "Run\n```bash\npython x.py\n```\nwith this:\n```python\n{code}\n```",
    "after what it prints": "For 1:\n```text\n2\n```\n~~~py\n{code}\n~~~",
    "with attributes": '```python title="job.py"\n{code}\n```\nDone.',
    "as pandoc has it": "```{{.python}}\n{code}\n```",
    "in a list": "1. The code:\n\n   ```python\n   {code_indented}\n   ```\n2. Done.",
    "in an item": "- ```python\n  {code_indented_by_two}\n  ```",
    "after a helper": "```python\ndef helper(x):\n    return x\n```\nand then\n```python\n{code}\n```",
    "fences within": '```python\ndef helper():\n    """E.g.\n\n    ```\n    1\n    ```\n    """\n\n{code}\n```',
    "fences within a bare program": 'def helper():\n    """E.g.\n\n    ```\n    1\n    ```\n    """\n\n{code}',
    "after other words": "Use `job` and ```this(x)``` so: ```python\n{code}```",
    "the next fence ends it": "```\nprint(1)\n```python\n{code}\n```",
    "from the future": "```python\nfrom __future__ import annotations\n{code}\n```",
    "in a block that the prompt opened": "{code}\n```\nIt adds.",
    "in such a block, with its language": "python\n{code}\n```\n\nE.g.:\n```python\nprint(1)\n```",
    "in such a block, as windows has it": "{code}\r\n```\r\nIt adds.",
    "thought over": "<think>```python\ndef job_a1(xs):\n    return xs\n```</think>\n```python\n{code}\n```",
}


@pytest.mark.parametrize("way", ANSWER_OF)
def test_programs_are_read_however_they_are_written(mbpp: Mbpp, way: str) -> None:
    row = made.mbpp(1)[0]
    example = mbpp.example(row, "one")
    assert example is not None
    indented = {
        f"code_indented{how}": row["code"].replace("\n", f"\n{by}") for how, by in (("", "   "), ("_by_two", "  "))
    }
    completion = ANSWER_OF[way].format(code=row["code"], **indented)
    assert mbpp.is_correct(completion, example.answer)
    job = mbpp.programs.job(completion, example.answer)  # what scoring=unit_tests runs
    assert row["code"].strip().replace("\r", "") in job.program.replace("\r", "")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "I can't.",
        "def job_a1(xs):\n    return xs",
        "def job_a1(xs):\n    return [x + 1 for x in xs]",  # a list is no tuple
        "def job_a2(xs):\n    return tuple(x + 1 for x in xs)",  # another name
        "class Yes(tuple):\n    def __eq__(self, other):\n        return True\n\ndef job_a1(xs):\n    return Yes()",
        "def job_a1(xs):\n    raise SystemExit(0)",
        "def bench_case(number):\n    return ['tuple', 2, 3]",
        "__bench__ = None\ndef check(candidate):\n    pass",
        "import sys\nsys.exit()",
        "<think>def job_a1(xs):\n    return tuple(x + 1 for x in xs)",  # not yet an answer
        "<think>```python\ndef job_a1(xs):\n    return tuple(x + 1 for x in xs)\n```</think>",
    ],
)
def test_wrong_programs_fail(mbpp: Mbpp, completion: str) -> None:
    example = mbpp.example(made.mbpp(1)[0], "one")
    assert example is not None
    assert not mbpp.is_correct(completion, example.answer)


def test_the_sanitized_format_is_read_too() -> None:
    row = made.mbpp(3)[2]
    other = {"prompt": row["text"], "test_list": row["test_list"], "test_imports": ["import math"], "code": row["code"]}
    example = Mbpp(path="x").example(other, "one")
    assert example is not None
    assert Mbpp(path="x").is_correct(row["code"], example.answer)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_humaneval_answers_are_whole_functions_or_go_on_where_the_prompt_ends(k: int) -> None:
    task, row = HumanEval(path="x"), made.humaneval(3)[k - 1]
    example = task.example(row, "one")
    assert example is not None
    body, start = row["canonical_solution"], row["prompt"].index(f"def work_{k}")
    alone = row["prompt"][start:] + body  # without the prompt's imports and helpers
    right = [
        body,
        row["prompt"] + body,
        f"```python\n{alone}```",
        body + "\n\ndef other():\n    raise ValueError\nother()",
        body + "```\nThat is it.\n\n```python\nprint(1)\n```",
        body.replace("\n", "\r\n") + "\r\n```\r\nThat is it.",
        "from __future__ import annotations\n" + row["prompt"] + body,
    ]
    assert task.are_correct(right, [example.answer] * 7) == [True] * 7
    wrong = [
        "    return None\n",
        alone.replace("return", "return None and"),
        "```python\nprint(1)\n```",
        "",
        "    return xs +",
    ]
    assert not any(task.are_correct(wrong, [example.answer] * len(wrong)))
    fooled = (
        "class Yes:\n    def __eq__(self, other):\n        return True\n"
        "    def __sub__(self, other):\n        return 0\n"
        f"def work_{k}(x):\n    return Yes()"
    )
    assert not task.is_correct(fooled, example.answer)


def test_a_continuation_is_judged_as_it_is_where_the_user_says_so() -> None:
    """As published: prompt and completion run together, so that a garbled end fails."""
    row = made.humaneval(3)[0]
    tasks = [HumanEval(path="x"), HumanEval(path="x", continuation="as_is")]
    (example, same) = (task.example(row, "one") for task in tasks)
    assert example is not None
    assert same is not None
    assert example == replace(same, solution=example.solution)
    assert same.solution == row["canonical_solution"]
    ends = ["", "\n\nassert work_1(", "\n\n# a comment", "\n```\n", "\nraise ValueError\n"]
    texts = [row["canonical_solution"] + end for end in ends]
    judged = [task.are_correct(texts, [example.answer] * 5) for task in tasks]
    assert judged == [[True] * 5, [True, False, True, False, False]]
    assert [task.judged_by for task in tasks] == [f"humaneval {VERSION}", f"humaneval {VERSION}, as it is"]
    words = ("task=humaneval", "task.path=x")
    default, as_is = composed(*words), composed(*words, "task.continuation=as_is")
    before = OmegaConf.to_container(default, resolve=True)
    assert before["task"].pop("continuation") == "function"
    assert id_of_settings(before) == run_id(default) != run_id(as_is)


def test_humaneval_splits_its_one_split(tmp_path: Path) -> None:
    task = HumanEval(path=made.write(tmp_path, test=made.humaneval(40)), near_duplicate=None)
    found = {split: task.prompts(split) for split in ("train", "validation", "test")}
    assert sum(map(len, found.values())) == 40
    assert len(found["test"]) > 10
    assert preamble("import re\n\ndef g():\n    pass\n\ndef f(x):\n    pass", "f") == "import re\n\ndef g():\n    pass"
    with pytest.raises(BenchError, match="has no field 'entry_point'"):
        HumanEval(path=made.write(tmp_path / "bad", test=[{"prompt": "?"}])).prompts("test")


def test_programs_are_compared_without_layout_and_comments() -> None:
    task = Mbpp(path="x")
    one = "```python\ndef f(x):\n    '''Doc.'''\n    # why\n    return x+1\n```"
    assert task.path(one) == task.path("def f(x): return x + 1") == "def f(x):\n    return x + 1"
    assert task.extract_answer(one) == task.extract_answer("def f(x): return (x + 1)")
    assert task.path("def f(x") is None
    assert task.extract_answer("def f(x") is None
    assert not task.steps_are_true(one)


@pytest.mark.parametrize(
    "value", ["x" + ".strip()" * 500, " + ".join("1" * 1000), "not " * 500 + "x", "0x" + "f" * 5000]
)
def test_python_that_is_too_long_to_be_written_anew_is_compared_as_it_is(value: str) -> None:
    task = Mbpp(path="x")
    code = f"def f(x):\n    return {value}"
    assert task.path(code) == task.path(f"```python\n{code}\n```").strip() == code
    assert task.extract_answer(code) != task.extract_answer(code + " + 1")
    assert task.judge.program(f"{code}\n```\nThat is it.", "f").strip() == code


TREES = """class Tree:
    def __init__(self, value):
        self.value, self.left, self.right = value, None, None

def balanced(tree):
    return (tree.left is None) == (tree.right is None)
"""


@pytest.mark.parametrize("code", [TREES, f"```python\n{TREES}```"])
def test_a_setup_may_need_what_the_program_defines(code: str) -> None:
    task = Mbpp(path="x")
    setup = "root = Tree(1)\nroot.left = Tree(2)\nother = Tree(3)"
    row = {
        "text": "Is it balanced?",
        "test_setup_code": setup,
        "test_list": ["assert balanced(root) == False", "assert balanced(other)"],
    }
    example = task.example(row, "one")
    assert example is not None
    assert task.is_correct(code, example.answer)
    assert not task.is_correct(code.replace("==", "!="), example.answer)
    assert not task.is_correct(code.replace("Tree", "Other"), example.answer)


def test_a_slow_program_may_be_given_time() -> None:
    slow = "import time\ndef f(x):\n    while time.process_time() < 1.3: pass\n    return x"
    for seconds, is_right in ((1, False), (2, True)):
        task = Jsonl(path="x", compare="tests", cpu_seconds=seconds)
        example = task.example({"prompt": "?", "tests": "assert f(1) == 1"}, "one")
        assert example is not None
        assert task.is_correct(slow, example.answer) == is_right
    assert Jsonl(path="x", compare="tests").judged_by == Jsonl(path="x", compare="tests", cpu_seconds=2).judged_by
    assert Jsonl(path="x", compare="tests", cpu_seconds=6).judged_by.endswith(", 6 s")
    run_ids = [run_id(composed("task=mbpp", "task.path=x", f"task.cpu_seconds={seconds}")) for seconds in (2, 6)]
    assert len({*run_ids}) == 2
    before = {"task": {"name": "mbpp"}}
    assert id_of_settings({"task": before["task"] | {"cpu_seconds": 2}}) == id_of_settings(before)


ADDS = "def add(a, b):\n    return a + b"
OWN_TESTS = {
    "a list": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"],
    "text": "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'",
    "with a setup": "import math\nthree = 1 + 2\nassert add(1, 2) == three\nassert math.isclose(add(.1, .2), .3)",
    "a function of their own": "def check(f):\n    assert f(1, 2) == 3\n    assert f('a', 'b') == 'ab'\n\ncheck(add)",
    "in a loop": "for x in range(3):\n    assert add(x, x) == 2 * x\nassert add('a', 'b') == 'ab'",
    "as pytest": "def test_it():\n    assert add(1, 2) == 3",
    "as unittest": "import unittest\nclass T(unittest.TestCase):\n  def test(s):\n    s.assertEqual(add(1, 2), 3)",
    "in a class": "class TestAdd:\n    def test_it(self):\n        assert add(1, 2) == 3",
    "asynchronous": "async def test_it():\n    assert add(1, 2) == 3",
    "imported": "from solution import add\nassert add(1, 2) == 3",
    "between other statements": "x = add(1, 2)\nassert x == 3\nx = add(x, 3)\nassert x == 6",
}


@pytest.mark.parametrize("way", OWN_TESTS)
def test_own_programs_are_judged_by_their_rows_tests(tmp_path: Path, way: str) -> None:
    rows = [{"prompt": f"Write add(a, b), number {k}.", "tests": OWN_TESTS[way]} for k in range(2)]
    task = Jsonl(path=made.write(tmp_path, test=rows), compare="tests", near_duplicate=None)
    answer = str(task.prompts("test").answer[0])
    wrong = ["def add(a, b):\n    return 4", "", "import sys\nsys.exit(0)", "def plus(a, b):\n    return a + b"]
    completions = [ADDS, f"Sure:\n```python\n{ADDS}\n```\nDone.", *wrong]
    assert task.are_correct(completions, [answer] * 6) == [True, True, False, False, False, False]
    assert "return a + b" in task.programs.job(completions[1], answer).program
    assert task.path(completions[0]) == task.path(completions[1]) == ADDS
    assert task.extract_answer("I can't.") is None


def test_own_tests_that_test_nothing_are_counted_and_missing_ones_refused(tmp_path: Path) -> None:
    tests: list = ["assert f() == 1", "f()", "assert f( == 1", "", None, [], "def test_f():\n    f()"]
    tests += ["assert True", "assert (f() == 1, 'one')", "def test_f(tmp_path, capsys):\n    assert f() == 1"]
    rows = [{"prompt": f"Prompt number {k}?", "tests": one} for k, one in enumerate(tests)]
    task = Jsonl(path=made.write(tmp_path, test=rows), compare="tests", near_duplicate=None)
    assert len(task.prompts("test")) == 1
    assert task.counts()["rows_unreadable"] == 9
    with pytest.raises(BenchError, match="has no field 'tests'; its fields are prompt"):
        Jsonl(path=made.write(tmp_path / "bad", test=[{"prompt": "?"}]), compare="tests").prompts("test")
    for source in (
        "import pytest\ndef test_f():\n    assert f() == 1",
        "assert f() == 1\nfrom numpy.linalg import norm",
    ):
        rows = [{"prompt": "?", "tests": source}]
        with pytest.raises(
            BenchError, match=r"^Row test-00000 of jsonl has tests that import (pytest|numpy), which the "
        ):
            Jsonl(path=made.write(tmp_path / "foreign", test=rows), compare="tests").prompts("test")


def test_unit_tests_take_own_prompts_just_where_they_have_tests() -> None:
    asked = ["task=jsonl", "task.path=anywhere", "scoring=unit_tests"]
    checks.check(composed(*asked, "task.compare=tests"))
    with pytest.raises(
        BenchError, match=r"scoring\.task=Jsonl is not allowed: it must be a task whose completions are"
    ):
        checks.check(composed(*asked))
    assert Jsonl(path="anywhere").programs is None
