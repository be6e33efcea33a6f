"""B-STaR's balance score: choose each round's temperature and reward threshold, for many and correct samples.

Source: B-STaR (Zeng et al. 2024, arXiv 2412.17256), as in its published code.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np

from bench.artifacts import Policy, Selection
from bench.config.rules import COLDEST, Count, Rule, Samples, list_of, number, or_null
from bench.errors import BenchError
from bench.procedures.parts import Parts
from bench.progress import stage
from bench.seeds import generator


def several(rule: Rule) -> Rule:
    """A list of one or more different values, each allowed by `rule`."""
    return list_of(rule, f"a list of one or more, each different and {rule.description}", empty=False, distinct=True)


@dataclass(frozen=True)
class Adapted:
    """A round's temperature and threshold, and their balance score."""

    temperature: float
    threshold: float | None  # None: the selection's own
    score: float


@stage("adapt")
def by_balance_score(
    parts: Parts,
    policy: Policy,
    *,
    temperatures: Annotated[list[float], several(number(0, open_low=True, least=COLDEST, most=100))],
    thresholds: Annotated[list[float] | None, or_null(several(number()))],
    expected: Samples,
    prompts_probed: Count,
    seed: int,
) -> Adapted:
    """The temperature and threshold with the highest mean balance score on the first `prompts_probed` training prompts.

    At each temperature, `policy` draws `num_completions` samples per probed prompt with the round's seed. Those of the
    chosen temperature are reused in the round's pool, shard by shard. thresholds: None keeps the selection's own.
    expected: n*, the number of correct completions per prompt that is enough. The first of equal scores wins.
    BenchError where the selection has no threshold.
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
    """min(n'/n*, 1) n'/n per prompt [M]: n' of its n distinct kept completions are correct; n* = `expected`.

    texts: [M, N] objects, equal for equal completions; correct: [M, N] bool. A prompt without kept completions scores 0
    (the published code adds each prompt's reference solution).
    """
    scores = np.zeros(len(correct))
    for row in np.unique(kept.row):
        verdicts = {texts[row, column]: bool(correct[row, column]) for column in kept.column[kept.row == row]}
        right = sum(verdicts.values())
        scores[row] = min(right / expected, 1.0) * right / len(verdicts)
    return scores


def with_threshold(selection: Callable[..., Selection], threshold: float | None) -> Callable[..., Selection]:
    """The selection with another threshold, if any; BenchError where it has none to set."""
    if threshold is None:
        return selection
    if "threshold" not in inspect.signature(selection).parameters:
        raise BenchError("procedure.adapt.thresholds needs a selection with a threshold, e.g. selection=balanced.")
    return partial(selection, threshold=threshold)
