"""What each scorer that is not gold itself knows of gold, in sentences; a bad one is said to be bad."""

from collections.abc import Sequence

import numpy as np

from bench.records.read import Estimate, Run, short
from bench.reporting.arrange import samplers
from bench.reporting.groups import Group
from bench.reporting.words import function_name

CHANCE, WEAK = 0.5, 0.6  # AUC within a prompt


def scorers_known(groups: Sequence[Group]) -> list[str]:
    """What each scorer that is not gold itself knows of gold; a bad one is said to be bad."""
    lines = []
    for name, group in samplers(groups):
        runs = [run for run in group.runs if run.metrics.get("scorer/equals_gold", 1) != 1]
        if not runs:
            continue
        who = f"The scorer {function_name(runs[0].config['scoring'])}{f' ({name})' if name else ''}"
        known = [run.metrics["scorer/auc"] for run in runs if run.metrics.get("scorer/auc") is not None]
        if not known:
            lines.append(f"{who} can't be judged: no prompt has both right and wrong completions that it scored.")
        elif len(known) > 1:
            lines.append(
                f"{who} has an AUC within a prompt of {short(float(np.mean(known)))} in the mean of {len(known)} seeds "
                f"({short(min(known))} to {short(max(known))})."
            )
        else:
            ends = (float(runs[0].metrics[f"scorer/auc{end}"]) for end in ("", "_low", "_high"))
            lines.append(f"{who} {_of_auc(Estimate(*ends))}")
        lines += [f"{who} is {found}" for found in _turned(runs) if len(groups) == len(group.runs) == 1]
        if unscored := sum(run.metrics.get("scorer/unscored") or 0 for run in runs):
            lines.append(f"{who} left {unscored:,} held-out completions unscored.")
    return lines


def _turned(runs: Sequence[Run]) -> list[str]:
    """Of a lone run: whether gold falls where its scorer selects harder."""
    metrics = runs[0].metrics
    if not str(metrics.get("scorer/overoptimisation", "")).startswith("over-optimised"):
        return []
    peak, largest = (metrics.get(f"scorer/gold_{name}") for name in ("peak_n", "largest_n"))
    return [f"over-optimised: gold is highest at n = {peak} and lower at n = {largest}."]


def _of_auc(auc: Estimate) -> str:
    says = f"(AUC within a prompt {auc})"
    if auc.low <= CHANCE <= auc.high:
        return f"is not shown to rank right completions above wrong ones any better than chance {says}."
    if auc.high < CHANCE:
        return f"ranks wrong completions above right ones {says}."
    if auc.value < WEAK:
        return f"hardly ranks right completions above wrong ones {says}."
    return f"ranks right completions above wrong ones {says}."
