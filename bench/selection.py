"""Which completions to train on: every method is a plain function from rewards [M, N] to a Selection.

A method takes what it needs beyond rewards by name (`paths` [M, N]); `bench.experiment` hands it over. NaN rewards
are unscored and never chosen; a prompt whose row is all NaN selects nothing. Ties are broken uniformly by `rng`.
Selections come in row-major order, so that equal choices make equal training sets.
"""

import numpy as np

from bench.allowed import Count
from bench.artifacts import Selection
from bench.errors import BenchError

CORRECT = 0.5  # a verifier says 1 for correct and 0 for wrong


def top_per_prompt(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """The best completion of every prompt. Source: Llama 2 (Touvron et al. 2023), section 3.2.3.

    rewards: [M, N]. Returns at most M cells, one a prompt with a scored sample.
    """
    return _cells(_ranks_within_prompt(rewards, rng) == 0)


def top_k_overall(rewards: np.ndarray, rng: np.random.Generator, *, k: Count) -> Selection:
    """The k best of all completions together: easy prompts may fill it. Raises BenchError where fewer are scored.

    rewards: [M, N]. Source: reward-ranked filtering over the whole pool, as in RAFT (Dong et al. 2023), section 3.
    """
    return _best_k(np.asarray(rewards, float), k, rng)


def random_per_prompt(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """One scored completion of every prompt, uniformly: the size-matched control of top_per_prompt. rewards: [M, N]."""
    return _cells(_ranks_within_prompt(_indifferent(rewards), rng) == 0)


def random_k_overall(rewards: np.ndarray, rng: np.random.Generator, *, k: Count) -> Selection:
    """k scored completions, uniformly: the size-matched control of top_k_overall. rewards: [M, N]."""
    return _best_k(_indifferent(rewards), k, rng)


def all_correct(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """Every completion that the verifier accepts (reward above 0.5), as in STaR (Zelikman et al. 2022), section 3.1.

    rewards: [M, N]. `rng` is unused: nothing is left to chance.
    """
    return _cells(_correct(rewards))


def distinct_correct(rewards: np.ndarray, rng: np.random.Generator, *, paths: np.ndarray) -> Selection:
    """One correct completion for each distinct reasoning path of a prompt. Source: RFT (Yuan et al. 2023), section 3.3.

    rewards: [M, N]; paths: [M, N] objects, equal where two completions reason alike, None where there is no path (such
    a completion is not chosen). Which of several alike stays is uniform.
    """
    if np.shape(paths) != np.shape(rewards):
        raise BenchError(f"paths has shape {np.shape(paths)}; it must be that of rewards, {np.shape(rewards)}.")
    eligible = _correct(rewards) & (np.asarray(paths, object) != None)  # noqa: E711  (elementwise)
    chosen = np.zeros(eligible.shape, bool)
    for row in np.flatnonzero(eligible.any(axis=1)):
        columns = rng.permutation(np.flatnonzero(eligible[row]))
        first_of_path = {paths[row][column]: column for column in reversed(columns)}
        chosen[row, list(first_of_path.values())] = True
    return _cells(chosen)


def matched_random(chosen: Selection, rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """The random twin of a selection: as many completions of each prompt, with the same weights, drawn uniformly.

    rewards: [M, N], of which only what is scored matters. What differs from `chosen` is the reward's say alone. A
    method that keeps a completion several times is matched by as many draws, distinct while a prompt has enough.
    """
    scored = ~np.isnan(np.asarray(rewards, float))
    columns = np.empty_like(chosen.column)
    for row in np.unique(chosen.row):
        places = np.flatnonzero(chosen.row == row)
        available = np.flatnonzero(scored[row])
        columns[places] = rng.choice(available, size=len(places), replace=len(places) > len(available))
    order = np.lexsort((columns, chosen.row))
    return Selection(chosen.row[order], columns[order], chosen.weight[order])


def _cells(chosen: np.ndarray) -> Selection:
    row, column = np.nonzero(chosen)
    return Selection(row, column, np.ones(len(row)))


def _correct(rewards: np.ndarray) -> np.ndarray:
    return np.asarray(rewards, float) > CORRECT  # NaN compares false


def _indifferent(rewards: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(np.asarray(rewards, float)), np.nan, 0.0)


def _ranks_within_prompt(rewards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[M, N] ints: 0 for a prompt's best, ties in random order; -1 for the unscored."""
    rewards = np.asarray(rewards, float)
    order = np.lexsort((rng.random(rewards.shape), -rewards), axis=1)  # NaN sorts last
    ranks = np.empty(rewards.shape, int)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(rewards.shape[1]), rewards.shape), axis=1)
    return np.where(np.isnan(rewards), -1, ranks)


def _best_k(rewards: np.ndarray, k: int, rng: np.random.Generator) -> Selection:
    scored = int((~np.isnan(rewards)).sum())
    if not 1 <= k <= scored:
        raise BenchError(f"selection.k={k} is not between 1 and the {scored} scored completions of the pool.")
    order = np.lexsort((rng.random(rewards.size), -rewards.ravel()))
    chosen = np.zeros(rewards.size, bool)
    chosen[order[:k]] = True
    return _cells(chosen.reshape(rewards.shape))
