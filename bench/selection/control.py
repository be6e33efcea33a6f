"""Selections that do not look at the reward: what a method is compared with."""

import numpy as np

from bench.artifacts import Selection
from bench.config.rules import Count
from bench.selection.cells import best_k, cells, indifferent, ranks_within_prompt


def random_per_prompt(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """One scored completion of every prompt, uniformly: the size-matched control of top_per_prompt. rewards: [M, N]."""
    return cells(ranks_within_prompt(indifferent(rewards), rng) == 0)


def random_k_overall(rewards: np.ndarray, rng: np.random.Generator, *, k: Count) -> Selection:
    """k scored completions, uniformly: the size-matched control of top_k_overall. rewards: [M, N]."""
    return best_k(indifferent(rewards), k, rng)


def matched_random(chosen: Selection, rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """The random twin of a selection: as many completions of each prompt, with the same weights, drawn uniformly.

    rewards: [M, N], of which only what is scored matters. What differs from `chosen` is the reward's say alone. A
    method that keeps a completion several times is matched by as many draws, distinct while a prompt has enough.
    """
    scored = ~np.isnan(np.asarray(rewards, float))
    by_row = np.argsort(chosen.row, kind="stable")
    prompts, starts = np.unique(chosen.row[by_row], return_index=True)
    columns = np.empty_like(chosen.column)
    for row, places in zip(prompts, np.split(by_row, starts)[1:], strict=True):
        available = np.flatnonzero(scored[row])
        columns[places] = rng.choice(available, size=len(places), replace=len(places) > len(available))
    order = np.lexsort((columns, chosen.row))
    return Selection(chosen.row[order], columns[order], chosen.weight[order])
