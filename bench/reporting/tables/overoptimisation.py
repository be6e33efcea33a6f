"""The table of over-optimisation: what each learned reward's claim rests on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.estimators.overoptimisation import FitInterval
from bench.records.read import Estimate, Run
from bench.reporting.exhibit import Table
from bench.reporting.overoptimisation import Pushed, pushed
from bench.reporting.tables.shared import spread

AVERAGED = ("auc", "length_correlation", "tie_rate")  # over seeds


def overoptimisation_table(runs: Sequence[Run]) -> Table | None:
    """What each scorer's claim rests on; None where every scorer is gold itself."""
    found = pushed(runs)
    if not found:
        return None
    return Table(
        name="reward_overoptimisation",
        caption="From n̂*, chosen on one half of the prompts, to the largest n, on the other half; 95 % intervals.",
        rows=[_summary(one) for one in found],
        runs=[run for one in found for run in one.group.runs],
        columns={
            "scorer": "scorer",
            "auc": "AUC",
            "length_correlation": "ρ with length",
            "chosen_n": "n̂*",
            "gold_at_chosen_n": "gold at n̂*",
            "gold_at_largest_n": "gold at largest n",
            "gold_change": "change of gold",
            "proxy_change": "change of proxy, of its rise",
            "verdict": "verdict",
            "seeds_alone": "seeds alone",
            "peak": "fitted peak d*",
            "tuned_gain": "tuned - base",
            "tuned_kl": "KL of tuned",
        },
    )


def _summary(one: Pushed) -> dict[str, Any]:
    claim, (kl, tuned) = one.claim, one.tuned
    alone = sum(found.verdict == "over-optimised" for found in one.claims)
    mean = {name: _mean(one, f"scorer/{name}") for name in AVERAGED}
    at = {n: float(one.gold[..., one.sizes.index(n)].mean()) for n in (claim.chosen, claim.largest)}
    fit = {name: _of_fit(one.fit, name) for name in ("alpha", "beta", "peak")}
    return {
        "scorer": one.name,
        "seeds": len(one.group.runs),
        **mean,
        "chosen_n": claim.chosen,
        "largest_n": claim.largest,
        "gold_of_base": float(one.gold[..., 0].mean()),
        "gold_at_chosen_n": at[claim.chosen],
        "gold_at_largest_n": at[claim.largest],
        **spread("gold_change", claim.gold),
        **spread("proxy_change", claim.proxy),
        "verdict": claim.verdict,
        "seeds_alone": f"{alone} of {len(one.claims)}",
        **{key: value for name, found in fit.items() for key, value in spread(name, found).items()},
        **spread("tuned_gain", tuned),
        **spread("tuned_kl", kl),
    }


def _of_fit(fit: FitInterval | None, name: str) -> Estimate | None:
    return None if fit is None else Estimate(*(getattr(fit, f"{name}{end}") for end in ("", "_low", "_high")))


def _mean(one: Pushed, metric: str) -> float | None:
    """Over the seeds that have it; None where it is undefined for all."""
    values = [run.metrics[metric] for run in one.group.runs if run.metrics.get(metric) is not None]
    return float(np.mean(values)) if values else None
