"""What lm-eval found, what the scorer knows of gold, and what it all cost."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from bench.estimators.distributions import normal_quantile, t_quantile
from bench.records.read import Estimate, Run
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.tables.shared import all_runs, settings_cells, settings_columns, split, spread


def harness(groups: Sequence[Group]) -> Table | None:
    """lm-eval's own numbers by task; None where it was not run."""
    marker, rows = "base/lm_eval/", []
    for group in groups:
        names = [name.removeprefix(marker) for name in group.runs[0].metrics if name.startswith(marker)]
        errors = {_error_of(name) for name in names}
        for name in names:
            if name in errors:
                continue
            task, _, metric = name.rpartition("/")
            rows.append(
                {
                    **settings_cells(group),
                    "task": task,
                    "metric": metric,
                    **{
                        key: value
                        for arm in ("base", "tuned", "control")
                        for key, value in spread(arm, _of_harness(group, f"{arm}/lm_eval/{name}")).items()
                    },
                    "seeds": len(group.runs),
                }
            )
    if not rows:
        return None
    return Table(
        name="lm_eval",
        caption=(
            "lm-eval's metrics by task. 95 % intervals: of one seed by lm-eval's standard error, for new prompts; of "
            "several seeds by t on the seeds' values, for new seeds on the same prompts."
        ),
        rows=rows,
        runs=all_runs(groups),
        columns={
            **settings_columns(groups),
            "task": "task",
            "metric": "metric",
            "base": "base",
            "tuned": "tuned",
            "control": "control",
            "seeds": "seeds",
        },
    )


def _error_of(name: str) -> str:
    """What holds the standard error of a metric: lm-eval says the metric's filter, where it has one, after a comma."""
    task, slash, metric = name.rpartition("/")
    measured, comma, filtered = metric.partition(",")
    return f"{task}{slash}{measured}_stderr{comma}{filtered}"


def _of_harness(group: Group, name: str) -> Estimate | None:
    values = np.array([run.metrics[name] for run in group.runs if run.metrics.get(name) is not None])
    if len(values) < len(group.runs):
        return None
    mean = float(values.mean())
    if len(values) == 1:
        error = group.runs[0].metrics.get(_error_of(name))
        half = float("nan") if error is None else normal_quantile(0.975) * error
    else:
        half = t_quantile(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(mean, mean - float(half), mean + float(half))


DIAGNOSED = {
    "auc": "AUC in a prompt",
    "decidable": "decidable",
    "tie_rate": "ties",
    "length_correlation": "with length",
    "calibration_error": "calibration error",
}


def scorer(groups: Sequence[Group]) -> Table | None:
    """What each distinct scorer knows of gold on the held-out pool; None where all scores are gold itself."""
    rows: dict[Hashable, dict[str, Any]] = {}
    for group in groups:
        for run in group.runs:
            if run.metrics.get("scorer/equals_gold", 1) == 1:
                continue
            found = {key: _recorded(run, f"scorer/{key}") for key in DIAGNOSED}
            peak, largest = (run.metrics.get(f"scorer/gold_{name}") for name in ("peak_n", "largest_n"))
            values = {
                "scorer": scorer_name(run),
                "seed": run.config["seed"],
                **{name: value for key, one in found.items() for name, value in spread(key, one).items()},
                "unscored": run.metrics["scorer/unscored"],
                "gold_peak": None if peak is None else f"{peak} of {largest}",
                "overoptimisation": run.metrics.get("scorer/overoptimisation", ""),
            }
            rows.setdefault(str(values), {**settings_cells(group), **values})
    if not rows:
        return None
    constant = [name for name in groups[0].settings if len({row[f"config.{name}"] for row in rows.values()}) > 1]
    return Table(
        name="scorer",
        caption=(
            f"What the scorer knows of gold on Best-of-n's pool of {split(groups)} prompts: AUC within a prompt, the "
            "share of prompts with right and wrong completions (decidable), the share of pairs that it ties, its "
            "correlation with length, its calibration error, and the n after which gold falls. 95 % intervals over "
            "prompts."
        ),
        rows=list(rows.values()),
        runs=all_runs(groups),
        columns={
            **settings_columns(groups, constant),
            "scorer": "scorer",
            "seed": "seed",
            **DIAGNOSED,
            "unscored": "unscored",
            "gold_peak": "gold highest at n",
            "overoptimisation": "over-optimisation",
        },
    )


def scorer_name(run: Run) -> str:
    return run.config["scoring"]["_target_"].rsplit(".", 1)[-1]


def _recorded(run: Run, name: str) -> Estimate | None:
    if run.metrics.get(name) is None:
        return None
    ends = [run.metrics.get(f"{name}{end}") for end in ("", "_low", "_high")]
    return Estimate(*(float("nan") if end is None else end for end in ends))


def cost(groups: Sequence[Group]) -> Table:
    """By stage: every ancestor of these runs once, beside what each run would have cost alone."""
    runs = all_runs(groups)
    uses = [(run, entry) for run in runs for entry in run.lineage]
    shared = _once(uses, lambda run, entry: (entry["stage"], entry["key"], entry["part"]))
    alone = _once(uses, lambda run, entry: (run.folder, entry["stage"], entry["key"], entry["part"]))
    stages = list(dict.fromkeys(entry["stage"] for entry in alone))
    rows = []
    for stage in [*stages, "all"]:
        one, every = ([entry for entry in entries if stage in (entry["stage"], "all")] for entries in (shared, alone))
        rows.append(
            {
                "stage": stage,
                "artifacts": len(one),
                "generated_tokens": int(_total(one, "generated_tokens")),
                "train_tokens": int(_total(one, "train_tokens")),
                "flops": _total(one, "flops") + _total(one, "train_flops"),
                "seconds": float(sum(entry["seconds"] for entry in one)),
                "generated_tokens_alone": int(_total(every, "generated_tokens")),
                "seconds_alone": float(sum(entry["seconds"] for entry in every)),
            }
        )
    several = {"generated_tokens_alone": "tokens, each run alone", "seconds_alone": "seconds, each run alone"}
    return Table(
        name="cost",
        caption=(
            f"What {len(runs)} run{'s' if len(runs) > 1 else ''} cost by stage, each artifact in their lineage counted "
            "once whenever it was made, in tokens, FLOPs and seconds"
            + ("; the last columns are what the runs would have cost without sharing." if len(runs) > 1 else ".")
        ),
        rows=rows,
        runs=runs,
        columns={
            "stage": "stage",
            "artifacts": "artifacts",
            "generated_tokens": "generated tokens",
            "train_tokens": "trained tokens",
            "flops": "FLOPs",
            "seconds": "seconds",
            **(several if len(runs) > 1 else {}),
        },
    )


def _once(
    uses: Sequence[tuple[Run, dict[str, Any]]], key: Callable[[Run, dict[str, Any]], Hashable]
) -> list[dict[str, Any]]:
    return list({key(run, entry): entry for run, entry in uses}.values())


def _total(entries: Sequence[dict[str, Any]], name: str) -> float:
    return float(sum(entry["counts"].get(name, 0) for entry in entries))
