"""From one value a prompt to what is reported: means with their intervals, and the contrasts between arms."""

from collections.abc import Sequence

import numpy as np

from bench.estimators.uncertainty import (
    PairedDifference,
    holm,
    intervals_and_bands,
    mcnemar,
    paired_differences,
    ratio_of_means,
)
from bench.evaluation.heldout import RAW_BASE, VALIDATION, Outcomes, raw
from bench.evaluation.measures import KL_FROM, SHARES, Measure
from bench.seeds import generator

SIGNIFICANCE = 0.05
ESTIMATORS = {  # of each KL, by method and metric
    ("policy", "kl"): "rao_blackwell",
    ("policy", "kl_k1"): "k1",
    (VALIDATION, "kl"): "rao_blackwell",
    ("best_of_n", "kl"): "jackknife + chain rule",
    ("soft_best_of_n", "kl"): "jackknife + chain rule",
    ("best_of_n", "kl_bound"): "log n - (n - 1)/n + chain rule",
    ("best_of_n", "kl_sensitivity"): "jackknife, unsolved prompts at their largest + chain rule",
}


def curves(cells: dict[Measure, np.ndarray], *, seed: int) -> list[dict]:
    """One row a cell: its mean over prompts and 95 % interval by bootstrap over prompts.

    band_low and band_high hold a curve's means at all its n at once with 95 % probability (NaN for single points).
    """
    values = np.stack(list(cells.values()), axis=1)  # [M, cells]
    series: dict[tuple[str, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        series.setdefault(cell[:3], []).append(index)
    curves = [members for members in series.values() if len(members) > 1]
    shares = np.array([cell.metric in SHARES for cell in cells])
    low, high, bands = intervals_and_bands(values, curves, generator(seed, "intervals"), shares=shares)
    means = np.nanmean(values, axis=0)
    numbers = np.column_stack([means, low, high, *bands]).tolist()
    names = ("value", "low", "high", "band_low", "band_high")
    return [
        {**cell._asdict(), **dict(zip(names, row, strict=True)), **_provenance(cell)}
        for cell, row in zip(cells, numbers, strict=True)
    ]


PRIMARY = "tuned_vs_control/pass@1"
WITHOUT_CONTROL = "tuned_vs_base/pass@1"


def contrasts(cells: dict[Measure, np.ndarray], *, seed: int) -> dict[str, float | str]:
    """Paired differences on the same prompts, each with its interval, minimum detectable effect and verdict in words.

    The primary contrast, tuned against control in pass@1 (against the base where there is no control), is judged by
    its own interval; the others are secondary and judged by p-values adjusted for their number (Holm 1979), while
    their intervals stay those of one comparison.
    """
    pairs = _pairs(cells)
    ours, theirs = (np.stack([cells[pair[side]] for pair in pairs.values()], axis=1) for side in (0, 1))
    found = dict(zip(pairs, paired_differences(ours, theirs, generator(seed, "contrasts")), strict=True))
    p_values = {name: _p_value(found[name], *(cells[cell] for cell in pair)) for name, pair in pairs.items()}
    primary = PRIMARY if PRIMARY in found else WITHOUT_CONTROL
    secondary = [name for name in found if name != primary]
    adjusted = dict(zip(secondary, holm(np.array([p_values[name] for name in secondary])), strict=True))
    adjusted[primary] = p_values[primary]
    metrics: dict[str, float | str] = {}
    for name, difference in found.items():
        resolved = name == primary or adjusted[name] <= SIGNIFICANCE
        metrics |= {
            f"{name}/difference": difference.mean,
            f"{name}/difference_low": difference.low,
            f"{name}/difference_high": difference.high,
            f"{name}/p_adjusted": float(adjusted[name]),
            f"{name}/minimum_detectable": difference.minimum_detectable_effect,
            f"{name}/verdict": difference.verdict if resolved else "not resolved",
        }
    return metrics


def _p_value(difference: PairedDifference, ours: np.ndarray, theirs: np.ndarray) -> float:
    """McNemar's exact test where both outcomes are 0 or 1 (greedy accuracy), the bootstrap's elsewhere."""
    binary = all(np.isin(values, (0, 1)).all() for values in (ours, theirs))
    return mcnemar(ours, theirs) if binary else difference.p_value


def _pairs(cells: dict[Measure, np.ndarray]) -> dict[str, tuple[Measure, Measure]]:
    """Every comparison, under the name that metrics.json has for it."""
    arms = (("tuned", "control"), ("tuned", "base"), ("control", "base"))
    methods = (("pass", "pass@1"), ("greedy", "greedy_accuracy"))
    pairs = {
        f"{ours}_vs_{theirs}/{name}": (Measure(ours, method, "accuracy", 1), Measure(theirs, method, "accuracy", 1))
        for ours, theirs in arms
        if Measure(ours, "pass", "accuracy", 1) in cells and Measure(theirs, "pass", "accuracy", 1) in cells
        for method, name in methods
    }
    for cell in cells:
        if cell[:3] == ("base", "best_of_n", "accuracy"):
            pairs[f"tuned_vs_best_of_{cell.n}/accuracy"] = (Measure("tuned", "pass", "accuracy", 1), cell)
    return pairs


def distillation(cells: dict[Measure, np.ndarray], *, seed: int) -> dict[str, float]:
    """Distillation efficiency: the share of Best-of-n's gain over the base that one sample of the tuned policy keeps.

    (tuned - base) / (Best-of-n - base) in sampled accuracy, means over the same prompts, with its interval; NaN where
    Best-of-n's gain is not resolved from 0 (see `bench.estimators.bootstrap`).
    """
    base, tuned = (cells[Measure(arm, "pass", "accuracy", 1)] for arm in ("base", "tuned"))
    metrics: dict[str, float] = {}
    for cell, values in cells.items():
        if cell[:3] == ("base", "best_of_n", "accuracy") and cell.n > 1:
            found = ratio_of_means(tuned - base, values - base, generator(seed, "distillation", cell.n))
            for end, number in zip(("", "_low", "_high"), found, strict=True):
                metrics[f"distillation/best_of_{cell.n}{end}"] = number
    return metrics


def transfer_contrasts(outcomes: dict[str, Outcomes], *, seed: int) -> dict[str, float | str]:
    """What fine-tuning did to other tasks, by lm-eval's verdicts: each arm against the base, tuned against control.

    Paired by prompt; the verdicts of one task's comparisons are adjusted for their number (Holm 1979).
    """
    metrics: dict[str, float | str] = {}
    arms = [
        (a, b) for a, b in (("tuned", "control"), ("tuned", "base"), ("control", "base")) if {a, b} <= set(outcomes)
    ]
    for task in outcomes["base"].transfer:
        right = {arm: outcomes[arm].transfer[task].exact_match for arm in outcomes}  # [M'] 0/1
        p_values = holm(np.array([mcnemar(right[ours], right[theirs]) for ours, theirs in arms]))
        ours, theirs = (np.stack([right[pair[side]] for pair in arms], axis=1) for side in (0, 1))
        found = paired_differences(ours, theirs, generator(seed, "transfer", task))
        for pair, difference, p_value in zip(arms, found, p_values, strict=True):
            name = f"{pair[0]}_vs_{pair[1]}/lm_eval/{task}"
            metrics |= {
                f"{name}/difference": difference.mean,
                f"{name}/difference_low": difference.low,
                f"{name}/difference_high": difference.high,
                f"{name}/p_adjusted": float(p_value),
                f"{name}/verdict": difference.verdict if p_value <= SIGNIFICANCE else "not resolved",
            }
    return metrics


def flatten(rows: Sequence[dict]) -> dict[str, float]:
    """Curve rows under the names that metrics.json has for them."""
    named: dict[str, float] = {}
    for row in rows:
        name = metric_name(Measure(row["policy"], row["method"], row["metric"], row["n"]))
        named |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return named


def metric_name(cell: Measure) -> str:
    """What metrics.json calls it."""
    if cell.method == "greedy":
        return f"{cell.policy}/greedy_{cell.metric}"
    if cell.method == "policy":
        return f"{cell.policy}/{cell.metric}"
    if cell.method == VALIDATION:
        return f"{cell.policy}/{VALIDATION}@{cell.n}/{cell.metric}"
    method, _, setting = cell.method.partition("@")
    if method.endswith("_of_n"):
        owner = "" if cell.policy == "base" else f"{cell.policy}/"
        return f"{owner}{method[:-1]}{cell.n}{f'@{setting}' if setting else ''}/{cell.metric}"
    return f"{cell.policy}/{method}@{cell.n}"


def provenance(rows: Sequence[dict]) -> dict[str, str]:
    """Which estimator and reference stand behind each KL of metrics.json."""
    named: dict[str, str] = {}
    for row in rows:
        if row["estimator"]:
            owner = row["policy"] if row["method"] == "policy" else row["method"]
            named[f"{owner}/{row['metric']}_estimator"] = row["estimator"]
            named[f"{owner}/{row['metric']}_reference"] = row["reference"]
            if row["metric"] == "kl" and row["method"] == "policy":
                named[f"{owner}/kl_per_token_estimator"] = row["estimator"]
                named[f"{owner}/kl_per_token_reference"] = row["reference"]
    return named


def _provenance(cell: Measure) -> dict[str, str]:
    if cell.metric.startswith(KL_FROM):
        return {"estimator": "rao_blackwell", "reference": raw(cell.metric.removeprefix(KL_FROM))}
    estimator = ESTIMATORS.get((cell.method.partition("@")[0], cell.metric), "")
    return {"estimator": estimator, "reference": RAW_BASE if estimator else ""}
