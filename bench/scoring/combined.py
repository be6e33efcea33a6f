"""A weighted sum of scorers, each first brought to a common scale.

    python -m bench scoring=combined                                               the verifier, brevity breaking ties
    python -m bench scoring=combined scoring.parts.length.weight=0.5               another weight
    python -m bench scoring=combined scoring@scoring.parts.verifier.scorer=judge   another scorer in a part's place
    python -m bench scoring=combined '~scoring.parts.length'                       one part less
    python -m bench scoring=combined +scoring@scoring.parts.agreement.scorer=self_consistency \
        +scoring.parts.agreement.weight=0.5                                        one part more
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import Rule, number, one_of


def _each_part(value: Any) -> Iterator[tuple[str, Any, Rule]]:
    for name, part in value.items() if isinstance(value, Mapping) else ():
        yield str(name), part, PART
        yield f"{name}.weight", part["weight"], number()


PART = Rule(
    lambda part: isinstance(part, Mapping) and set(part) == {"scorer", "weight"}, "a scorer and a weight, nothing else"
)
PARTS = Rule(lambda value: isinstance(value, Mapping) and len(value) > 0, "one or more parts by name", _each_part)


def combined(
    prompts: Prompts,
    completions: Completions,
    *,
    parts: Annotated[dict[str, dict[str, Any]], PARTS],
    normalise: Annotated[str, one_of("prompt", "overall", "none")],
) -> Rewards:
    """[M, N]: the sum over parts of weight times the part's score, NaN where any part left a completion unscored.

    parts: name -> {"scorer": a scorer, "weight": a number}; the names are for the reader.
    normalise: "prompt" makes z-scores within each prompt's samples, "overall" over the whole pool (mean 0, population
    standard deviation 1 of what is scored), "none" adds the scores as they are. Equal scores all become 0: they prefer
    nothing. Z-scores depend on the pool, so a prefix of a pool has other sums than the pool.
    """
    total = np.zeros(completions.shape)
    for part in parts.values():
        scores = np.asarray(part["scorer"](prompts, completions).value, float)
        total += part["weight"] * _normalised(scores, normalise)
    return Rewards(total)


def z_scores(values: np.ndarray, axis: int | None) -> np.ndarray:
    """(values − mean) / standard deviation along an axis (None: of all); NaN stays NaN, and equal values are 0."""
    present = ~np.isnan(values)
    count = np.maximum(present.sum(axis=axis, keepdims=True), 1)
    mean = np.where(present, values, 0).sum(axis=axis, keepdims=True) / count
    centred = np.where(present, values - mean, 0)
    deviation = np.sqrt((centred**2).sum(axis=axis, keepdims=True) / count)
    low = np.where(present, values, np.inf).min(axis=axis, keepdims=True)
    high = np.where(present, values, -np.inf).max(axis=axis, keepdims=True)
    spread = np.where((high > low) & (deviation > 0), deviation, np.inf)  # rounding in the mean is no spread
    return np.where(present, centred / spread, np.nan)


def _normalised(scores: np.ndarray, normalise: str) -> np.ndarray:
    if normalise == "none":
        return scores
    return z_scores(scores, axis=1 if normalise == "prompt" else None)
