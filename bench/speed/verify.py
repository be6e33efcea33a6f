"""Verdicts on real solutions: agreement with the published ones, and the rate beside lm-eval's and math-verify's code.

examples:
  BENCH_DATA=FOLDER python -m bench.speed verify
  python -m bench.speed verify --data FOLDER --limit 500

GSM8K: 1,319 problems with one solution by each of four models (gsm8k_example_model_solutions), each with its published
verdict. MATH: 5,000 test solutions, each with its own answer, which is right, and with that of the next problem, which
is wrong unless the two are the same text. The two ways take turns on parts of the data, so that a busy machine slows
both alike. Rates are answers per second of wall-clock time.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.speed.measure import Printout, option_parser, timed
from bench.tasks.extraction import boxed, number_in
from bench.tasks.files import read
from bench.tasks.gsm8k import Gsm8k
from bench.tasks.math500 import Math500

Verdicts = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]
DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"  # beside the repository
GSM8K, MATH = Path("pools/gsm8k_example_model_solutions.jsonl"), Path("math/test.jsonl")
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
SHOWN = 5  # disagreements


class Solutions(NamedTuple):
    """Solutions, the answers by which each is judged, and whether it is right."""

    completions: list[str]
    answers: list[str]
    right: list[bool]

    def part(self, rows: slice) -> "Solutions":
        return Solutions(self.completions[rows], self.answers[rows], self.right[rows])


def main(arguments: list[str]) -> None:
    parser = option_parser("verify", __doc__)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the folder of the data sets")
    parser.add_argument("--limit", type=int, help="solutions of each set; all where it is left out")
    parser.add_argument("--part", type=int, default=500, help="solutions that one way judges before the other")
    options = parser.parse_args(arguments)
    missing = [name for name in (GSM8K, MATH) if not (options.data / name).is_file()]
    if missing:
        sys.exit(f"{options.data} lacks {' and '.join(map(str, missing))}: give its folder as --data or BENCH_DATA.")
    number, mathematics = Gsm8k().are_correct, Math500().are_correct
    own, other = math_solutions(options.data)
    table = Printout(30, {"answers": 9, "agree": 8, "per s": 9, "agree ": 8, "per s ": 9, "ratio": 8})
    disagreements = []
    for name, solutions, ours, theirs in (
        ("GSM8K, lm-eval", gsm8k_solutions(options.data), number, lm_eval_gsm8k),
        ("MATH, math-verify", own, mathematics, by_math_verify),
        ("MATH, the next problem's", other, mathematics, by_math_verify),
    ):
        solutions = solutions.part(slice(options.limit))
        verdicts, seconds = _in_turns(solutions, [ours, theirs], options.part)
        agreeing = [sum(map(bool.__eq__, found, solutions.right)) for found in verdicts]
        rates = [len(solutions.right) / taken for taken in seconds]
        cells = [f"{value:,.0f}" for pair in zip(agreeing, rates, strict=True) for value in pair]
        table.row(name, f"{len(solutions.right):,}", *cells, f"{rates[0] / rates[1]:.1f}x")
        disagreements += [
            f"{name}: {'right' if right else 'wrong'} by the data, answer {answer!r}: ...{completion[-60:]!r}"
            for completion, answer, right, found in zip(*solutions, verdicts[0], strict=True)
            if found != right
        ]
    print("\nThe columns are ours, then theirs. Ours disagree with the data on", len(disagreements), "answers.")
    print("\n".join(disagreements[:SHOWN]))


def data_folder() -> Path:
    """The folder of the real data: BENCH_DATA, else ../shared/data beside the repository."""
    return Path(os.environ.get("BENCH_DATA") or DEFAULT)


def gsm8k_solutions(data: Path) -> Solutions:
    """The models' solutions, by problem."""
    rows = [(row["ground_truth"], row[model]) for row in read(data / GSM8K) for model in MODELS]
    golds = [number_in(truth.rpartition("A:")[2]) or "" for truth, _ in rows]
    return Solutions([one["solution"] for _, one in rows], golds, [one["is_correct"] for _, one in rows])


def math_solutions(data: Path) -> tuple[Solutions, Solutions]:
    """The published solutions with their own answers, and with those of the next problems."""
    texts = [row["solution"] for row in read(data / MATH)]
    golds = [boxed(text) or "" for text in texts]
    shifted = golds[1:] + golds[:1]
    same = [gold == other for gold, other in zip(golds, shifted, strict=True)]
    return Solutions(texts, golds, [True] * len(texts)), Solutions(texts, shifted, same)


def lm_eval_gsm8k(completions: Sequence[str], answers: Sequence[str], name: str = "flexible-extract") -> list[bool]:
    """The verdicts of lm-eval's task gsm8k, by its own filter and metric."""
    import lm_eval
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    ((pattern, _),) = [each["filter"] for each in task["filter_list"] if each["name"] == name]
    settings = {key: pattern[key] for key in ("regex_pattern", "group_select") if key in pattern}
    found = RegexFilter(**settings).apply([[text] for text in completions], [{}] * len(completions))
    given = {key: task["metric_list"][0][key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    return [
        bool(exact_match_hf_evaluate(predictions=[said], references=[gold], **given)["exact_match"] == 1)
        for (said,), gold in zip(found, answers, strict=True)
    ]


def by_math_verify(completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
    """The verdicts of math-verify's own `parse` and `verify`, in this process, as lm-eval's minerva_math calls them."""
    import math_verify

    return [
        bool(math_verify.verify(math_verify.parse(f"$\\boxed{{{gold}}}$"), math_verify.parse(text)))
        for text, gold in zip(completions, answers, strict=True)
    ]


def _in_turns(solutions: Solutions, ways: Sequence[Verdicts], part: int) -> tuple[list[list[bool]], list[float]]:
    """The verdicts and the wall-clock seconds of each way; the ways judge one part after another, each only once."""
    verdicts: list[list[bool]] = [[] for _ in ways]
    seconds = [0.0 for _ in ways]
    for start in range(0, len(solutions.right), part):
        here = solutions.part(slice(start, start + part))
        for number, way in enumerate(ways):
            if not start:
                way(here.completions[:2], here.answers[:2])  # loads what it needs
            found, cost = timed(lambda way=way, here=here: way(here.completions, here.answers))  # type: ignore[misc]
            verdicts[number] += [bool(verdict) for verdict in found]
            seconds[number] += cost.wall
    return verdicts, seconds
