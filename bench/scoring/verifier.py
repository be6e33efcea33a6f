"""The exact verifier of a task as a scorer: 1 for a correct completion, 0 for a wrong one."""

from typing import Annotated

import numpy as np

from bench.allowed import TRUE_OR_FALSE
from bench.artifacts import Completions, Prompts, Rewards
from bench.tasks import Task, are_correct


def verify(
    prompts: Prompts, completions: Completions, *, task: Task, every_step: Annotated[bool, TRUE_OR_FALSE] = False
) -> Rewards:
    """[M, N] of 1.0 where the task accepts the answer (and, with `every_step`, each step of reasoning), else 0.0."""
    value = np.empty(completions.shape)
    for rows, part in completions.shards():
        texts = part.text.ravel().tolist()
        accepted = are_correct(task, texts, np.repeat(prompts.answer[rows], part.shape[1]).tolist())
        if every_step:
            accepted &= np.array([*map(task.steps_are_true, texts)], bool)
        value[rows] = accepted.reshape(part.shape)
    return Rewards(value)
