"""B-STaR's balance score: at which temperature and reward threshold a round's samples are both many and right.

Source: B-STaR (Zeng et al. 2024, arXiv 2412.17256), as in its published code.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Policy, Selection
from bench.config.rules import Count, Rule, number, or_null
from bench.errors import BenchError
from bench.procedures.parts import Parts
from bench.seeds import generator


def several(rule: Rule) -> Rule:
    """A list of one or more different values, each allowed by `rule`."""

    def allows(value: Any) -> bool:
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
        return bool(values) and len(set(values)) == len(values) and all(map(rule.allows, values))

    return Rule(allows, f"a list of one or more, each different and {rule.description}")


@dataclass(frozen=True)
class Adapted:
    """How a round draws and selects, and the balance score that this has."""

    temperature: float
    threshold: float | None  # None: the selection's own
    score: float


def by_balance_score(
    parts: Parts,
    policy: Policy,
    *,
    temperatures: Annotated[list[float], several(number(0, open_low=True))],
    thresholds: Annotated[list[float] | None, or_null(several(number()))],
    expected: Count,
    prompts_probed: Count,
    seed: int,
) -> Adapted:
    """The temperature and threshold of the highest mean balance score on the first `prompts_probed` training prompts.

    Each temperature's samples, `num_completions` per probed prompt, are drawn from `policy` with the round's seed. They
    are part of the round's pool where whole shards of it are probed and their temperature is chosen. thresholds: None
    keeps the selection's own. expected: n*, the number of correct completions per prompt that is enough. The first
    of equal scores is taken. BenchError where the selection has no threshold to set.
    """
    probed = parts.train[: min(prompts_probed, len(parts.train))]
    candidates: list[Adapted] = []
    for temperature in temperatures:
        pool = parts.generation(
            probed, policy, num_completions=parts.num_completions, seed=seed, temperature=temperature
        )
        rewards, gold = parts.scorer(probed, pool).value, parts.verified(probed, pool)
        texts = np.asarray(pool.text)
        others = None if policy == parts.base else probed
        evidence = parts.evidence(parts.selection, pool, rescored_on=others)
        for threshold in [None] if thresholds is None else thresholds:
            select = with_threshold(parts.selection, threshold)
            kept = select(rewards, generator(seed, "selection"), **evidence)
            score = float(balance_score(kept, texts, gold == 1, expected).mean())
            candidates.append(Adapted(temperature, threshold, score))
    return max(candidates, key=lambda adapted: adapted.score)


def balance_score(kept: Selection, texts: np.ndarray, correct: np.ndarray, expected: int) -> np.ndarray:
    """min(n'/n*, 1) n'/n of each prompt [M]: of its n distinct kept completions n' are right; n* = `expected`.

    texts: [M, N] objects, equal where two completions are one; correct: [M, N] bool. A prompt of which nothing is kept
    scores 0 (in the published code each has its reference solution besides).
    """
    scores = np.zeros(len(correct))
    for row in np.unique(kept.row):
        verdicts = {texts[row, column]: bool(correct[row, column]) for column in kept.column[kept.row == row]}
        right = sum(verdicts.values())
        scores[row] = min(right / expected, 1.0) * right / len(verdicts)
    return scores


def with_threshold(selection: Callable[..., Selection], threshold: float | None) -> Callable[..., Selection]:
    """The selection with another threshold; BenchError where it has none."""
    if threshold is None:
        return selection
    if "threshold" not in inspect.signature(selection).parameters:
        raise BenchError("procedure.adapt.thresholds needs a selection with a threshold, e.g. selection=balanced.")
    return partial(selection, threshold=threshold)
