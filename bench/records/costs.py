"""The cost of an experiment, by its lineage, and the number of queries after which fine-tuning pays for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.estimators.compute import Costs, best_of_n_query_flops, break_even, fine_tuned_query_flops, fine_tuning_flops
from bench.evaluation.measures import AT_BEST, Measure, with_ends
from bench.models import loading
from bench.procedures.findings import Results, TrainingCost, total
from bench.scoring import judge, process_reward, reward_model
from bench.store import Use, unique
from bench.training.recipe import examples_read


def by_lineage(uses: Sequence[Use]) -> dict[str, float]:
    """Tokens, FLOPs and seconds of all distinct ancestors, whenever they were made. saved/: those that were reused."""
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
    costs: Costs,
    best_of_n: Mapping[int, np.ndarray],
    tuned: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float | str | None]:
    """The n at which Best-of-n is as accurate as the tuned policy, and the queries after which tuning is cheaper.

    best_of_n: n -> [M] and tuned: [M], accuracy on the same test prompts. Costs are in FLOPs. Each reward model of the
    scorer reads every completion, all members of an ensemble too; a verifier costs nothing. The training of reward
    models counts as a part of fine-tuning. The metrics include the FLOPs that are compared: those of fine-tuning, and
    those per query for either way to answer. Intervals are by bootstrap over prompts. See
    bench.estimators.compute.break_even.
    """
    judged = any(use.stage == judge.STAGE for use in uses)
    judge_note = " The judge's own cost is unknown and left out." if judged else ""
    even = break_even(list(best_of_n), np.stack(list(best_of_n.values()), axis=1), tuned, costs, rng)
    lengths = costs.prompt_tokens, costs.completion_tokens
    queries = {
        f"cost/best_of_{n}_query_flops": best_of_n_query_flops(
            costs.policy_parameters, costs.reward_parameters, *lengths, n
        )
        for n in best_of_n
    }
    return {
        **queries,
        "cost/tuned_query_flops": fine_tuned_query_flops(costs.policy_parameters, *lengths),
        **{
            f"cost/{name}_query_flops": fine_tuned_query_flops(loading.count_parameters(arm.policy), *lengths)
            for name, arm in results.elsewhere.items()
        },
        "cost/fine_tuning_flops": fine_tuning_flops(costs),
        **with_ends("break_even/n", even.n, even.n_low, even.n_high),
        **with_ends("break_even/queries", even.queries, even.queries_low, even.queries_high),
        "break_even/reward_parameters": costs.reward_parameters,
        "break_even/reward_training_flops": costs.reward_training_flops,
        "break_even/sentence": even.sentence + judge_note,
    }


def break_even_at_best(
    measures: Mapping[Measure, np.ndarray], costs: Costs, rng: np.random.Generator
) -> dict[str, float | None]:
    """Each way to answer with the base, against the tuned policy at its best temperature: the n that is as accurate.

    The ways: one sample at the base's best temperature, the majority vote, the vote weighted by a learned reward, and
    Best-of-n. Empty where no best temperature was chosen. A vote costs as many samples as Best-of-n, and no scoring
    unless it is weighted.
    """
    tuned = measures.get(Measure("tuned", AT_BEST, "accuracy", 1))
    if tuned is None:
        return {}
    ways = {
        "one_sample": (("base", AT_BEST), False),
        "majority": (("sampler", "majority"), False),
        "weighted_majority": (("sampler", "weighted_majority"), True),
        "best_of_n": (("base", "best_of_n"), True),
    }
    metrics: dict[str, float | None] = {}
    for way, (of, scored) in ways.items():
        curve = {measure.n: values for measure, values in measures.items() if measure[:3] == (*of, "accuracy")}
        if not curve:
            continue
        paid = costs if scored else replace(costs, reward_parameters=0.0)
        even = break_even(list(curve), np.stack(list(curve.values()), axis=1), tuned, paid, rng)
        metrics |= with_ends(f"break_even/{AT_BEST}/{way}/n", even.n, even.n_low, even.n_high)
        metrics |= with_ends(f"break_even/{AT_BEST}/{way}/queries", even.queries, even.queries_low, even.queries_high)
    return metrics


def costs_of(results: Results, uses: Sequence[Use], training: Mapping[str, Any]) -> Costs:
    """The sizes and lengths that a break-even needs. training: the settings of the part."""
    cost = results.findings.cost(results, unique(uses))
    return Costs(
        policy_parameters=loading.count_parameters(results.policies["base"]),
        reward_parameters=reward_parameters(results, unique(uses)),
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        pool_size=cost.samples_per_prompt,
        prompts=cost.prompts_sampled,
        epochs=passes(cost, training),
        selected=cost.completions_trained,
        reward_training_flops=reward_training_flops(results, cost, unique(uses)),
        other_generators_flops=cost.other_generators_flops,
        prompt_reads=cost.prompt_reads,
        compared=cost.completions_compared,
    )


def passes(cost: TrainingCost, training: Mapping[str, Any]) -> float:
    """How often fine-tuning reads a completion, in the mean. training: the settings of the part."""
    if cost.epochs is not None:
        return cost.epochs
    if training.get("updates") is None:
        return training["epochs"]
    examples = cost.trainings or (cost.completions_trained,)
    return sum(examples_read(each, training) for each in examples) / sum(examples)


def reward_parameters(results: Results, uses: Sequence[Use]) -> float:
    """The parameters of all models together that score each completion of a pool."""
    sizes: dict[str, float] = {}
    scored = results.pool.stored_as | results.best_of_n.completions.stored_as
    for use in _scorings(uses):
        if _scored_unit(use) in scored:
            model = use.parents.get("reward_model") or use.parents["process_reward_model"]
            counted = use.counts.get("parameters", 0.0)  # 0: all texts of the unit were scored before
            sizes[model] = max(sizes.get(model, 0.0), counted)
    return sum(sizes.values())


def reward_training_flops(results: Results, cost: TrainingCost, uses: Sequence[Use]) -> float:
    """The FLOPs of work beside the pools: training the scorer's models, probing for a gate, and samples that were drawn
    and scored for those alone, or to choose how rounds continue."""
    along = results.along_training.outcomes.values() if results.along_training is not None else ()
    judged = [*results.outcomes.values(), *(outcomes for path in along for outcomes in path.values())]
    graded = [part for outcomes in judged for part in (outcomes.greedy, outcomes.sampled)]
    pools = [results.pool, results.best_of_n.completions, *(part.completions for part in graded), *cost.pools]
    pools += [pool for outcomes in judged if outcomes.temperatures is not None for pool in outcomes.temperatures.pools]
    measured = frozenset().union(*(pool.stored_as for pool in pools))
    drawn = [use for use in uses if use.stage == "generate" and use.unit not in measured]
    scored = [use for use in _scorings(uses) if _scored_unit(use) not in measured]
    trained = [use for use in uses if use.stage in ("train_reward_model", "train_process_reward_model")]
    return total("flops", [*drawn, *scored, *cost.probing]) + total("train_flops", [*trained, *cost.probing])


def _scorings(uses: Sequence[Use]) -> list[Use]:
    return [use for use in uses if use.stage in (reward_model.STAGE, process_reward.STAGE)]


def _scored_unit(use: Use) -> str:
    """The unit that was scored, as key/part; its content key is key/part:content."""
    return use.parents["completions"].partition(":")[0]
