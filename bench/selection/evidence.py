"""The evidence that a selection method receives beyond the rewards, made from the pool in one walk over its shards."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.models.logprobs import sequence_logprobs
from bench.tasks import Task


def evidence_for(
    selection: Callable[..., Selection],
    pool: Completions,
    task: Task,
    base: Policy,
    *,
    rescored_on: Prompts | None = None,
) -> dict[str, Any]:
    """The evidence that `selection` has as a parameter, by name, among the following.

    paths, answers [M, N]: the task's path of reasoning and answer, None where there is none.
    steps_true [M, N] bool: whether there is a step of reasoning and every step is true.
    texts [M, N] str, read from the store as they are indexed. length [M, N] tokens.
    logprob [M, N]: nats per sequence under the raw base. rescored_on: the prompts [M] that condition it, needed where
    another policy drew the pool, or from other prompts; None: the log-probabilities in the pool itself.
    similarity: the [N, N] matrices of the prompts in turn, where the method's setting of that name is a function (see
    bench.selection.similarity).
    """
    wanted = inspect.signature(selection).parameters
    columns: dict[str, Callable[[], Any]] = {
        "length": lambda: pool.length,
        "texts": lambda: pool.text,
        "logprob": lambda: pool.policy_logprob if rescored_on is None else sequence_logprobs(base, rescored_on, pool),
    }
    evidence = {name: make() for name, make in columns.items() if name in wanted}
    readers = {"paths": task.path, "answers": task.extract_answer, "steps_true": task.steps_are_true}
    kinds = {name: bool if name == "steps_true" else object for name in readers if name in wanted}
    evidence |= {name: np.empty(pool.shape, kind) for name, kind in kinds.items()}
    for rows, part in pool.shards(blanks=True) if kinds else ():
        for name, kind in kinds.items():
            evidence[name][rows] = np.vectorize(readers[name], otypes=[kind])(part.text)
    if isinstance(selection, partial) and callable(selection.keywords.get("similarity")):
        evidence["similarity"] = selection.keywords["similarity"](pool, task, base)
    return evidence
