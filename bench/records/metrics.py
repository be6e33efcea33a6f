"""From one value per prompt to reported numbers: means with intervals, and contrasts between arms."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.config.arms import NUMBERED
from bench.estimators.arrays import of_same_prompts
from bench.estimators.bootstrap import intervals_and_bands, ratio_of_means
from bench.estimators.uncertainty import PairedContrast, holm, mcnemar, paired_contrasts
from bench.evaluation.heldout import RAW_BASE, VALIDATION, Outcomes, raw
from bench.evaluation.measures import AT, AT_BEST, AT_ON_VALIDATION, KL_FROM, SHARES, Measure, known_means, with_ends
from bench.seeds import generator

SIGNIFICANCE = 0.05
# where no prompt has both values, as where each lacks a sample of the largest n
UNKNOWN = PairedContrast(np.nan, np.nan, np.nan, np.nan, np.nan, prompts=0, verdict="not resolved")
ARMS = (("tuned", "control"), ("tuned", "base"), ("control", "base"))  # the arms that are compared
ESTIMATORS = {  # (method, metric) -> the estimator of that KL
    ("policy", "kl"): "rao_blackwell",
    ("policy", "kl_k1"): "k1",
    (VALIDATION, "kl"): "rao_blackwell",
    ("best_of_n", "kl"): "jackknife + chain rule",
    ("oracle_of_n", "kl"): "jackknife + chain rule",
    ("soft_best_of_n", "kl"): "jackknife + chain rule",
    ("best_of_n", "kl_bound"): "log n - (n - 1)/n + chain rule",
    ("best_of_n", "kl_sensitivity"): "jackknife, unsolved prompts at their largest + chain rule",
}


# texts of metrics.json; every other metric of these owners is a number, or null
TEXTS = re.compile(
    r"code|.*(_estimator|_reference|_subsets|/verdict|/sentence|/prompts_key)|scorer/(calibration|overoptimisation\w*)|.*/lm_eval/.*"
)
NUMBERS = re.compile(rf"({NUMBERED})/.*")


def on_same_prompts(measures: Mapping[Measure, np.ndarray], least: float = 0.5) -> dict[Measure, np.ndarray]:
    """The values with NaN at every n of a curve for prompts that lack one of its n: see `of_same_prompts`."""
    found = dict(measures)
    for members in _series(measures):
        values = np.stack([measures[measure] for measure in members], axis=1)
        if np.isnan(values).any():
            found |= zip(members, of_same_prompts(values, least).T, strict=True)
    return found


def _series(measures: Iterable[Measure]) -> list[list[Measure]]:
    """The measures of each policy, method and metric: the points of a curve over n, or one point."""
    series: dict[tuple[str, ...], list[Measure]] = {}
    for measure in measures:
        series.setdefault(measure[:3], []).append(measure)
    return list(series.values())


def curves(measures: dict[Measure, np.ndarray], *, seed: int) -> list[dict]:
    """One row per measure: the mean over prompts and its 95 % interval by bootstrap over prompts.

    band_low, band_high: a band that holds the means of a curve at all n at once with 95 % probability; NaN for points.
    """
    values = np.stack(list(measures.values()), axis=1)  # [M, measures]
    places = {measure: place for place, measure in enumerate(measures)}
    curves = [[places[measure] for measure in members] for members in _series(measures) if len(members) > 1]
    shares = np.array([measure.metric in SHARES for measure in measures])
    low, high, bands = intervals_and_bands(values, curves, generator(seed, "intervals"), shares=shares)
    numbers = np.column_stack([known_means(values, axis=0), low, high, *bands]).tolist()
    names = ("value", "low", "high", "band_low", "band_high")
    return [
        {**measure._asdict(), **dict(zip(names, row, strict=True)), **_provenance(measure)}
        for measure, row in zip(measures, numbers, strict=True)
    ]


def pairs_of(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The policies that are compared. arms: the names of those from elsewhere, each against the base and the tuned."""
    return [*ARMS, *((arm, "base") for arm in arms), *(("tuned", arm) for arm in arms)]


PRIMARY = "tuned_vs_control/pass@1"
WITHOUT_CONTROL = "tuned_vs_base/pass@1"


def contrasts(measures: dict[Measure, np.ndarray], arms: Sequence[str] = (), *, seed: int) -> dict[str, float | str]:
    """Paired differences on the same prompts, each with its interval, minimum detectable effect and verdict.

    The primary contrast is tuned against control in pass@1, or against the base without a control. Its own interval
    decides. All others are secondary: p-values adjusted for their number decide (Holm 1979), and their intervals are
    those of single comparisons. arms: the names of policies from elsewhere.
    """
    wanted = compared(measures, arms)
    pairs = {name: pair for name, pair in wanted.items() if np.isfinite(measures[pair[0]] - measures[pair[1]]).any()}
    ours, theirs = (np.stack([measures[pair[side]] for pair in pairs.values()], axis=1) for side in (0, 1))
    differences = dict(zip(pairs, paired_contrasts(ours, theirs, generator(seed, "contrasts")), strict=True))
    p_values = {
        name: _p_value(differences[name], *(measures[measure] for measure in pair)) for name, pair in pairs.items()
    }
    primary = PRIMARY if PRIMARY in differences else WITHOUT_CONTROL
    secondary = [name for name in differences if name != primary]
    adjusted = dict(zip(secondary, holm(np.array([p_values[name] for name in secondary])), strict=True))
    adjusted[primary] = p_values[primary]
    metrics: dict[str, float | str] = {}
    for name in wanted:
        difference, p_value = differences.get(name, UNKNOWN), adjusted.get(name, np.nan)
        metrics |= _contrast(name, difference, p_value, resolved=name == primary or p_value <= SIGNIFICANCE)
        metrics[f"{name}/minimum_detectable"] = difference.minimum_detectable_effect
    return metrics


def _contrast(name: str, difference: PairedContrast, p_value: float, *, resolved: bool) -> dict[str, float | str]:
    return {
        **with_ends(f"{name}/difference", difference.mean, difference.low, difference.high),
        f"{name}/p_adjusted": float(p_value),
        f"{name}/verdict": difference.verdict if resolved else "not resolved",
    }


def _p_value(difference: PairedContrast, ours: np.ndarray, theirs: np.ndarray) -> float:
    """McNemar's exact test where both outcomes are 0 or 1 (greedy accuracy), else the bootstrap's p-value."""
    binary = all(np.isin(values, (0, 1)).all() for values in (ours, theirs))
    return mcnemar(ours, theirs) if binary else difference.p_value


def compared(measures: Mapping[Measure, Any], arms: Sequence[str] = ()) -> dict[str, tuple[Measure, Measure]]:
    """Every comparison, by its name in metrics.json."""
    methods = (("pass", "pass@1"), ("greedy", "greedy_accuracy"))
    pairs = {
        f"{ours}_vs_{theirs}/{name}": (Measure(ours, method, "accuracy", 1), Measure(theirs, method, "accuracy", 1))
        for ours, theirs in pairs_of(arms)
        if Measure(ours, "pass", "accuracy", 1) in measures and Measure(theirs, "pass", "accuracy", 1) in measures
        for method, name in methods
    }
    for ours, theirs in ARMS:
        sides = tuple(Measure(arm, AT_BEST, "accuracy", 1) for arm in (ours, theirs))
        if set(sides) <= measures.keys():
            pairs[f"{ours}_vs_{theirs}/{AT_BEST}"] = sides[0], sides[1]
    for measure in measures:
        if measure[:3] == ("base", "best_of_n", "accuracy"):
            pairs[f"tuned_vs_best_of_{measure.n}/accuracy"] = (Measure("tuned", "pass", "accuracy", 1), measure)
    return pairs


def distillation(measures: dict[Measure, np.ndarray], *, seed: int) -> dict[str, float]:
    """Distillation efficiency: the share of Best-of-n's gain over the base that one sample of the tuned policy keeps.

    (tuned - base) / (Best-of-n - base) in sampled accuracy, with its interval over the same prompts. NaN where
    Best-of-n's gain is not resolved from 0 (see bench.estimators.uncertainty).
    """
    base, tuned = (measures[Measure(arm, "pass", "accuracy", 1)] for arm in ("base", "tuned"))
    metrics: dict[str, float] = {}
    for measure, values in measures.items():
        if measure[:3] == ("base", "best_of_n", "accuracy") and measure.n > 1:
            rng = generator(seed, "distillation", measure.n)
            known = np.isfinite(values).any()
            ratio = ratio_of_means(tuned - base, values - base, rng) if known else (np.nan, np.nan, np.nan)
            metrics |= with_ends(f"distillation/best_of_{measure.n}", *ratio)
    return metrics


def transfer_contrasts(
    outcomes: dict[str, Outcomes], elsewhere: Sequence[str] = (), *, seed: int
) -> dict[str, float | str]:
    """The effect of fine-tuning on other tasks, by lm-eval: each arm against the base, and tuned against the others.

    Differences are paired by prompt. p-values are adjusted for the number of comparisons per task (Holm 1979).
    """
    metrics: dict[str, float | str] = {}
    arms = [pair for pair in pairs_of(elsewhere) if set(pair) <= set(outcomes)]
    for task in outcomes["base"].transfer:
        right = {arm: outcomes[arm].transfer[task].exact_match for arm in outcomes}  # [M'] 0/1
        p_values = holm(np.array([mcnemar(right[ours], right[theirs]) for ours, theirs in arms]))
        ours, theirs = (np.stack([right[pair[side]] for pair in arms], axis=1) for side in (0, 1))
        differences = paired_contrasts(ours, theirs, generator(seed, "transfer", task))
        for pair, difference, p_value in zip(arms, differences, p_values, strict=True):
            name = f"{pair[0]}_vs_{pair[1]}/lm_eval/{task}"
            metrics |= _contrast(name, difference, p_value, resolved=p_value <= SIGNIFICANCE)
    return metrics


def flatten(rows: Sequence[dict]) -> dict[str, float]:
    """The numbers of curve rows, by their names in metrics.json."""
    named: dict[str, float] = {}
    for row in rows:
        name = metric_name(Measure(row["policy"], row["method"], row["metric"], row["n"]))
        named |= with_ends(name, row["value"], row["low"], row["high"])
    return named


def metric_name(measure: Measure) -> str:
    """The name of a measure in metrics.json."""
    if measure.method == "greedy":
        return f"{measure.policy}/greedy_{measure.metric}"
    if measure.method == "policy":
        return f"{measure.policy}/{measure.metric}"
    if measure.method == VALIDATION:
        return f"{measure.policy}/{VALIDATION}@{measure.n}/{measure.metric}"
    if measure.method.startswith((AT, AT_ON_VALIDATION)):
        return f"{measure.policy}/{measure.method}/{'pass@1' if measure.metric == 'accuracy' else measure.metric}"
    method, _, setting = measure.method.partition("@")
    if method.endswith("_of_n"):
        owner = "" if measure.policy == "base" else f"{measure.policy}/"
        return f"{owner}{method[:-1]}{measure.n}{f'@{setting}' if setting else ''}/{measure.metric}"
    return f"{measure.policy}/{method}@{measure.n}{f'@{setting}' if setting else ''}"


def provenance(rows: Sequence[dict]) -> dict[str, str]:
    """The estimator and the reference of each KL in metrics.json."""
    named: dict[str, str] = {}
    for row in rows:
        if row["estimator"]:
            owner = row["policy"] if row["method"] == "policy" else row["method"]
            owner = f"{row['policy']}/{owner}" if owner.startswith(AT) else owner
            named[f"{owner}/{row['metric']}_estimator"] = row["estimator"]
            named[f"{owner}/{row['metric']}_reference"] = row["reference"]
            if row["metric"] == "kl" and row["method"] == "policy":
                named[f"{owner}/kl_per_token_estimator"] = row["estimator"]
                named[f"{owner}/kl_per_token_reference"] = row["reference"]
    return named


def _provenance(measure: Measure) -> dict[str, str]:
    if measure.metric.startswith(KL_FROM):
        return {"estimator": "rao_blackwell", "reference": raw(measure.metric.removeprefix(KL_FROM))}
    method = "policy" if measure.method.startswith(AT) else measure.method.partition("@")[0]
    estimator = ESTIMATORS.get((method, measure.metric), "")
    return {"estimator": estimator, "reference": RAW_BASE if estimator else ""}
