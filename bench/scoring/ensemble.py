"""Several scorers as one: their mean, their minimum, or their mean minus their variance.

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
from bench.config.rules import TRUE_OR_FALSE, Seed, number, one_of, whole
from bench.errors import BenchError
from bench.models.sampler import RAW
from bench.scoring import Scoring
from bench.seeds import small_seed
from bench.tasks import Task

COMBINE = ("mean", "min", "mean_minus_variance")
REFERENCE_PROMPTS, REFERENCE_SAMPLES = 256, 4


def seed_ensemble(
    *,
    prepare: Callable[..., Scoring],
    member: Any,
    size: Annotated[int, whole(1, 1_000)],
    combine: Annotated[str, one_of(*COMBINE)],
    variance_weight: Annotated[float, number(0)],
    normalise: Annotated[bool, TRUE_OR_FALSE],
    seed: Seed,
) -> Scoring:
    """The ensemble of one scorer made `size` times, each with its own seed; see `ensemble`.

    member: a scorer with a setting `seed`, e.g. a trained_reward_model, whose members share their pairs and differ in
    initial weights and the order of the pairs. A larger ensemble includes the members of a smaller one.
    """
    members = {str(i): functools.partial(member, seed=small_seed(seed, "ensemble", i)) for i in range(size)}
    how = functools.partial(ensemble, combine=combine, variance_weight=variance_weight, normalise=normalise, seed=seed)
    return prepare(functools.partial(how, members=members))


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
    """The scorer (prompts, completions) -> Rewards [M, N] that combines the members' scores; see `combine_scores`.

    members: name -> scorer; the names are for the reader. normalise: subtract the mean from each member's scores and
    divide by the standard deviation, both over a fixed reference, so that a completion's score does not depend on what
    else is scored. The reference is four samples of the base for each of the first 256 train prompts, at temperature 1,
    top-p 1, from a random stream of their own. Raises BenchError where a member gives the whole reference one score.
    """
    if not members:
        raise BenchError("scoring.members is empty; an ensemble needs at least one scorer.")
    scorers = {name: prepare(member) for name, member in members.items()}
    scales = dict.fromkeys(members, (0.0, 1.0))
    if normalise:
        reference = task.prompts("train")[:REFERENCE_PROMPTS]
        drawn_with = small_seed(seed, "ensemble", "reference")
        pool = generation(reference, base, num_completions=REFERENCE_SAMPLES, seed=drawn_with, **RAW.settings)
        scales = {name: _scale(name, scorer(reference, pool).value) for name, scorer in scorers.items()}

    def score(prompts: Prompts, completions: Completions) -> Rewards:
        values = [
            (scorer(prompts, completions).value - scales[name][0]) / scales[name][1] for name, scorer in scorers.items()
        ]
        return Rewards(combine_scores(values, combine=combine, variance_weight=variance_weight))

    return score


def combine_scores(values: Sequence[np.ndarray], *, combine: str, variance_weight: float) -> np.ndarray:
    """One score per completion from the scores of k members, all of one shape; NaN where any member's score is.

    "mean": (1/k) sum_i r_i; "min": min_i r_i; "mean_minus_variance": mean − variance_weight (1/k) sum_i (r_i − mean)².
    """
    scores = np.stack(values)
    if combine == "min":
        return scores.min(axis=0)
    mean = scores.mean(axis=0)
    return mean if combine == "mean" else mean - variance_weight * scores.var(axis=0)


def _scale(name: str, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a member's scores, without the unscored."""
    scored = values[~np.isnan(values)]
    if not len(scored) or scored.min() == scored.max():
        raise BenchError(
            f"scoring.members.{name} gives all of the base's reference samples one score or none, so that they have no "
            "scale; set scoring.normalise=false, or leave that member out."
        )
    return float(scored.mean()), float(scored.std())
