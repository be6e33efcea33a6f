"""Ranking: order, pairing, Holm and verdicts, on runs whose scores are made up."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.estimators.training_seeds import seed_interval
from bench.records.read import Estimate, Run
from bench.reporting.console import ranking_table
from bench.reporting.contrasts import contrast
from bench.reporting.groups import Group
from bench.reporting.ranking import rank


@dataclass(frozen=True)
class MadeUp(Run):
    scores: dict[str, np.ndarray]

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        return self.scores[policy]


def group(means: dict[str, float], *, draw: int = 0, seeds: int = 5, prompts: int = 300, control: bool = True) -> Group:
    rng = np.random.default_rng(draw)
    prompt = rng.normal(0, 0.2, prompts)  # prompts differ alike in every method: pairing takes that away
    curves = {("tuned", "policy", "kl", 1): Estimate(0.5, 0.4, 0.6)}
    runs = [
        MadeUp(
            folder=Path(str(seed)),
            config={"seed": seed, "control": "matched" if control else "none"},
            metrics={},
            curves=curves,
            scores={arm: mean + prompt + rng.normal(0, 0.1, prompts) for arm, mean in means.items()},
        )
        for seed in range(seeds)
    ]
    return Group({}, tuple(runs))


def test_the_order_the_effects_and_the_verdicts():
    ranked = rank(
        {
            "poor": group({"tuned": 0.2, "control": 0.3}),
            "best": group({"tuned": 0.6, "control": 0.3}),
            "as good": group({"tuned": 0.599, "control": 0.3}, draw=1),
            "idle": group({"tuned": 0.3, "control": 0.3}),
        }
    )
    assert [one.name for one in ranked] == ["best", "as good", "idle", "poor"]
    assert [one.effect_verdict for one in ranked] == ["better", "better", "not resolved", "worse"]
    assert [one.ahead_verdict for one in ranked] == ["first", "not resolved", "better", "better"]
    best = ranked[0]
    assert best.effect is not None
    effect = best.effect.difference
    assert effect.value == pytest.approx(0.3, abs=0.02)
    assert effect.low < 0.3 < effect.high
    assert effect.high - effect.low < 0.2 * (best.tuned.high - best.tuned.low) + 0.05  # paired
    table = ranking_table(ranked)
    assert table.splitlines()[2].startswith("| best")
    assert "not resolved" in table


def test_methods_without_a_control_are_ranked_and_say_so():
    (one, two) = rank({"a": group({"tuned": 0.5}, control=False), "b": group({"tuned": 0.2, "control": 0.1})})
    assert (one.name, one.effect, one.effect_verdict) == ("a", None, "no control")
    assert two.effect_verdict == "better"


@pytest.mark.parametrize("seeds", [2, 4])
def test_the_p_value_is_where_the_interval_touches_zero(seeds: int):
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.01, 0.03):
        values = rng.normal(shift, 0.3, (seeds, 200)) + rng.normal(0, 0.01, (seeds, 1))
        p = contrast(values, np.zeros_like(values), "shift").p_value
        ends = seed_interval(values, level=1 - p)
        assert min(abs(ends.low), abs(ends.high)) < 1e-6
    assert contrast(np.ones((3, 10)), np.ones((3, 10)), "none").p_value == 1.0


def test_many_idle_methods_are_not_resolved():
    rng = np.random.default_rng(3)
    found = []
    for repeat in range(20):
        methods = {}
        for name in range(10):
            made = group({"tuned": 0.3, "control": 0.3}, seeds=3, prompts=100)
            for run in made.runs:
                noise = rng.normal(0, 0.1, (2, 100))
                run.scores.update(tuned=0.3 + noise[0], control=0.3 + noise[1])
            methods[f"{repeat}-{name}"] = made
        found += [any(one.effect_verdict != "not resolved" for one in rank(methods))]
    assert sum(found) <= 3  # a family-wise error of 5 %
