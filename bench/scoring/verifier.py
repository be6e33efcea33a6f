"""The exact verifier of a task as a scorer: 1 for a correct completion, 0 for a wrong one."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import TRUE_OR_FALSE
from bench.scoring.units import scored
from bench.tasks import Task

STAGE = "verify"
VERSION = 1  # raise it when a task's `are_correct` gives other verdicts


def verify(
    prompts: Prompts, completions: Completions, *, task: Task, every_step: Annotated[bool, TRUE_OR_FALSE] = False
) -> Rewards:
    """[M, N] of 1.0 where the task accepts the answer (and, with `every_step`, each step of reasoning), else 0.0.

    Where judging is slow (`Task.keeps_verdicts`), the store keeps the verdicts of each unit of the pool.
    """
    judged = _judged(prompts, completions, task) if task.keeps_verdicts else None
    value = np.empty(completions.shape)
    for rows, part in completions.shards():
        texts = part.text.ravel().tolist()
        if judged is None:
            accepted = np.array(task.are_correct(texts, np.repeat(prompts.answer[rows], part.shape[1]).tolist()), bool)
        else:
            accepted = judged[rows].ravel() == 1
        if every_step:
            accepted &= np.array([*map(task.steps_are_true, texts)], bool)
        value[rows] = accepted.reshape(part.shape)
    return Rewards(value)


def gold_rewards(prompts: Prompts, completions: Completions, *, task: Task) -> np.ndarray | None:
    """[M, N] the task's gold reward in its own units, NaN where it has none; None where the task offers none."""
    reward = task.gold_reward
    if reward is None:
        return None

    def score(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        return reward(texts, [str(prompts.answer[row]) for row in rows]), {}

    return scored(prompts, completions, score, stage="gold_reward", version=1, settings={"task": task.judged_by}).value


def _judged(prompts: Prompts, completions: Completions, task: Task) -> np.ndarray:
    """[M, N] of 0 and 1."""

    def score(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        return np.array(task.are_correct(texts, [str(prompts.answer[row]) for row in rows]), float), {}

    return scored(prompts, completions, score, stage=STAGE, version=VERSION, settings={"task": task.judged_by}).value
