"""Take the mean over k-subsets of a prompt's N samples: over all subsets where they are few, else over random ones."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

from bench.estimators.arrays import row_blocks
from bench.seeds import generator

MAX_EXACT = 20_000  # subsets; up to this number, all are taken
RANDOM_SUBSETS = 4_096  # otherwise so many: a standard error of at most 0.008 per prompt for values in 0 .. 1


def subset_method(pool_size: int, k: int) -> str:
    """Return "exact" where a mean over k-subsets of pool_size samples takes all of them, else "monte_carlo"."""
    return "exact" if math.comb(pool_size, k) <= MAX_EXACT else "monte_carlo"


def mean_over_subsets(
    missing: np.ndarray,
    sizes: np.ndarray,
    rng: np.random.Generator | None,
    row_mean: Callable[[int, np.ndarray], Callable[[np.ndarray], float]],
    *,
    ascending: bool = False,
) -> np.ndarray:
    """Return [M, K]: a mean over subsets for each row and size; NaN where a row has too few samples.

    missing: [M, N] bool, samples that count as never drawn. sizes: [K].
    row_mean(row, columns) takes the row's present columns and returns a function from subsets [S, k], as positions in
    `columns`, to their mean. rng: draws random subsets; None stands for a fixed stream.
    ascending: sort the positions within every subset.
    """
    rng = generator(0, "estimators", "subsets") if rng is None else rng
    values = np.full((len(missing), len(sizes)), np.nan)
    subsets: dict[int, list[np.ndarray]] = {}
    for rows, size in row_blocks(missing):
        possible = sizes <= size
        if size not in subsets:
            drawn = _draw_subsets(size, sizes[possible], rng)
            subsets[size] = [np.sort(positions, axis=1) for positions in drawn] if ascending else drawn
        for row in rows.tolist():
            mean = row_mean(row, np.flatnonzero(~missing[row]))
            values[row, possible] = [mean(positions) for positions in subsets[size]]
    return values


def _draw_subsets(pool_size: int, sizes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return, for each k in sizes, positions [S, k] below pool_size: all k-subsets, or random ones.

    Random subsets are drawn without replacement. Every row uses the same positions, which is as good as new ones
    because samples are exchangeable.
    """
    permutations = None
    subsets = []
    for k in sizes.tolist():
        if subset_method(pool_size, k) == "exact":
            subsets.append(np.array(list(combinations(range(pool_size), k)), dtype=np.int32))
        else:
            if permutations is None:  # shared by all k, so that a curve over k is smooth
                positions = np.broadcast_to(np.arange(pool_size, dtype=np.int32), (RANDOM_SUBSETS, pool_size))
                permutations = rng.permuted(positions, axis=1)
            subsets.append(permutations[:, :k])
    return subsets
