"""The commands themselves: CPU-seconds (user and system) of each, beside the goal that it should stay below.

examples:
  python -m bench.speed cli
  python -m bench.speed cli --repeats 9

The sweep has 16 cells of experiment=quick on one policy: 4 seeds x 4 selections. Two seeds with two selections are run;
the other 12 cells are copies of these with configurations of their own. A command is a process of its own, with
Python's start and all imports. It is called once to warm up, then `repeats` times, and the median is reported.

The cached cell is different: its artifacts are in the store and its run folder was deleted. It is run several times in
one process, and the first time does not count, so that Python's start and imports are left out.
"""

import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.speed.measure import Printout, cells_of, option_parser, python, timed

SELECTIONS = ("top_per_prompt", "softmax", "random_per_prompt", "top_k_per_prompt")
SETTINGS = ("experiment=quick", "policy.seed=0", "tracking=none", "store=store", "outputs=outputs")
SWEEP = (*SETTINGS, "seed=0,1,2,3", f"selection={','.join(SELECTIONS)}")
GOALS: dict[str, tuple[tuple[str, ...], float]] = {  # arguments of Python, CPU-seconds
    "python -m bench --help": (("-m", "bench", "--help"), 1.0),
    "python -m bench.status, 16 cells": (("-m", "bench.status", *SWEEP), 1.5),
    "python -m bench plan=true, 16 cells": (("-m", "bench", "-m", "plan=true", *SWEEP), 3.0),
    "python -m bench.report, 16 cells": (("-m", "bench.report", *SWEEP), 10.0),
}
CACHED = {"a cached cell of a sweep": True, "a cached run, with its figures": False}  # whether it is quiet
CACHED_GOAL = 1.0


def main(arguments: list[str]) -> None:
    parser = option_parser("cli", __doc__)
    parser.add_argument("--repeats", type=int, default=3, help="calls of each command")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of every cell, e.g. of its size")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _make_sweep(folder, options.settings)
        table = Printout(40, {"CPU s": 8, "goal": 8, "": 10})

        def line(name: str, seconds: Sequence[float], goal: float) -> None:
            median = statistics.median(seconds)
            table.row(name, f"{median:.2f}", f"{goal:.1f}", "met" if median <= goal else "MISSED")

        for name, (command, goal) in GOALS.items():
            given = [] if "--help" in command else options.settings
            call = [_child_seconds(folder, *command, *given) for _ in range(options.repeats + 1)]
            line(name, call[1:], goal)
        for name, quiet in CACHED.items():
            program = f"from {__name__} import cached; cached({quiet}, {options.repeats})"
            cell = (*SETTINGS, "seed=0", f"selection={SELECTIONS[0]}", *options.settings)
            line(name, json.loads(python(folder, "-c", program, *cell).splitlines()[-1]), CACHED_GOAL)


def _make_sweep(folder: Path, settings: Sequence[str]) -> None:
    """Run four cells, and copy them to the other twelve."""
    from omegaconf import OmegaConf

    from bench.records.write import seal

    run = (*SETTINGS, "seed=0,1", f"selection={','.join(SELECTIONS[:2])}", *settings)
    python(folder, "-m", "bench", "-m", *run)
    with contextlib.chdir(folder):
        made = cells_of(run)
        for cell in cells_of((*SWEEP, *settings)):
            selection = cell.label.partition("selection=")[2].partition(" ")[0]
            source = made[2 * (cell.cfg.seed % 2) + SELECTIONS.index(selection) % 2]
            if not cell.folder.exists():
                shutil.copytree(source.folder, cell.folder)
                OmegaConf.save(cell.cfg, cell.folder / "config.yaml", resolve=True)
                seal(cell.folder)


def _child_seconds(folder: Path, *arguments: str) -> float:
    before = os.times()
    python(folder, *arguments)
    return sum(os.times()[2:4]) - sum(before[2:4])


def cached(quiet: bool, repeats: int) -> None:
    """Run a cell, described by sys.argv, from the store; print the CPU-seconds of each time as JSON."""
    from bench.launching.runner import run_experiment

    (cell,) = cells_of(sys.argv[1:])

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run_experiment(cell.cfg, quiet=quiet)

    seconds = []
    for _ in range(repeats + 1):
        shutil.rmtree(cell.folder)
        seconds.append(timed(run)[1].cpu)
        lineage = json.loads((cell.folder / "lineage.json").read_text())
        assert all(artifact["reused"] for artifact in lineage), "an artifact was not in the store"
    print(json.dumps(seconds[1:]))
