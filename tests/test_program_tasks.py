"""Published programming problems: their assertions as cases, and programs however they are written."""

import itertools
from pathlib import Path

import fixtures_tasks as made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_attacks import skip_where_it_may_not
from sharing import composed

from bench.config import checks
from bench.errors import BenchError
from bench.sandbox.inside import canonical
from bench.tasks.humaneval import HumanEval, preamble
from bench.tasks.jsonl import Jsonl
from bench.tasks.mbpp import Mbpp
from bench.tasks.program_tests import cases, encoded


@pytest.fixture(scope="module", autouse=True)
def isolation() -> None:
    skip_where_it_may_not("auto")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2).map(lambda x: round(x, 1))
    | st.sampled_from("ab"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", 1, 1.5, True]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(VALUES, VALUES)
def test_encoded_values_are_equal_just_where_values_are(one: object, other: object) -> None:
    assert (canonical(encoded(one)) == canonical(encoded(other))) == (one == other)


SPECIAL = [
    1,
    1.0,
    True,
    1 + 0j,
    0,
    False,
    -0.0,
    "1",
    (1,),
    [1],
    {1},
    frozenset([1]),
    {1: 2},
    {1.0: 2.0},
    b"1",
    None,
    1j,
]
SPECIAL += [float("inf"), -float("inf"), 10**400, {(1, 2)}, {(1, 2): [3]}, "", [], (), set(), {}]


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations_with_replacement(SPECIAL, 2)])
def test_encoded_special_values_are_equal_just_where_values_are(one: object, other: object) -> None:
    assert (canonical(encoded(one)) == canonical(encoded(other))) == (one == other)


@pytest.mark.parametrize("value", [float("nan"), object(), (x for x in "ab"), len])
def test_what_is_no_data_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encoded(value)


def test_what_a_comparison_expects_stays_outside() -> None:
    calls, found = cases(["assert f((1, 2)) == (2, 1), 'swaps'", "assert set([3, 3]) == set(f(3))", "assert not f([])"])
    assert calls == ["f((1, 2))", "set(f(3))", "bool(not f([]))"]
    assert found == [([0], ["tuple", 2, 1]), ([1], ["set", 3]), ([2], 1)]


@pytest.mark.parametrize("sources", [["f(1) == 1"], ["assert f(1) =="], ["assert True"], []])
def test_what_is_no_test_is_refused(sources: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no assertion|no Python"):
        cases(sources)


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
    ]
    assert task.are_correct(right, [example.answer] * 4) == [True] * 4
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


ADDS = "def add(a, b):\n    return a + b"
OWN_TESTS = {
    "a list": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"],
    "text": "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'",
    "with a setup": "import math\nthree = 1 + 2\nassert add(1, 2) == three\nassert math.isclose(add(.1, .2), .3)",
    "a function of their own": "def check(f):\n    assert f(1, 2) == 3\n    assert f('a', 'b') == 'ab'\n\ncheck(add)",
    "in a loop": "for x in range(3):\n    assert add(x, x) == 2 * x\nassert add('a', 'b') == 'ab'",
    "as pytest": "def test_it():\n    assert add(1, 2) == 3",
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
    rows = [{"prompt": f"Prompt number {k}?", "tests": one} for k, one in enumerate(tests)]
    task = Jsonl(path=made.write(tmp_path, test=rows), compare="tests", near_duplicate=None)
    assert len(task.prompts("test")) == 1
    assert task.counts()["rows_unreadable"] == 6
    with pytest.raises(BenchError, match="has no field 'tests'; its fields are prompt"):
        Jsonl(path=made.write(tmp_path / "bad", test=[{"prompt": "?"}]), compare="tests").prompts("test")


def test_unit_tests_take_own_prompts_just_where_they_have_tests() -> None:
    asked = ["task=jsonl", "task.path=anywhere", "scoring=unit_tests"]
    checks.check(composed(*asked, "task.compare=tests"))
    with pytest.raises(
        BenchError, match=r"scoring\.task=Jsonl is not allowed: it must be a task whose completions are"
    ):
        checks.check(composed(*asked))
    assert Jsonl(path="anywhere").programs is None
