"""What lm-eval measured by task, and what fine-tuning did to tasks that the policy was not tuned on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.estimators.audit import wilson_interval
from bench.estimators.distributions import normal_quantile, t_cdf, t_quantile
from bench.estimators.training_seeds import pooled_variances
from bench.records.read import Estimate, Run
from bench.reporting import arrange, tables
from bench.reporting.contrasts import Contrast, judged, two_quantiles, verdict_of
from bench.reporting.exhibit import Table, shows
from bench.reporting.groups import Group, recorded
from bench.reporting.words import ARMS

MARKER = "base/lm_eval/"
SHARES = ("acc", "em", "exact_match", "f1", "inst_level", "pass@", "prompt_level")  # metrics in [0, 1] begin so
AGAINST = {"control": "its random control", "base": "the base"}


class _Measure(NamedTuple):
    group: Group
    name: str  # task/metric
    compared: "Transfers"

    def less(self, theirs: str) -> Contrast | None:
        return self.compared.get((self.name.rpartition("/")[0], theirs))


@shows("tables", 90)
def harness(groups: Sequence[Group]) -> Table | None:
    """lm-eval's own numbers by task; None where it was not run."""
    measures = []
    for group, compared in zip(groups, transfers(groups), strict=True):
        names = [name.removeprefix(MARKER) for name in group.runs[0].metrics if name.startswith(MARKER)]
        errors = {_error_of(name) for name in names}
        measures += [_Measure(group, name, compared) for name in names if name not in errors]

    def arm(name: str) -> tables.Column:
        return tables.interval(
            name, ARMS.get(name, name), lambda measure: _estimate(measure.group, f"{name}/lm_eval/{measure.name}")
        )

    def less(theirs: str) -> list[tables.Column]:
        labels = (f"less_{theirs}", f"tuned less {ARMS[theirs]}")
        return tables.contrasted(lambda measure: measure.less(theirs), difference=labels)

    return tables.table(
        "lm_eval",
        "lm-eval's metrics by task. 95 % intervals: of one seed by lm-eval's standard error, for new prompts; of "
        "several seeds by t on the seeds' values, for new seeds on the same prompts. Those of shares are Wilson's, at "
        "the number of trials that would have this error; none where nothing varies. Differences are "
        "in exact match.",
        measures,
        [
            *tables.settings_columns(groups),
            tables.Column("task", "task", lambda measure: measure.name.rpartition("/")[0]),
            tables.Column("metric", "metric", lambda measure: measure.name.rpartition("/")[2]),
            *map(arm, dict.fromkeys((*ARMS, *(name for group in groups for name in group.runs[0].elsewhere)))),
            *less("base"),
            *less("control"),
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
        recorded = group.runs[0].metrics.get(_error_of(name))
        error, quantile = float("nan") if recorded is None else float(recorded), float(normal_quantile(0.975))
    else:
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        quantile = t_quantile(0.975, len(values) - 1)
    if name.rpartition("/")[2].startswith(SHARES) and values.min() >= 0 and values.max() <= 1:
        if not (error > 0 and 0 < mean < 1):
            return Estimate(mean, math.nan, math.nan)
        return Estimate(*wilson_interval(mean, mean * (1 - mean) / error**2, quantile=quantile))
    return Estimate(mean, mean - quantile * error, mean + quantile * error)


Transfers = dict[tuple[str, str], Contrast]


def transfers(groups: Sequence[Group]) -> list[Transfers]:
    """Of each group: (task, theirs) -> the tuned policy's exact match less theirs, on the task's own prompts.

    One seed: as its run recorded it, over prompts. Several: t on the seeds' differences, for new seeds on the same
    prompts, with one variance for the same comparison of groups with equally many seeds; all comparisons of a task in
    a group are adjusted for their number (Holm 1979).
    """
    made: list[Transfers] = [{} for _ in groups]
    for key in dict.fromkeys(key for group in groups for key in _recorded_in(group)):
        having = [place for place, group in enumerate(groups) if key in _recorded_in(group)]
        for seeds in {len(groups[place].runs) for place in having}:
            places = [place for place in having if len(groups[place].runs) == seeds]
            name = f"{_name(key)}/difference"
            cells = [[float(run.metrics[name]) for run in groups[place].runs] for place in places]
            alone = [groups[place].runs[0] for place in places]
            found = of_seeds(np.stack(cells, axis=1)) if seeds > 1 else [_of_one(run, key) for run in alone]
            for place, compared in zip(places, found, strict=True):
                made[place][key] = compared
    return [own if len(group.runs) == 1 else _adjusted(own) for group, own in zip(groups, made, strict=True)]


def _adjusted(own: Transfers) -> Transfers:
    tasks = dict.fromkeys(task for task, _ in own)
    return {
        key: found for task in tasks for key, found in judged({k: v for k, v in own.items() if k[0] == task}).items()
    }


def _name(key: tuple[str, str]) -> str:
    return f"tuned_vs_{key[1]}/lm_eval/{key[0]}"


def _recorded_in(group: Group) -> list[tuple[str, str]]:
    """(task, theirs) of each comparison that all runs of the group have recorded."""
    names = [name.split("/") for name in group.runs[0].metrics if name.endswith("/verdict")]
    tasks = dict.fromkeys(parts[2] for parts in names if len(parts) == 4 and parts[1] == "lm_eval")
    keys = [(task, theirs) for task in tasks for theirs in AGAINST]
    return [key for key in keys if all(f"{_name(key)}/verdict" in run.metrics for run in group.runs)]


def _of_one(run: Run, key: tuple[str, str]) -> Contrast:
    name = _name(key)
    difference, p_value = recorded(run, f"{name}/difference"), float(run.metrics[f"{name}/p_adjusted"])
    family = sum(key.endswith(f"/{name.partition('/')[2]}/verdict") for key in run.metrics)
    return Contrast(difference, p_value, None, 1, 0, verdict_of(difference, p_value), family)


def of_seeds(differences: np.ndarray) -> list[Contrast]:
    """Compare by one difference per seed and cell [S, C], for new seeds on the same prompts: Student's t.

    The variance is pooled over the cells (`pooled_variances`).
    """
    seeds = len(differences)
    made = []
    for mean, variance, freedom in zip(differences.mean(axis=0), *pooled_variances(differences), strict=True):
        mean, error = float(mean), math.sqrt(variance / seeds)
        if error == 0:  # a few prompts more or less, by chance alike under every seed: no spread to judge by
            made.append(Contrast(Estimate(mean, min(mean, 0.0), max(mean, 0.0)), 1.0, math.nan, seeds, 0))
            continue
        half = t_quantile(0.975, float(freedom)) * error
        p_value = 2 * (1 - t_cdf(abs(mean) / error, float(freedom)))
        difference, detectable = Estimate(mean, mean - half, mean + half), two_quantiles(float(freedom)) * error
        made.append(Contrast(difference, p_value, detectable, seeds, 0, freedom=float(freedom)))
    return made


@shows("sentences", 90)
def sentences(groups: Sequence[Group]) -> list[str]:
    """A sentence for each configuration and task."""
    lines = []
    for group, found in zip(groups, transfers(groups), strict=True):
        for task in dict.fromkeys(task for task, _ in found):
            parts = [found[task, theirs].against(AGAINST[theirs]) for theirs in AGAINST if (task, theirs) in found]
            who = f"{arrange.named(group)}: " if len(groups) > 1 else ""
            lines.append(f"{who}On {task}, by lm-eval, the tuned policy is {' and '.join(parts)}.")
    return lines
