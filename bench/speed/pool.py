"""A pool of a million completions: write, score, select, read back; with the seconds and peak memory of each step.

examples:
  python -m bench.speed pool
  python -m bench.speed pool --prompts 6250 --completions 16

The completions are made up quickly in place of a model's. All other steps are those of every run.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.generation.pool import describe, draw
from bench.models.sampler import RAW, Sampler
from bench.progress import Bar
from bench.scoring.verifier import verify
from bench.seeds import generator
from bench.selection import distinct_correct, top_per_prompt
from bench.speed.measure import Printout, highest_memory, option_parser, timed
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems
from bench.training.sft import training_set

T = TypeVar("T")
VOCABULARY = 400
LIMIT = 48  # tokens


def main(arguments: list[str]) -> None:
    parser = option_parser("pool", __doc__)
    parser.add_argument("--prompts", type=int, default=62_500, help="M")
    parser.add_argument("--completions", type=int, default=16, help="N per prompt")
    parser.add_argument("--shard-size", type=int, default=256, help="prompts per stored unit")
    parser.add_argument("--block-size", type=int, default=4, help="samples per stored unit")
    options = parser.parse_args(arguments)
    completions = options.prompts * options.completions
    print(f"{options.prompts:,} prompts x {options.completions:,} completions = {completions:,}\n")
    table = Printout(44, {"seconds": 9, "per second": 12, "peak memory": 14})
    table.row("nothing yet", "", "", _peak())

    def step(name: str, work: Callable[[], T]) -> T:
        result, cost = timed(work)
        table.row(name, f"{cost.wall:.1f}", f"{completions / cost.wall:,.0f}", _peak())
        return result

    task, policy = WordProblems(), Policy(path=Path("nowhere"), fingerprint="made up")
    prompts = _sums(options.prompts)
    about: Any = {"engine": "made up", "version": 1, "seed": 0, "dtype": "float32", "max_new_tokens": LIMIT}
    about |= {name: getattr(options, name) for name in ("block_size", "shard_size")}
    pool = partial(draw, prompts, policy, MadeUp, RAW, samples=range(options.completions), **about)
    with tempfile.TemporaryDirectory() as folder, using(Store(Path(folder))) as store:
        drawn = step("write", pool)
        rewards = step("score by the verifier", partial(verify, prompts, drawn, task=task)).value
        chosen = step("select top_per_prompt", partial(top_per_prompt, rewards, generator(0, "top")))
        step("  its training set", partial(training_set, prompts, drawn, chosen))
        paths = step("paths", lambda: np.array([[task.path(text) for text in row] for row in drawn.text]))
        rng = generator(0, "distinct")
        step("select distinct_correct", partial(distinct_correct, rewards, rng, paths=paths))
        counts = step("describe", partial(describe, drawn))
        again = step("draw again: all of it is stored", pool)
        wrong = step("read back and compare", partial(_differences, again, prompts))
        size = sum(path.stat().st_size for path in store.root.rglob("*.parquet"))
    assert wrong == 0, f"{wrong} completions came back changed"
    assert counts["completions"] == rewards.size
    print(f"\n{size / 2**20:.0f} MiB in {len(drawn.stored_as):,} units; {rewards.mean():.3f} correct, {wrong} changed")


class MadeUp:
    """An engine whose completions are sums, right or wrong by chance, so that a pool takes no hours of a model."""

    def sample(
        self, prompts: Prompts, samples: range, sampler: Sampler, *, max_new_tokens: int, seed: int, progress: Bar
    ) -> tuple[Completions, dict[str, float]]:
        shape = (len(prompts), len(samples))
        text, token_ids = np.empty(shape, object), np.empty(shape, object)
        for row, name in enumerate(prompts.id):
            for column, sample in enumerate(samples):
                text[row, column], token_ids[row, column] = completion(int(name), sample)
        nothing = np.full(shape, -20.0)
        lengths = np.array([len(ids) for ids in token_ids.ravel()])
        reasons = np.where(lengths < max_new_tokens, "stop", "length").reshape(shape)
        return Completions(text, token_ids, reasons, nothing, nothing, key=""), {"generated_tokens": int(lengths.sum())}


def completion(prompt: int, sample: int) -> tuple[str, np.ndarray]:
    """One sample of a prompt: a solution in two steps, of which two in five are correct."""
    mixed = (prompt * 2_654_435_761 + sample * 40_503 + 12_345) % 2**31
    a, b, c = prompt % 90, mixed % 7 + 1, 2 * (prompt % 90) + (0 if mixed % 5 < 2 else mixed % 11)
    ids = (np.arange(16 + mixed % 33, dtype=np.int64) * (b + 1) + mixed) % VOCABULARY
    return f"{a} + {b} = {a + b}. {a + b} + {c - a - b} = {c}. #### {c}", ids.astype(np.int32)


def _sums(count: int) -> Prompts:
    return Prompts(
        id=np.array([str(i) for i in range(count)]),
        messages=tuple(({"role": "user", "content": f"How much is {i % 90} and {i % 90}?"},) for i in range(count)),
        answer=np.array([str(2 * (i % 90)) for i in range(count)]),
    )


def _differences(pool: Completions, prompts: Prompts) -> int:
    changed = 0
    for rows, part in pool.shards():
        for row, name in enumerate(prompts.id[rows]):
            for sample in range(pool.shape[1]):
                text, ids = completion(int(name), sample)
                changed += part.text[row, sample] != text or part.token_ids[row, sample].tolist() != ids.tolist()
    return changed


def _peak() -> str:
    return f"{highest_memory() / 2**30:.2f} GiB"
