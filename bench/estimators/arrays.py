"""Check the estimators' arguments, and walk over the rows of a pool in blocks of one size, sorted by reward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

Sizes: TypeAlias = SupportsIndex | Sequence[int] | np.ndarray  # n or k: an int, or several

BLOCK_CELLS = 2**20  # cells of an [M, N] array worked on at once: 8 MiB for each temporary array


class StoppedOutcomes(np.ndarray):
    """Outcomes [M, N] of a pool whose sampling stopped early by a rule, NaN for samples that were not drawn.

    `array.view(StoppedOutcomes)` marks an array. `as_floats` refuses marked arrays, because most estimators assume a
    fixed N. Code that does not assume one reads them like any other array.
    """


def as_floats(name: str, values: Any, shape: str) -> np.ndarray:
    """Return `values` as float64.

    shape: the expected axes as written in docstrings, e.g. "[M, N]"; only their number is checked.
    Raises ValueError for another dtype or number of axes, rows of different lengths, an empty array, an infinity, or an
    array of only NaN.
    """
    if isinstance(values, StoppedOutcomes):
        raise ValueError(
            f"{name} {list(values.shape)} comes from a stopped pool: the number of samples per prompt depends on their "
            "outcomes, which biases estimates that assume a fixed N; bench.estimators.sequential has an unbiased one"
        )
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths; fill them with NaN up to an array {shape}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has dtype {array.dtype} and shape {list(array.shape)}; a numeric array {shape} is expected"
        )
    if array.ndim != shape.count(",") + 1 or array.size == 0:
        raise ValueError(f"{name} has shape {list(array.shape)}; a non-empty array {shape} is expected")
    array = array.astype(np.float64, copy=False)
    if np.isinf(array).any():
        raise ValueError(f"{name} {list(array.shape)} holds an infinity; finite numbers are expected, NaN for unscored")
    if np.isnan(array).all():
        raise ValueError(f"{name} {list(array.shape)} holds only NaN; at least one number is expected")
    return array


def as_equal_floats(shape: str, **arrays: Any) -> list[np.ndarray]:
    """Return every array as float64 (see `as_floats`); ValueError where their shapes differ."""
    checked = {name: as_floats(name, values, shape) for name, values in arrays.items()}
    check_same_shape(**checked)
    return list(checked.values())


def as_outcomes(name: str, values: Any, shape: str = "[M, N]") -> np.ndarray:
    """Return `values` as float64 (see `as_floats`); ValueError for a value other than 0, 1 and NaN."""
    array = as_floats(name, values, shape)
    if not ((array == 0) | (array == 1) | np.isnan(array)).all():
        raise ValueError(f"{name} {list(array.shape)} holds values other than 0 and 1; 0/1 outcomes are expected")
    return array


def check_same_shape(**arrays: np.ndarray) -> None:
    """Raise ValueError where an array's shape differs from that of the first array."""
    (first, expected), *others = arrays.items()
    for name, array in others:
        if array.shape != expected.shape:
            raise ValueError(
                f"{name} has shape {list(array.shape)}, but {first} has {list(expected.shape)}; they must be equal"
            )


def as_sizes(name: str, sizes: Sizes, pool_size: int | None = None) -> tuple[np.ndarray, bool]:
    """Return the sizes as [K] int64, and whether a single int was given; ValueError outside 1 .. pool_size."""
    array = np.asarray(sizes)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size == 0:
        raise ValueError(f"{name}={sizes!r} is not allowed; a whole number or a non-empty sequence of them is expected")
    if array.min() < 1:
        raise ValueError(f"{name}={array.min()} is not allowed; it must be at least 1")
    if pool_size is not None and array.max() > pool_size:
        raise ValueError(f"{name}={array.max()} is more than the {pool_size} samples per prompt; give at most that")
    return np.atleast_1d(array).astype(np.int64), array.ndim == 0


def of_same_prompts(curve: np.ndarray, least: float = 0.5) -> np.ndarray:
    """Return a curve [M, K] over n with NaN throughout for each prompt that lacks a value at some n.

    Means over all points are then of the same prompts, so that no step of the curve comes from other prompts. The curve
    returns as it is where this leaves fewer than `least` of the prompts that have a value at any n, or only one.
    """
    known = ~np.isnan(curve)
    whole = known.all(axis=1)
    keep = whole.sum() >= max(2, least * known.any(axis=1).sum())
    return np.where(whole[:, None], curve, np.nan) if keep else curve


def as_generator(rng: np.random.Generator) -> np.random.Generator:
    """Return the generator; ValueError for anything else, such as a seed."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng={rng!r} is not allowed; a generator is expected, such as np.random.default_rng(0)")
    return rng


def tail_of(level: float) -> float:
    """Return the probability beyond one end of an interval of this level; ValueError outside 0 .. 1."""
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not allowed; it must lie between 0 and 1")
    return (1 - level) / 2


@dataclass(frozen=True)
class SortedRows:
    """R rows with the same number C of scored samples, sorted by reward."""

    rows: np.ndarray  # [R] row numbers in the pool
    order: np.ndarray  # [R, C] columns of the pool, by ascending reward
    rewards: np.ndarray  # [R, C] ascending

    @property
    def size(self) -> int:
        return self.order.shape[1]

    def sort(self, values: np.ndarray) -> np.ndarray:
        """Return the cells of values [M, N, ...] that belong to these samples, in their order: [R, C, ...]."""
        return values[self.rows[:, None], self.order]


def row_blocks(missing: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (row numbers, samples per row) of blocks of rows with equally many samples; empty rows are left out.

    missing: [M, N] bool. A block holds at most BLOCK_CELLS cells, or one row.
    """
    columns = missing.shape[1]
    sizes = columns - missing.sum(axis=1)
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        step = max(1, BLOCK_CELLS // columns)
        for start in range(0, len(rows), step):
            yield rows[start : start + step], int(size)


def sorted_rows(rewards: np.ndarray, *others: np.ndarray) -> Iterator[SortedRows]:
    """Yield the rows of rewards [M, N] in sorted blocks; a sample with NaN in any of the arrays is left out."""
    missing = np.isnan(rewards)
    for other in others:
        missing |= np.isnan(other)
    complete = not missing.any()
    for rows, size in row_blocks(missing):
        block = rewards[rows]
        if not complete:
            block[missing[rows]] = np.inf  # sorts last, and is cut off
        order = np.argsort(block, axis=1)[:, :size]
        yield SortedRows(rows, order, np.take_along_axis(block, order, axis=1))


def group_starts(ranked: np.ndarray) -> np.ndarray:
    """Return [R, C] bool: where a new distinct value begins in each ascending row of ranked [R, C]."""
    starts = np.ones(ranked.shape, dtype=bool)
    np.not_equal(ranked[:, 1:], ranked[:, :-1], out=starts[:, 1:])
    return starts


def tie_groups(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each cell of the ascending ranked [R, C], the first column and the size of its group of ties."""
    first = np.flatnonzero(group_starts(ranked))
    lengths = np.diff(first, append=ranked.size)
    start, size = np.repeat(first % ranked.shape[1], lengths), np.repeat(lengths, lengths)
    return start.reshape(ranked.shape), size.reshape(ranked.shape)


def tie_means(ranked: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values [R, C] with the mean over each group of ties of the ascending ranked [R, C] in its cells."""
    first = np.flatnonzero(group_starts(ranked))
    if len(first) == ranked.size:
        return values
    lengths = np.diff(first, append=ranked.size)
    return np.repeat(np.add.reduceat(values.ravel(), first) / lengths, lengths).reshape(ranked.shape)
