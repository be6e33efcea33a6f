"""A pool of which a rule decided, sample by sample, how many each prompt gets: rectangular, with cells that hold none.

It is not a pool of N samples a prompt, and does not pass for one: what walks a whole pool is refused in one sentence.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bench.artifacts import Completions, content_hash
from bench.generation.pool import describe
from bench.generation.pooled import pooled

SHARD = 256  # prompts whose texts are in memory at once
NO_FIXED_N = (
    "a stopped pool has not equally many samples of each prompt, so it can't be {what} like a pool of N; "
    "{count} of every prompt can: pool.first({count})."
)


class Piece(NamedTuple):
    """Consecutive samples of some prompts, as they were drawn together."""

    rows: np.ndarray  # [R] row numbers, ascending
    start: int  # the number of the first sample
    drawn: Completions  # [R, samples]


class StoppedColumn:
    """One column [M, N] of a stopped pool, indexed by row or by (row, column); `blank` where no sample was drawn."""

    def __init__(self, pieces: Sequence[Piece], place: np.ndarray, name: str, blank: Any) -> None:
        self._columns = [getattr(piece.drawn, name) for piece in pieces]
        self._rows = [piece.rows for piece in pieces]
        self._starts = [piece.start for piece in pieces]
        self._place, self._blank = place, blank
        self.shape, self.size, self.ndim, self.dtype = place.shape, place.size, 2, np.dtype(object)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        row, *column = index if isinstance(index, tuple) else (index,)
        row = range(self.shape[0])[row]  # counts from the end where negative, IndexError outside
        if column and isinstance(column[0], int | np.integer):
            return self._cell(row, range(self.shape[1])[column[0]])
        cells = np.empty(self.shape[1], object)
        for number in range(self.shape[1]):
            cells[number] = self._cell(row, number)
        return cells[tuple(column)] if column else cells

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack([self[row] for row in range(len(self))]).astype(dtype or object)

    def _cell(self, row: int, column: int) -> Any:
        piece = self._place[row, column]
        if piece < 0:
            return self._blank
        own = int(np.searchsorted(self._rows[piece], row))
        return self._columns[piece][own, column - self._starts[piece]]


@dataclass(frozen=True)
class StoppedPool(Completions):
    """Completions [M, N] of which each prompt has its first few; N is the most that one has.

    Where there is no sample: no text, no tokens, finish_reason "", log-probabilities NaN, length 0.
    """

    pieces: tuple[Piece, ...]
    drawn_: np.ndarray  # [M, N] bool
    always: int  # samples that every prompt has whatever they were: a pool of fixed N

    @property
    def drawn(self) -> np.ndarray:
        return self.drawn_

    @cached_property
    def length(self) -> np.ndarray:
        return _filled(self.pieces, self.shape, "length", 0)

    @property
    def stored_as(self) -> frozenset[str]:
        return frozenset().union(*(piece.drawn.stored_as for piece in self.pieces))

    def first(self, num_completions: int) -> Completions:
        """The pool of each prompt's first samples, as many as all have; ValueError for more."""
        if num_completions > self.always:
            raise ValueError(NO_FIXED_N.format(what=f"cut at {num_completions}", count=self.always))
        whole = [piece.drawn for piece in self.pieces if piece.start < num_completions]  # of all prompts, in order
        return pooled(whole).first(num_completions)

    def shards(self) -> Iterator[tuple[slice, Completions]]:
        """ValueError: use `filled`, which says what to expect."""
        raise ValueError(NO_FIXED_N.format(what="walked", count=self.always))

    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, Completions]]:
        """ValueError: what a stopped pool holds was scored as it was drawn."""
        raise ValueError(NO_FIXED_N.format(what="scored", count=self.always))

    def filled(self) -> Iterator[tuple[slice, Completions]]:
        """Consecutive prompts and their texts and tokens [rows, N], blank where nothing was drawn (see `drawn`)."""
        for start in range(0, len(self.drawn_), SHARD):
            rows = slice(start, min(start + SHARD, len(self.drawn_)))
            text, token_ids = (
                np.stack([column[row] for row in range(rows.start, rows.stop)])
                for column in (self.text, self.token_ids)
            )
            numbers = (self.finish_reason[rows], self.logprob[rows], self.policy_logprob[rows])
            yield rows, Completions(text, token_ids, *numbers, key=content_hash(self.key, start))


def stopped(pieces: Sequence[Piece], prompts: int, *, always: int) -> StoppedPool:
    """The pool of M = `prompts` prompts that pieces drawn one after the other make; each prompt's follow on another.

    always: the samples that every prompt has by plan. ValueError where a piece leaves a gap or lies on another.
    """
    width = max(piece.start + piece.drawn.shape[1] for piece in pieces)
    place = np.full((prompts, width), -1)
    for number, piece in enumerate(pieces):
        columns = slice(piece.start, piece.start + piece.drawn.shape[1])
        before = (place[piece.rows] >= 0).sum(axis=1)
        if (before != piece.start).any():
            raise ValueError(f"piece {number} starts at sample {piece.start}, not where its prompts' samples end.")
        place[piece.rows, columns] = number
    if width < always or not (place[:, :always] >= 0).all():
        raise ValueError(f"always={always}, but not every prompt has so many samples.")
    text = StoppedColumn(pieces, place, "text", "")
    token_ids = StoppedColumn(pieces, place, "token_ids", np.empty(0, np.int32))
    finish_reason = _filled(pieces, place.shape, "finish_reason", "")
    logprob, policy_logprob = (_filled(pieces, place.shape, name, np.nan) for name in ("logprob", "policy_logprob"))
    key = content_hash([[piece.rows.tolist(), piece.start, piece.drawn.key] for piece in pieces])
    lazy: dict[str, Any] = {"text": text, "token_ids": token_ids}  # in the place of arrays
    return StoppedPool(
        **lazy,
        finish_reason=finish_reason,
        logprob=logprob,
        policy_logprob=policy_logprob,
        key=key,
        pieces=tuple(pieces),
        drawn_=place >= 0,
        always=always,
    )


def describe_stopped(pool: StoppedPool) -> dict[str, float]:
    """What `bench.generation.pool.describe` says of a pool, of the samples that were drawn.

    Twins are looked for among the samples that every prompt has: those of a prompt that goes on are alike because they
    were all refused.
    """
    kept, distinct, empty = pool.drawn, 0, 0
    for rows, part in pool.filled():
        here = kept[rows]
        distinct += sum(
            len(Counter(ids.tobytes() for ids in cells[drawn]))
            for cells, drawn in zip(part.token_ids, here, strict=True)
        )
        empty += sum(not text.strip() for text in part.text[here])
    total = int(kept.sum())
    looked_at = describe(pool.first(pool.always))
    return {
        "completions": total,
        "truncated": int((pool.finish_reason == "length").sum()),
        "empty": empty,
        "duplicate_share": 1 - distinct / total,
        **{name: looked_at[name] for name in ("twins", "twins_expected", "twins_alarm")},
        "mean_length": float(pool.length[kept].mean()),
    }


def _filled(pieces: Sequence[Piece], shape: tuple[int, int], name: str, blank: Any) -> np.ndarray:
    """[M, N] of numbers (or finish reasons), `blank` where nothing was drawn."""
    kind = "<U6" if isinstance(blank, str) else np.int64 if isinstance(blank, int) else float
    values = np.full(shape, blank, kind)
    for piece in pieces:
        values[piece.rows, piece.start : piece.start + piece.drawn.shape[1]] = np.asarray(getattr(piece.drawn, name))
    return values
