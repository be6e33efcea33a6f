"""A pool of a million completions: written, scored, selected from and read back, with the peak memory of each step.

    python -m bench.speed pool
    python -m bench.speed pool --prompts 6250 --completions 16

The completions are made up, as fast as they can be, in place of a model's; all that follows is what every run does.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.generation.duplicates import describe
from bench.generation.pool import draw
from bench.models.sampler import RAW, Sampler
from bench.progress import Bar
from bench.scoring.verifier import verify
from bench.seeds import generator
from bench.selection import distinct_correct, top_per_prompt
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems
from bench.training.sft import training_set

T = TypeVar("T")
VOCABULARY = 400
LIMIT = 48  # tokens


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed pool", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=62_500, help="M, default %(default)s")
    parser.add_argument("--completions", type=int, default=16, help="N a prompt, default %(default)s")
    parser.add_argument("--shard-size", type=int, default=256, help="prompts of a stored unit, default %(default)s")
    parser.add_argument("--block-size", type=int, default=4, help="samples of a stored unit, default %(default)s")
    options = parser.parse_args(arguments)
    shape = (options.prompts, options.completions)
    print(f"{shape[0]:,} prompts x {shape[1]:,} completions = {shape[0] * shape[1]:,}\n")
    print(f"{'':44}{'seconds':>9}{'a second':>12}{'peak memory':>14}")
    print(f"{'nothing yet':44}{'':21}{_peak():9.2f} GiB")

    task, policy = WordProblems(), Policy(path=Path("nowhere"), fingerprint="made up")
    prompts = _sums(options.prompts)

    def pool() -> Completions:
        return draw(
            prompts,
            policy,
            MadeUp,
            RAW,
            engine="made up",
            version=1,
            num_completions=options.completions,
            max_new_tokens=LIMIT,
            seed=0,
            dtype="float32",
            block_size=options.block_size,
            shard_size=options.shard_size,
        )

    with tempfile.TemporaryDirectory() as folder, using(Store(Path(folder))) as store:
        drawn = _line("write", pool, shape)
        rewards = _line("score by the verifier", lambda: verify(prompts, drawn, task=task), shape).value
        chosen = _line("select top_per_prompt", lambda: top_per_prompt(rewards, generator(0, "top")), shape)
        _line("  its training set", lambda: training_set(prompts, drawn, chosen), shape)
        paths = _line("paths", lambda: np.array([[task.path(text) for text in row] for row in drawn.text]), shape)
        _line(
            "select distinct_correct",
            partial(distinct_correct, rewards, generator(0, "distinct"), paths=paths),
            shape,
        )
        counts = _line("describe", lambda: describe(drawn), shape)
        again = _line("draw again: all of it is stored", pool, shape)
        wrong = _line("read back and compare", lambda: _differences(again, prompts), shape)
        size = sum(path.stat().st_size for path in store.root.rglob("*.parquet"))
    assert wrong == 0, f"{wrong} completions came back changed"
    assert counts["completions"] == rewards.size
    print(f"\n{size / 2**20:.0f} MiB in {len(drawn.stored_as):,} units; {rewards.mean():.3f} correct, {wrong} changed")


class MadeUp:
    """An engine whose completions are sums, right or wrong by chance: a pool without a model's hours."""

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
    """The sample of a prompt: a solution in two steps whose answer is right in two of five cases."""
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


def _line(name: str, work: Callable[[], T], shape: tuple[int, int]) -> T:
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(f"{name:44}{seconds:9.1f}{shape[0] * shape[1] / seconds:12,.0f}{_peak():10.2f} GiB", flush=True)
    return result


def _peak() -> float:
    """GiB, the most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
