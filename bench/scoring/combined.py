r"""A weighted sum of scorers, each first brought to a common scale.

    python -m bench scoring=combined                                      the verifier; brevity breaks ties
    python -m bench scoring=combined scoring.parts.length.weight=0.5      another weight
    python -m bench scoring=combined scoring@scoring.parts.verifier.scorer=verifier_steps   another scorer for a part
    python -m bench scoring=combined '~scoring.parts.length'              without a part
    python -m bench scoring=combined +scoring@scoring.parts.agreement.scorer=self_consistency \
        +scoring.parts.agreement.weight=0.5                                        with another part
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import Rule, number, one_of
from bench.scoring import Scorer, Settings


def _each_part(value: Any) -> Iterator[tuple[str, Any, Rule]]:
    for name, part in value.items() if isinstance(value, Mapping) else ():
        yield str(name), part, PART
        yield f"{name}.weight", part["weight"], number()


PART = Rule(
    lambda part: isinstance(part, Mapping) and set(part) == {"scorer", "weight"}, "a scorer and a weight, nothing else"
)
PARTS = Rule(lambda value: isinstance(value, Mapping) and len(value) > 0, "one or more parts by name", _each_part)


def _comparison(settings: Settings) -> str:
    normalise = settings.get("normalise")
    return "" if normalise == "none" else f"normalise={normalise}"


@Scorer(compares=_comparison)
def combined(
    prompts: Prompts,
    completions: Completions,
    *,
    parts: Annotated[dict[str, dict[str, Any]], PARTS],
    normalise: Annotated[str, one_of("prompt", "overall", "none")],
) -> Rewards:
    """[M, N]: the sum over parts of weight times the part's score, NaN where any part leaves a completion unscored.

    parts: name -> {"scorer": a scorer, "weight": a number}; the names are for the reader.
    normalise: "prompt" makes z-scores within each prompt's samples, "overall" over the whole pool (mean 0, population
    standard deviation 1 of the scored), "none" adds the scores as they are. Equal scores all become 0. Z-scores depend
    on the pool, so a prefix of a pool has other sums than the pool.
    """
    total = np.zeros(completions.shape)
    for part in parts.values():
        scores = np.asarray(part["scorer"](prompts, completions).value, float)
        if normalise != "none":
            scores = z_scores(scores, axis=1 if normalise == "prompt" else None)
        total += part["weight"] * scores
    return Rewards(total)


def z_scores(values: np.ndarray, axis: int | None) -> np.ndarray:
    """(values − mean) / standard deviation along an axis (None: over all); NaN stays NaN, equal values become 0."""
    present = ~np.isnan(values)
    count = np.maximum(present.sum(axis=axis, keepdims=True), 1)
    mean = np.where(present, values, 0).sum(axis=axis, keepdims=True) / count
    centred = np.where(present, values - mean, 0)
    deviation = np.sqrt((centred**2).sum(axis=axis, keepdims=True) / count)
    low = np.where(present, values, np.inf).min(axis=axis, keepdims=True)
    high = np.where(present, values, -np.inf).max(axis=axis, keepdims=True)
    spread = np.where((high > low) & (deviation > 0), deviation, np.inf)  # a rounded mean is no spread
    return np.where(present, centred / spread, np.nan)
