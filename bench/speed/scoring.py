"""Scoring with a reward model against fixed batches in arrival order: CPU-seconds, wall seconds, and what is padding.

    python -m bench.speed scoring
    python -m bench.speed scoring --texts 300 --hidden 256 --layers 4

The texts' lengths are lognormal, as those of answers to mixed questions are: many short, a few very long. The plain
ways are what one writes first: the texts as they come, 8 or 2 at a time, each batch padded to its longest. In a pool a
prompt has 16 completions, of which a third repeat another, as in the default experiment's.
Every way tokenises for itself and has the same model; they take turns, medians are reported, and scores must agree.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Message
from bench.devices import resolve_dtype
from bench.models import chat
from bench.models.classifiers import find
from bench.models.reward_models import RewardModel
from bench.seeds import generator, small_seed

WORDS = ("the", "sum", "of", "these", "is", "more", "than", "we", "had", "at", "first", "take", "away", "one", "half")
SAMPLES, BLOCK = 16, 4  # of a prompt in the pool, and in one stored unit of it
Texts = tuple[list[list[Message]], list[str]]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed scoring", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--texts", type=int, default=1_000, help="distinct prompt-completion pairs, default %(default)s"
    )
    parser.add_argument("--median", type=int, default=60, help="of their lengths in tokens, default %(default)s")
    parser.add_argument(
        "--spread", type=float, default=1.0, help="standard deviation of log length, default %(default)s"
    )
    parser.add_argument("--longest", type=int, default=1_024, help="tokens, default %(default)s")
    parser.add_argument("--distinct", type=float, default=0.66, help="share of a pool's texts, default %(default)s")
    parser.add_argument("--hidden", type=int, default=96, help="size of the random Llama, default %(default)s")
    parser.add_argument("--layers", type=int, default=2, help="of it, default %(default)s")
    parser.add_argument("--batch-tokens", type=int, help="our token budget, by default scoring=reward_model's")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way, default %(default)s")
    options = parser.parse_args(arguments)

    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    texts = long_tailed(options.texts, options.median, options.spread, options.longest)
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), texts, hidden=options.hidden, layers=options.layers, longest=options.longest + 64)
        scorer = RewardModel(find(folder), max_length=None, dtype=resolve_dtype(), batch_tokens=options.batch_tokens)
    lengths = np.array([len(row["input_ids"]) for row in chat.encode_conversations(scorer.tokenizer, *texts)])
    size, device = scorer.model.num_parameters() / 1e6, scorer.model.device.type
    print(
        f"{len(lengths):,} texts of {lengths.min()} to {lengths.max()} tokens (median {np.median(lengths):.0f}, mean "
        f"{lengths.mean():.0f}); a Llama of {size:.1f} M parameters on {device}; medians of {options.rounds} turns\n"
    )
    ways: dict[str, tuple[Callable[[Texts], np.ndarray], list[np.ndarray]]] = {
        f"sorted, {scorer.batch_tokens:,} tokens a batch": (
            lambda texts: scorer.score(*texts)[0],
            list(scorer.batches(lengths, scorer.batch_tokens)),
        ),
        **{
            f"batches of {size} in arrival order": (
                lambda texts, size=size: in_arrival_order(scorer, texts, size),  # type: ignore[misc]
                np.split(np.arange(len(lengths)), range(size, len(lengths), size)),
            )
            for size in (8, 2, 1)
        },
    }
    print(f"{'':36}{'CPU s':>8}{'ratio':>8}{'wall s':>9}{'ratio':>8}{'padding':>9}")
    measured = in_turns({name: way for name, (way, _) in ways.items()}, texts, options.rounds)
    for name, (cpu, wall) in measured.items():
        padded = sum(len(batch) * lengths[batch].max() for batch in ways[name][1])
        print(f"{_row(name, cpu, wall, next(iter(measured.values())))}{1 - lengths.sum() / padded:9.0%}")

    share = 1 - options.distinct
    pool = of_prompts(options.texts // BLOCK, options.median, options.spread, options.longest, repeated=share)
    print(
        f"\na pool: {options.texts // BLOCK} prompts x {SAMPLES} completions, prompts about as long as completions, "
        f"{share:.0%} of them repeats\n"
    )
    pooled = {name: way for name, (way, _) in ways.items()}
    ours = next(iter(pooled))
    measured = in_turns({"as bench.scoring does": _by_units(pooled.pop(ours)), **pooled}, pool, options.rounds)
    for name, (cpu, wall) in measured.items():
        print(_row(name, cpu, wall, next(iter(measured.values()))))


def in_turns(
    ways: dict[str, Callable[[Texts], np.ndarray]], texts: Texts, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median CPU-seconds and wall seconds of each way; raises AssertionError where their scores differ."""
    few: Texts = (texts[0][:4], texts[1][:4])
    for way in ways.values():
        way(few)  # what a first call sets up is no part of it
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            found[name] = way(texts)
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    first, *others = found.values()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-3 * first.std() if first.dtype == float else 0)
    return {
        name: (float(np.median([c for c, _ in t])), float(np.median([w for _, w in t]))) for name, t in taken.items()
    }


def in_arrival_order(scorer: RewardModel, texts: Texts, size: int) -> np.ndarray:
    """[D] scores: `size` texts at a time, padded to the longest of them by the tokenizer."""
    import torch

    model, tokenizer = scorer.model, scorer.tokenizer
    values = []
    with torch.inference_mode():
        for start in range(0, len(texts[1]), size):
            part = slice(start, start + size)
            rows = chat.encode_conversations(tokenizer, texts[0][part], texts[1][part])
            batch = tokenizer.pad(rows, padding=True, padding_side="right", return_tensors="pt").to(model.device)
            values.append(model(**batch).logits[:, 0].double().cpu().numpy())
    return np.concatenate(values)


def _by_units(way: Callable[[Texts], np.ndarray]) -> Callable[[Texts], np.ndarray]:
    """As bench.scoring.units does: a block of samples after the other, each distinct text of a prompt scored once."""

    def call(texts: Texts) -> np.ndarray:
        cells = [(messages[0]["content"], text) for messages, text in zip(*texts, strict=True)]
        known: dict[tuple[str, str], float] = {}
        for start in range(0, SAMPLES, BLOCK):
            block = [i for i in range(len(cells)) if start <= i % SAMPLES < start + BLOCK]
            new = list({cells[i]: i for i in block if cells[i] not in known}.values())
            if not new:
                continue
            values = way(([texts[0][i] for i in new], [texts[1][i] for i in new]))
            known |= dict(zip([cells[i] for i in new], values.tolist(), strict=True))
        return np.array([known[cell] for cell in cells])

    return call


def of_prompts(prompts: int, median: int, spread: float, longest: int, *, repeated: float) -> Texts:
    """SAMPLES completions of each prompt, prompt by prompt, of which a share repeats another of the same prompt."""
    rng = generator(0, "speed", "pool")
    _, asked = long_tailed(prompts, median // 2, spread / 2, longest // 4)
    _, answered = long_tailed(prompts * SAMPLES, median // 2, spread, longest // 2)
    messages: list[list[Message]] = [
        [{"role": "user", "content": f"Question {i}:{text}"}] for i, text in enumerate(asked)
    ]
    for row in range(prompts):
        for column in range(1, SAMPLES):
            if rng.random() < repeated * SAMPLES / (SAMPLES - 1):
                answered[row * SAMPLES + column] = answered[row * SAMPLES + rng.integers(0, column)]
    return [messages[i // SAMPLES] for i in range(prompts * SAMPLES)], answered


def long_tailed(count: int, median: int, spread: float, longest: int) -> Texts:
    """Prompts and completions, all different, of lognormal length in words, one to `longest`."""
    rng = generator(0, "speed", "texts")
    lengths = np.clip(np.round(median * np.exp(rng.normal(0, spread, count))), 1, longest).astype(int)
    prompts: list[list[Message]] = []
    completions = []
    for i, length in enumerate(lengths):
        prompts.append([{"role": "user", "content": f"Question {i}:"}])
        completions.append(" " + " ".join(rng.choice(WORDS, length).tolist()))
    return prompts, completions


def random_model(folder: Path, texts: Texts, *, hidden: int, layers: int, longest: int) -> Any:
    """A Llama with a head of one output, untrained, and a tokenizer of the texts' words, saved in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from bench.training.pretraining import train_tokenizer

    tokenizer = train_tokenizer(
        [(messages[0]["content"], text) for messages, text in zip(*texts, strict=True)], vocabulary=400
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        max_position_embeddings=2 * longest,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(small_seed(0, "speed", "model"))
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _row(name: str, cpu: float, wall: float, ours: tuple[float, float]) -> str:
    return f"{name:36}{cpu:8.2f}{cpu / ours[0]:7.1f}x{wall:9.2f}{wall / ours[1]:7.1f}x"
