"""What an experiment cost, by its lineage, and after how many queries fine-tuning has paid for itself."""

from collections.abc import Sequence

import numpy as np

from bench.estimators.compute import (
    Costs,
    best_of_n_query_flops,
    break_even,
    fine_tuned_query_flops,
    fine_tuning_flops,
)
from bench.models import loading
from bench.procedures.findings import Results, TrainingCost, total
from bench.scoring import judge, process_reward, reward_model
from bench.store import Use, unique


def by_lineage(uses: Sequence[Use]) -> dict[str, float]:
    """Tokens, FLOPs and seconds of every unique ancestor, whenever it was made; `saved` is what was found ready."""
    ancestors = unique(uses)
    reused = [use for use in ancestors if use.reused]
    return {
        "cost/generated_tokens": total("generated_tokens", ancestors),
        "cost/train_tokens": total("train_tokens", ancestors),
        "cost/flops": total("flops", ancestors) + total("train_flops", ancestors),
        "cost/seconds": round(sum(use.seconds for use in ancestors), 3),
        "saved/generated_tokens": total("generated_tokens", reused),
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

    best_of_n: [M, len(sizes)] and tuned: [M], accuracy on the same test prompts. Every completion that is selected from
    is read by the reward models of the scorer, an ensemble by all its members; a verifier costs no FLOPs. What it took
    to train them is part of what fine-tuning costs once. The FLOPs that are weighed
    are given too: of the fine-tuning, once, and of a query answered in either way. Intervals are by bootstrap over
    prompts. See `bench.estimators.compute.break_even`.
    """
    cost = results.findings.cost(results, uses)
    costs = Costs(
        policy_parameters=loading.count_parameters(results.policies["base"]),
        reward_parameters=reward_parameters(results, unique(uses)),
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        pool_size=cost.samples_per_prompt,
        prompts=cost.prompts_sampled,
        epochs=epochs,
        selected=cost.completions_trained,
        reward_training_flops=reward_training_flops(results, cost, unique(uses)),
        other_generators_flops=cost.other_generators_flops,
        prompt_reads=cost.prompt_reads,
    )
    judged = " The judge's own cost is unknown and left out." if any(use.stage == judge.STAGE for use in uses) else ""
    found = break_even(sizes, best_of_n, tuned, costs, rng)
    lengths = costs.prompt_tokens, costs.completion_tokens
    queries = {
        f"cost/best_of_{n}_query_flops": best_of_n_query_flops(
            costs.policy_parameters, costs.reward_parameters, *lengths, n
        )
        for n in sizes
    }
    return {
        **queries,
        "cost/tuned_query_flops": fine_tuned_query_flops(costs.policy_parameters, *lengths),
        "cost/fine_tuning_flops": fine_tuning_flops(costs),
        "break_even/n": found.n,
        "break_even/n_low": found.n_low,
        "break_even/n_high": found.n_high,
        "break_even/queries": found.queries,
        "break_even/queries_low": found.queries_low,
        "break_even/queries_high": found.queries_high,
        "break_even/reward_parameters": costs.reward_parameters,
        "break_even/reward_training_flops": costs.reward_training_flops,
        "break_even/sentence": found.sentence + judged,
    }


def reward_parameters(results: Results, uses: Sequence[Use]) -> float:
    """Of all models together that read each completion of the training pool to score it."""
    sizes: dict[str, float] = {}
    for use in _scorings(uses):
        if _scored_unit(use) in results.pool.stored_as:
            model = use.parents.get("reward_model") or use.parents["process_reward_model"]
            sizes[model] = max(sizes.get(model, 0.0), use.counts.get("parameters", 0.0))  # 0: a unit of known texts
    return sum(sizes.values())


def reward_training_flops(results: Results, cost: TrainingCost, uses: Sequence[Use]) -> float:
    """FLOPs that were taken once, beside the pools: the training of the scorer's models, a gate's probing, and the
    samples that were drawn and scored for them alone or to choose how rounds go on."""
    along = results.along_training.outcomes.values() if results.along_training is not None else ()
    judged = [*results.outcomes.values(), *(outcomes for path in along for outcomes in path.values())]
    graded = [graded for outcomes in judged for graded in (outcomes.greedy, outcomes.sampled)]
    pools = [results.pool, results.best_of_n.completions, *(one.completions for one in graded), *cost.pools]
    measured = frozenset().union(*(pool.stored_as for pool in pools))
    drawn = [use for use in uses if use.stage == "generate" and f"{use.key}/{use.part}" not in measured]
    scored = [use for use in _scorings(uses) if _scored_unit(use) not in measured]
    trained = [use for use in uses if use.stage in ("train_reward_model", "train_process_reward_model")]
    return total("flops", [*drawn, *scored, *cost.probing]) + total("train_flops", [*trained, *cost.probing])


def _scorings(uses: Sequence[Use]) -> list[Use]:
    return [use for use in uses if use.stage in (reward_model.STAGE, process_reward.STAGE)]


def _scored_unit(use: Use) -> str:
    """key/part of the unit that was scored, from its content key key/part:content."""
    return use.parents["completions"].partition(":")[0]
