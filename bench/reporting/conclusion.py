"""The end of a sweep: the table of its finished cells, what failed and why, and what sharing saved."""

from collections.abc import Sequence

from bench.records.read import Run, read_run
from bench.reporting.console import ranking_table, runs_table
from bench.reporting.ranking import rank
from bench.sweeps.cells import Cell, state
from bench.sweeps.plan import described, outside_stages, savings, tally


def conclusion(cells: Sequence[Cell]) -> str:
    """The table of finished cells, what failed and why, and what sharing saved."""
    states = {cell.label: state(cell) for cell in cells}
    done = [cell for cell in cells if states[cell.label].kind == "done"]
    lines = ["", tally([found.kind for found in states.values()])]
    lines += [f"  {label}: {described(found)}" for label, found in states.items() if found.kind != "done"]
    if done:
        runs = {cell.label: read_run(cell.folder) for cell in done}
        by_method = _by_method(runs)
        table = ranking_table(rank(by_method)) if by_method else runs_table(list(runs.values()))
        lines += ["", table, "", *savings(done), outside_stages(done)]
    return "\n".join(lines)


def _by_method(runs: dict[str, Run]) -> dict[str, list[Run]]:
    """Runs by what sets them apart beside the seed; empty unless several methods have the same several seeds."""
    methods: dict[str, list[Run]] = {}
    for label, run in runs.items():
        name = " ".join(part for part in label.split() if not part.startswith("seed="))
        methods.setdefault(name, []).append(run)
    seeds = {tuple(sorted(run.config["seed"] for run in found)) for found in methods.values()}
    comparable = len(methods) > 1 and len(seeds) == 1 and len(next(iter(seeds))) > 1
    return methods if comparable else {}
