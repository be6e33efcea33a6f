"""What an experiment cost, by its lineage, and after how many queries fine-tuning has paid for itself."""

from collections.abc import Sequence

import numpy as np

from bench import policies
from bench.estimators.compute import Costs, break_even
from bench.experiment import Results
from bench.store import Use, unique


def by_lineage(uses: Sequence[Use]) -> dict[str, float]:
    """Tokens, FLOPs and seconds of every unique ancestor, whenever it was made; `saved` is what was found ready."""
    ancestors = unique(uses)
    reused = [use for use in ancestors if use.reused]
    return {
        "cost/generated_tokens": _total("generated_tokens", ancestors),
        "cost/train_tokens": _total("train_tokens", ancestors),
        "cost/flops": _total("flops", ancestors) + _total("train_flops", ancestors),
        "cost/seconds": round(sum(use.seconds for use in ancestors), 3),
        "saved/generated_tokens": _total("generated_tokens", reused),
        "saved/seconds": round(sum(use.seconds for use in reused), 3),
    }


def break_even_metrics(
    results: Results,
    uses: Sequence[Use],
    sizes: Sequence[int],
    best_of_n: np.ndarray,
    tuned: np.ndarray,
    rng: np.random.Generator,
    *,
    epochs: float,
) -> dict[str, float | str | None]:
    """The n whose Best-of-n is as accurate as the tuned policy, and the queries after which tuning is cheaper in FLOPs.

    best_of_n: [M, len(sizes)] and tuned: [M], accuracy on the same test prompts. Selection is by a verifier that costs
    no FLOPs; intervals are by bootstrap over prompts. See `bench.estimators.compute.break_even`.
    """
    stored_as = results.pool.stored_as
    drawn = [use for use in unique(uses) if f"{use.key}/{use.part}" in stored_as]
    costs = Costs(
        policy_parameters=policies.count_parameters(results.policies["base"]),
        reward_parameters=0,
        prompt_tokens=_total("prompt_tokens", drawn) / len(results.train),
        completion_tokens=float(results.pool.length.mean()),
        pool_size=results.pool.shape[1],
        prompts=len(results.train),
        epochs=epochs,
        selected=len(results.selections["tuned"]),
    )
    found = break_even(sizes, best_of_n, tuned, costs, rng)
    return {
        "break_even/n": found.n,
        "break_even/n_low": found.n_low,
        "break_even/n_high": found.n_high,
        "break_even/queries": found.queries,
        "break_even/queries_low": found.queries_low,
        "break_even/queries_high": found.queries_high,
        "break_even/sentence": found.sentence,
    }


def _total(name: str, uses: Sequence[Use]) -> float:
    return float(sum(use.counts.get(name, 0) for use in uses))
