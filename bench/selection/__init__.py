"""Which completions to train on: every method is a plain function from rewards [M, N] to a Selection.

A method takes what it needs beyond rewards by name (`paths` [M, N]); `bench.selection.evidence` hands it over. NaN
rewards are unscored: never chosen, and without a say in what is; a prompt whose row is all NaN selects nothing. Ties
are broken uniformly by `rng`. Selections come in row-major order, so that equal choices make equal training sets.
"""

from bench.artifacts import Selection
from bench.selection.agreement import mbr, self_consistency
from bench.selection.control import matched_random, random_k_overall, random_per_prompt
from bench.selection.correctness import all_correct, balanced, distinct_correct, shortest_correct
from bench.selection.prompt_filter import decidable_only, every_prompt
from bench.selection.ranking import (
    kl_regularised,
    quantile,
    threshold,
    top_k_overall,
    top_k_per_prompt,
    top_per_prompt,
    worst_per_prompt,
)
from bench.selection.sampling import pessimism, rso, softmax

__all__ = [
    "Selection",
    "all_correct",
    "balanced",
    "decidable_only",
    "distinct_correct",
    "every_prompt",
    "kl_regularised",
    "matched_random",
    "mbr",
    "pessimism",
    "quantile",
    "random_k_overall",
    "random_per_prompt",
    "rso",
    "self_consistency",
    "shortest_correct",
    "softmax",
    "threshold",
    "top_k_overall",
    "top_k_per_prompt",
    "top_per_prompt",
    "worst_per_prompt",
]
