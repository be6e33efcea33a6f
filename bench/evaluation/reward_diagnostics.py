"""The agreement of the scorer's rewards (proxy) with gold, on the base's held-out Best-of-N pool.

metrics.json has the numbers under scorer/; diagnostics.parquet has the curves behind reward_diagnostics.png.
"""

from typing import Any

import numpy as np

from bench.estimators.arrays import of_same_prompts
from bench.estimators.bootstrap import bootstrap_interval
from bench.estimators.curves import best_of_n
from bench.estimators.reward_diagnostics import (
    as_probabilities,
    decidable,
    rank_correlation,
    reliability,
    tie_rate,
    turning_point,
    within_prompt_auc,
)
from bench.evaluation.heldout import Graded
from bench.evaluation.measures import known_means, powers_of_two, with_ends
from bench.seeds import generator

NOT_APPLICABLE = "not applicable: the scores are neither within [0, 1] nor on both sides of 0"
TOO_FEW = "not measured: too few prompts or scored samples"


def diagnose(pool: Graded, *, seed: int) -> tuple[dict[str, float | str], list[dict[str, Any]]]:
    """(metrics, rows of curves) of proxy against gold [M, N]. A quantity that the pool can't determine is NaN.

    Rows have diagnostic, x, value, low, high and count. Diagnostics: "gold" (accuracy), "gold_reward" (in a gold
    model's units) and "proxy" of Best-of-x over the whole pool; "auc" per decidable prompt (x: its index);
    "reliability", the observed share of correct samples at the expected share x.
    """
    measured, rows = _of_ranking(pool, seed)
    calibration, bins = _of_calibration(pool, seed)
    turning, curves = _of_more_selection(pool, seed)
    return measured | calibration | turning, rows + bins + curves


def _of_ranking(pool: Graded, seed: int) -> tuple[dict[str, float | str], list[dict[str, Any]]]:
    scored = ~np.isnan(pool.proxy)
    columns = {
        "auc": within_prompt_auc(pool.proxy, pool.gold),
        "decidable": decidable(pool.proxy, pool.gold),
        "tie_rate": tie_rate(pool.proxy),
        "length_correlation": np.full(len(scored), np.nan),
    }
    if not np.isnan(pool.completions.length).all():  # of imported texts nobody may have counted the tokens
        columns["length_correlation"] = rank_correlation(pool.proxy, pool.completions.length)
    metrics: dict[str, float | str] = {
        "scorer/unscored": int((~scored).sum()),
        "scorer/equals_gold": float((pool.proxy == pool.gold)[scored].mean()),
    }
    shares = np.array([name != "length_correlation" for name in columns])
    ends = _means(np.stack(list(columns.values()), axis=1), shares, seed)
    for name, (value, low, high, count) in zip(columns, ends, strict=True):
        metrics |= with_ends(f"scorer/{name}", value, low, high)
        metrics[f"scorer/{name}_prompts"] = int(count)
    rows = [_row("auc", prompt, auc) for prompt, auc in enumerate(columns["auc"].tolist()) if not np.isnan(auc)]
    return metrics, rows


def _of_calibration(pool: Graded, seed: int) -> tuple[dict[str, float | str], list[dict[str, Any]]]:
    read = as_probabilities(pool.proxy)
    if read is None:
        return {"scorer/calibration": NOT_APPLICABLE}, []
    probability, how = read
    curve = reliability(probability, pool.gold, generator(seed, "scorer", "calibration"))
    metrics: dict[str, float | str] = {
        "scorer/calibration": f"of the {how}",
        **with_ends("scorer/calibration_error", curve.error, curve.error_low, curve.error_high),
    }
    bins = zip(curve.expected, curve.observed, curve.observed_low, curve.observed_high, curve.count, strict=True)
    return metrics, [_row("reliability", *map(float, numbers)) for numbers in bins if numbers[-1] > 0]


def _of_more_selection(pool: Graded, seed: int) -> tuple[dict[str, float | str], list[dict[str, Any]]]:
    """Gold and proxy of Best-of-n, and the n where gold turns, for n up to the median of scored samples per prompt."""
    enough = int(np.sort((~np.isnan(pool.proxy)).sum(axis=1))[len(pool.proxy) // 2])
    sizes = powers_of_two(enough) if enough else []
    if not sizes:
        return {"scorer/overoptimisation": TOO_FEW}, []
    golds = {"gold": pool.gold} | ({} if pool.gold_reward is None else {"gold_reward": pool.gold_reward})
    outcomes = golds | {"proxy": pool.proxy}
    curves = {name: of_same_prompts(best_of_n(pool.proxy, sizes, values)) for name, values in outcomes.items()}
    points = [(name, n) for name in curves for n in sizes]
    shares = np.array([name == "gold" for name, _ in points])
    ends = _means(np.concatenate(list(curves.values()), axis=1), shares, seed)
    rows = [_row(*point, *numbers) for point, numbers in zip(points, ends, strict=True)]
    metrics: dict[str, float | str] = {}
    for name, values in golds.items():
        verdict = "scorer/overoptimisation" if name == "gold" else f"scorer/overoptimisation_of_{name}"
        if len(sizes) < 2 or (~np.isnan(curves[name][:, -1])).sum() < 4:
            metrics[verdict] = TOO_FEW
            continue
        turn = turning_point(pool.proxy, values, sizes, generator(seed, "scorer", "turning point"))
        metrics |= {f"scorer/{name}_peak_n": turn.n, f"scorer/{name}_largest_n": turn.largest}
        metrics[verdict] = turn.found.verdict
        of_proxy = "proxy" if name == "gold" else f"proxy_by_{name}"
        for beyond, difference in ((name, turn.found.gold), (of_proxy, turn.found.proxy)):
            beyond_peak = f"scorer/{beyond}_beyond_peak"
            metrics |= with_ends(beyond_peak, difference.mean, difference.low, difference.high)
    return metrics, rows


def _means(values: np.ndarray, shares: np.ndarray, seed: int) -> list[tuple[float, ...]]:
    """(mean, low, high, count) per column of values [M, K], over the prompts with a number.

    shares: [K] bool, the columns whose values lie in [0, 1].
    """
    count = (~np.isnan(values)).sum(axis=0)
    if not count.any():
        return [(float("nan"), float("nan"), float("nan"), 0)] * values.shape[1]
    low, high = bootstrap_interval(values, generator(seed, "scorer", "means"), shares=shares)
    columns = known_means(values, axis=0), np.asarray(low), np.asarray(high), count
    return [tuple(map(float, row)) for row in zip(*columns, strict=True)]


def _row(
    diagnostic: str, x: float, value: float, low: float = float("nan"), high: float = float("nan"), count: float = 1
) -> dict[str, Any]:
    numbers = {"x": x, "value": value, "low": low, "high": high}
    return {"diagnostic": diagnostic, **{name: float(number) for name, number in numbers.items()}, "count": int(count)}
