"""What a selection method asks for by name beyond the rewards, made from the pool in one walk over its shards."""

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
    """Of the following, what `selection` has as a parameter.

    paths [M, N]: the task's path of reasoning, None where there is none. answers [M, N]: likewise, the answer.
    steps_true [M, N] bool: whether there is a step of reasoning and every one is true. texts [M, N] str, read from the
    store as they are indexed. length [M, N] tokens. logprob [M, N] nats a sequence under the raw base.
    rescored_on: the prompts [M] that condition it, needed where another policy drew the pool, or from other prompts;
    None: it is what the pool says of the policy that drew it.
    similarity: where the method's own setting of that name is a function (see bench.selection.similarity), what it
    makes of the pool: the [N, N] matrices of the prompts in turn.
    """
    wanted = inspect.signature(selection).parameters
    columns = {"length": lambda: pool.length, "texts": lambda: pool.text, "logprob": lambda: pool.policy_logprob}
    if rescored_on is not None:
        columns["logprob"] = lambda: sequence_logprobs(base, rescored_on, pool)
    evidence: dict[str, Any] = {name: make() for name, make in columns.items() if name in wanted}
    evidence |= _from_texts(pool, task, set(wanted))
    if isinstance(selection, partial) and callable(selection.keywords.get("similarity")):
        evidence["similarity"] = selection.keywords["similarity"](pool, task, base)
    return evidence


def _from_texts(pool: Completions, task: Task, wanted: set[str]) -> dict[str, np.ndarray]:
    readers: dict[str, tuple[Callable[[str], Any], type]] = {
        "paths": (task.path, object),
        "answers": (task.extract_answer, object),
        "steps_true": (task.steps_are_true, bool),
    }
    found: dict[str, np.ndarray] = {
        name: np.empty(pool.shape, kind) for name, (_, kind) in readers.items() if name in wanted
    }
    for rows, part in pool.shards(blanks=True) if found else ():
        for name, array in found.items():
            read, kind = readers[name]
            array[rows] = np.vectorize(read, otypes=[kind])(part.text)
    return found
