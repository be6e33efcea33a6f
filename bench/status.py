"""python -m bench.status: print which cells of a sweep are done, running, failed or missing, and the time left.

Nothing is run.

examples:
  python -m bench.status sweep=num_completions_by_temperature
  python -m bench.status seed=0,1,2 selection=top_per_prompt,all_correct
"""

import math
import sys

from bench import search
from bench.config.compose import CONF, explained
from bench.errors import CommandLine, printable
from bench.launching import launch
from bench.sweeps.cells import Cell, State, cells, state
from bench.sweeps.plan import counted, described, duration, estimate, tally


def main() -> None:
    parser = CommandLine(__doc__)
    parser.take_words("the settings that started the sweep")
    settings = parser.parse_intermixed_args().words
    with explained(settings):
        definition = search.read(settings, CONF)
        launch.check(settings, CONF, devices=False)
        if definition is not None:
            from bench.search import report

            print(printable(report.status(definition)))
            return
        listed = cells(settings, CONF)
    if listed is None:
        sys.exit("error: this sweeper chooses its cells as it goes, so they can't be listed.")
    print(printable(table({cell: state(cell) for cell in listed})))


def table(states: dict[Cell, State]) -> str:
    """One line per cell that is not done, the counts, and the time left.

    The time is by the pace of finished cells; before the first one, by what equal stages took in the store.
    """
    lines = [
        f"{cell.label or cell.folder.name}: {described(state)}"
        for cell, state in states.items()
        if state.kind != "done"
    ]
    kinds = [state.kind for state in states.values()]
    lines.append(f"{counted(len(kinds))}: {tally(kinds)}")
    times = [state.seconds for state in states.values() if not math.isnan(state.seconds)]
    left = [cell for cell, state in states.items() if state.kind != "done"]
    if left and not times:
        lines.append(estimate(left))
    elif left:
        at_once = max(kinds.count("running"), 1)
        seconds = len(left) * sum(times) / len(times) / at_once
        lines.append(f"about {duration(seconds)} left, {at_once} at a time, at the pace of finished cells")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
