"""Tables of a report from its runs' records, and those that the command line prints.

Rows hold numbers, a value's interval beside it as KEY_low and KEY_high; `bench.reporting.exhibit.Table.texts` says how
they are read, `bench.reporting.tables.writing` writes them as Markdown and LaTeX.
"""

from collections.abc import Sequence

from bench.records.read import Run
from bench.reporting.exhibit import Table
from bench.reporting.groups import grouped
from bench.reporting.tables.adaptive import adaptive_table
from bench.reporting.tables.comparison import all_contrasts, main
from bench.reporting.tables.console import headline, main_table, ranking_table, runs_table
from bench.reporting.tables.curves import best_of_n, coverage
from bench.reporting.tables.generators import generators_table, mixes_table
from bench.reporting.tables.hybrid import hybrid_table
from bench.reporting.tables.measured import cost, harness, scorer
from bench.reporting.tables.overoptimisation import overoptimisation_table
from bench.reporting.tables.rounds import rounds_table
from bench.reporting.tables.writing import latex, markdown
from bench.reporting.ways import scorers

__all__ = ["headline", "latex", "main_table", "markdown", "ranking_table", "runs_table", "tables"]


def tables(runs: Sequence[Run]) -> list[Table]:
    """Every table that these runs' records hold; BenchError where runs can't stand side by side (see `grouped`)."""
    groups = grouped(runs)
    made = [
        main(groups),
        rounds_table(groups),
        hybrid_table(groups),
        mixes_table(groups),
        generators_table(groups),
        adaptive_table(groups),
        best_of_n(groups),
        coverage(groups),
        harness(groups),
        scorer(groups),
        overoptimisation_table(scorers(groups)),
        cost(groups),
        all_contrasts(groups),
    ]
    return [table for table in made if table is not None]
