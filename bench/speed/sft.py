"""Fine-tuning by this suite and by plain loops, on the same examples in turns: updates per CPU-second.

examples:
  python -m bench.speed sft
  python -m bench.speed sft --median 12 --layers 4 --hidden 256 --updates 12 --ways padded packed loop     a long tail

padded and packed: training=sft with training.packing=false and true. loop: batches padded in the order of drawing,
transformers' own loss, Adam, float32. published: the same with rlhf-book's settings (two examples at a time,
bfloat16 weights, gradient checkpointing). Every way makes the same number of updates on batches of one size.
A warm-up comes first. Loading and saving are not counted: those of this suite are subtracted, as what two updates take.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Policy
from bench.devices import device
from bench.models import loading
from bench.models.tokens import padded
from bench.seeds import generator
from bench.speed import measure as measuring
from bench.speed.random_llama import embedded_or_random
from bench.speed.scoring import long_tailed
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems
from bench.training.packing import IGNORED
from bench.training.recipe import Recipe
from bench.training.sft import TrainingSet, sft, tokenized
from bench.training.trainers import training_log

WAYS = ("padded", "packed", "loop", "published")
FEW = 2  # updates that stand for loading and saving
LEARNING_RATE = 1e-5
Way = Callable[[int, int], tuple[float, measuring.Cost]]  # (updates, seed) -> the first loss, what the updates took


def main(arguments: list[str]) -> None:
    parser = measuring.option_parser("sft", __doc__)
    parser.add_argument("--examples", type=int, default=400, help="the number of training examples")
    parser.add_argument("--median", type=int, help="median length in words of a long-tailed text in their place")
    parser.add_argument("--layers", type=int, help="layers of a randomly initialised Llama in place of the policy")
    parser.add_argument("--hidden", type=int, default=384, help="its hidden size")
    parser.add_argument("--vocabulary", type=int, default=4_000, help="its vocabulary")
    parser.add_argument("--batch", type=int, default=8, help="examples per update")
    parser.add_argument("--updates", type=int, default=40, help="per turn")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is compared")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    parser.add_argument("--store", default="store", help="where the embedded policy lies")
    parser.add_argument("--csv", type=Path, help="a file for the rows of the table")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as scratch:
        policy = embedded_or_random(options, Path(scratch, "policy"))
        examples = _examples(policy, options.examples, options.median)
        lengths = [len(row) for row in _rows(policy, examples)["input_ids"]]
        print(
            f"{loading.count_parameters(policy):,} parameters, {len(lengths):,} examples of {min(lengths)} to "
            f"{max(lengths)} tokens (median {np.median(lengths):.0f}), {options.batch} per update; medians of "
            f"{options.repeats} turns (lowest, highest)"
        )
        ways = _ways(policy, examples, options.batch, Path(scratch))
        table = compare({name: ways[name] for name in options.ways}, options.updates, options.repeats)
    measuring.keep(options.csv, table)


def _examples(policy: Policy, number: int, median: int | None) -> TrainingSet:
    """Worked solutions of the default task, or texts of lognormal lengths."""
    if median is None:
        pairs = WordProblems().demonstrations(number, generator(0, "speed", "sft"))
    else:
        prompts, texts = long_tailed(number, median, 0.8, 8 * median)
        pairs = [(messages[0]["content"], text) for messages, text in zip(prompts, texts, strict=True)]
    tokenizer = loading.load_tokenizer(policy)
    return TrainingSet(
        messages=tuple(({"role": "user", "content": prompt},) for prompt, _ in pairs),
        token_ids=tuple(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in pairs),
        finish_reason=("length",) * len(pairs),
        weight=(1.0,) * len(pairs),
    )


def _rows(policy: Policy, examples: TrainingSet) -> dict[str, list]:
    return tokenized(examples, loading.load_tokenizer(policy), set())


def _ways(policy: Policy, examples: TrainingSet, batch: int, scratch: Path) -> dict[str, Way]:
    rows = _rows(policy, examples)
    return {
        "padded": partial(_ours, policy, examples, batch, False, scratch),
        "packed": partial(_ours, policy, examples, batch, True, scratch),
        "loop": partial(_loop, policy, rows, batch, batch, "float32", False),
        "published": partial(_loop, policy, rows, batch, 2, "bfloat16", True),
    }


def _ours(
    policy: Policy, examples: TrainingSet, batch: int, packing: bool, scratch: Path, updates: int, seed: int
) -> tuple[float, measuring.Cost]:
    given: dict[str, Any] = {"epochs": None, "learning_rate": LEARNING_RATE, "batch_size": batch, "packing": packing}
    given |= {"warmup": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "scheduler": "constant", "seed": seed}
    costs = []
    for number in (FEW, FEW + updates):
        place = scratch / "sft"
        with using(Store(place)):
            made, cost = measuring.timed(partial(sft, policy, examples, Recipe(updates=number, **given)))
            loss = training_log(made)[0]["loss"]
        shutil.rmtree(place)
        costs.append(cost)
    start, whole = costs
    return loss, measuring.Cost(whole.cpu - start.cpu, whole.wall - start.wall)


def _loop(
    policy: Policy, rows: dict[str, list], batch: int, at_once: int, dtype: str, saving: bool, updates: int, seed: int
) -> tuple[float, measuring.Cost]:
    """at_once: examples in a forward pass. saving: checkpoint the activations."""
    import torch

    model = loading.load_model(policy, dtype=dtype, device=device()).train()
    if saving:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    count = len(rows["weight"])
    rng = generator(seed, "speed", "order")
    order = np.concatenate([rng.permutation(count) for _ in range(-(-updates * batch // count))])
    losses = []

    def train() -> None:
        for chosen in order[: updates * batch].reshape(updates, batch):
            loss = 0.0
            for part in np.split(chosen, range(at_once, batch, at_once)):
                examples = [{name: rows[name][i] for name in ("input_ids", "labels")} for i in part]
                read = padded(examples, {"labels": IGNORED}, model.device)
                own = model(**read, use_cache=False).loss * len(part) / batch
                own.backward()
                loss += own.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)

    _, cost = measuring.timed(train)
    return losses[0], cost


def compare(ways: dict[str, Way], updates: int, repeats: int) -> list[dict[str, Any]]:
    """Run all ways in turns; print a row for each, and return them. Ratios are within a turn, to the first way."""
    costs: dict[str, list[float]] = {name: [] for name in ways}
    measure = "cpu" if device() == "cpu" else "wall"
    for way in ways.values():
        way(FEW, 0)
    for seed in range(repeats):
        for name, way in ways.items():
            costs[name].append(getattr(way(updates, seed)[1], measure))
    table = measuring.Printout(12, {f"updates per {measure} second": 30, "the first is faster by": 24})
    found = []
    for name, own in costs.items():
        rates, ratios = updates / np.array(own), np.array(own) / np.array(next(iter(costs.values())))
        row: dict[str, Any] = {"way": name}
        for column, values in {"updates_per_second": rates, "first_is_faster_by": ratios}.items():
            row |= measuring.columns_of(column, values)
        table.row(name, *(measuring.in_words(values, ".2f") for values in (rates, ratios)))
        found.append(row)
    return found
