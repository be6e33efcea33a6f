"""Choose pairs of completions for preference tuning: a chosen and a rejected one of the same prompt.

    python -m bench training=dpo pairs=right_wrong

A pair function is a selection whose Selection has `rejected`; its return annotation, PairSelection, says so. A prompt
whose rewards tell no two completions apart gives no pair, and is counted (selection/prompts_without_pair). The pairs of
a prompt share no completion.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from hydra.utils import get_object

from bench.artifacts import PairSelection, Selection
from bench.config.rules import ABOVE_ZERO, CountPerPrompt, checked
from bench.errors import BenchError
from bench.selection.cells import correct, indifferent, ranks_within_prompt
from bench.selection.ranking import rso


def best_worst(rewards: np.ndarray, rng: np.random.Generator) -> PairSelection:
    """The best completion per prompt over the worst one; no pair where all rewards are equal.

    rewards: [M, N]. Source: self-rewarding language models (Yuan et al. 2024, arXiv 2401.10020).
    """
    rewards = np.asarray(rewards, float)
    best, worst = ranks_within_prompt(rewards, rng), ranks_within_prompt(-rewards, rng)
    rows = [row for row, values in enumerate(rewards) if len(np.unique(values[~np.isnan(values)])) > 1]
    return _pairs([(row, int((best[row] == 0).argmax()), int((worst[row] == 0).argmax())) for row in rows])


def _check_pairs_per_prompt(config: Mapping[str, Any]) -> None:
    k, samples = config["selection"]["k"], config["num_completions"]
    if 2 * k > samples:
        raise BenchError(
            f"selection.k={k} is not allowed with num_completions={samples}: that many pairs per prompt need {2 * k} "
            "completions."
        )


@checked(_check_pairs_per_prompt)
def right_wrong(rewards: np.ndarray, rng: np.random.Generator, *, k: CountPerPrompt) -> PairSelection:
    """At most k pairs per prompt of a correct completion (reward above 0.5) over a wrong one, drawn uniformly.

    rewards: [M, N]. A prompt gives fewer pairs where fewer completions are correct, or wrong. Source: iterative
    reasoning preference optimization (Pang et al. 2024, arXiv 2404.19733).
    """
    right = correct(rewards)
    wrong = ~right & ~np.isnan(np.asarray(rewards, float))
    pairs = []
    for row in np.flatnonzero(right.any(axis=1) & wrong.any(axis=1)).tolist():
        sides = (rng.permutation(np.flatnonzero(side[row]))[:k].tolist() for side in (right, wrong))
        pairs += [(row, better, worse) for better, worse in zip(*sides, strict=False)]
    return _pairs(pairs)


@checked(_check_pairs_per_prompt)
def rso_pairs(
    rewards: np.ndarray, rng: np.random.Generator, *, k: CountPerPrompt, beta: Annotated[float, ABOVE_ZERO]
) -> PairSelection:
    """At most k pairs per prompt among 2k completions that statistical rejection sampling accepts (see `rso`).

    The accepted completions are paired at random, and the one with the higher reward is chosen; equal ones give no
    pair. rewards: [M, N]. Source: the first-round ranking of RSO (Liu et al. 2023, arXiv 2309.06657), section 3.
    """
    accepted = rso(rewards, rng, k=2 * k, beta=beta)
    pairs = []
    for row in np.unique(accepted.row).tolist():
        columns = rng.permutation(accepted.column[accepted.row == row]).tolist()
        for one, other in zip(columns[::2], columns[1::2], strict=False):
            better, worse = (one, other) if rewards[row, one] > rewards[row, other] else (other, one)
            if rewards[row, better] > rewards[row, worse]:
                pairs.append((row, better, worse))
    return _pairs(pairs)


def random_pairs(rewards: np.ndarray, rng: np.random.Generator) -> PairSelection:
    """One pair per prompt of two completions, drawn uniformly whatever their rewards: a control. rewards: [M, N]."""
    ranks = ranks_within_prompt(indifferent(rewards), rng)
    rows = np.flatnonzero((ranks == 1).any(axis=1)).tolist()
    return _pairs([(row, int((ranks[row] == 0).argmax()), int((ranks[row] == 1).argmax())) for row in rows])


def _pairs(pairs: list[tuple[int, int, int]]) -> Selection:
    """The Selection of (prompt, chosen, rejected), in row-major order."""
    row, column, rejected = np.array(sorted(pairs), int).reshape(-1, 3).T
    return Selection(row, column, np.ones(len(row)), rejected)


def gives_pairs(config: Mapping[str, Any]) -> bool:
    """Whether the configured selection is a pair function."""
    return getattr(get_object(config["selection"]["_target_"]), "__annotations__", {}).get("return") == PairSelection


def refuse_pairs(config: Mapping[str, Any], setting: str, why: str) -> None:
    """Raise BenchError where the configured selection is a pair function, which this setting does not allow."""
    if "selection" in config and gives_pairs(config):
        name = config["selection"]["_target_"].rpartition(".")[2]
        raise BenchError(f"{setting} is not allowed with pairs ({name}): {why}.")
