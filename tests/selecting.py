"""What the tests of selection share: matrices worked by hand, and whether counts are what a distribution expects."""

import numpy as np

from bench.artifacts import Selection

R = np.array(
    [[0.7, 0.3, 0.5, 0.2], [0.4, 0.8, 0.6, 0.5], [0.9, 0.3, 0.4, 0.7], [0.2, 0.5, 0.8, 0.6], [0.5, 0.4, 0.3, 0.6]]
)
VERDICTS = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, np.nan, 1, 0], [np.nan] * 4], float)
PATHS = np.array(
    [["a", "b", "a", "c"], ["a", "a", "a", "a"], ["x", "x", "x", None], ["p", "q", "q", "p"], ["z"] * 4], object
)
UNSCORED = np.array([[np.nan, 0.1, np.nan], [np.nan, np.nan, np.nan], [-5.0, np.nan, np.nan]])
CRITICAL = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7}  # chi-square by degrees of freedom, exceeded 1 time in 10,000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cells(chosen: Selection) -> list[tuple[int, int]]:
    return list(zip(chosen.row.tolist(), chosen.column.tolist(), strict=True))


def weights(chosen: Selection, shape: tuple[int, ...]) -> np.ndarray:
    """[M, N]: the weight of every cell, 0 where it is not chosen."""
    table = np.zeros(shape)
    table[chosen.row, chosen.column] = chosen.weight
    return table


def fits(counts: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether independent draws with these counts may come from these probabilities (0 allows none)."""
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities, float)
    if counts[probabilities == 0].any():
        return False
    expected = counts.sum() * probabilities[probabilities > 0]
    statistic = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    return len(expected) == 1 or bool(statistic < CRITICAL[len(expected) - 1])
