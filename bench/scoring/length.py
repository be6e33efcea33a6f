"""The length of a completion as its score: a control that ignores the text."""

import math
from typing import Annotated

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import one_of
from bench.scoring import Scorer


@Scorer(highest=lambda settings: 0.0 if settings.get("prefer") == "shortest" else math.inf)
def length(
    prompts: Prompts, completions: Completions, *, prefer: Annotated[str, one_of("shortest", "longest")]
) -> Rewards:
    """[M, N] tokens with EOS, negative where the shortest is preferred.

    What a scorer gains beyond this control is not due to length (Singhal et al. 2023, "A Long Way to Go:
    Investigating Length Correlations in RLHF").
    """
    return Rewards((1.0 if prefer == "longest" else -1.0) * completions.length)
