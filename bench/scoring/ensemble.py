"""Several scorers as one: their mean, their minimum, or their mean less their disagreement.

    python -m bench scoring=ensemble scoring.size=4 scoring.combine=min
    python -m bench scoring=ensemble_of +scoring@scoring.members.short=length

Source: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization": mean, worst case (WCO), and
uncertainty-weighted (UWO).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards
from bench.config.rules import TRUE_OR_FALSE, Count, Seed, number, one_of
from bench.errors import BenchError
from bench.seeds import small_seed
from bench.tasks import Task

COMBINE = ("mean", "min", "mean_minus_variance")
REFERENCE_PROMPTS, REFERENCE_SAMPLES = 256, 4

Scoring = Callable[[Prompts, Completions], Rewards]


def seed_ensemble(
    *,
    base: Policy,
    task: Task,
    generation: Callable[..., Completions],
    prepare: Callable[..., Scoring],
    member: Any,
    size: Count,
    combine: Annotated[str, one_of(*COMBINE)],
    variance_weight: Annotated[float, number(0)],
    normalise: Annotated[bool, TRUE_OR_FALSE],
    seed: Seed,
) -> Scoring:
    """The ensemble of one scorer made `size` times, each with a seed of its own; see `ensemble`.

    member: a scorer with a setting `seed`, e.g. a trained_reward_model: its members share their pairs, and differ in
    the weights they start from and the order of the pairs. A larger ensemble holds the smaller one's members.
    """
    members = {str(i): functools.partial(member, seed=small_seed(seed, "ensemble", i)) for i in range(size)}
    return ensemble(
        base=base,
        task=task,
        generation=generation,
        prepare=prepare,
        members=members,
        combine=combine,
        variance_weight=variance_weight,
        normalise=normalise,
        seed=seed,
    )


def ensemble(
    *,
    base: Policy,
    task: Task,
    generation: Callable[..., Completions],
    prepare: Callable[..., Scoring],
    members: dict[str, Any],
    combine: Annotated[str, one_of(*COMBINE)],
    variance_weight: Annotated[float, number(0)],
    normalise: Annotated[bool, TRUE_OR_FALSE],
    seed: Seed,
) -> Scoring:
    """The scorer (prompts, completions) -> Rewards [M, N] that combines the members' scores; see `combined`.

    members: name -> scorer; the names are for the reader. normalise: each member's scores less their mean, divided by
    their standard deviation, both over a fixed reference: the base's own samples at temperature 1, top-p 1, four of
    each of the first 256 train prompts, from a random stream of their own. So a completion's score does not depend on
    what else is scored. Raises BenchError where a member gives the whole reference one score.
    """
    if not members:
        raise BenchError("scoring.members is empty; an ensemble needs at least one scorer.")
    scorers = {name: prepare(member) for name, member in members.items()}
    scales = dict.fromkeys(members, (0.0, 1.0))
    if normalise:
        reference = task.prompts("train")[:REFERENCE_PROMPTS]
        drawn_with = small_seed(seed, "ensemble", "reference")
        pool = generation(
            reference, base, num_completions=REFERENCE_SAMPLES, temperature=1.0, top_p=1.0, top_k=0, seed=drawn_with
        )
        scales = {name: _scale(name, scorer(reference, pool).value) for name, scorer in scorers.items()}

    def score(prompts: Prompts, completions: Completions) -> Rewards:
        values = [
            (scorer(prompts, completions).value - scales[name][0]) / scales[name][1] for name, scorer in scorers.items()
        ]
        return Rewards(combined(values, combine=combine, variance_weight=variance_weight))

    return score


def combined(values: Sequence[np.ndarray], *, combine: str, variance_weight: float) -> np.ndarray:
    """One score a completion from k members' scores, each of one shape; NaN where any member's is.

    "mean": (1/k) sum_i r_i; "min": min_i r_i; "mean_minus_variance": mean − variance_weight (1/k) sum_i (r_i − mean)².
    """
    scores = np.stack(values)
    if combine == "min":
        return scores.min(axis=0)
    mean = scores.mean(axis=0)
    return mean if combine == "mean" else mean - variance_weight * scores.var(axis=0)


def _scale(name: str, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of what is scored."""
    scored = values[~np.isnan(values)]
    if not len(scored) or scored.min() == scored.max():
        raise BenchError(
            f"scoring.members.{name} gives all of the base's reference samples one score or none, which no scale fits; "
            "set scoring.normalise=false, or leave it out."
        )
    return float(scored.mean()), float(scored.std())
