"""Choose the completions to train on: every method is a plain function from rewards [M, N] to a Selection.

A method receives what it needs beyond rewards by the name of its parameter, e.g. `paths` [M, N]: see evidence_for. NaN
rewards are unscored: never chosen, and without influence on the choice; a prompt whose row is all NaN selects nothing.
Ties are broken uniformly by `rng`. Selections are in row-major order, so that equal choices make equal training sets.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.models.logprobs import sequence_logprobs
from bench.selection.cells import decidable_only, every_prompt, solved
from bench.selection.correctness import all_correct, balanced, distinct_correct, shortest_correct
from bench.selection.pairs import best_worst, random_pairs, right_wrong, rso_pairs
from bench.selection.ranking import (
    kl_regularised,
    matched_random,
    pessimism,
    quantile,
    random_k_overall,
    random_per_prompt,
    rso,
    softmax,
    threshold,
    top_k_overall,
    top_k_per_prompt,
    top_per_prompt,
    worst_per_prompt,
)
from bench.selection.similarity import mbr, self_consistency
from bench.tasks import Task

__all__ = ["Selection", "all_correct", "balanced", "decidable_only", "distinct_correct", "every_prompt"]
__all__ += ["kl_regularised", "matched_random", "mbr", "pessimism", "quantile", "random_k_overall"]
__all__ += ["random_per_prompt", "rso", "self_consistency", "shortest_correct", "softmax", "solved", "threshold"]
__all__ += ["best_worst", "random_pairs", "right_wrong", "rso_pairs"]
__all__ += ["top_k_overall", "top_k_per_prompt", "top_per_prompt", "worst_per_prompt"]


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
