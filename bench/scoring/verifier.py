"""The exact verifier of a task as a scorer: 1 for a correct completion, 0 for a wrong one."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import TRUE_OR_FALSE
from bench.scoring import Scorer
from bench.scoring.units import scored
from bench.tasks import Task

STAGE = "verify"
VERSION = 1  # raise it when a task's `are_correct` gives other verdicts


@Scorer(highest=1.0, verdicts=True)
def verify(
    prompts: Prompts, completions: Completions, *, task: Task, every_step: Annotated[bool, TRUE_OR_FALSE] = False
) -> Rewards:
    """[M, N] of 1.0 where the task accepts the answer (and, with `every_step`, each step of reasoning), else 0.0.

    Where judging is slow (`Task.keeps_verdicts`), the store keeps the verdicts of each unit of the pool.
    """
    judged = None
    if task.keeps_verdicts:
        judged = _stored(prompts, completions, task.are_correct, stage=STAGE, version=VERSION, task=task)
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
    """[M, N]: the task's gold reward in its own units, NaN where unscored; None where the task has no gold reward."""
    reward = task.gold_reward
    return None if reward is None else _stored(prompts, completions, reward, stage="gold_reward", version=1, task=task)


def _stored(
    prompts: Prompts,
    completions: Completions,
    judge: Callable[[list[str], list[str]], Any],
    *,
    stage: str,
    version: int,
    task: Task,
) -> np.ndarray:
    """[M, N]: judge(texts, answers) of every completion, kept in the store."""

    def score(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        return np.asarray(judge(list(texts), [str(prompts.answer[row]) for row in rows]), float), {}

    settings = {"task": task.judged_by}
    return scored(prompts, completions, score, stage=stage, version=version, settings=settings).value
