"""A drawn pool as it lies in the store: numbers in memory, text and token ids read a shard of prompts at a time.

So the memory that a pool takes is that of one shard (shard_size prompts x N samples) and some numbers a completion,
however many prompts it has.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Completions, content_hash, prefix_key

FILE = "completions.parquet"
FIELDS = ("text", "token_ids", "finish_reason", "logprob", "policy_logprob")
NUMBERS = {"finish_reason": "<U6", "logprob": float, "policy_logprob": float, "length": np.int64}


@dataclass(frozen=True)
class Unit:
    """The samples `columns` of the prompts `rows`, in one stored artifact."""

    rows: slice
    columns: slice
    folder: Path
    content: str  # a hash of what was drawn: not every engine draws the same again
    drawn: slice  # samples in the store, `columns` and perhaps more

    @property
    def stored_as(self) -> str:
        """key/part of the artifact."""
        return "/".join(self.folder.parts[-2:])

    @property
    def key(self) -> str:
        """Names the content; of fewer samples than were drawn, it says how many."""
        key = f"{self.stored_as}:{self.content}"
        return key if self.columns == self.drawn else prefix_key(key, self.shape[1])

    @property
    def whole(self) -> "Unit":
        return replace(self, columns=self.drawn)

    def first(self, num_completions: int) -> "Unit":
        """The unit without the samples from `num_completions` on."""
        return replace(self, columns=slice(self.columns.start, min(self.columns.stop, num_completions)))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class StoredColumn:
    """One column [M, N] of a pool, indexed by row or by (row, column); np.asarray reads all of it at once.

    It remembers the shard that it read last: walk it in the order of the rows.
    """

    def __init__(self, units: tuple[Unit, ...], shape: tuple[int, int], name: str) -> None:
        self.shape, self.name = shape, name
        self.size, self.ndim, self.dtype = shape[0] * shape[1], 2, np.dtype(object)
        self._units = units
        self._starts = sorted({unit.rows.start for unit in units})
        self._last: tuple[int, np.ndarray] | None = None  # the number of a shard and its cells

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        row, *column = index if isinstance(index, tuple) else (index,)
        if not isinstance(row, int | np.integer):
            raise TypeError(f"a stored column is indexed by one row, not {row!r}; walk it with Completions.shards().")
        row = row + len(self) if row < 0 else row
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        cells = self.shard(number)[row - self._starts[number]]
        return cells[tuple(column)] if column else cells

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([self.shard(number) for number in range(len(self._starts))]).astype(dtype or object)

    def shard(self, number: int) -> np.ndarray:
        """[rows, N] of one shard of prompts."""
        if self._last is None or self._last[0] != number:
            start = self._starts[number]
            blocks = [read(unit, (self.name,))[self.name] for unit in self._units if unit.rows.start == start]
            self._last = (number, np.concatenate(blocks, axis=1))
        return self._last[1]


@dataclass(frozen=True)
class StoredPool(Completions):
    """Completions whose `text` and `token_ids` are StoredColumns."""

    units_: tuple[Unit, ...]
    length_: np.ndarray  # [M, N] tokens

    @cached_property
    def length(self) -> np.ndarray:
        return self.length_

    @property
    def stored_as(self) -> frozenset[str]:
        return frozenset(unit.stored_as for unit in self.units_)

    def first(self, num_completions: int) -> Completions:
        """The view of each prompt's first `num_completions` samples, still in the store."""
        if num_completions == self.shape[1]:
            return self
        kept = tuple(unit.first(num_completions) for unit in self.units_ if unit.columns.start < num_completions)
        numbers = {name: getattr(self, name)[:, :num_completions] for name in NUMBERS}
        return _pool(kept, numbers)

    def shards(self) -> Iterator[tuple[slice, Completions]]:
        for start in sorted({unit.rows.start for unit in self.units_}):
            parts = [unit for unit in self.units_ if unit.rows.start == start]
            columns = [read(unit, ("text", "token_ids")) for unit in parts]
            text, token_ids = (
                np.concatenate([column[name] for column in columns], axis=1) for name in ("text", "token_ids")
            )
            rows = parts[0].rows
            yield (
                rows,
                Completions(
                    text,
                    token_ids,
                    self.finish_reason[rows],
                    self.logprob[rows],
                    self.policy_logprob[rows],
                    key=content_hash([unit.key for unit in parts]),
                ),
            )

    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, Completions]]:
        for unit in self.units_:
            unit = unit.whole if whole else unit
            found = read(unit, FIELDS)
            yield unit.rows, unit.columns, Completions(**found, key=unit.key)


def assemble(units: list[tuple[Unit, dict[str, np.ndarray]]]) -> Completions:
    """The pool of the given units, whose numbers (see `read`) are in memory already."""
    rows = max(unit.rows.stop for unit, _ in units)
    columns = max(unit.columns.stop for unit, _ in units)
    numbers = {
        name: np.empty((rows, columns), f"<U{len('length')}" if kind is str else kind) for name, kind in NUMBERS.items()
    }
    for unit, found in units:
        for name in NUMBERS:
            numbers[name][unit.rows, unit.columns] = found[name]
    return _pool(tuple(unit for unit, _ in units), numbers)


def _pool(units: tuple[Unit, ...], numbers: dict[str, np.ndarray]) -> StoredPool:
    shape = numbers["length"].shape
    key = prefix_key(content_hash([unit.key for unit in units]), shape[1])
    text, token_ids = (StoredColumn(units, shape, name) for name in ("text", "token_ids"))
    reason, logprob, policy_logprob, length = (numbers[name] for name in NUMBERS)
    # a stored column stands where an array would: the two agree in what stages use of them
    return StoredPool(text, token_ids, reason, logprob, policy_logprob, key, units, length)  # type: ignore[arg-type]


def write(completions: Completions, path: Path) -> None:
    """One unit as a Parquet file, samples of a prompt next to each other."""
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


def read(unit: Unit, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named columns of a unit, each [rows, columns of the unit]."""
    import pyarrow.parquet as pq

    # a unit is small: read_table's own threads and its look for partitions cost five times what reading does
    with pq.ParquetFile(unit.folder / FILE) as file:
        table = file.read(columns=list(columns), use_threads=False)
    rows, kept = unit.shape
    found = {}
    for name in columns:
        if name == "token_ids":
            flat = _ragged(table[name].combine_chunks())
        else:
            flat = table[name].to_numpy(zero_copy_only=False).astype(NUMBERS.get(name, object))
        found[name] = flat.reshape(rows, -1)[:, :kept]
    return found


def _ragged(lists: Any) -> np.ndarray:
    """[cells] objects: an int32 array each."""
    offsets, values = lists.offsets.to_numpy().tolist(), lists.values.to_numpy()
    cells = np.empty(len(lists), object)
    for cell, (start, end) in enumerate(pairwise(offsets)):
        cells[cell] = values[start:end]
    return cells
