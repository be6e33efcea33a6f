"""From outcomes to cells: one value a prompt behind every number that is reported."""

from typing import NamedTuple

import numpy as np

from bench.estimators.best_of_n import (
    best_of_n,
    distinct_at_k,
    majority_at_k,
    median_of_n,
    pass_at_k,
    weighted_majority_at_k,
)
from bench.estimators.kl import (
    best_of_n_kl_bound,
    best_of_n_kl_from_reference,
    best_of_n_kl_sensitivity,
    estimate_best_of_n_kl,
    estimate_best_of_n_win_rate,
)
from bench.estimators.soft_best_of_n import estimate_soft_best_of_n, pessimism_of_n
from bench.evaluation.along_training import VALIDATION, AlongTraining
from bench.evaluation.heldout import Graded, Outcomes

KL_FROM = "kl_from_"  # and the name of another policy than the base
PESSIMISM = (0.1, 0.3, 1.0)  # betas of pessimism at inference, in `spread`s of the proxy
SHARES = ("accuracy", "greedy_accuracy", "win_rate", "truncated")  # metrics whose values lie in [0, 1]
SOFTNESS = (0.25, 0.5, 1.0, 2.0)  # temperatures of soft Best-of-N, in `spread`s of the proxy


class Measure(NamedTuple):
    """What a number is: whose, by which method, of what, at which n."""

    policy: str  # base, tuned, control, round_1, ...; sampler: the base as the run draws, by all of its held-out pool
    method: str  # greedy, pass, majority, weighted_majority, distinct, best_of_n, median_of_n, soft_best_of_n@T,
    # pessimism_of_n@beta, policy, validation
    metric: str  # accuracy, correct_paths, proxy, win_rate, kl, kl_k1, kl_bound, kl_sensitivity, length, truncated,
    # entropy: of what the policy is sampled with, nats a sequence; kl_from_NAME: from another policy than the base;
    # gold_reward: in the units of a gold reward model, where the task has one
    # greedy_accuracy: of validation alone
    n: int


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to and including `limit`."""
    return sorted({2**i for i in range(limit.bit_length())} | {limit})


def spread(proxy: np.ndarray) -> float:
    """The standard deviation of proxy [M, N] within a prompt: the root of the mean variance over its samples."""
    scored = proxy[~np.isnan(proxy).all(axis=1)]
    return float(np.sqrt(np.nanvar(scored, axis=1).mean()))


def of_policy(arm: str, outcomes: Outcomes) -> dict[Measure, np.ndarray]:
    sampled, cells = outcomes.sampled, {}
    cells[Measure(arm, "greedy", "accuracy", 1)] = outcomes.greedy.gold[:, 0]
    cells[Measure(arm, "greedy", "truncated", 1)] = _truncated(outcomes.greedy)
    comparable = not np.isnan(outcomes.kl.kl).all()  # else there is no KL, of Best-of-n neither
    if comparable:
        cells[Measure(arm, "policy", "kl", 1)] = outcomes.kl.kl
        cells[Measure(arm, "policy", "kl_k1", 1)] = outcomes.kl_k1.kl
    for name, divergence in outcomes.kl_from.items():
        if not np.isnan(divergence.kl).all():
            cells[Measure(arm, "policy", f"{KL_FROM}{name}", 1)] = divergence.kl
    cells[Measure(arm, "policy", "entropy", 1)] = -sampled.completions.logprob.mean(axis=1)
    cells[Measure(arm, "policy", "length", 1)] = sampled.completions.length.mean(axis=1)
    cells[Measure(arm, "policy", "truncated", 1)] = _truncated(sampled)
    cells |= {Measure(arm, "policy", name, 1): values for name, values in outcomes.metrics.items()}
    for method, graded in (("greedy", outcomes.greedy), ("policy", sampled)):
        if graded.gold_reward is not None:
            cells[Measure(arm, method, "gold_reward", 1)] = _mean(graded.gold_reward)
    sizes = powers_of_two(sampled.gold.shape[1])
    cells |= of_votes(arm, sampled, sizes)
    if arm != "base":  # the base's curve comes from the run's own sampler
        cells |= _of_best_of_n_after_tuning(arm, sampled, outcomes.log_ratio if comparable else None)
    return cells


def _of_best_of_n_after_tuning(arm: str, sampled: Graded, log_ratio: np.ndarray | None) -> dict[Measure, np.ndarray]:
    """Best-of-n drawn from a fine-tuned policy. Its KL to the raw base: to the policy, and on by the chain rule.

    log_ratio: [M, K] nats, of the first K of the N samples, which the KL is measured on; None: there is no KL.
    """
    sizes = powers_of_two(sampled.gold.shape[1])
    cells = _over(arm, "best_of_n", "accuracy", sizes, best_of_n(sampled.proxy, sampled.gold, sizes)) | _over(
        arm, "best_of_n", "proxy", sizes, best_of_n(sampled.proxy, sampled.proxy, sizes)
    )
    if log_ratio is not None:
        known = powers_of_two(log_ratio.shape[1])
        kl = best_of_n_kl_from_reference(sampled.proxy[:, : log_ratio.shape[1]], log_ratio, known)
        cells |= _over(arm, "best_of_n", "kl", known, kl)
    return cells


def of_training(along: AlongTraining | None) -> dict[Measure, np.ndarray]:
    """[V] values a validation prompt; n of these cells counts updates. A KL is left out where there is none."""
    cells: dict[Measure, np.ndarray] = {}
    for arm, path in along.outcomes.items() if along is not None else ():
        measured = {
            "accuracy": {updates: one.sampled.gold.mean(axis=1) for updates, one in path.items()},
            "greedy_accuracy": {updates: one.greedy.gold[:, 0] for updates, one in path.items()},
            "kl": {updates: one.kl.kl for updates, one in path.items() if not np.isnan(one.kl.kl).all()},
        }
        for metric, curve in measured.items():
            cells |= {Measure(arm, VALIDATION, metric, updates): values for updates, values in curve.items()}
    return cells


def of_sampler(pool: Graded) -> dict[Measure, np.ndarray]:
    """What can be had from up to all samples of the base's held-out pool: seen at all, chosen by proxy, or by vote."""
    sizes = powers_of_two(pool.gold.shape[1])
    cells = of_votes("sampler", pool, sizes)
    cells |= _over("sampler", "best_of_n", "accuracy", sizes, best_of_n(pool.proxy, pool.gold, sizes))
    if not np.array_equal(pool.proxy, pool.gold):  # by gold itself the weighted vote is right where one sample is
        votes = weighted_majority_at_k(pool.answers, pool.proxy, pool.gold, sizes)
        cells |= _over("sampler", "weighted_majority", "accuracy", sizes, votes)
    return cells


def of_votes(policy: str, graded: Graded, sizes: list[int]) -> dict[Measure, np.ndarray]:
    correct_paths = graded.paths.copy()
    correct_paths[graded.gold != 1] = None
    return (
        _over(policy, "pass", "accuracy", sizes, pass_at_k(graded.gold, sizes))
        | _over(policy, "majority", "accuracy", sizes, majority_at_k(graded.answers, graded.gold, sizes))
        | _over(policy, "distinct", "correct_paths", sizes, distinct_at_k(correct_paths, sizes))
    )


def of_best_of_n(pool: Graded, sizes: list[int]) -> dict[Measure, np.ndarray]:
    """Best-of-N of the base: KL to the sampler it drew from, plus the chain rule's way to the raw base."""
    log_ratio = _log_ratio(pool)
    bounds = np.array([best_of_n_kl_bound(n) for n in sizes])
    columns = {
        "accuracy": best_of_n(pool.proxy, pool.gold, sizes),
        "proxy": best_of_n(pool.proxy, pool.proxy, sizes),
        "kl": best_of_n_kl_from_reference(pool.proxy, log_ratio, sizes),
        "kl_bound": bounds + best_of_n(pool.proxy, log_ratio, sizes),
    }
    if pool.gold_reward is not None:
        columns["gold_reward"] = best_of_n(pool.proxy, pool.gold_reward, sizes)
    beatable = [n for n in sizes if n < pool.proxy.shape[1]]  # an opponent must be left
    if beatable:
        columns["win_rate"] = estimate_best_of_n_win_rate(pool.proxy, beatable)
    if np.isin(pool.proxy, (0, 1)).all():  # a verifier: what unsolved prompts could add to the KL
        columns["kl_sensitivity"] = columns["kl"] + (
            best_of_n_kl_sensitivity(pool.proxy, sizes) - estimate_best_of_n_kl(pool.proxy, sizes)
        )
    cells = _over("base", "median_of_n", "proxy", sizes, median_of_n(pool.proxy, sizes))
    for metric, values in columns.items():
        cells |= _over("base", "best_of_n", metric, sizes[: values.shape[1]], values)
    return cells


def of_soft_best_of_n(pool: Graded, n: int) -> dict[Measure, np.ndarray]:
    """Soft Best-of-n at its SOFTNESS, none where the proxy does not tell a prompt's samples apart."""
    unit = spread(pool.proxy)
    if not unit > 0:
        return {}
    measured = np.stack([pool.gold, pool.proxy, _log_ratio(pool)], axis=2)
    cells: dict[Measure, np.ndarray] = {}
    for softness in SOFTNESS:
        found = estimate_soft_best_of_n(pool.proxy, measured, n, softness * unit)
        gold, proxy, log_ratio = found.means.T
        columns = {"accuracy": gold, "proxy": proxy, "kl": found.kl + log_ratio}
        cells |= {
            Measure("base", f"soft_best_of_n@{softness:g}", metric, n): values for metric, values in columns.items()
        }
    return cells


def of_pessimism(pool: Graded, sizes: list[int]) -> dict[Measure, np.ndarray]:
    """Pessimism at inference with n samples at its betas, beside Best-of-n: where the proxy is not gold itself.

    None where the proxy does not tell a prompt's samples apart.
    """
    unit = spread(pool.proxy)
    if np.array_equal(pool.proxy, pool.gold) or not unit > 0:
        return {}
    cells: dict[Measure, np.ndarray] = {}
    for beta in PESSIMISM:
        values = pessimism_of_n(pool.proxy, pool.gold, sizes, beta * unit)
        cells |= _over("base", f"pessimism_of_n@{beta:g}", "accuracy", sizes, values)
    return cells


def _log_ratio(pool: Graded) -> np.ndarray:
    """[M, N] nats from the raw base to the sampler that drew the pool; 0 for the raw sampler."""
    return pool.completions.logprob - pool.completions.policy_logprob


def _over(policy: str, method: str, metric: str, sizes: list[int], values: np.ndarray) -> dict[Measure, np.ndarray]:
    """The columns of values [M, len(sizes)]."""
    return {Measure(policy, method, metric, n): values[:, column] for column, n in enumerate(sizes)}


def _mean(values: np.ndarray) -> np.ndarray:
    """[M] of values [M, N] over the samples that have one; NaN where none has."""
    count = (~np.isnan(values)).sum(axis=1)
    return np.divide(np.nansum(values, axis=1), count, out=np.full(len(values), np.nan), where=count > 0)


def _truncated(graded: Graded) -> np.ndarray:
    return (graded.completions.finish_reason == "length").mean(axis=1)
