"""What stands on the axes of a figure where a user can choose it, and what a query costs.

bench.plot.frontier(runs, x="flops")      figures.frontier.x=flops on the command line
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from bench.errors import BenchError
from bench.reporting.groups import Group
from bench.reporting.words import listed

AXES = ("x", "y")
Wanted = Mapping[str, Mapping[str, str]]  # figure -> "x" or "y" -> what is wanted there
NONE: Wanted = MappingProxyType({})


def choice(figure: str, wanted: Wanted, allowed: Sequence[str], axis: str = "x") -> str:
    """Return what is wanted on this axis, by default the first that is allowed. BenchError where it is not allowed."""
    asked = wanted.get(figure, {}).get(axis, allowed[0])
    if asked not in allowed:
        raise BenchError(f"{axis}={asked} is not possible for {figure} of these runs: it must be {listed(allowed)}.")
    return asked


def costs(groups: Sequence[Group]) -> list[str]:
    """["flops"] where all runs recorded what a query costs; runs without training do not."""
    return ["flops"] * all("cost/tuned_query_flops" in run.metrics for group in groups for run in group.runs)


def query_flops(group: Group, n: float, policy: str = "best_of_n") -> float:
    """Return the mean FLOPs of a query over seeds: of Best-of-n, or of one sample of a policy."""
    name = {"best_of_n": f"best_of_{n:g}", "control": "tuned"}.get(policy, policy)
    if f"cost/{name}_query_flops" in group.runs[0].metrics:
        return float(np.mean([run.metrics[f"cost/{name}_query_flops"] for run in group.runs]))
    of_1, of_2 = query_flops(group, 1), query_flops(group, 2)
    return of_1 + (n - 1) * (of_2 - of_1)  # FLOPs rise by the same for every sample more


def fine_tuning_flops(group: Group) -> float:
    """Return the mean FLOPs of fine-tuning over seeds, with those of the pool that it trained on."""
    return float(np.mean([run.metrics["cost/fine_tuning_flops"] for run in group.runs]))
