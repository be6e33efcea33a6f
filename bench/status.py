"""python -m bench.status: print which cells of a sweep are done, running, failed or missing, and the time left.

Give the settings that started the sweep, or folders of runs, such as imported pools. Nothing is run.

examples:
  python -m bench.status sweep=num_completions_by_temperature
  python -m bench.status seed=0,1,2 selection=top_per_prompt,all_correct
  python -m bench.status outputs/imported/*
"""

import gc
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import search
from bench.config.compose import CONF, explained
from bench.errors import CommandLine, printable
from bench.launching import launch
from bench.records.read import CONFIG, FAILURE
from bench.reporting import words
from bench.store.files import BUSY
from bench.sweeps.cells import Cell, State, cells, state, state_of
from bench.sweeps.plan import counted, described, duration, estimate, tally


def main() -> None:
    parser = CommandLine(__doc__)
    purpose = "sweep=NAME, or axes such as seed=0,1, and the other settings of the sweep; or run folders"
    parser.take_words(purpose, "FOLDER|setting=value")
    settings = parser.parse_intermixed_args().words
    folders = [Path(setting) for setting in settings if Path(setting).is_dir()]
    if folders and len(folders) == len(settings):
        print(printable(of_folders(folders)))
        return
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
    """One line per cell that is not done, the counts, and the time left: by finished cells, or the store's history."""
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


def of_folders(folders: Sequence[Path]) -> str:
    """One line per run, and the counts. Folders that hold no run, such as reports, are left out."""
    runs = [folder for folder in folders if any((folder / name).exists() for name in (CONFIG, FAILURE, BUSY))]
    states = {run.name: state_of(run) for run in runs}
    lines = [f"{name}: {described(state)}" for name, state in states.items()]
    return "\n".join([*lines, f"{words.counted(len(runs), 'run')}: {tally([state.kind for state in states.values()])}"])


if __name__ == "__main__":
    gc.set_threshold(10_000)  # as in bench.__main__
    main()
