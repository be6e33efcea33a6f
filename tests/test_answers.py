"""Reading answers: a table of what models write, two peers' verdicts on it, and the equations on the way."""

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
from answer_shapes import SHAPES, Shape
from hypothesis import given
from hypothesis import strategies as st
from math_answer_shapes import MATH_SHAPES

from bench.tasks.answers import simplified
from bench.tasks.arithmetic import equations, is_true, path, steps_are_true
from bench.tasks.extraction import after_thinking, boxed, final_number, read_number, tagged, written
from bench.tasks.gsm8k import Gsm8k
from bench.tasks.math500 import Math500


def gold(shape: Shape) -> str:
    value = read_number(shape.gold)
    assert value is not None
    return written(value)


def test_the_table_is_large_and_every_kind_of_disagreement_is_in_it() -> None:
    assert len({shape.completion for shape in SHAPES}) == len(SHAPES) >= 150
    assert len({shape.completion for shape in MATH_SHAPES}) >= 60
    assert sum(shape.right for shape in SHAPES) > 40
    assert sum(not shape.right for shape in SHAPES) > 12


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: repr(shape.completion)[:40])
def test_every_shape_gets_its_verdict(shape: Shape) -> None:
    assert Gsm8k().is_correct(shape.completion, gold(shape)) == shape.right


@pytest.fixture(scope="module")
def lm_eval_config() -> dict:
    import lm_eval
    import yaml

    return yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())


@pytest.mark.parametrize(("name", "field"), [("strict-match", "strict"), ("flexible-extract", "flexible")])
def test_lm_eval_agrees_but_where_the_table_says_why(lm_eval_config: dict, name: str, field: str) -> None:
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    chain = next(found["filter"] for found in lm_eval_config["filter_list"] if found["name"] == name)
    extract = RegexFilter(**{key: value for key, value in chain[0].items() if key != "function"})
    metric = lm_eval_config["metric_list"][0]
    until = lm_eval_config["generation_kwargs"]["until"]
    for shape in SHAPES:
        text = min((shape.completion.split(stop)[0] for stop in until), key=len)
        [[found]] = [list(one) for one in extract.apply([[text]], [{}])]
        verdict = exact_match_hf_evaluate(
            predictions=[found],
            references=[f"#### {shape.gold}"],
            regexes_to_ignore=metric["regexes_to_ignore"],
            ignore_case=metric["ignore_case"],
            ignore_punctuation=metric["ignore_punctuation"],
        )["exact_match"]
        assert (bool(verdict) != shape.right) == bool(getattr(shape, field)), shape


@pytest.mark.parametrize("shapes", [SHAPES, MATH_SHAPES], ids=["numbers", "mathematics"])
def test_math_verify_agrees_but_where_the_table_says_why(shapes: tuple[Shape, ...]) -> None:
    math_verify = pytest.importorskip("math_verify")
    for shape in shapes:
        expected, found = (
            math_verify.parse(text, parsing_timeout=None) for text in (f"\\boxed{{{shape.gold}}}", shape.completion)
        )
        verdict = math_verify.verify(expected, found, timeout_seconds=None)
        assert (verdict != shape.right) == bool(shape.math_verify), shape


def test_every_shape_of_mathematics_gets_its_verdict() -> None:
    pytest.importorskip("math_verify")
    verdicts = Math500().are_correct([shape.completion for shape in MATH_SHAPES], [shape.gold for shape in MATH_SHAPES])
    assert [shape for shape, verdict in zip(MATH_SHAPES, verdicts, strict=True) if verdict != shape.right] == []


def test_an_unmarked_number_can_be_refused() -> None:
    strict = Gsm8k(unmarked="none")
    assert Gsm8k().is_correct("She makes 18 dollars.", "18")
    assert not strict.is_correct("She makes 18 dollars.", "18")
    assert strict.is_correct("She makes 18 dollars. #### 18", "18")


@given(st.fractions(max_denominator=10**4))
def test_written_numbers_read_back(value: Fraction) -> None:
    assert read_number(written(value)) == value
    assert final_number(f"So it is.\n#### {written(value)}") == written(value)


@given(st.integers(-(10**12), 10**12))
def test_commas_and_currency_change_nothing(value: int) -> None:
    sign = "-" if value < 0 else ""
    for text in (f"{value:,}", f"{sign}${abs(value):,}", f"{value:,}.00 dollars", f"{value:,}".replace(",", "{,}")):
        assert read_number(text) == value, text


@pytest.mark.parametrize("text", ["1/0", "9" * 5000, "1 1/0", "x", "", "2^10", "3 - 1", "5-6"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    "piece",
    [
        "1 ",
        "(",
        " ",
        "1+",
        "((1)+",
        "\\boxed{",
        "answer is ",
        "a ",
        "\\frac{",
        "1,",
        "#### ",
        "$",
        "- ",
        "<answer>",
        "<think>",
        "</think>",
        "\\boxed ",
        "1 234 ",
        "½",
        "\n\\[",
        "\nQ1: ",
        "#### 1\n",
        "1,50",
        "1 000 ",
        "x<2 or ",
        "\\text{",
        "√(",
        "1_",
        "\\{x|",
        "\\text{1 ",
        "~",
        "1 base ",
    ],
)
def test_degenerate_text_is_read_in_no_time_and_never_fails(piece: str) -> None:
    text = piece * 3000
    for read in (final_number, path, steps_are_true, Math500().extract_answer, Math500().path):
        read(text)
    Math500().extract_answer(f"\\boxed{{{text}}}")


def test_numbers_of_thousands_of_digits_are_read() -> None:
    digits = "1" * 5000
    assert not steps_are_true(f"1+1={digits}")
    assert Math500().extract_answer(rf"\boxed{{0.{digits}\overline{{3}}}}") is not None
    assert not steps_are_true(f"{digits} + 1 = 2")


@pytest.mark.parametrize(
    ("completion", "rest"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("a</think>b", "b"),
        ("<think>a", ""),
        ("a<think>b</think>c<think>d", ""),
        ("<THINKING>a</Thinking>\nb", "\nb"),
        ("<thinker>a", "<thinker>a"),
    ],
)
def test_what_is_thought_is_no_part_of_the_answer(completion: str, rest: str) -> None:
    assert after_thinking(completion) == rest


def test_the_last_answer_tag_that_ends_holds_the_answer() -> None:
    assert tagged("<answer>1</answer> or <Answer> 2 </answer> or <answer>3") == " 2 "
    assert tagged("<answer>1 <answer>2</answer>") == "2"
    assert tagged("1</answer>") is None


def test_boxes_are_balanced() -> None:
    assert boxed(r"so \boxed{\frac{1}{\sqrt{2}}} then") == r"\frac{1}{\sqrt{2}}"
    assert boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert boxed(r"\boxed{1} and \boxed{2}") == "2"
    assert boxed(r"\boxed{\boxed{3}}") == "3"
    assert boxed("none") is None
    assert boxed(r"$\boxed 7$") == boxed(r"\boxed7") == "7"
    assert boxed(r"\boxed{6} in the \boxed notation") == "6"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9 - 1 = 8. 9 + 8 = 17. #### 17", ("9-1=8", "9+8=17")),
        ("He runs 3 sprints * 60 meters = 180 meters.", ("3*60=180",)),
        ("That is $2 x 3 = $6 and 1,000 + 1 = 1,001", ("2*3=6", "1000+1=1001")),
        (r"so $\frac{10}{4} = 2.5$ and $3 \times 4 = 12$", ("(10)/(4)=2.5", "3*4=12")),
        ("(3 + 4) * 2 = 14", ("(3+4)*2=14",)),
        ("The eggs are 9 - 1 = <<9-1=8>>8 and then <<8*2=16>>", ("9-1=8", "8*2=16")),
        ("x = 5, and 17 = 17", ()),
        ("no sums", ()),
    ],
)
def test_equations_are_found_in_their_order(text: str, found: tuple[str, ...]) -> None:
    assert equations(text) == found
    assert path(text) == ("; ".join(found) or None)


@pytest.mark.parametrize(
    ("equation", "true"),
    [
        *(("9-1=8", True), ("9-1=9", False), ("10/4=2.5", True), ("10/3=3.33", True), ("10/3=3.34", False)),
        *(("2/3=0.67", True), ("2/3=0.66", False), ("5/2=2", False), ("5/2=3", False), ("0.1+0.2=0.3", True)),
        *(("1.25*2=2.4", False), ("(3+4)*2=14", True), ("-(2)+5=3", True), ("1/0=0", False), ("(3+=7", False)),
    ],
)
def test_equations_are_judged(equation: str, true: bool) -> None:
    assert is_true(equation) == true


@given(st.lists(st.integers(1, 99), min_size=2, max_size=4), st.integers(-1, 1))
def test_arithmetic_agrees_with_python(terms: list[int], slip: int) -> None:
    for signs in itertools.product("+-*", repeat=len(terms) - 1):
        left = "".join(map(str, itertools.chain(*zip(terms, [*signs, ""], strict=True))))
        assert steps_are_true(f"Now {left} = {eval(left) + slip}.") == (slip == 0)


def test_steps_that_do_not_exist_are_not_true() -> None:
    assert not steps_are_true("The answer is 18.")
    assert steps_are_true("9 + 9 = 18")
    assert not steps_are_true("9 + 9 = 18, 18 + 1 = 20")


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        *(("$1,234$", "1234"), (r"\dfrac{1}{2}", "0.5"), (r"\left( 1,\, 2 \right)", "( 1, 2 )"), ("x + 1.", "x + 1")),
        *(
            (r"12^{\text{th}}", "12"),
            (r"204_\text{five}", "204_{5}"),
            (r"x<2 \text{ or } x\ge3", r"(-\infty,2) \cup [3,\infty)"),
        ),
        *(
            (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
            ("1.5e3", "1500"),
            ("2e-1", "2e-1"),
        ),
    ],
)
def test_math_answers_are_simplified_for_voting(text: str, simple: str) -> None:
    assert simplified(text) == simple


@pytest.mark.timeout(60)  # time that grew with the square of the length would be an hour
@pytest.mark.parametrize("text", ["#### 18" + "\n" * 200_000, "18" + "\n" * 200_000, "111 " * 50_000 + "is 18"])
def test_a_long_text_of_blanks_or_digits_is_read_in_time_that_grows_with_its_length(text: str) -> None:
    assert final_number(text) == "18"
