"""Helpers of the selection methods: which cells are scored, correct or best, and how cells become a Selection.

Prompt filters come before the selection: they set the rows of prompts that are not trained on to NaN, never chosen.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np

from bench.artifacts import Selection
from bench.config.rules import number
from bench.errors import BenchError

CORRECT = 0.5  # a verifier says 1 for correct and 0 for wrong


def cells(chosen: np.ndarray, weight: np.ndarray | None = None) -> Selection:
    """The Selection of the true cells of [M, N], weighted by an [M, N] array, or by 1 each."""
    row, column = np.nonzero(chosen)
    return Selection(row, column, np.ones(len(row)) if weight is None else weight[row, column])


def in_order(parts: list[Selection]) -> Selection:
    """All cells of the parts in row-major order. Of pairs, all parts have the rejected ones, or none has."""
    row, column, weight = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "column", "weight")
    )
    pairs = [part.rejected for part in parts if part.rejected is not None]
    order = np.lexsort((column, row))
    rejected = np.concatenate(pairs)[order].astype(int) if pairs else None
    return Selection(row[order].astype(int), column[order].astype(int), weight[order], rejected)


def moved(chosen: Selection, columns: int) -> Selection:
    """The same completions in a pool that has so many columns before them."""
    rejected = None if chosen.rejected is None else chosen.rejected + columns
    return replace(chosen, column=chosen.column + columns, rejected=rejected)


def correct(rewards: np.ndarray) -> np.ndarray:
    """[M, N] bool: whether the verifier accepts a completion; unscored ones are not correct."""
    return np.asarray(rewards, float) > CORRECT  # NaN compares false


def indifferent(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: 0 for scored completions, NaN for unscored ones."""
    return np.where(np.isnan(np.asarray(rewards, float)), np.nan, 0.0)


def finite(rewards: np.ndarray) -> np.ndarray:
    """[M, N] float, for a method that computes with rewards; ValueError where one is infinite."""
    rewards = np.asarray(rewards, float)
    if np.isinf(rewards).any():
        raise ValueError("rewards holds an infinite value; they must be finite numbers, or NaN for the unscored.")
    return rewards


def same_shape(name: str, evidence: np.ndarray, rewards: np.ndarray) -> None:
    """Raise BenchError where evidence is not [M, N]."""
    if np.shape(evidence) != np.shape(rewards):
        raise BenchError(f"{name} has shape {np.shape(evidence)}; it must be that of rewards, {np.shape(rewards)}.")


def at_most_samples(k: int, rewards: np.ndarray) -> None:
    """Raise BenchError where prompts have fewer than k completions."""
    samples = np.shape(rewards)[1]
    if not 1 <= k <= samples:
        raise BenchError(f"selection.k={k} is not between 1 and the {samples} completions of a prompt.")


def ranks_within_prompt(rewards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[M, N] ints: 0 for a prompt's best, ties in random order; -1 for unscored completions."""
    rewards = np.asarray(rewards, float)
    order = np.lexsort((rng.random(rewards.shape), -rewards), axis=1)  # NaN sorts last
    ranks = np.empty(rewards.shape, int)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(rewards.shape[1]), rewards.shape), axis=1)
    return np.where(np.isnan(rewards), -1, ranks)


def best_k(rewards: np.ndarray, k: int, rng: np.random.Generator) -> Selection:
    """The k best of all cells, ties in random order. Raises BenchError where fewer are scored."""
    rewards = np.asarray(rewards, float)
    scored = int((~np.isnan(rewards)).sum())
    if not 1 <= k <= scored:
        raise BenchError(f"selection.k={k} is not between 1 and the {scored} scored completions of the pool.")
    order = np.lexsort((rng.random(rewards.size), -rewards.ravel()))
    chosen = np.zeros(rewards.size, bool)
    chosen[order[:k]] = True
    return cells(chosen.reshape(rewards.shape))


def every_prompt(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: the rewards unchanged."""
    return np.asarray(rewards, float)


def solved(rewards: np.ndarray, *, accept_above: Annotated[float, number()] = CORRECT) -> np.ndarray:
    """The rewards [M, N] with NaN for every prompt without a reward above `accept_above`: none of its samples is right.

    Without it, top_per_prompt trains on the best of wrong completions.
    """
    rewards = np.asarray(rewards, float)
    return np.where((rewards > accept_above).any(axis=1, keepdims=True), rewards, np.nan)  # NaN compares false


def decidable_only(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: the rewards without prompts whose scored samples are all correct (reward above 0.5) or all wrong.

    On those the reward can't tell completions apart. Source: the dynamic sampling of DAPO (Yu et al. 2025, arXiv
    2503.14476), which keeps prompts with 0 < correct < samples.
    """
    rewards = np.asarray(rewards, float)
    right, wrong = correct(rewards).any(axis=1), (~correct(rewards) & ~np.isnan(rewards)).any(axis=1)
    return np.where((right & wrong)[:, None], rewards, np.nan)


def prompts_dropped(before: np.ndarray, after: np.ndarray) -> int:
    """The number of prompts with a scored sample before a filter and none after it; both [M, N]."""
    return int((~np.isnan(before).all(axis=1) & np.isnan(after).all(axis=1)).sum())
