"""Pools that nest: samples are drawn in units of (prompt shard, sample block), each an artifact of its own.

A unit's bytes depend on the unit alone, and every (prompt, sample) has its own random stream. So eight samples
extended to 32 draw only the missing blocks, eight read a prefix of 64, the union is what drawing at once would have
given, and a kill loses at most the unit being drawn. The number of samples asked for is rounded up to whole blocks;
the rest stays in the store.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, prefix_key
from bench.errors import BenchError
from bench.generation.truncation import check_sampler
from bench.progress import Bar, bar
from bench.store import Address, current

COLUMNS = ("text", "token_ids", "finish_reason", "logprob", "policy_logprob")


class Engine(Protocol):
    """A loaded model that can draw."""

    def sample(
        self,
        prompts: Prompts,
        samples: range,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        max_new_tokens: int,
        seed: int,
        progress: Bar,
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt [M, len(samples)], and what was counted (tokens, flops)."""
        ...


def draw(
    prompts: Prompts,
    policy: Policy,
    open_engine: Callable[[], Engine],
    *,
    engine: str,
    version: int,
    num_completions: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    dtype: str,
    block_size: int,
    shard_size: int,
) -> Completions:
    """The first `num_completions` samples of every prompt; the engine is opened only where a unit is missing.

    `engine`, `version`, the sampler, seed, dtype and the unit's sizes make the pool's key; num_completions does not.
    BenchError where several samples are asked for at temperature 0.
    """
    check_sampler(temperature, top_p, top_k)
    if num_completions < 1:
        raise BenchError(f"num_completions={num_completions} is not allowed: it must be at least 1.")
    if temperature == 0 and num_completions > 1:
        raise BenchError(
            f"temperature=0 is greedy: num_completions={num_completions} must be 1, or the temperature above 0."
        )
    if temperature == 0:  # what greedy does not depend on must not set its pool apart
        top_p, top_k, seed, block_size = 1.0, 0, 0, 1
    opened: list[Engine] = []

    def fill(shard: Prompts, samples: range, progress: Bar) -> Callable[[Path], dict[str, float]]:
        def build(folder: Path) -> dict[str, float]:
            if not opened:
                opened.append(open_engine())
            completions, counts = opened[0].sample(
                shard,
                samples,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_new_tokens=max_new_tokens,
                seed=seed,
                progress=progress,
            )
            _write(completions, folder / "completions.parquet")
            return counts

        return build

    address = Address(
        stage="generate",
        version=version,
        settings={
            "engine": engine,
            "temperature": float(temperature),
            "top_p": float(top_p),
            "top_k": top_k,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "dtype": dtype,
            "block_size": block_size,
            "shard_size": shard_size,
        },
        parents={"prompts": prompts.key, "policy": policy.key},
    )
    blocks = range(0, num_completions, block_size)
    units = len(blocks) * -(-len(prompts) // shard_size)
    pieces: list[list[Completions]] = []
    with bar("generate", total=units * 1.0, unit="units") as outer, bar("  completions", None, "tokens") as inner:
        for start in range(0, len(prompts), shard_size):
            shard = prompts[start : start + shard_size]
            pieces.append([])
            for block in blocks:
                part = f"{start // shard_size:05d}-{block // block_size:05d}"
                build = fill(shard, range(block, block + block_size), inner)
                shape = (len(shard), block_size)
                unit = current().make(address.piece(part), build, partial(_read, shape=shape))
                pieces[-1].append(unit)
                outer.advance()
    key = prefix_key(address.key, len(blocks) * block_size)
    return _assemble(pieces, key=key).first(num_completions)


def describe(completions: Completions) -> dict[str, float]:
    """Counts that a reader of a pool should see: how many, cut at the limit, empty, and repeated within a prompt."""
    distinct = sum(len({ids.tobytes() for ids in row}) for row in completions.token_ids)
    total = completions.text.size
    return {
        "completions": total,
        "truncated": int((completions.finish_reason == "length").sum()),
        "empty": sum(not text.strip() for text in completions.text.ravel()),
        "duplicate_share": 1 - distinct / total,
        "mean_length": float(completions.length.mean()),
    }


def _assemble(pieces: list[list[Completions]], *, key: str) -> Completions:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([np.concatenate([getattr(unit, name) for unit in row], axis=1) for row in pieces])

    return Completions(**{name: joined(name) for name in COLUMNS}, key=key)


def _write(completions: Completions, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.string(), pa.list_(pa.int32()), pa.string(), pa.float64(), pa.float64())
    columns = {
        name: pa.array(getattr(completions, name).ravel().tolist(), kind)
        for name, kind in zip(COLUMNS, types, strict=True)
    }
    pq.write_table(pa.table(columns), path)


def _read(folder: Path, shape: tuple[int, int]) -> Completions:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "completions.parquet")
    token_ids = np.empty(shape, object)
    lists = table["token_ids"].combine_chunks()
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    for flat, (start, end) in enumerate(_pairs(offsets)):
        token_ids.flat[flat] = values[start:end]
    return Completions(
        text=_column(table, "text", shape, object),
        token_ids=token_ids,
        finish_reason=_column(table, "finish_reason", shape, str),
        logprob=_column(table, "logprob", shape, float),
        policy_logprob=_column(table, "policy_logprob", shape, float),
        key=folder.as_posix(),
    )


def _pairs(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    return zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)


def _column(table: Any, name: str, shape: tuple[int, int], dtype: type) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False).astype(dtype).reshape(shape)
