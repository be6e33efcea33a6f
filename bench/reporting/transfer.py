"""What fine-tuning did to tasks that it was not tuned on, by lm-eval's verdicts: differences of arms, over seeds."""

import math
from collections.abc import Sequence

import numpy as np

from bench.estimators.distributions import t_cdf, t_quantile
from bench.records.read import Estimate
from bench.reporting.contrasts import Contrast, judged, verdict_of
from bench.reporting.groups import Group
from bench.reporting.ways import named

AGAINST = {"control": "its random control", "base": "the base"}


def transfers(group: Group) -> dict[tuple[str, str], Contrast]:
    """(task, theirs) -> the tuned policy's exact match less theirs, on the task's own prompts.

    One seed: as its run recorded it, over prompts. Several: t on the seeds' differences, for new seeds on the same
    prompts; all of a task are adjusted for their number (Holm 1979).
    """
    found: dict[tuple[str, str], Contrast] = {}
    for task in _tasks(group):
        of_task = {
            (task, theirs): _over_seeds(group, f"tuned_vs_{theirs}/lm_eval/{task}")
            for theirs in AGAINST
            if all(f"tuned_vs_{theirs}/lm_eval/{task}/verdict" in run.metrics for run in group.runs)
        }
        found |= of_task if len(group.runs) == 1 else judged(of_task)
    return found


def sentences(groups: Sequence[Group]) -> list[str]:
    """A sentence for each configuration and task."""
    lines = []
    for group in groups:
        found = transfers(group)
        for task in dict.fromkeys(task for task, _ in found):
            parts = [_said(found[task, theirs], AGAINST[theirs]) for theirs in AGAINST if (task, theirs) in found]
            who = f"{named(group)}: " if len(groups) > 1 else ""
            lines.append(f"{who}On {task}, by lm-eval, the tuned policy is {' and '.join(parts)}.")
    return lines


def _tasks(group: Group) -> list[str]:
    names = [name.split("/") for name in group.runs[0].metrics if name.endswith("/verdict")]
    return list(dict.fromkeys(parts[2] for parts in names if len(parts) == 4 and parts[1] == "lm_eval"))


def _over_seeds(group: Group, name: str) -> Contrast:
    if len(group.runs) == 1:
        metrics = group.runs[0].metrics
        difference = Estimate(*(float(metrics[f"{name}/difference{end}"]) for end in ("", "_low", "_high")))
        family = sum(key.endswith(f"/{name.partition('/')[2]}/verdict") for key in metrics)
        p_value = float(metrics[f"{name}/p_adjusted"])
        return Contrast(difference, p_value, math.nan, 1, 0, verdict_of(difference, p_value), family)
    values = np.array([float(run.metrics[f"{name}/difference"]) for run in group.runs])
    mean, error, freedom = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))), len(values) - 1
    half = t_quantile(0.975, freedom) * error
    detectable = (t_quantile(0.975, freedom) + t_quantile(0.8, freedom)) * error
    if error == 0:  # a few prompts more or less, by chance alike under every seed: no spread to judge by
        return Contrast(Estimate(mean, min(mean, 0.0), max(mean, 0.0)), 1.0, math.nan, len(values), 0)
    p_value = 2 * (1 - t_cdf(abs(mean) / error, freedom))
    return Contrast(Estimate(mean, mean - half, mean + half), p_value, detectable, len(values), 0)


def _said(one: Contrast, whom: str) -> str:
    sign = "+" if one.difference.value > 0 else ""
    how = f"not resolved{one.adjustment} from" if one.verdict == "not resolved" else f"{one.verdict} than"
    return f"{how} {whom} ({sign}{one.difference})"
