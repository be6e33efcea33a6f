"""What is recorded of each round beside its policy's outcomes: what it drew, kept and trained on."""

import numpy as np

from bench.artifacts import Completions, Selection
from bench.experiment import Results
from bench.rounds import Round, Rounds
from bench.tasks import Task
from bench.training.sft import last_epoch_loss


def round_counts(rounds: Rounds, results: Results, task: Task) -> dict[str, float]:
    """Numbers of every round under its name, e.g. round_2/kept and round_2_control/kept.

    selected: completions that the selection kept in it; kept: completions trained on; prompts_covered: of how many
    prompts; distinct_paths: how many of them differ in prompt or path of reasoning; pool_tokens: generated for the
    round's pool; pool_reward: its mean reward; train_loss: nats a token.
    """
    of_tuned = rounds.of("tuned")
    result = next(one for one in of_tuned if one.policy == results.policies["tuned"])
    counts: dict[str, float] = {"rounds/run": len(of_tuned), "rounds/result": result.number}
    for arm in rounds.arms:
        pools: list[Completions] = []
        for one in rounds.of(arm):
            pools.append(one.pool)
            counts |= {f"{one.name}/{name}": value for name, value in _of_round(one, pools, task).items()}
    return counts


def _of_round(one: Round, pools: list[Completions], task: Task) -> dict[str, float]:
    found: dict[str, float] = {
        "selected": len(one.own),
        "kept": len(one.chosen),
        "prompts_covered": one.chosen.prompts_covered,
        "distinct_paths": distinct_paths(one.chosen, pools, task),
        "pool_tokens": float(one.pool.length.sum()),
        "train_loss": last_epoch_loss(one.policy),
    }
    if one.rewards is not None:
        found |= {"pool_reward": float(np.nanmean(one.rewards.value)), "unscored": one.rewards.unscored}
    if one.adapted is not None:
        found |= {"temperature": one.adapted.temperature, "balance_score": one.adapted.score}
        if one.adapted.threshold is not None:
            found["threshold"] = one.adapted.threshold
    if one.validation is not None:
        found["validation_pass@1"] = one.validation
    return found


def distinct_paths(chosen: Selection, pools: list[Completions], task: Task) -> int:
    """How many of the chosen cells of pools side by side differ in prompt or path; those without a path don't count."""
    starts = np.cumsum([0, *(pool.shape[1] for pool in pools)])
    number = np.searchsorted(starts, chosen.column, side="right") - 1
    found = set()
    for row, column, pool in zip(chosen.row.tolist(), chosen.column.tolist(), number.tolist(), strict=True):
        path = task.path(pools[pool].text[row, column - int(starts[pool])])
        if path is not None:
            found.add((row, path))
    return len(found)
