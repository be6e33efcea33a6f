"""Pools that nest: samples are drawn in units of (prompt shard, sample block), each an artifact of its own.

A unit is addressed by its own prompts, its bytes depend on nothing else, and every (prompt, sample) has its own
random stream. So extending 8 samples to 32 draws only the missing blocks, 8 samples are read from a pool of 64, a shard
drawn alone equals that shard of the whole pool, and a kill loses at most the unit being drawn. The number of samples is
rounded up to whole blocks; those beyond it stay in the store.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.artifacts import FIELDS, Completions, Policy, Prompts, prefix_key
from bench.errors import BenchError
from bench.models.sampler import GREEDY, Sampler
from bench.models.tokens import opens_thinking, unlike_older_pools
from bench.pools import NUMBERS, stored
from bench.progress import Bar, bar
from bench.store import Address, current
from bench.store.files import checksum

FILE = "completions.parquet"


class Engine(Protocol):
    """A loaded model that can draw."""

    def sample(
        self, prompts: Prompts, samples: range, sampler: Sampler, *, max_new_tokens: int, seed: int, progress: Bar
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt [M, len(samples)], and what was counted (tokens, flops)."""
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

    def fill(shard: Prompts, samples: range, progress: Bar) -> Callable[[Path], dict[str, float]]:
        def build(folder: Path) -> dict[str, float]:
            if not opened:
                opened.append(open_engine())
            completions, counts = opened[0].sample(
                shard, samples, sampler, max_new_tokens=max_new_tokens, seed=seed, progress=progress
            )
            _write(completions, folder / FILE)
            return {"completions": completions.logprob.size, **counts}

        return build

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
    shards = range(0, len(prompts), shard_size)
    units = []
    with (
        bar("generate", total=float(len(blocks) * block_size * len(prompts)), unit="completions") as outer,
        bar("  generate", None, "tokens") as inner,
    ):
        for start in shards:
            shard = prompts[start : start + shard_size]
            rows = slice(start, start + len(shard))
            own = settings | ({"opens_thinking": True} if opens_thinking(policy, shard) else {})
            address = Address("generate", version, own, {"prompts": shard.key, "policy": policy.key})
            for block in blocks:
                place = address.piece(f"{block // block_size:05d}")
                folder = current().make(place, fill(shard, range(block, block + block_size), inner), Path)
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
                flat = table[name].to_numpy(zero_copy_only=False).astype(NUMBERS.get(name, object))
            found[name] = flat.reshape(self.prompts, -1)[rows, : self.samples]
        return found


def _write(completions: Completions, path: Path) -> None:
    """A unit as a Parquet file, samples of a prompt next to each other."""
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
    pq.write_table(pa.table(columns), path)


def _ragged(lists: Any) -> np.ndarray:
    """[cells] objects: an int32 array each."""
    offsets, values = lists.offsets.to_numpy().tolist(), lists.values.to_numpy()
    cells = np.empty(len(lists), object)
    for cell, (start, end) in enumerate(pairwise(offsets)):
        cells[cell] = values[start:end]
    return cells
