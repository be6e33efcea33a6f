"""python -m bench.status sweep=NAME [setting=value,value ...]: what of a sweep is done, running, failed, missing.

The settings are those that the sweep was started with; nothing is run.
"""

import math
import sys

from bench import search
from bench.config.compose import CONF, explained
from bench.launching import launch
from bench.sweeps.cells import Cell, State, cells, state
from bench.sweeps.plan import counted, described, duration, estimate, tally


def main() -> None:
    settings = [argument for argument in sys.argv[1:] if argument not in ("-m", "--multirun")]  # as it was started
    with explained(settings):
        wanted = search.read(settings, CONF)
        launch.check(settings, CONF, devices=False)
        if wanted is not None:
            from bench.search import report

            print(report.status(wanted))
            return
        found = cells(settings, CONF)
    if found is None:
        sys.exit("error: another sweeper than Hydra's own chooses its cells as it goes; they can't be listed.")
    print(table({cell: state(cell) for cell in found}))


def table(states: dict[Cell, State]) -> str:
    """A line a cell that is not done, the counts, and how long the rest will take.

    At the pace of what is done; before anything is, by what like work took in the store.
    """
    lines = [
        f"{cell.label or cell.folder.name}: {described(found)}"
        for cell, found in states.items()
        if found.kind != "done"
    ]
    kinds = [found.kind for found in states.values()]
    lines.append(f"{counted(len(kinds))}: {tally(kinds)}")
    took = [found.seconds for found in states.values() if not math.isnan(found.seconds)]
    left = [cell for cell, found in states.items() if found.kind != "done"]
    if left and not took:
        lines.append(estimate(left))
    elif left:
        at_once = max(kinds.count("running"), 1)
        seconds = len(left) * sum(took) / len(took) / at_once
        lines.append(f"about {duration(seconds)} left, {at_once} at a time at the pace of what is done")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
