"""Scoring with a reward model against fixed batches in arrival order: CPU-seconds, wall-clock seconds, padding.

examples:
  python -m bench.speed scoring
  python -m bench.speed scoring --texts 300 --hidden 256 --layers 4

The lengths of texts are lognormal, like those of answers to mixed questions: many short, a few very long. The plain
ways take the texts as they come, 8, 2 or 1 at a time, and pad each batch to its longest. In the pool a prompt has 16
completions, of which a third repeat another, as in the default experiment. Every way tokenises for itself and uses the
same model. The ways take turns, medians are reported, and their scores must agree.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from bench.artifacts import Message
from bench.devices import resolve_dtype
from bench.models import chat
from bench.models.classifiers import find
from bench.models.reward_models import RewardModel
from bench.seeds import generator
from bench.speed.measure import Printout, in_turns, median, option_parser
from bench.speed.random_llama import random_reward_model

WORDS = ("the", "sum", "of", "these", "is", "more", "than", "we", "had", "at", "first", "take", "away", "one", "half")
SAMPLES, BLOCK = 16, 4  # per prompt of the pool, and per stored unit
Texts = tuple[list[list[Message]], list[str]]
Way = Callable[[Texts], np.ndarray]


def main(arguments: list[str]) -> None:
    parser = option_parser("scoring", __doc__)
    parser.add_argument("--texts", type=int, default=1_000, help="distinct pairs of prompt and completion")
    parser.add_argument("--median", type=int, default=60, help="of their lengths in tokens")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of the log length")
    parser.add_argument("--longest", type=int, default=1_024, help="tokens")
    parser.add_argument("--distinct", type=float, default=0.66, help="share of distinct texts in the pool")
    parser.add_argument("--hidden", type=int, default=96, help="hidden size of the random Llama")
    parser.add_argument("--layers", type=int, default=2, help="its layers")
    parser.add_argument("--batch-tokens", type=int, help="our token budget; default: that of scoring=reward_model")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    options = parser.parse_args(arguments)

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    texts = long_tailed(options.texts, options.median, options.spread, options.longest)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"hidden": options.hidden, "layers": options.layers, "longest": options.longest + 64}
        random_reward_model(Path(folder), *texts, **sizes)
        scorer = RewardModel(find(folder), max_length=None, dtype=resolve_dtype(), batch_tokens=options.batch_tokens)
    lengths = np.array([len(row["input_ids"]) for row in chat.encode_conversations(scorer.tokenizer, *texts)])
    parameters, device = scorer.model.num_parameters() / 1e6, scorer.model.device.type
    print(
        f"{len(lengths):,} texts of {lengths.min()} to {lengths.max()} tokens (median {np.median(lengths):.0f}, mean "
        f"{lengths.mean():.0f}); a Llama of {parameters:.1f} M parameters on {device}; "
        f"medians of {options.rounds} turns\n"
    )

    def ours(texts: Texts) -> np.ndarray:
        return scorer.score(*texts)[0]

    plain: dict[str, Way] = {}
    batches = {"sorted": list(scorer.batches(lengths, scorer.batch_tokens))}
    for size in (8, 2, 1):
        name = f"batches of {size} in arrival order"
        plain[name] = partial(in_arrival_order, scorer, size)
        batches[name] = np.split(np.arange(len(lengths)), range(size, len(lengths), size))
    padded = [sum(len(batch) * lengths[batch].max() for batch in own) for own in batches.values()]
    padding = [f"{1 - lengths.sum() / tokens:.0%}" for tokens in padded]
    _compare({f"sorted, {scorer.batch_tokens:,} tokens per batch": ours, **plain}, texts, options.rounds, padding)

    prompts, share = options.texts // BLOCK, 1 - options.distinct
    print(
        f"\na pool: {prompts} prompts x {SAMPLES} completions, prompts about as long as completions, "
        f"{share:.0%} of them repeats\n"
    )
    pool = of_prompts(prompts, options.median, options.spread, options.longest, repeated=share)
    _compare({"as bench.scoring does": partial(_by_units, ours), **plain}, pool, options.rounds)


def _compare(ways: Mapping[str, Way], texts: Texts, rounds: int, padding: list[str] | None = None) -> None:
    """Print what every way takes beside the first. AssertionError where their scores differ."""
    few: Texts = (texts[0][:4], texts[1][:4])
    for way in ways.values():
        way(few)  # what a first call sets up is not measured
    of_turns, scores = in_turns({name: partial(way, texts) for name, way in ways.items()}, range(rounds))
    first, *others = scores.values()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-3 * first.std() if first.dtype == float else 0)
    columns = {"CPU s": 8, "ratio": 8, "wall s": 9, " ratio": 8}
    table = Printout(36, columns | ({"padding": 9} if padding else {}))
    costs = {name: median(own) for name, own in of_turns.items()}
    base = next(iter(costs.values()))
    for name, cost, share in zip(costs, costs.values(), padding or [""] * len(costs), strict=True):
        cpu, wall = f"{cost.cpu / base.cpu:.1f}x", f"{cost.wall / base.wall:.1f}x"
        table.row(name, f"{cost.cpu:.2f}", cpu, f"{cost.wall:.2f}", wall, share)


def in_arrival_order(scorer: RewardModel, size: int, texts: Texts) -> np.ndarray:
    """[D] scores of the texts, `size` at a time, which the tokenizer pads to the longest of them."""
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


def _by_units(way: Way, texts: Texts) -> np.ndarray:
    """[D] scores as bench.scoring.units makes them: block by block, each distinct text of a prompt once."""
    cells = [(messages[0]["content"], text) for messages, text in zip(*texts, strict=True)]
    known: dict[tuple[str, str], float] = {}
    for start in range(0, SAMPLES, BLOCK):
        block = [i for i in range(len(cells)) if start <= i % SAMPLES < start + BLOCK]
        new = list({cells[i]: i for i in block if cells[i] not in known}.values())
        if new:
            values = way(([texts[0][i] for i in new], [texts[1][i] for i in new]))
            known |= dict(zip([cells[i] for i in new], values.tolist(), strict=True))
    return np.array([known[cell] for cell in cells])


def of_prompts(prompts: int, median: int, spread: float, longest: int, *, repeated: float) -> Texts:
    """SAMPLES completions per prompt, prompt by prompt. A share of them repeats another of the same prompt."""
    rng = generator(0, "speed", "pool")
    _, questions = long_tailed(prompts, median // 2, spread / 2, longest // 4)
    _, answers = long_tailed(prompts * SAMPLES, median // 2, spread, longest // 2)
    messages: list[list[Message]] = [
        [{"role": "user", "content": f"Question {i}:{text}"}] for i, text in enumerate(questions)
    ]
    for row in range(prompts):
        for column in range(1, SAMPLES):
            if rng.random() < repeated * SAMPLES / (SAMPLES - 1):
                answers[row * SAMPLES + column] = answers[row * SAMPLES + rng.integers(0, column)]
    return [messages[i // SAMPLES] for i in range(prompts * SAMPLES)], answers


def long_tailed(count: int, median: int, spread: float, longest: int) -> Texts:
    """Distinct prompts and completions, whose lengths in words are lognormal, from 1 to `longest`."""
    rng = generator(0, "speed", "texts")
    lengths = np.clip(np.round(median * np.exp(rng.normal(0, spread, count))), 1, longest).astype(int)
    prompts: list[list[Message]] = []
    completions = []
    for i, length in enumerate(lengths):
        prompts.append([{"role": "user", "content": f"Question {i}:"}])
        completions.append(" " + " ".join(rng.choice(WORDS, length).tolist()))
    return prompts, completions
