"""Choose the completions to train on: every method is a plain function from rewards [M, N] to a Selection.

A method receives what it needs beyond rewards by the name of its parameter, e.g. `paths` [M, N]: see evidence_for. NaN
rewards are unscored: never chosen, and without influence on the choice; a prompt whose row is all NaN selects nothing.
Ties are broken uniformly by `rng`. Selections are in row-major order, so that equal choices make equal training sets.
"""

from bench.artifacts import Selection
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

__all__ = ["Selection", "all_correct", "balanced", "decidable_only", "distinct_correct", "every_prompt"]
__all__ += ["kl_regularised", "matched_random", "mbr", "pessimism", "quantile", "random_k_overall"]
__all__ += ["random_per_prompt", "rso", "self_consistency", "shortest_correct", "softmax", "solved", "threshold"]
__all__ += ["best_worst", "random_pairs", "right_wrong", "rso_pairs"]
__all__ += ["top_k_overall", "top_k_per_prompt", "top_per_prompt", "worst_per_prompt"]
