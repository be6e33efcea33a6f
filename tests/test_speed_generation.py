"""The speed table of sampling: every way draws the same work, and what is missing or differs is said."""

import csv

import numpy as np
import pytest
import torch

from bench.errors import BenchError
from bench.models import loading
from bench.records.environment import read_noted
from bench.speed import generation
from bench.speed.__main__ import main
from bench.tasks.word_problems import WordProblems

SMALL = ["generation", "--rows", "8", "--samples", "2", "--top-p", "1", "--max-new-tokens", "6", "--repeats", "2"]


@pytest.fixture
def work():
    return generation.SamplingWork(WordProblems().prompts("test")[:11], 3, 6, top_p=0.9)


def opened(policy, *names):
    model, tokenizer = loading.load_model(policy), loading.load_tokenizer(policy)
    return generation.open_ways(names, policy, model, tokenizer, dtype="float32", batch_tokens=10_000)


def test_the_table_and_its_rows_with_their_environment(random_policy, tmp_path, capsys):
    record = tmp_path / "generation.csv"
    ways = ["--ways", "ours", "generate", "teaching"]
    main([*SMALL, "--policy", str(random_policy.path), *ways, "--csv", str(record)])
    printed = capsys.readouterr().out
    assert "8 rows = 4 prompts x 2" in printed
    assert "greedy completions that are model.generate's, token for token: 4 of 4" in printed
    rows = list(csv.DictReader(record.open()))
    assert [(row["way"], row["turns"]) for row in rows] == [
        (way, "2") for way in ("ours", "generate", "teaching", "floor")
    ]
    assert all(0 < int(row["tokens"]) <= 2 * 8 * 6 for row in rows)
    assert rows[-1]["tokens"] == rows[0]["tokens"]  # the floor's work is ours
    for row in rows:
        for column in ("tokens_per_second", "tokens_per_cpu_second", "times_generate", "of_floor"):
            assert 0 < float(row[f"{column}_low"]) <= float(row[column]) <= float(row[f"{column}_high"])
    assert {float(rows[1][f"times_generate{end}"]) for end in ("", "_low", "_high")} == {1}
    assert list(read_noted(tmp_path)) == ["generation.csv"]


@pytest.mark.parametrize("name", ["ours", "generate", "teaching"])
def test_a_way_draws_every_row_up_to_its_end(random_policy, work, name):
    rows = opened(random_policy, name)[name](work, 0)
    assert len(rows) == 33
    assert all(1 <= len(row) <= 6 for row in rows)
    assert all(2 not in row[:-1] and (len(row) == 6 or row[-1] == 2) for row in rows)
    again = opened(random_policy, name)[name](work, 0)
    assert all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(rows, opened(random_policy, name)[name](work, 1), strict=True))


def test_greedy_ways_agree(random_policy, work):
    greedy = generation.SamplingWork(work.prompts, 1, 6, temperature=0.0)
    ours, generate, teaching = (way(greedy, 0) for way in opened(random_policy, *generation.WAYS[:3]).values())
    for a, b, c in zip(ours, generate, teaching, strict=True):
        assert a.tolist() == b.tolist() == c.tolist()


def test_a_difference_between_greedy_ways_is_counted(random_policy, work, capsys):
    ways = opened(random_policy, "generate")
    generation._greedy(work, {**ways, "ours": lambda work, seed: [np.array([7])] * 33})
    assert "0 of 33" in capsys.readouterr().out


def test_vllm_is_left_out_with_the_reason(monkeypatch, random_policy, capsys):
    def missing(policy, dtype):
        raise BenchError("it is not installed")

    monkeypatch.setattr(generation, "_vllm", missing)
    assert list(opened(random_policy, "ours", "vllm")) == ["ours"]
    assert "vllm is left out: it is not installed" in capsys.readouterr().err


def test_the_floor_multiplies_by_every_matrix_once_a_token(random_policy, monkeypatch):
    model = loading.load_model(random_policy)
    products = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: products.append((a.shape[0], b.shape)) or real(a, b))
    turn = generation._floor(model, 50, 5, np.array([1, 3, 3]))
    assert turn.tokens == 7
    weights = sum(rows * shape[0] * shape[1] for rows, shape in products)
    head = 64 * model.config.vocab_size
    inner = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name)
    assert weights == inner * (50 + 2 + 2) + head * (5 + 2 + 2)  # two rows draw a second and a third token


def test_a_random_model_of_any_size(tmp_path, capsys):
    main([*SMALL, "--layers", "1", "--hidden", "64", "--vocabulary", "5000", "--ways", "ours", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "llama, " in printed
    assert "8 rows = 4 prompts x 2" in printed
