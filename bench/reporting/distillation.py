"""Distillation efficiency: how much of Best-of-n's gain over the base one sample of the tuned policy keeps."""

import math

from bench.estimators.uncertainty import Ratio, ratio_over_seeds
from bench.records.read import Estimate, short
from bench.reporting.groups import Group


def kept(group: Group) -> dict[int, Estimate | None]:
    """n -> (tuned - base) / (Best-of-n - base) in sampled accuracy, for each n above 1.

    None where Best-of-n's gain is not resolved from 0, and where an older run did not record it. Of several seeds the
    interval is for new seeds on new prompts.
    """
    found: dict[int, Estimate | None] = {}
    base, tuned = (group.per_prompt(arm, "pass", "accuracy", 1) for arm in ("base", "tuned"))  # [S, M]
    for n in group.series("base", "best_of_n", "accuracy"):
        if n == 1:
            continue
        if len(group.runs) == 1:
            recorded = [group.runs[0].metrics.get(f"distillation/best_of_{n}{end}") for end in ("", "_low", "_high")]
            ratio = Ratio(*(float("nan") if number is None else number for number in recorded))
        else:
            ratio = ratio_over_seeds(tuned - base, group.per_prompt("base", "best_of_n", "accuracy", n) - base)
        found[n] = Estimate(*ratio) if math.isfinite(ratio.value) else None
    return found


def sentence(group: Group) -> list[str]:
    """How much it keeps of the largest n's gain; that there is no such share, where there is no gain; else nothing."""
    found = kept(group)
    if not found:
        return []
    n = max(found)
    one = found[n]
    if one is not None:
        return [f"It keeps {short(one.value)} [{_end(one.low)}, {_end(one.high)}] of Best-of-{n}'s gain over the base."]
    if f"distillation/best_of_{n}" not in group.runs[0].metrics:
        return []
    return [f"What it keeps of Best-of-{n}'s gain over the base is undefined: that gain is not resolved from 0."]


def _end(value: float) -> str:
    return short(value) if math.isfinite(value) else "no bound"
