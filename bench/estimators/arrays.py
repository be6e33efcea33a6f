"""Checks of the estimators' arguments, and the blocks of sorted rows that the estimators walk over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

Sizes: TypeAlias = SupportsIndex | Sequence[int] | np.ndarray  # n or k: an int, or several


class StoppedOutcomes(np.ndarray):
    """Outcomes [M, N] of samples that were drawn until a rule ended it, NaN where none was: `as_floats` refuses them.

    `array.view(StoppedOutcomes)` marks an array. What needs no fixed N reads them as any array.
    """


BLOCK_CELLS = 2**20  # cells of an [M, N] array worked on at once: 8 MiB a temporary


def as_floats(name: str, values: Any, ndim: int, *, shape: str) -> np.ndarray:
    """`values` as float64 with `ndim` axes; ValueError for another shape or dtype, an infinity, or nothing but NaN.

    shape: how the docstring writes it, e.g. "[M, N]".
    """
    if isinstance(values, StoppedOutcomes):
        raise ValueError(
            f"{name} {list(values.shape)} comes from a stopped pool: how many samples a prompt has depends on their "
            "outcomes, which would bias an estimate for a fixed N; bench.estimators.sequential has the unbiased one"
        )
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has dtype {array.dtype} and shape {list(array.shape)}; a numeric array {shape} is expected"
        )
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"{name} has shape {list(array.shape)}; a non-empty array {shape} is expected")
    array = array.astype(np.float64, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        if np.isinf(array).any():
            raise ValueError(
                f"{name} {list(array.shape)} holds an infinity; finite numbers are expected, NaN for unscored"
            )
        if not finite.any():
            raise ValueError(f"{name} {list(array.shape)} holds nothing but NaN; at least one number is expected")
    return array


def as_outcomes(name: str, values: Any, ndim: int = 2, *, shape: str = "[M, N]") -> np.ndarray:
    """As `as_floats`, and every value must be 0, 1 or NaN."""
    array = as_floats(name, values, ndim, shape=shape)
    if not ((array == 0) | (array == 1) | np.isnan(array)).all():
        raise ValueError(f"{name} {list(array.shape)} holds values other than 0 and 1; 0/1 outcomes are expected")
    return array


def check_same_shape(**arrays: np.ndarray) -> None:
    (first, expected), *others = arrays.items()
    for name, array in others:
        if array.shape != expected.shape:
            raise ValueError(
                f"{name} has shape {list(array.shape)}, but {first} has {list(expected.shape)}; they must be equal"
            )


def as_sizes(name: str, sizes: Sizes, pool_size: int | None = None) -> tuple[np.ndarray, bool]:
    """([K] int64, whether a single int was given); ValueError outside 1 .. pool_size."""
    array = np.asarray(sizes)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size == 0:
        raise ValueError(f"{name}={sizes!r} is not allowed; a whole number or a non-empty sequence of them is expected")
    if array.min() < 1:
        raise ValueError(f"{name}={array.min()} is not allowed; it must be at least 1")
    if pool_size is not None and array.max() > pool_size:
        raise ValueError(f"{name}={array.max()} is more than the {pool_size} samples a prompt; it must be at most that")
    return np.atleast_1d(array).astype(np.int64), array.ndim == 0


@dataclass(frozen=True)
class Pool:
    """R rows that have the same number C of scored samples, sorted by reward."""

    rows: np.ndarray  # [R] row numbers
    order: np.ndarray  # [R, C] columns, by ascending reward
    rewards: np.ndarray  # [R, C] ascending

    @property
    def size(self) -> int:
        return self.order.shape[1]

    def sort(self, values: np.ndarray) -> np.ndarray:
        """The [R, C] cells of values [M, N] in this order."""
        return values[self.rows[:, None], self.order]


def row_blocks(missing: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """(rows, number of samples not missing): blocks of rows equal in that number, rows without any sample left out."""
    columns = missing.shape[1]
    sizes = columns - missing.sum(axis=1)
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        step = max(1, BLOCK_CELLS // columns)
        for start in range(0, len(rows), step):
            yield rows[start : start + step], int(size)


def sorted_pools(rewards: np.ndarray, *others: np.ndarray) -> Iterator[Pool]:
    """The rows of rewards [M, N] in blocks; a sample counts where neither it nor its cell in the others is NaN."""
    missing = np.isnan(rewards)
    for other in others:
        missing |= np.isnan(other)
    complete = not missing.any()
    for rows, size in row_blocks(missing):
        block = rewards[rows]
        if not complete:
            block[missing[rows]] = np.inf  # sorts last, and is cut off
        order = np.argsort(block, axis=1)[:, :size]
        yield Pool(rows, order, np.take_along_axis(block, order, axis=1))


def group_starts(ranked: np.ndarray) -> np.ndarray:
    """[R, C] bool: where a new distinct value begins in each ascending row."""
    starts = np.ones(ranked.shape, dtype=bool)
    np.not_equal(ranked[:, 1:], ranked[:, :-1], out=starts[:, 1:])
    return starts


def tie_groups(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([R, C] column where the cell's tie group starts, [R, C] that group's size) of the ascending ranked."""
    first = np.flatnonzero(group_starts(ranked))
    lengths = np.diff(first, append=ranked.size)
    repeated = np.repeat(first % ranked.shape[1], lengths), np.repeat(lengths, lengths)
    return repeated[0].reshape(ranked.shape), repeated[1].reshape(ranked.shape)


def tie_means(ranked: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values [R, C] with every tie group of the ascending ranked [R, C] replaced by its mean."""
    first = np.flatnonzero(group_starts(ranked))
    if len(first) == ranked.size:
        return values
    lengths = np.diff(first, append=ranked.size)
    return np.repeat(np.add.reduceat(values.ravel(), first) / lengths, lengths).reshape(ranked.shape)
