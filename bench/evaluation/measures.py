"""From outcomes to measures: one value per prompt behind every number that is reported."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bench.artifacts import UNKNOWN
from bench.estimators.curves import best_of_n, distinct_at_k, median_of_n, pass_at_k
from bench.estimators.kl import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_kl_from_reference,
    best_of_n_kl_sensitivity,
    best_of_n_win_rate,
)
from bench.estimators.power import gap_if_equal
from bench.estimators.soft import estimate_soft_best_of_n, pessimism_of_n
from bench.estimators.voting import majority_at_k, vote_weights, weighted_majority_at_k
from bench.evaluation.heldout import VALIDATION, AlongTraining, AtTemperature, Graded, Outcomes

AT, AT_BEST = "at_", "at_best"  # a method: AT is followed by a temperature of evaluation.temperatures
AT_ON_VALIDATION = f"{VALIDATION}_{AT}"  # likewise, on validation prompts
KL_FROM = "kl_from_"  # followed by the name of a policy other than the base
PESSIMISM = (0.1, 0.3, 1.0)  # betas of pessimism at inference, in units of the proxy's `spread`
SHARES = ("accuracy", "greedy_accuracy", "win_rate", "truncated")  # metrics whose values lie in [0, 1]
SOFTNESS = (0.25, 0.5, 1.0, 2.0)  # temperatures of soft Best-of-N, in units of the proxy's `spread`


class Measure(NamedTuple):
    """The name of a measured quantity.

    policy: base, tuned, control, round_1, ...; "sampler" is the base with the run's sampler, on its held-out pool.
    method: greedy, pass, majority, weighted_majority, distinct, best_of_n, oracle_of_n, median_of_n,
    soft_best_of_n@T, pessimism_of_n@beta, policy, validation; at_T at temperature T, at_best at the one that was best
    on validation prompts, validation_at_T on these. metric: accuracy, correct_paths, proxy, win_rate, kl, kl_k1,
    kl_bound, kl_sensitivity, length, truncated; entropy of the sampler in nats per sequence; kl_from_NAME, from a
    policy other than the base; gold_reward in a gold model's units; greedy_accuracy (validation alone).
    """

    policy: str
    method: str
    metric: str
    n: int


def with_ends(name: str, value: Any, low: Any, high: Any) -> dict[str, Any]:
    """A number and the ends of its interval, by their names in metrics.json."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to and including `limit`."""
    return sorted({2**i for i in range(limit.bit_length())} | {limit})


def spread(proxy: np.ndarray) -> float:
    """The standard deviation of proxy [M, N] within prompts: the root of the mean variance per prompt."""
    scored = proxy[~np.isnan(proxy).all(axis=1)]
    return float(np.sqrt(np.nanvar(scored, axis=1).mean()))


def of_policy(arm: str, outcomes: Outcomes) -> dict[Measure, np.ndarray]:
    """The values per prompt [M] of one evaluated policy."""
    sampled, measures = outcomes.sampled, {}
    measures[Measure(arm, "greedy", "accuracy", 1)] = outcomes.greedy.gold[:, 0]
    measures[Measure(arm, "greedy", "truncated", 1)] = _truncated(outcomes.greedy)
    comparable = not np.isnan(outcomes.kl.kl).all()  # else neither the policy nor its Best-of-n has a KL
    if comparable:
        measures[Measure(arm, "policy", "kl", 1)] = outcomes.kl.kl
        measures[Measure(arm, "policy", "kl_k1", 1)] = outcomes.kl_k1.kl
    for name, divergence in outcomes.kl_from.items():
        if not np.isnan(divergence.kl).all():
            measures[Measure(arm, "policy", f"{KL_FROM}{name}", 1)] = divergence.kl
    measures[Measure(arm, "policy", "entropy", 1)] = -sampled.completions.logprob.mean(axis=1)
    measures[Measure(arm, "policy", "length", 1)] = sampled.completions.length.mean(axis=1)
    measures[Measure(arm, "policy", "truncated", 1)] = _truncated(sampled)
    measures |= {Measure(arm, "policy", name, 1): values for name, values in outcomes.metrics.items()}
    for method, graded in (("greedy", outcomes.greedy), ("policy", sampled)):
        if graded.gold_reward is not None:
            measures[Measure(arm, method, "gold_reward", 1)] = known_means(graded.gold_reward)
    sizes = powers_of_two(sampled.gold.shape[1])
    measures |= of_votes(arm, sampled, sizes)
    if (over := outcomes.temperatures) is not None:
        for temperature, at in over.at.items():
            measures |= _at_temperature(arm, f"{AT}{temperature:.12g}", at)
        measures |= _at_temperature(arm, AT_BEST, over.at[over.best]) if over.best is not None else {}
    if arm != "base":  # the base's curve comes from the run's own sampler
        measures |= _of_best_of_n_after_tuning(arm, sampled, outcomes.log_ratio if comparable else None)
    return measures


def _at_temperature(arm: str, method: str, at: AtTemperature) -> dict[Measure, np.ndarray]:
    """The values per prompt [M] of one sample at a temperature; without a KL where none is known."""
    values = {"accuracy": at.test.gold.mean(axis=1)}
    if not np.array_equal(at.test.proxy, at.test.gold):
        values["proxy"] = known_means(at.test.proxy)
    if at.test.gold_reward is not None:
        values["gold_reward"] = known_means(at.test.gold_reward)
    if not np.isnan(at.kl.rao_blackwell).all():
        values |= {"kl": at.kl.rao_blackwell.mean(axis=1), "kl_k1": at.kl.k1.mean(axis=1)}
    return {Measure(arm, method, metric, 1): value for metric, value in values.items()}


def of_validation(outcomes: Mapping[str, Outcomes]) -> dict[Measure, np.ndarray]:
    """The accuracy per validation prompt [V] of one sample of each policy at each of evaluation.temperatures."""
    return {
        Measure(arm, f"{AT_ON_VALIDATION}{temperature:.12g}", "accuracy", 1): at.validation_gold.mean(axis=1)
        for arm, of_arm in outcomes.items()
        for temperature, at in (of_arm.temperatures.at.items() if of_arm.temperatures else ())
        if at.validation_gold is not None
    }


def of_choice(outcomes: Mapping[str, Outcomes]) -> dict[str, float]:
    """Per policy its best temperature, and the winner's curse: its accuracy there on validation less on test prompts.

    winners_curse_if_equal: what choosing alone would add if all temperatures were equally good.
    """
    metrics: dict[str, float] = {}
    for arm, of_arm in outcomes.items():
        if (over := of_arm.temperatures) is not None and over.best is not None:
            golds = [at.validation_gold for at in over.at.values() if at.validation_gold is not None]
            best, everywhere = over.at[over.best], np.stack([gold.mean(axis=1) for gold in golds], axis=1)  # [V, T]
            gap = float(everywhere.mean(axis=0).max() - best.test.gold.mean())
            metrics |= {f"{arm}/best_temperature": over.best, f"{arm}/{AT_BEST}/winners_curse": gap}
            if len(golds) > 1:
                metrics[f"{arm}/{AT_BEST}/winners_curse_if_equal"] = gap_if_equal(everywhere)
    return metrics


def _of_best_of_n_after_tuning(arm: str, sampled: Graded, log_ratio: np.ndarray | None) -> dict[Measure, np.ndarray]:
    """Best-of-n of a fine-tuned policy. Its KL to the raw base is by the chain rule, through that policy.

    log_ratio: [M, K] nats of the first K of the N samples, on which the KL is measured; None: no KL.
    """
    sizes = powers_of_two(sampled.gold.shape[1])
    measures = over(arm, "best_of_n", "accuracy", sizes, best_of_n(sampled.proxy, sizes, sampled.gold)) | over(
        arm, "best_of_n", "proxy", sizes, best_of_n(sampled.proxy, sizes)
    )
    if log_ratio is not None:
        known = powers_of_two(log_ratio.shape[1])
        kl = best_of_n_kl_from_reference(sampled.proxy[:, : log_ratio.shape[1]], log_ratio, known)
        measures |= over(arm, "best_of_n", "kl", known, kl)
    return measures


def of_training(along: AlongTraining | None) -> dict[Measure, np.ndarray]:
    """The values per validation prompt [V]; n is the number of updates. An undefined KL is left out."""
    measures: dict[Measure, np.ndarray] = {}
    for arm, path in along.outcomes.items() if along is not None else ():
        measured = {
            "accuracy": {updates: outcomes.sampled.gold.mean(axis=1) for updates, outcomes in path.items()},
            "greedy_accuracy": {updates: outcomes.greedy.gold[:, 0] for updates, outcomes in path.items()},
            "kl": {n: outcomes.kl.kl for n, outcomes in path.items() if not np.isnan(outcomes.kl.kl).all()},
        }
        for metric, curve in measured.items():
            measures |= {Measure(arm, VALIDATION, metric, updates): values for updates, values in curve.items()}
    return measures


def along_counts(along: AlongTraining | None) -> dict[str, int]:
    """The number of validation prompts and, per arm, the updates in all and at the highest validation accuracy.

    Accuracy is that of one sample at the evaluation's temperature. The first of equals counts, and never the base.
    """
    if along is None:
        return {}
    counts = {f"{VALIDATION}/prompts": len(along.prompts)}
    for arm, path in along.outcomes.items():
        accuracy = {updates: float(outcomes.sampled.gold.mean()) for updates, outcomes in path.items() if updates}
        counts[f"{arm}/{VALIDATION}_updates"] = max(accuracy)
        counts[f"{arm}/{VALIDATION}_best_updates"] = max(accuracy, key=lambda updates: (accuracy[updates], -updates))
    return counts


def of_sampler(pool: Graded, log_odds: bool = False) -> dict[Measure, np.ndarray]:
    """pass@n, Best-of-n and votes by the proxy (log_odds: known as such), from the base's held-out pool, for all n."""
    sizes = powers_of_two(pool.gold.shape[1])
    measures = of_votes("sampler", pool, sizes)
    measures |= over("sampler", "best_of_n", "accuracy", sizes, best_of_n(pool.proxy, sizes, pool.gold))
    if not np.array_equal(pool.proxy, pool.gold):  # weighted by gold itself, a vote is correct where one sample is
        weights = vote_weights(pool.proxy, log_odds=log_odds)
        votes = weighted_majority_at_k(pool.answers, weights, pool.gold, sizes)
        measures |= over("sampler", "weighted_majority", "accuracy", sizes, votes)
    return measures


def of_votes(policy: str, graded: Graded, sizes: list[int]) -> dict[Measure, np.ndarray]:
    """pass@n, majority@n and the distinct correct paths among n samples."""
    correct_paths = graded.paths.copy()
    correct_paths[graded.gold != 1] = None
    return (
        over(policy, "pass", "accuracy", sizes, pass_at_k(graded.gold, sizes))
        | over(policy, "majority", "accuracy", sizes, majority_at_k(graded.answers, graded.gold, sizes))
        | over(policy, "distinct", "correct_paths", sizes, distinct_at_k(correct_paths, sizes))
    )


def of_best_of_n(pool: Graded, sizes: list[int]) -> dict[Measure, np.ndarray]:
    """Best-of-n of the base. Its KL is to the sampler that drew the pool, and to the raw base by the chain rule."""
    log_ratio, unknown = _log_ratio(pool)
    bounds = np.array([best_of_n_kl_bound(n) for n in sizes])
    columns = {
        "accuracy": best_of_n(pool.proxy, sizes, pool.gold),
        "proxy": best_of_n(pool.proxy, sizes),
        "kl": best_of_n_kl_from_reference(pool.proxy, log_ratio, sizes) + unknown,
        "kl_bound": bounds + unknown + best_of_n(pool.proxy, sizes, log_ratio),
    }
    if pool.gold_reward is not None:
        columns["gold_reward"] = best_of_n(pool.proxy, sizes, pool.gold_reward)
    beatable = [n for n in sizes if n < pool.proxy.shape[1]]  # a win rate needs a further sample as opponent
    if beatable:
        columns["win_rate"] = best_of_n_win_rate(pool.proxy, beatable)
    if np.isin(pool.proxy, (0, 1)).all():  # a verifier: the most that unsolved prompts can add to the KL
        columns["kl_sensitivity"] = columns["kl"] + (
            best_of_n_kl_sensitivity(pool.proxy, sizes) - best_of_n_kl(pool.proxy, sizes)
        )
    measures = over("base", "median_of_n", "proxy", sizes, median_of_n(pool.proxy, sizes))
    if not np.array_equal(pool.proxy, pool.gold):  # what gold itself would choose
        kl = best_of_n_kl_from_reference(pool.gold, log_ratio, sizes) + unknown
        accuracy = best_of_n(pool.gold, sizes)
        measures |= over("base", "oracle_of_n", "accuracy", sizes, accuracy) | over(
            "base", "oracle_of_n", "kl", sizes, kl
        )
    for metric, values in columns.items():
        measures |= over("base", "best_of_n", metric, sizes[: values.shape[1]], values)
    return measures


def of_soft_best_of_n(pool: Graded, n: int) -> dict[Measure, np.ndarray]:
    """Soft Best-of-n at each temperature in SOFTNESS; empty where the proxy is constant within every prompt."""
    unit = spread(pool.proxy)
    if not unit > 0:
        return {}
    ratio, unknown = _log_ratio(pool)
    measured = np.stack([pool.gold, pool.proxy, ratio], axis=2)
    measures: dict[Measure, np.ndarray] = {}
    for softness in SOFTNESS:
        estimate = estimate_soft_best_of_n(pool.proxy, measured, n, softness * unit)
        gold, proxy, log_ratio = estimate.means.T
        columns = {"accuracy": gold, "proxy": proxy, "kl": estimate.kl + log_ratio + unknown}
        measures |= {
            Measure("base", f"soft_best_of_n@{softness:g}", metric, n): values for metric, values in columns.items()
        }
    return measures


def of_pessimism(pool: Graded, sizes: list[int]) -> dict[Measure, np.ndarray]:
    """Pessimism at inference with n samples, at each beta in PESSIMISM.

    Empty where the proxy is gold itself, or constant within every prompt.
    """
    unit = spread(pool.proxy)
    if np.array_equal(pool.proxy, pool.gold) or not unit > 0:
        return {}
    measures: dict[Measure, np.ndarray] = {}
    for beta in PESSIMISM:
        values = pessimism_of_n(pool.proxy, pool.gold, sizes, beta * unit)
        measures |= over("base", f"pessimism_of_n@{beta:g}", "accuracy", sizes, values)
    return measures


def _log_ratio(pool: Graded) -> tuple[np.ndarray, float]:
    """[M, N] nats: log(sampler that drew the pool / raw base), 0 for the raw sampler; and NaN where none is known."""
    ratio = pool.completions.logprob - pool.completions.policy_logprob
    return (np.zeros(pool.proxy.shape), np.nan) if np.isnan(ratio).all() else (ratio, 0.0)


def over(policy: str, method: str, metric: str, sizes: list[int], values: np.ndarray) -> dict[Measure, np.ndarray]:
    """The columns of values [M, len(sizes)], one measure per n."""
    return {Measure(policy, method, metric, n): values[:, column] for column, n in enumerate(sizes)}


def known_means(values: np.ndarray, axis: int = 1) -> np.ndarray:
    """Means of values [M, N] over the samples, or over the prompts, that have one; NaN where none has."""
    count = (~np.isnan(values)).sum(axis=axis)
    return np.divide(np.nansum(values, axis=axis), count, out=np.full(len(count), np.nan), where=count > 0)


def _truncated(graded: Graded) -> np.ndarray:
    reasons = np.asarray(graded.completions.finish_reason)
    return known_means(np.where(reasons == UNKNOWN, np.nan, reasons == "length"))
