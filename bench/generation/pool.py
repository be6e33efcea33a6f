"""Pools that nest: samples are drawn in units of (prompt shard, sample block), each an artifact of its own.

A unit is addressed by its own prompts, its bytes depend on nothing else, and every (prompt, sample) has its own
random stream. So extending 8 samples to 32 draws only the missing blocks, 8 samples are read from a pool of 64, a shard
drawn alone equals that shard of the whole pool, and a kill loses at most the unit being drawn. The number of samples is
rounded up to whole blocks; those beyond it stay in the store.

`describe` counts what a reader of a pool should see, and tells whether it holds more equal samples than chance makes.
"""

import contextlib
import contextvars
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.artifacts import FIELDS, Completions, Policy, Prompts, prefix_key
from bench.blocks import NUMBERS, stored
from bench.errors import BenchError
from bench.models.sampler import GREEDY, Sampler
from bench.models.tokens import opens_thinking, unlike_older_pools
from bench.progress import Bar, bar
from bench.store import Address, current
from bench.store.files import checksum

FILE = "completions.parquet"


class Engine(Protocol):
    """A loaded model that can draw."""

    def sample(
        self, prompts: Prompts, samples: range, sampler: Sampler, *, max_new_tokens: int, seed: int, progress: Bar
    ) -> tuple[Completions, dict[str, float]]:
        """Draw these samples of every prompt [M, len(samples)]; return them and counts (tokens, flops)."""
        ...


_shared: contextvars.ContextVar[list[Engine] | None] = contextvars.ContextVar("shared", default=None)


@contextlib.contextmanager
def sharing(opened: list[Engine]) -> Iterator[None]:
    """Inside, draws from one policy by one engine use the engine in `opened`, or leave there the one that they open."""
    token = _shared.set(opened)
    try:
        yield
    finally:
        _shared.reset(token)


def draw(
    prompts: Prompts,
    policy: Policy,
    open_engine: Callable[[], Engine],
    sampler: Sampler,
    *,
    engine: str,
    version: int,
    samples: range,
    max_new_tokens: int,
    seed: int,
    dtype: str,
    block_size: int,
    shard_size: int,
) -> Completions:
    """The given samples of every prompt; the engine is opened only where a unit is missing.

    `engine`, `version`, the sampler, seed, dtype and the unit's sizes make the pool's key; `samples` does not.
    BenchError for several samples at temperature 0, or where no block begins at the first one.
    """
    first_sample, num_completions = samples.start, samples.stop
    if num_completions < 1:
        raise BenchError(f"num_completions={num_completions} is not allowed: it must be at least 1.")
    if sampler.is_greedy and num_completions > 1:
        raise BenchError(
            f"temperature=0 is greedy: num_completions={num_completions} must be 1, or the temperature above 0."
        )
    if first_sample % block_size or not 0 <= first_sample < num_completions:
        raise BenchError(
            f"first_sample={first_sample} is not allowed: it must be a multiple of block_size={block_size} below "
            f"num_completions={num_completions}."
        )
    if sampler.is_greedy:  # settings that greedy completions do not depend on must not change their key
        sampler, seed, block_size = GREEDY, 0, 1
    shared = _shared.get()
    opened = [] if shared is None else shared

    def fill(shard: Prompts, samples: range, progress: Bar, folder: Path) -> dict[str, float]:
        if not opened:
            opened.append(open_engine())
        completions, counts = opened[0].sample(
            shard, samples, sampler, max_new_tokens=max_new_tokens, seed=seed, progress=progress
        )
        write_unit(completions, folder / FILE)
        return {"completions": completions.logprob.size, **counts}

    settings: dict[str, Any] = {
        "engine": engine,
        "temperature": float(sampler.temperature),
        "top_p": float(sampler.top_p),
        "top_k": sampler.top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "dtype": dtype,
        "block_size": block_size,
        **unlike_older_pools(policy),
    }
    blocks = range(first_sample, num_completions, block_size)
    units = []
    with (
        bar("generate", total=float(len(blocks) * block_size * len(prompts)), unit="completions") as outer,
        bar("  generate", None, "tokens") as inner,
    ):
        for start in range(0, len(prompts), shard_size):
            shard = prompts[start : start + shard_size]
            rows = slice(start, start + len(shard))
            own = settings | ({"opens_thinking": True} if opens_thinking(policy, shard) else {})
            address = Address("generate", version, own, {"prompts": shard.key, "policy": policy.key})
            for block in blocks:
                place = address.piece(f"{block // block_size:05d}")
                folder = current().make(place, partial(fill, shard, range(block, block + block_size), inner), Path)
                content = checksum(folder, FILE)
                units.append((rows, block - first_sample, Unit(folder, content, len(shard), block_size, block_size)))
                outer.advance(len(shard) * block_size, found=current().uses[-1].reused)
    return stored(units).first(num_completions - first_sample)


@dataclass(frozen=True)
class Unit:
    """The samples of some prompts in one stored artifact, all or the first of them: a block of a pool."""

    folder: Path
    content: str  # a hash of what was drawn: not every engine draws the same again
    prompts: int
    samples: int
    drawn: int  # samples in the store, `samples` and perhaps more

    @property
    def shape(self) -> tuple[int, int]:
        return self.prompts, self.samples

    @property
    def place(self) -> str:
        """key/part of the artifact."""
        return "/".join(self.folder.parts[-2:])

    @property
    def stored_as(self) -> frozenset[str]:
        return frozenset({self.place})

    @property
    def key(self) -> str:
        """Names the content; of fewer samples than were drawn, it says how many."""
        key = f"{self.place}:{self.content}"
        return key if self.samples == self.drawn else prefix_key(key, self.samples)

    def places(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        cells = np.arange(self.prompts * self.drawn).reshape(self.prompts, self.drawn)[:, : self.samples]
        return ["/".join(self.folder.parts[-3:])], np.zeros(self.shape, int), cells

    def first(self, num_completions: int) -> "Unit":
        return replace(self, samples=num_completions)

    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, Completions]]:
        unit = self.first(self.drawn) if whole else self
        rows, columns = slice(0, self.prompts), slice(0, unit.samples)
        yield rows, columns, Completions(**unit.read(rows, FIELDS), key=unit.key)

    def read(self, rows: slice, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named columns of some rows, each [rows, samples]."""
        import pyarrow.parquet as pq

        # A unit is small: read_table's own threads and its search for partitions cost five times what reading does
        with pq.ParquetFile(self.folder / FILE) as file:
            table = file.read(columns=list(names), use_threads=False)
        found = {}
        for name in names:
            if name == "token_ids":
                flat = _ragged(table[name].combine_chunks())
            else:
                kind = float if name == "length" and table[name].null_count else NUMBERS.get(name, object)
                flat = table[name].to_numpy(zero_copy_only=False).astype(kind)
            found[name] = flat.reshape(self.prompts, -1)[rows, : self.samples]
        return found


def write_unit(completions: Completions, path: Path, *, length: np.ndarray | None = None) -> None:
    """A unit as a Parquet file, samples of a prompt next to each other.

    length: [R, C] tokens where ids are missing; NaN where they were not counted either.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "finish_reason": pa.string(),
        "logprob": pa.float64(),
        "policy_logprob": pa.float64(),
        "length": pa.int64(),
    }
    columns = {name: pa.array(getattr(completions, name).ravel().tolist(), kind) for name, kind in types.items()}
    if length is not None:
        counted = ~np.isnan(length.ravel())
        columns["length"] = pa.array(np.where(counted, length.ravel(), 0).astype(np.int64), mask=~counted)
    pq.write_table(pa.table(columns), path)


def _ragged(lists: Any) -> np.ndarray:
    """[cells] objects: an int32 array each."""
    offsets, values = lists.offsets.to_numpy().tolist(), lists.values.to_numpy()
    cells = np.empty(len(lists), object)
    for cell, (start, end) in enumerate(pairwise(offsets)):
        cells[cell] = values[start:end]
    return cells


def describe(completions: Completions) -> dict[str, float]:
    """Count the samples of a pool, and those that are cut at the limit, empty, or repeated within a prompt.

    `twins` counts pairs of equal samples per prompt, `twins_expected` the pairs that independent samples of their
    probabilities would have; `twins_alarm` is 1 where the difference is no accident. Pools side by side are counted one
    by one: equal samples of different policies are no pair. In a stopped pool only the samples that every prompt has
    are compared: a prompt goes on where its samples were refused, and refused samples are alike.
    """
    drawn, distinct, empty = completions.drawn, 0, 0
    observed, expected, variance = (np.zeros((len(completions.parts), len(drawn))) for _ in range(3))
    for number, pool in enumerate(completions.parts):
        held = pool.drawn
        for rows, part in pool.shards(blanks=True):
            for row, ids, kept in zip(range(rows.start, rows.stop), part.token_ids, held[rows], strict=True):
                cells = [cell.tobytes() for cell in ids[kept]]
                distinct += len(set(cells))
                pairs = [count * (count - 1) / 2 for count in Counter(cells[: pool.always]).values()]
                observed[number, row] = sum(pairs)
            empty += sum(not text.strip() for text in part.text[held[rows]])
        expected[number], variance[number] = expected_twins(pool.logprob[:, : pool.always])
    total = int(drawn.sum())
    return {
        "completions": total,
        "truncated": completions.truncated,
        "empty": empty,
        "duplicate_share": 1 - distinct / total,
        "twins": float(observed.sum()),
        "twins_expected": float(expected.sum()),
        "twins_alarm": int(twins_alarm(observed, expected, variance)),
        "mean_length": float(completions.length[drawn].mean()),
    }


def expected_twins(logprob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The expected number [M] of pairs of equal samples per prompt, were they independent, and its variance [M].

    logprob: [M, N] nats, under the sampler. Another independent sample equals a sample y with probability μ(y), so the
    means of μ(y_i) and of μ(y_i)² estimate Σ μ² and Σ μ³ without bias. The moments of the number of pairs follow from
    those sums (pairs that share a sample are dependent).
    """
    samples = logprob.shape[1]
    second, third = np.exp(logprob).mean(axis=1), np.exp(2 * logprob).mean(axis=1)
    variance = math.comb(samples, 2) * (second - second**2) + 6 * math.comb(samples, 3) * (third - second**2)
    return math.comb(samples, 2) * second, np.maximum(variance, 0.0)


def twins_alarm(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> bool:
    """Whether samples of a prompt are equal more often than independent ones would be: some shared a random stream.

    observed, expected, variance: [M], of pairs of equal samples. Over all prompts, the excess must be above five
    standard errors, five pairs, and a tenth of the expected number, as that of near-certain samples is skewed.
    """
    excess = float((observed - expected).sum())
    return excess > max(5 * math.sqrt(variance.sum()), 5.0, 0.1 * expected.sum())
