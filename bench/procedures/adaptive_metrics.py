"""What is recorded of adaptive sampling: what it drew and saved, whom it covered, and how often it accepts."""

import numpy as np

from bench.adaptive import Plan
from bench.estimators.best_of_n import pass_at_k
from bench.estimators.sequential import stopped_pass_at_k
from bench.estimators.uncertainty import intervals_and_bands
from bench.evaluation.cells import powers_of_two
from bench.experiment import Results
from bench.seeds import generator


def adaptive_counts(plan: Plan, results: Results, *, seed: int) -> dict[str, float | str]:
    """Numbers under adaptive/.

    samples_total: drawn of training prompts; samples_saved: fewer than `num_completions` of each; samples_a_prompt:
    their mean; accepted: completions above `accept_above`; prompts_covered: with one or more of them, coverage: their
    share; prompts_stopped_short: not enough accepted. pass@k, with an interval by bootstrap over prompts: the chance
    that one of k samples is accepted, unbiased; `estimator` says from what: of a pool that was stopped by acceptance
    its counts, else the samples that every prompt has.
    """
    drawn = results.pool.drawn.sum(axis=1)  # [M]
    accepted = (np.asarray(results.rewards.value) > plan.accept_above).sum(axis=1)
    total, covered = int(drawn.sum()), int((accepted > 0).sum())
    counts: dict[str, float | str] = {
        "adaptive/samples_total": total,
        "adaptive/samples_a_prompt": total / len(drawn),
        "adaptive/samples_saved": plan.num_completions * len(drawn) - total,
        "adaptive/accepted": int(accepted.sum()),
        "adaptive/prompts_covered": covered,
        "adaptive/coverage": covered / len(drawn),
        "adaptive/prompts_stopped_short": int((accepted < plan.enough).sum()),
    }
    sequential = plan.allocate == "uniform" and plan.stop == "accepted"
    sizes = powers_of_two(plan.limit if sequential else plan.always)
    if sequential:
        found = stopped_pass_at_k(
            accepted, drawn, sizes, enough=plan.enough, limit=plan.limit, block=plan.block
        )  # [M, sizes]
    else:
        fixed = np.asarray(results.rewards.value)[:, : plan.always]
        found = pass_at_k(np.where(np.isnan(fixed), np.nan, fixed > plan.accept_above), sizes)
    low, high, _ = intervals_and_bands(found, [], generator(seed, "adaptive"), shares=True)
    for k, *numbers in zip(sizes, np.nanmean(found, axis=0), low, high, strict=True):
        for end, number in zip(("", "_low", "_high"), numbers, strict=True):
            counts[f"adaptive/pass@{k}{end}"] = float(number)
    counts["adaptive/pass_estimator"] = (
        "stopped, by the orders that lead to its counts" if sequential else f"the first {plan.always} samples"
    )
    return counts
