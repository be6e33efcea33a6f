"""What lm-eval measured by task, and what fine-tuning did to tasks that the policy was not tuned on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.estimators.distributions import normal_quantile, t_quantile
from bench.records.read import Estimate
from bench.reporting import arrange, tables
from bench.reporting.contrasts import Contrast, judged, of_seeds, verdict_of
from bench.reporting.exhibit import Table, shows
from bench.reporting.groups import Group, recorded
from bench.reporting.words import ARMS

MARKER = "base/lm_eval/"
SHARES = ("acc", "em", "exact_match", "f1", "inst_level", "pass@", "prompt_level")  # metrics in [0, 1] begin so
AGAINST = {"control": "its random control", "base": "the base"}


class _Measure(NamedTuple):
    group: Group
    name: str  # task/metric


@shows("tables", 90)
def harness(groups: Sequence[Group]) -> Table | None:
    """lm-eval's own numbers by task; None where it was not run."""
    measures = []
    for group in groups:
        names = [name.removeprefix(MARKER) for name in group.runs[0].metrics if name.startswith(MARKER)]
        errors = {_error_of(name) for name in names}
        measures += [_Measure(group, name) for name in names if name not in errors]

    def arm(name: str) -> tables.Column:
        return tables.interval(
            name, ARMS.get(name, name), lambda measure: _estimate(measure.group, f"{name}/lm_eval/{measure.name}")
        )

    return tables.table(
        "lm_eval",
        "lm-eval's metrics by task. 95 % intervals: of one seed by lm-eval's standard error, for new prompts; of "
        "several seeds by t on the seeds' values, for new seeds on the same prompts; cut at 0 and 1.",
        measures,
        [
            *tables.settings_columns(groups),
            tables.Column("task", "task", lambda measure: measure.name.rpartition("/")[0]),
            tables.Column("metric", "metric", lambda measure: measure.name.rpartition("/")[2]),
            *map(arm, dict.fromkeys((*ARMS, *(name for group in groups for name in group.runs[0].elsewhere)))),
            tables.Column("seeds", "seeds", lambda measure: len(measure.group.runs)),
        ],
        tables.all_runs(groups),
    )


def _error_of(name: str) -> str:
    """The name of a metric's standard error: lm-eval puts the metric's filter, where it has one, after a comma."""
    task, slash, metric = name.rpartition("/")
    measured, comma, filtered = metric.partition(",")
    return f"{task}{slash}{measured}_stderr{comma}{filtered}"


def _estimate(group: Group, name: str) -> Estimate | None:
    values = np.array([run.metrics[name] for run in group.runs if run.metrics.get(name) is not None])
    if len(values) < len(group.runs):
        return None
    mean = float(values.mean())
    if len(values) == 1:
        error = group.runs[0].metrics.get(_error_of(name))
        half = float("nan") if error is None else normal_quantile(0.975) * error
    else:
        half = t_quantile(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    low, high = mean - float(half), mean + float(half)
    if name.rpartition("/")[2].startswith(SHARES) and values.min() >= 0 and values.max() <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(mean, low, high)


def transfers(group: Group) -> dict[tuple[str, str], Contrast]:
    """(task, theirs) -> the tuned policy's exact match less theirs, on the task's own prompts.

    One seed: as its run recorded it, over prompts. Several: t on the seeds' differences, for new seeds on the same
    prompts; all comparisons of a task are adjusted for their number (Holm 1979).
    """
    names = [name.split("/") for name in group.runs[0].metrics if name.endswith("/verdict")]
    tasks = list(dict.fromkeys(parts[2] for parts in names if len(parts) == 4 and parts[1] == "lm_eval"))
    made: dict[tuple[str, str], Contrast] = {}
    for task in tasks:
        recorded = {theirs: f"tuned_vs_{theirs}/lm_eval/{task}" for theirs in AGAINST}
        of_task = {
            (task, theirs): _contrast(group, name)
            for theirs, name in recorded.items()
            if all(f"{name}/verdict" in run.metrics for run in group.runs)
        }
        made |= of_task if len(group.runs) == 1 else judged(of_task)
    return made


def _contrast(group: Group, name: str) -> Contrast:
    if len(group.runs) > 1:
        return of_seeds(np.array([float(run.metrics[f"{name}/difference"]) for run in group.runs]))
    (run,) = group.runs
    difference, p_value = recorded(run, f"{name}/difference"), float(run.metrics[f"{name}/p_adjusted"])
    family = sum(key.endswith(f"/{name.partition('/')[2]}/verdict") for key in run.metrics)
    return Contrast(difference, p_value, None, 1, 0, verdict_of(difference, p_value), family)


@shows("sentences", 90)
def sentences(groups: Sequence[Group]) -> list[str]:
    """A sentence for each configuration and task."""
    lines = []
    for group in groups:
        found = transfers(group)
        for task in dict.fromkeys(task for task, _ in found):
            parts = [found[task, theirs].against(AGAINST[theirs]) for theirs in AGAINST if (task, theirs) in found]
            who = f"{arrange.named(group)}: " if len(groups) > 1 else ""
            lines.append(f"{who}On {task}, by lm-eval, the tuned policy is {' and '.join(parts)}.")
    return lines
