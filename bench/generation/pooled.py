"""Pools of the same prompts side by side as one pool: what several policies drew, or one of them at several times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bench.artifacts import Completions, content_hash
from bench.generation.stored import FIELDS


def pooled(pools: Sequence[Completions]) -> Completions:
    """The columns of all pools [M, N1 + N2 + ...], in their order; one pool alone is itself.

    Each column keeps its own log-probabilities: `logprob` under the sampler and `policy_logprob` under the policy that
    drew it. ValueError where the pools are not of equally many prompts, or none are given.
    """
    if len({pool.shape[0] for pool in pools}) != 1:
        raise ValueError(
            f"pools have {[pool.shape[0] for pool in pools]} prompts; one or more of the same are expected."
        )
    if len(pools) == 1:
        return pools[0]
    finish_reason, logprob, policy_logprob = (
        np.concatenate([np.asarray(getattr(pool, name)) for pool in pools], axis=1)
        for name in ("finish_reason", "logprob", "policy_logprob")
    )
    text, token_ids = (PooledColumn(tuple(pools), name) for name in ("text", "token_ids"))
    key = content_hash([pool.key for pool in pools])
    # a pooled column stands where an array would, as a stored one does
    return PooledCompletions(text, token_ids, finish_reason, logprob, policy_logprob, key, tuple(pools))  # type: ignore[arg-type]


class PooledColumn:
    """One column [M, N] of pools side by side, indexed by row or by (row, column); np.asarray reads all of it."""

    def __init__(self, pools: tuple[Completions, ...], name: str) -> None:
        self._columns = [getattr(pool, name) for pool in pools]
        self._starts = _starts(pools)
        self.shape = (pools[0].shape[0], sum(pool.shape[1] for pool in pools))
        self.size, self.ndim, self.dtype = self.shape[0] * self.shape[1], 2, np.dtype(object)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        row, *column = index if isinstance(index, tuple) else (index,)
        if column and isinstance(column[0], int | np.integer):
            place = range(self.shape[1])[column[0]]  # counts from the end where negative, IndexError outside
            number = int(np.searchsorted(self._starts, place, side="right")) - 1
            return self._columns[number][row, place - self._starts[number]]
        cells = np.concatenate([values[row] for values in self._columns])
        return cells[tuple(column)] if column else cells

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([np.asarray(values) for values in self._columns], axis=1).astype(dtype or object)


@dataclass(frozen=True)
class PooledCompletions(Completions):
    """Completions whose columns are those of several pools."""

    parts_: tuple[Completions, ...]

    @property
    def parts(self) -> tuple[Completions, ...]:
        return self.parts_

    @cached_property
    def length(self) -> np.ndarray:
        return np.concatenate([part.length for part in self.parts_], axis=1)

    @property
    def stored_as(self) -> frozenset[str]:
        return frozenset().union(*(part.stored_as for part in self.parts_))

    def first(self, num_completions: int) -> Completions:
        """The view of each prompt's first `num_completions` samples, in the order of the pools."""
        kept = [
            part.first(min(part.shape[1], num_completions - start))
            for part, start in zip(self.parts_, _starts(self.parts_), strict=True)
            if start < num_completions
        ]
        return pooled(kept)

    def shards(self) -> Iterator[tuple[slice, Completions]]:
        """As the pools keep their prompts together, read at once; ValueError where they do not do so alike."""
        for found in zip(*(part.shards() for part in self.parts_), strict=True):
            rows = found[0][0]
            if any(other != rows for other, _ in found):
                raise ValueError(
                    "the pools keep different prompts together, so that they can't be walked side by side."
                )
            text, token_ids, finish_reason, logprob, policy_logprob = (
                np.concatenate([np.asarray(getattr(shard, name)) for _, shard in found], axis=1) for name in FIELDS
            )
            key = content_hash([shard.key for _, shard in found])
            yield rows, Completions(text, token_ids, finish_reason, logprob, policy_logprob, key)

    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, Completions]]:
        for part, start in zip(self.parts_, _starts(self.parts_), strict=True):
            for rows, columns, unit in part.units(whole=whole):
                yield rows, slice(columns.start + start, columns.stop + start), unit


def _starts(pools: Sequence[Completions]) -> list[int]:
    """The first column of each pool among those of all."""
    return [sum(pool.shape[1] for pool in pools[:number]) for number in range(len(pools))]
