"""Every figure that the records of some runs hold. One module a family; a figure's rows are all that it draws.

To add one: a function from groups of runs to a Figure, or None where they lack its records, and a line in `figures`.
"""

from collections.abc import Sequence

from bench.records.read import Run
from bench.reporting.exhibit import Figure
from bench.reporting.figures.by_n import accuracy_by_n, kl_by_n, reward_by_n
from bench.reporting.figures.compute import break_even, cost_by_stage
from bench.reporting.figures.coverage import coverage, paths
from bench.reporting.figures.frontier import frontiers
from bench.reporting.figures.generators import generators_figure
from bench.reporting.figures.heat_map import heat_map
from bench.reporting.figures.hybrid import hybrid_figure
from bench.reporting.figures.overoptimisation import overoptimisation_figure
from bench.reporting.figures.pessimism import pessimism_by_n
from bench.reporting.figures.reward_diagnostics import reward_diagnostics
from bench.reporting.figures.rounds import rounds_figure
from bench.reporting.figures.samples_budget import samples_budget
from bench.reporting.figures.selection import selection
from bench.reporting.figures.training import training_figure
from bench.reporting.groups import grouped
from bench.reporting.ways import scorers

__all__ = ["figures", "of_one_run"]


def figures(runs: Sequence[Run]) -> list[Figure]:
    """What these runs' records hold, in the order of a paper; BenchError where the runs can't be compared."""
    groups = grouped(runs)
    learned = scorers(groups)
    made = [
        *frontiers(groups),
        selection(groups),
        heat_map(groups),
        rounds_figure(groups),
        hybrid_figure(groups),
        generators_figure(groups),
        samples_budget(groups),
        accuracy_by_n(groups),
        reward_by_n(groups),
        pessimism_by_n(groups),
        coverage(groups),
        paths(groups),
        overoptimisation_figure(learned),
        reward_diagnostics(learned),
        kl_by_n(groups),
        break_even(groups),
        cost_by_stage(groups),
    ]
    return [figure for figure in made if figure is not None]


def of_one_run(run: Run) -> list[Figure]:
    """Those of its own folder: its frontier, what is known of a scorer that is not gold, the way of its training."""
    made = [*frontiers(grouped([run])), reward_diagnostics([run]), training_figure(run)]
    return [figure for figure in made if figure is not None]
