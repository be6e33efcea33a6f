"""Methods of a sweep in order, each against its random twin and against the first, over training seeds and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.estimators.uncertainty import holm, seed_interval
from bench.reporting.collect import Estimate, Run
from bench.reporting.tables import markdown

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Ranked:
    """One method: means over S seeds and M prompts, with 95 % intervals for new seeds on new prompts."""

    name: str
    seeds: int
    tuned: Estimate  # pass@1
    control: Estimate | None  # of its random twin
    effect: Estimate | None  # tuned less control, paired by seed and prompt
    effect_verdict: str
    behind_first: Estimate | None  # the first method less this one, paired; None for the first
    behind_verdict: str
    kl: float  # nats a sequence from the raw base


def rank(methods: Mapping[str, Sequence[Run]]) -> list[Ranked]:
    """From each method's runs, one a seed and the same seeds for all, on the same test prompts; best pass@1 first.

    Two families of comparisons, each adjusted for their number (Holm 1979): every method against its control, and
    every other method against the first. The first was chosen by what is compared, so its lead is flattered.
    """
    tuned = {name: _scores(runs, "tuned") for name, runs in methods.items()}
    order = sorted(methods, key=lambda name: -float(tuned[name].mean()))
    controls = {name: _scores(methods[name], "control") for name in order if all(r.controlled for r in methods[name])}
    effects = {name: tuned[name] - controls[name] for name in order if name in controls}
    behind = {name: tuned[order[0]] - tuned[name] for name in order[1:]}
    effect_verdicts, behind_verdicts = (_verdicts(family) for family in (effects, behind))
    return [
        Ranked(
            name=name,
            seeds=len(methods[name]),
            tuned=_estimate(tuned[name]),
            control=_estimate(controls[name]) if name in controls else None,
            effect=_estimate(effects[name]) if name in effects else None,
            effect_verdict=effect_verdicts.get(name, "no control"),
            behind_first=_estimate(behind[name]) if name in behind else None,
            behind_verdict=behind_verdicts.get(name, "first"),
            kl=float(np.mean([run.series("tuned", "policy", "kl")[1].value for run in methods[name]])),
        )
        for name in order
    ]


def ranking_table(ranked: Sequence[Ranked]) -> str:
    means = ("tuned pass@1", "control pass@1", "tuned - control", "tuned is", "first - this", "first is", "KL")
    rows: list[tuple[str, ...]] = [("method", "seeds", *means)]
    rows += [
        (
            one.name,
            str(one.seeds),
            str(one.tuned),
            str(one.control or ""),
            str(one.effect or ""),
            one.effect_verdict,
            str(one.behind_first or ""),
            one.behind_verdict,
            f"{one.kl:.2f}",
        )
        for one in ranked
    ]
    return markdown(rows)


def _scores(runs: Sequence[Run], arm: str) -> np.ndarray:
    """[S, M] pass@1, seeds in order."""
    ordered = sorted(runs, key=lambda run: run.config["seed"])
    return np.stack([run.per_prompt(arm, "pass", "accuracy", 1) for run in ordered])


def _estimate(values: np.ndarray) -> Estimate:
    found = seed_interval(values)
    return Estimate(found.mean, found.low, found.high)


def _verdicts(differences: Mapping[str, np.ndarray]) -> dict[str, str]:
    if not differences:
        return {}
    adjusted = holm(np.array([_p_value(values) for values in differences.values()]))
    return {
        name: "not resolved" if p > SIGNIFICANCE else "better" if values.mean() > 0 else "worse"
        for (name, values), p in zip(differences.items(), adjusted, strict=True)
    }


def _p_value(values: np.ndarray) -> float:
    """The smallest significance at which the interval of the mean leaves out 0, by bisection."""
    low, high = 1e-9, 1 - 1e-9  # at low the interval is widest
    if values.mean() == 0:
        return 1.0
    for _ in range(40):
        middle = np.sqrt(low * high)
        found = seed_interval(values, level=1 - middle)
        low, high = (low, middle) if found.low > 0 or found.high < 0 else (middle, high)
    return float(high)
