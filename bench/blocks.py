"""Pools: blocks of completions, most of them in the store, placed on a grid of M prompts x N samples.

Numbers are in memory; text and token ids are read a shard (shard_size prompts x N samples) at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from bench.artifacts import FIELDS, Completions, content_hash, prefix_key

NUMBERS = {"finish_reason": "<U7", "logprob": float, "policy_logprob": float, "length": np.int64}
NO_TOKENS = np.empty((), object)
NO_TOKENS[()] = np.empty(0, np.int32)
BLANK: dict[str, Any] = {"text": "", "token_ids": NO_TOKENS, "finish_reason": "", "length": 0}  # of a cell, else NaN
SHARD = 256  # prompts of a stopped pool whose texts are in memory at once


class Block(Protocol):
    """Completions [R, C] that were drawn together: in memory, another pool, or a unit in the store."""

    @property
    def key(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def stored_as(self) -> frozenset[str]: ...
    def read(self, rows: slice, names: Sequence[str]) -> dict[str, np.ndarray]: ...
    def places(self) -> tuple[list[str], np.ndarray, np.ndarray]: ...
    def first(self, num_completions: int) -> "Block": ...
    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, Completions]]: ...


class Placement(NamedTuple):
    """Where a block lies in a pool."""

    rows: np.ndarray  # [R] prompts, ascending
    start: int  # its first column
    block: Block


Build = Callable[[tuple[Placement, ...], dict[str, np.ndarray]], Completions]  # from placements and NUMBERS [M, N]


class LazyColumn:
    """A pool's text or token ids [M, N], indexed by row or by (row, column); np.asarray reads all of it at once.

    It keeps the shard that it read last: walk it in the order of the rows.
    """

    def __init__(self, placements: tuple[Placement, ...], shape: tuple[int, int], name: str, starts: Sequence[int]):
        self.shape, self.size, self.ndim, self.dtype = shape, shape[0] * shape[1], 2, np.dtype(object)
        self.name, self._placements, self._bounds = name, placements, [*starts, shape[0]]
        self._last: tuple[int, np.ndarray] | None = None  # a shard's number and its cells

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        row, *column = index if isinstance(index, tuple) else (index,)
        if not isinstance(row, int | np.integer):
            raise TypeError(f"a pool's column is indexed by one row, not {row!r}; walk it with Completions.shards().")
        row = range(len(self))[row]  # counts from the end where negative, IndexError outside
        number = int(np.searchsorted(self._bounds, row, side="right")) - 1
        if self._last is None or self._last[0] != number:
            self._last = (number, self._shard(number))
        cells = self._last[1][row - self._bounds[number]]
        return cells[tuple(column)] if column else cells

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        shards = [self._shard(number) for number in range(len(self._bounds) - 1)]
        return np.concatenate(shards).astype(dtype or object)

    def _shard(self, number: int) -> np.ndarray:
        rows = slice(*self._bounds[number : number + 2])
        return _gather(self._placements, rows, self.shape[1], (self.name,))[self.name]


@dataclass(frozen=True)
class Pool(Completions):
    """Completions [M, N] of placed blocks, whose text and token ids are LazyColumns; make one by the functions below.

    Where there is no sample: no text, no tokens, finish_reason "", log-probabilities NaN, length 0.
    """

    placements: tuple[Placement, ...]
    lengths: np.ndarray  # [M, N] tokens; floats with NaN in an imported pool that lacks some
    build: Build  # makes the pool of the first samples
    starts: tuple[int, ...] = (0,)
    always: int = 0
    prompt_reads: float = 1.0
    beside: tuple[Completions, ...] = ()  # the pools that are side by side in it, if any

    @cached_property
    def length(self) -> np.ndarray:
        return self.lengths

    @property
    def parts(self) -> tuple[Completions, ...]:
        return self.beside or (self,)

    @property
    def stored_as(self) -> frozenset[str]:
        return frozenset().union(*(placement.block.stored_as for placement in self.placements))

    def read(self, rows: slice, names: Sequence[str]) -> dict[str, np.ndarray]:
        lazy = [name for name in names if isinstance(getattr(self, name), LazyColumn)]
        found = _gather(self.placements, rows, self.shape[1], lazy)
        return {name: found[name] if name in lazy else getattr(self, name)[rows] for name in names}

    def places(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        units, unit, cell = super().places()
        for rows, start, block in self.placements:
            names, numbers, cells = block.places()
            where = np.ix_(rows, np.arange(start, start + block.shape[1]))
            unit[where], cell[where] = np.where(numbers < 0, -1, numbers + len(units)), cells
            units += names
        return units, unit, cell

    def shards(self, *, blanks: bool = False) -> Iterator[tuple[slice, Completions]]:
        if not blanks:
            self._refuse_stopped("walked")
        for start, stop in pairwise((*self.starts, self.shape[0])):
            rows = slice(start, stop)
            yield rows, Completions(**self.read(rows, FIELDS), key=content_hash(self.key, start, stop))

    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, Completions]]:
        self._refuse_stopped("scored")  # what it holds was scored as it was drawn
        for prompts, start, block in self.placements:
            top = int(prompts[0])
            if prompts[-1] - top >= len(prompts):
                raise ValueError("a scattered pool can't be scored unit by unit: score its parts.")
            for rows, columns, unit in block.units(whole=whole):
                here = slice(rows.start + top, rows.stop + top)
                yield here, slice(columns.start + start, columns.stop + start), unit

    def first(self, num_completions: int) -> Completions:
        """The first `num_completions` samples, still in the store. ValueError where a stopped pool plans fewer."""
        if num_completions > self.always:
            self._refuse_stopped(f"cut at {num_completions}")
        if num_completions >= self.shape[1]:
            return self
        kept = tuple(
            Placement(rows, start, block.first(min(block.shape[1], num_completions - start)))
            for rows, start, block in self.placements
            if start < num_completions
        )
        return self.build(kept, {name: getattr(self, name)[:, :num_completions] for name in NUMBERS})

    def _refuse_stopped(self, what: str) -> None:
        if self.always < self.shape[1]:
            raise ValueError(
                f"a stopped pool has not equally many samples of each prompt, so it can't be {what} like a pool of N; "
                f"{self.always} of every prompt can: pool.first({self.always})."
            )


def stored(blocks: Sequence[tuple[slice, int, Block]]) -> Completions:
    """The pool [M, N] that stored units make: each its rows, its first column and itself, shard by shard of prompts."""
    placements = tuple(Placement(np.arange(rows.start, rows.stop), start, unit) for rows, start, unit in blocks)
    return _of_units(placements, _numbers(placements))


def side_by_side(pools: Sequence[Completions]) -> Completions:
    """The columns of all pools of the same prompts [M, N1 + N2 + ...], in their order; one pool alone is itself.

    Each column keeps the log-probabilities under its own sampler and policy. ValueError for pools of different prompts.
    """
    if len(rows := {pool.shape[0] for pool in pools}) != 1:
        raise ValueError(f"pools have {sorted(rows)} prompts; one or more of the same are expected.")
    starts = np.cumsum([0, *(pool.shape[1] for pool in pools)]).tolist()[:-1]
    placements = tuple(Placement(np.arange(*rows), *each) for each in zip(starts, pools, strict=True))
    return _beside(placements, _numbers(placements))


def stopped(pieces: Sequence[Placement], prompts: int, *, always: int) -> Completions:
    """The pool of M = `prompts` prompts of which a rule decided, sample by sample, how many each gets: N at most.

    It does not pass for a pool of N samples per prompt: what needs one is refused in a sentence.
    pieces: as drawn one after the other; each prompt's follow on another. always: the samples that every prompt has by
    plan. ValueError where a piece leaves a gap or lies on another.
    """
    width = np.zeros(prompts, int)
    for number, (rows, start, block) in enumerate(pieces):
        if (width[rows] != start).any():
            raise ValueError(f"piece {number} starts at sample {start}, not where its prompts' samples end.")
        width[rows] += block.shape[1]
    if width.min() < always:
        raise ValueError(f"always={always}, but not every prompt has so many samples.")
    return _pool(
        tuple(pieces),
        _numbers(pieces, prompts),
        content_hash([[rows.tolist(), start, block.key] for rows, start, block in pieces]),
        build=_beside,
        starts=tuple(range(0, prompts, SHARD)),
        always=always,
        prompt_reads=sum(len(rows) for rows, _, _ in pieces) / prompts,
    )


def scattered(parts: Sequence[tuple[np.ndarray, Completions]], num_prompts: int) -> Completions:
    """The pool [num_prompts, N] of parts: disjoint prompts [H], ascending, and their completions [H, N].

    Cells of all other prompts are blank: they must never be selected.
    ValueError where a prompt is in two parts, or the parts have different N.
    """
    placed = np.concatenate([rows for rows, _ in parts])
    widths = {pool.shape[1] for _, pool in parts}
    if len(widths) != 1 or len(set(placed.tolist())) < len(placed):
        raise ValueError(f"parts have {sorted(widths)} completions of {len(placed)} prompts; each prompt fits once.")
    placements = tuple(Placement(rows, 0, pool) for rows, pool in parts)
    return _scattered(placements, _numbers(placements, num_prompts))


def with_token_ids(pool: Completions, token_ids: np.ndarray, key: str) -> Completions:
    """The pool with other token ids [M, N], in memory; log-probabilities stay those of the policy that drew it."""
    numbers: dict[str, np.ndarray] = {name: np.asarray(getattr(pool, name)) for name in NUMBERS}
    numbers["length"] = np.array([len(ids) for ids in token_ids.ravel()], np.int64).reshape(pool.shape)
    build = partial(_with_first_token_ids, token_ids, key)
    placements = (Placement(np.arange(len(token_ids)), 0, pool),)
    return _pool(placements, numbers, key, build, starts=pool.starts, columns=(pool.text, token_ids))


def _of_units(placements: tuple[Placement, ...], numbers: dict[str, np.ndarray]) -> Completions:
    units = [block for _, _, block in placements]
    key = prefix_key(content_hash([unit.key for unit in units]), numbers["length"].shape[1])
    starts = sorted({int(rows[0]) for rows, _, _ in placements})
    return _pool(placements, numbers, key, _of_units, starts=tuple(starts))


def _beside(placements: tuple[Placement, ...], numbers: dict[str, np.ndarray]) -> Completions:
    pools: list[Any] = [block for _, _, block in placements]
    if len(pools) == 1:
        return pools[0]
    starts = sorted(set().union(*(pool.starts for pool in pools)))
    key = content_hash([pool.key for pool in pools])
    return _pool(placements, numbers, key, _beside, starts=tuple(starts), beside=tuple(pools))


def _scattered(placements: tuple[Placement, ...], numbers: dict[str, np.ndarray]) -> Completions:
    key = content_hash(len(numbers["length"]), [[rows.tolist(), block.key] for rows, _, block in placements])
    return _pool(placements, numbers, key, _scattered)


def _with_first_token_ids(
    token_ids: np.ndarray, key: str, placements: tuple[Placement, ...], numbers: dict[str, np.ndarray]
) -> Completions:
    count, pool = numbers["length"].shape[1], placements[0].block
    return with_token_ids(pool, token_ids[:, :count], content_hash(key, count))  # type: ignore[arg-type]


def _pool(
    placements: tuple[Placement, ...],
    numbers: dict[str, np.ndarray],
    key: str,
    build: Build,
    *,
    columns: tuple[np.ndarray, np.ndarray] | None = None,
    starts: tuple[int, ...] = (0,),
    always: int | None = None,
    **more: Any,
) -> Pool:
    reason, logprob, policy_logprob, length = (numbers[name] for name in NUMBERS)
    lazy: Any = columns or [LazyColumn(placements, length.shape, name, starts) for name in ("text", "token_ids")]
    always = length.shape[1] if always is None else always
    text, token_ids = lazy  # LazyColumns stand where arrays would: the two agree in what stages use of them
    arrays = (text, token_ids, reason, logprob, policy_logprob)
    return Pool(*arrays, key, placements, length, build, starts, always, **more)


def _numbers(placements: Sequence[Placement], prompts: int | None = None) -> dict[str, np.ndarray]:
    """The columns NUMBERS [M, N] of placed blocks. prompts: M where the blocks do not cover all."""
    width = max(start + block.shape[1] for _, start, block in placements)
    prompts = prompts or max(int(rows[-1]) + 1 for rows, _, _ in placements)
    numbers = {name: np.full((prompts, width), BLANK.get(name, np.nan), kind) for name, kind in NUMBERS.items()}
    for rows, start, block in placements:
        for name, values in block.read(slice(0, len(rows)), tuple(NUMBERS)).items():
            numbers[name] = numbers[name].astype(np.result_type(numbers[name], values), copy=False)  # tokens may be NaN
            numbers[name][rows, start : start + block.shape[1]] = values
    return numbers


def _gather(placements: Sequence[Placement], rows: slice, width: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named columns [rows, width] of placed blocks, read from the store."""
    cells = {name: np.full((rows.stop - rows.start, width), BLANK[name], object) for name in names}
    for prompts, start, block in placements:
        if not names or prompts[0] >= rows.stop or prompts[-1] < rows.start:
            continue
        first, last = np.searchsorted(prompts, (rows.start, rows.stop)).tolist()
        for name, values in block.read(slice(first, last), names).items():
            cells[name][prompts[first:last] - rows.start, start : start + block.shape[1]] = values
    return cells
