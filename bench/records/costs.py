"""What an experiment cost, by its lineage, and after how many queries fine-tuning has paid for itself."""

from collections.abc import Sequence

import numpy as np

from bench.artifacts import Completions
from bench.estimators.compute import (
    Costs,
    best_of_n_query_flops,
    break_even,
    fine_tuned_query_flops,
    fine_tuning_flops,
)
from bench.experiment import Results
from bench.generators import Generators
from bench.hybrid import Hybrid
from bench.models import loading
from bench.procedures.hybrid_metrics import probe_uses
from bench.rounds import Rounds
from bench.scoring import judge, process_reward, reward_model
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


def of_pool(pool: Completions, uses: Sequence[Use]) -> dict[str, float]:
    """What the stored units that hold a pool cost, whenever they were drawn; they may hold more samples than it."""
    drawn = [use for use in unique(uses) if f"{use.key}/{use.part}" in pool.stored_as]
    return {
        "cost_generated_tokens": _total("generated_tokens", drawn),
        "cost_flops": _total("flops", drawn),
        "cost_seconds": round(sum(use.seconds for use in drawn), 3),
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
    ancestors, baseline = unique(uses), results.best_of_n.completions
    # of a hybrid little may be drawn for training, so its lengths are those of the held-out pool
    hybrid = results.procedure if isinstance(results.procedure, Hybrid) else None
    pool, prompts = (results.pool, results.train) if hybrid is None else (baseline, results.test)
    drawn = [use for use in ancestors if f"{use.key}/{use.part}" in pool.stored_as]
    prompt_tokens = _total("prompt_tokens", drawn) / (len(prompts) * len(pool.parts))
    a_prompt = results.pool.drawn.sum() / len(results.train)
    costs = Costs(
        policy_parameters=loading.count_parameters(results.policies["base"]),
        reward_parameters=reward_parameters(results, ancestors),
        prompt_tokens=prompt_tokens,
        completion_tokens=float(pool.length[pool.drawn].mean()),
        pool_size=a_prompt if hybrid is None else hybrid.samples_a_prompt,
        prompts=len(results.train) if hybrid is None else hybrid.prompts_sampled,
        epochs=epochs,
        selected=completions_trained(results),
        reward_training_flops=reward_training_flops(results, ancestors),
        other_generators_flops=other_generators_flops(results, prompt_tokens),
        prompt_reads=prompt_reads(results),
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


def completions_trained(results: Results) -> int:
    """That went into the tuned policy, counted again in every round that trains on them."""
    if isinstance(results.procedure, Rounds):
        return sum(len(one.chosen) for one in results.procedure.of("tuned"))
    return len(results.selections["tuned"])


def prompt_reads(results: Results) -> float:
    """How many times a training prompt was read by the policies that drew for it, mean over prompts.

    Each round reads all prompts, and each step of adaptive sampling those that it draws more of, whatever an engine may
    have kept of the step before. Other generators' reading is in `other_generators_flops`.
    """
    if isinstance(results.procedure, Rounds):
        return len(results.procedure.of("tuned"))
    return results.pool.prompt_reads


def other_generators_flops(results: Results, prompt_tokens: float) -> float:
    """What the training pool's own policies took to draw it beyond what the base would have: below 0 for small ones."""
    if not isinstance(results.procedure, Generators):
        return 0.0
    size, (prompts, samples) = loading.count_parameters(results.policies["base"]), results.pool.shape
    if_base = best_of_n_query_flops(size, 0, prompt_tokens, float(results.pool.length.mean()), samples)
    drawn = sum(
        best_of_n_query_flops(
            loading.count_parameters(one.policy), 0, prompt_tokens, float(one.pool.length.mean()), one.pool.shape[1]
        )
        for one in results.procedure.each
    )
    return prompts * (drawn - if_base)


def reward_parameters(results: Results, uses: Sequence[Use]) -> float:
    """Of all models together that read each completion of the training pool to score it."""
    sizes: dict[str, float] = {}
    for use in _scorings(uses):
        if _scored_unit(use) in results.pool.stored_as:
            model = use.parents.get("reward_model") or use.parents["process_reward_model"]
            sizes[model] = max(sizes.get(model, 0.0), use.counts.get("parameters", 0.0))  # 0: a unit of known texts
    return sum(sizes.values())


def reward_training_flops(results: Results, uses: Sequence[Use]) -> float:
    """Of the training of the scorer's models and of a gate's probe, and of the samples drawn and scored beside the
    pools: for them alone, or to choose how rounds go on."""
    along = results.along_training.outcomes.values() if results.along_training is not None else ()
    judged = [*results.outcomes.values(), *(one for path in along for one in path.values())]
    graded = [graded for outcomes in judged for graded in (outcomes.greedy, outcomes.sampled)]
    pools = [results.pool, results.best_of_n.completions, *(one.completions for one in graded)]
    pools += [one.pool for one in results.procedure.each] if isinstance(results.procedure, Rounds) else []
    measured = frozenset().union(*(pool.stored_as for pool in pools))
    drawn = [use for use in uses if use.stage == "generate" and f"{use.key}/{use.part}" not in measured]
    scored = [use for use in _scorings(uses) if _scored_unit(use) not in measured]
    trained = [use for use in uses if use.stage in ("train_reward_model", "train_process_reward_model")]
    if isinstance(results.procedure, Hybrid):  # its gate likewise: the probe, and the demonstrations read
        trained += probe_uses(results.procedure, uses)
        drawn += [use for use in uses if use.stage == "teacher_forced" and results.procedure.judged_by_nll]
    return _total("flops", [*drawn, *scored]) + _total("train_flops", trained)


def _scorings(uses: Sequence[Use]) -> list[Use]:
    return [use for use in uses if use.stage in (reward_model.STAGE, process_reward.STAGE)]


def _scored_unit(use: Use) -> str:
    """key/part of the unit that was scored, from its content key key/part:content."""
    return use.parents["completions"].partition(":")[0]


def _total(name: str, uses: Sequence[Use]) -> float:
    return float(sum(use.counts.get(name, 0) for use in uses))
