"""The exact verifier of a task as a scorer: 1 for a correct completion, 0 for a wrong one."""

from typing import Annotated

import numpy as np

from bench.allowed import TRUE_OR_FALSE
from bench.artifacts import Completions, Prompts, Rewards
from bench.tasks import Task


def verify(
    prompts: Prompts, completions: Completions, *, task: Task, every_step: Annotated[bool, TRUE_OR_FALSE] = False
) -> Rewards:
    """[M, N] of 1.0 where the task accepts the answer (and, with `every_step`, each step of reasoning), else 0.0."""
    value = np.empty(completions.shape)
    for row, answer in enumerate(prompts.answer):
        for column, text in enumerate(completions.text[row]):
            accepted = task.is_correct(text, answer)
            value[row, column] = accepted and (not every_step or task.steps_are_true(text))
    return Rewards(value)
