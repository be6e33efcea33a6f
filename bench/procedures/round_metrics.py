"""What is recorded of each round beside its policy's outcomes: what it drew, kept and trained on."""

import numpy as np

from bench.artifacts import Completions, Prompts, Selection
from bench.experiment import Results
from bench.pools import side_by_side
from bench.rounds import Round, Rounds
from bench.tasks import Task, are_correct
from bench.training.sft import last_epoch_loss


def round_counts(rounds: Rounds, results: Results, task: Task) -> dict[str, float]:
    """Numbers of every round under its name, e.g. round_2/kept and round_2_control/kept.

    selected: completions that the selection kept in it; kept: completions trained on; kept_correct: those of them that
    the task's verifier calls right; prompts_covered: of how many prompts; distinct_paths: how many of them differ in
    prompt or path of reasoning; pool_tokens: generated for the round's pool; pool_reward: its mean reward; train_loss:
    nats a token; validation_pass@1: where the stop rule asks for it, and of the base, which round 1 is to beat, as
    base/validation_pass@1.
    """
    of_tuned = rounds.of("tuned")
    result = next(one for one in of_tuned if one.policy == results.policies["tuned"])
    counts: dict[str, float] = {"rounds/run": len(of_tuned), "rounds/result": result.number}
    if rounds.base_validation is not None:
        counts["base/validation_pass@1"] = rounds.base_validation
    for arm in rounds.arms:
        pools: list[Completions] = []
        for one in rounds.of(arm):
            pools.append(one.pool)
            counts |= {
                f"{one.name}/{name}": value for name, value in _of_round(one, pools, results.train, task).items()
            }
    return counts


def _of_round(one: Round, pools: list[Completions], train: Prompts, task: Task) -> dict[str, float]:
    found: dict[str, float] = {
        "selected": len(one.own),
        "kept": len(one.chosen),
        "kept_correct": kept_correct(one.chosen, pools, train, task),
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
    paths = [(row, task.path(text)) for row, text in _texts(chosen, pools)]
    return len({(row, path) for row, path in paths if path is not None})


def kept_correct(chosen: Selection, pools: list[Completions], train: Prompts, task: Task) -> int:
    """How many of the chosen cells of pools side by side are right, by the task's own verifier."""
    texts = _texts(chosen, pools)
    return int(np.sum(are_correct(task, [text for _, text in texts], [str(train.answer[row]) for row, _ in texts])))


def _texts(chosen: Selection, pools: list[Completions]) -> list[tuple[int, str]]:
    """The row and the text of each chosen cell of pools side by side."""
    texts = side_by_side(pools).text
    return [(row, texts[row, column]) for row, column in zip(chosen.row.tolist(), chosen.column.tolist(), strict=True)]
