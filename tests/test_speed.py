"""Every benchmark runs at a small size, prints its table, and stops where what it compares does not agree."""

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_tasks as made
import forked
import numpy as np
import pytest

from bench.artifacts import Completions
from bench.models import loading
from bench.models.reward_models import RewardModel
from bench.sizing.memory import machine
from bench.speed import cli, estimators, pool, sizing, verify
from bench.speed.__main__ import BENCHMARKS, main
from bench.speed.measure import Printout, in_turns
from bench.speed.random_llama import random_policy
from bench.speed.scoring import long_tailed, of_prompts

ESTIMATORS = "estimators --prompts 40 --samples 16 --resamples 200 --long 2000"
IMPORTS = "imports --prompts 20 --completions 4"
POOL = "pool --prompts 30 --completions 6 --shard-size 8"
SCORING = "scoring --texts 24 --median 20 --longest 60 --hidden 32 --layers 1 --rounds 1"


def test_the_benchmarks_are_listed(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert tuple(line.split()[0] for line in lines) == BENCHMARKS
    assert all(line.endswith(".") for line in lines)


def test_an_unknown_benchmark_is_one_sentence():
    result = subprocess.run(
        [sys.executable, "-m", "bench.speed", "nothing"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: NAME=nothing is not allowed: it must be one of cli, estimators, ")
    assert "estimators" in result.stderr


def test_a_table_aligns_its_columns(capsys):
    Printout(6, {"CPU s": 8, "ratio": 8}).row("ours", "1.50", "1.0x")
    assert capsys.readouterr().out.splitlines() == ["         CPU s   ratio", "ours      1.50    1.0x"]


def test_ways_take_turns():
    calls: list[str] = []
    costs, results = in_turns({name: lambda name=name: calls.append(name) or name * 2 for name in "ab"}, range(3))
    assert calls == list("ababab")
    assert results == {"a": "aa", "b": "bb"}
    assert all(len(own) == 3 and min(cost.wall for cost in own) >= 0 for own in costs.values())


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (IMPORTS, ["20 x 4", "wall s", "GiB"]),
        (
            ESTIMATORS,
            [
                *("best_of_n, distinct", "best_of_n, 0/1", "pass_at_k", "bootstrap_interval"),
                *("one prompt of 2,000", "peak memory", "ratio"),
            ],
        ),
        (POOL, ["write", "score", "top_per_prompt", "distinct_correct", "read back", "in 8 units", "0 changed"]),
        (SCORING, ["24 texts of", "6 prompts x 16 completions", "batches of 8", "batches of 2", "batches of 1"]),
    ],
)
def test_the_table_has_every_line(command, shown, capsys):
    main(command.split())
    printed = capsys.readouterr().out
    for words in shown:
        assert words in printed
    if command == POOL:
        assert printed.count("GiB") == 10
    if command == SCORING:
        assert all(printed.count(f"batches of {size}") == 2 for size in (8, 2, 1))
        assert printed.count("1.0x") >= 4  # our own lines, the base of both tables
        assert "sorted, 2,048 tokens per batch" in printed or "sorted, 16,384" in printed


def made_data(folder: Path) -> Path:
    """Solutions in the formats of the real ones; of each six GSM8K solutions two are wrong."""
    pool = [
        {"ground_truth": f"2 * {n} = {2 * n}\nA: {2 * n}"}
        | {
            model: {"solution": f"Twice {n}.\nA: {2 * n + wrong}", "is_correct": not wrong}
            for model, wrong in zip(verify.MODELS, (0, 0, 1, 0), strict=True)
        }
        for n in range(1, 7)
    ]
    made.write(folder / "pools", gsm8k_example_model_solutions=pool)
    made.write(folder / "math", test=made.math_train(9))
    return folder


@pytest.mark.parametrize("own", [True, False])
def test_verdicts_are_counted_against_the_published_ones_and_those_of_others(
    own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("math_verify")
    monkeypatch.setenv("BENCH_DATA", str(made_data(tmp_path)))
    if not own:
        monkeypatch.setattr(
            verify.Gsm8k, "are_correct", lambda self, texts, answers: time.sleep(0.01) or [True] * len(texts)
        )
    main(["verify", "--part", "12"])
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    agreeing = [[int(line.split()[place]) for place in (-6, -5, -3)] for line in lines[1:4]]
    assert agreeing == [[24, 24 if own else 18, 24], [9, 9, 9], [9, 9, 9]]
    assert f"disagree with the data on {0 if own else 6} answers" in printed
    assert printed.count("GSM8K, lm-eval: wrong by the data, answer") == (0 if own else 5)


def test_verdicts_without_the_data_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"lacks pools/gsm8k.* and math/test\.jsonl: give its folder as --data"):
        main(["verify", "--data", str(tmp_path)])


def zeros(proxy: np.ndarray, gold: np.ndarray, n: Any) -> np.ndarray:
    return np.zeros((len(proxy), len(n)))


class Forgetful(pool.MadeUp):
    """Changes one completion that it drew."""

    def sample(self, *args: Any, **settings: Any) -> tuple[Completions, dict[str, float]]:
        drawn, counts = super().sample(*args, **settings)
        drawn.token_ids[0, 0] = np.arange(3, dtype=np.int32)
        return drawn, counts


def reversed_scores(score: Callable = RewardModel.score) -> Callable:
    return lambda *given: (score(*given)[0][::-1].copy(), {})


@pytest.mark.parametrize(
    ("command", "owner", "name", "wrong", "said"),
    [
        (ESTIMATORS, estimators, "best_of_n", zeros, "Not equal to tolerance"),
        (POOL, pool, "MadeUp", Forgetful, "came back changed"),
        (SCORING, RewardModel, "score", reversed_scores(), "Not equal to tolerance"),
    ],
)
def test_a_wrong_result_stops_the_table(command, owner, name, wrong, said, monkeypatch):
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match=said):
        main(command.split())


def test_texts_are_distinct_and_a_pools_repeats_are_of_one_prompt():
    prompts, completions = long_tailed(200, 30, 1.0, 100)
    assert len({message["content"] for (message,) in prompts}) == 200
    lengths = np.array([len(text.split()) for text in completions])
    assert (lengths.min() >= 1, lengths.max() <= 100, 22 < np.median(lengths) < 40) == (True, True, True)
    messages, texts = of_prompts(60, 60, 1.0, 200, repeated=0.34)
    rows = np.array(texts, object).reshape(60, 16)
    assert len({message["content"] for (message,) in messages}) == 60
    assert all(messages[i] is messages[i - i % 16] for i in range(960))
    assert 0.6 < np.mean([len(set(row)) / 16 for row in rows]) < 0.72
    assert len(set(texts)) == sum(len(set(row)) for row in rows)


def test_a_stages_products_are_counted_beside_their_estimate(tmp_path: Path):
    policy = random_policy(tmp_path / "policy", 2, 64, 400)
    overrides = [
        *("policy=folder", f"policy.path={policy.path}", "tracking=none", "task.train_prompts=4", "num_completions=4"),
        *("task.max_new_tokens=16", "selection=random_per_prompt", "prompt_filter=all", "training.epochs=1"),
        *("training.batch_size=4", "control=none", f"store={tmp_path}/store"),
    ]
    taken = sizing.experiment(overrides, counting=True, bare=0, whole=False)
    assert list(taken["stages"]) == ["fine-tuning"]
    (row,) = sizing.beside(taken, overrides, machine("cpu", 1e11))
    assert taken["completion_tokens"] == pytest.approx(16, abs=1)
    assert row["estimated_tokens"] == pytest.approx(row["tokens"], rel=0.1)
    # of the products with weights torch counts all but the table of embeddings, which is looked up
    weights: Any = loading.load_model(policy).parameters()
    embedded = 400 * 64 / sum(weight.numel() for weight in weights)
    assert row["flops"] / row["estimated_flops"] == pytest.approx(1 - embedded, abs=0.25)
    assert row["bytes"] > 0
    assert len(sizing._line({"way": "sft", **row})) > 80


def test_the_commands_are_measured_on_a_finished_sweep(tmp_path: Path, monkeypatch, capsys):
    small = [
        *("policy.steps=4", "policy.demonstrations=400", "task.train_prompts=12", "task.test_prompts=6"),
        *("num_completions=2", "baseline_completions=4", "training.epochs=1", "evaluation.num_completions=2"),
        *("evaluation.temperatures=null", "evaluation.lm_eval=false", "control=none", "prompt_filter=all"),
    ]
    shown: list[str] = []
    python = cli.python

    def without_imports(folder: Path, *given: str) -> str:
        """The measured command as it is; the sweep in a fork, and the cached cell in this process."""
        what, name, *arguments = given
        if what == "-c":
            monkeypatch.setattr(sys, "argv", ["-c", *arguments])
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
                exec(name)
            return out.getvalue()
        if name == "bench":
            assert forked.run(arguments, folder).returncode == 0
            return ""
        shown.append(python(folder, *given))
        return shown[-1]

    monkeypatch.setattr(cli, "python", without_imports)
    monkeypatch.setattr(cli, "GOALS", {name: goal for name, goal in cli.GOALS.items() if "status" in name})
    monkeypatch.setattr(cli, "CACHED", {"a cached cell of a sweep": True})
    main(["cli", "--repeats", "1", "--settings", *small])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["CPU", "s", "goal"]
    assert [line[:40].strip() for line in lines[1:]] == ["python -m bench.status, 16 cells", "a cached cell of a sweep"]
    assert all(float(line[40:].split()[0]) > 0 and line.endswith(("met", "MISSED")) for line in lines[1:])
    assert "16 cells: 16 done\n" in shown
