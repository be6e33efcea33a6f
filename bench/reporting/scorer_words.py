"""Say how well each scorer ranks right completions above wrong ones; the gold scorer itself needs no word."""

from collections.abc import Sequence

import numpy as np

from bench.records.read import Estimate, Run, short
from bench.reporting.groups import Group
from bench.reporting.tables.measured import scorer_name
from bench.reporting.ways import samplers

CHANCE, WEAK = 0.5, 0.6  # AUC within a prompt


def scorers_known(groups: Sequence[Group]) -> list[str]:
    """Sentences on each scorer that is not gold: its AUC within a prompt, over-optimisation, unscored completions."""
    sentences = []
    for name, group in samplers(groups):
        runs = [run for run in group.runs if run.metrics.get("scorer/equals_gold", 1) != 1]
        if not runs:
            continue
        scorer = f"The scorer {scorer_name(runs[0])}{f' ({name})' if name else ''}"
        sentences.append(f"{scorer} {_ranking(runs)}")
        metrics = runs[0].metrics
        over_optimised = str(metrics.get("scorer/overoptimisation", "")).startswith("over-optimised")
        if over_optimised and len(groups) == len(group.runs) == 1:
            peak, largest = (metrics.get(f"scorer/gold_{name}") for name in ("peak_n", "largest_n"))
            sentences.append(f"{scorer} is over-optimised: gold is highest at n = {peak} and lower at n = {largest}.")
        if unscored := sum(run.metrics.get("scorer/unscored") or 0 for run in runs):
            sentences.append(f"{scorer} left {unscored:,} held-out completions unscored.")
    return sentences


def _ranking(runs: Sequence[Run]) -> str:
    """What the AUC says, of one run with its interval, of several with their range."""
    aucs = [run.metrics["scorer/auc"] for run in runs if run.metrics.get("scorer/auc") is not None]
    if not aucs:
        return "can't be judged: no prompt has both right and wrong completions that it scored."
    if len(aucs) > 1:
        return (
            f"has an AUC within a prompt of {short(float(np.mean(aucs)))} in the mean of {len(aucs)} seeds "
            f"({short(min(aucs))} to {short(max(aucs))})."
        )
    auc = Estimate(*(float(runs[0].metrics[f"scorer/auc{end}"]) for end in ("", "_low", "_high")))
    if auc.low <= CHANCE <= auc.high:
        verdict = "is not shown to rank right completions above wrong ones any better than chance"
    elif auc.high < CHANCE:
        verdict = "ranks wrong completions above right ones"
    else:
        verdict = f"{'hardly ' if auc.value < WEAK else ''}ranks right completions above wrong ones"
    return f"{verdict} (AUC within a prompt {auc})."
