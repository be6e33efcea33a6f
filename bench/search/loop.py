"""The loop of a search: rounds of cells go to a launcher, what they came to goes to Optuna, and at last comes test."""

import fcntl
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.config import checks
from bench.errors import BenchError
from bench.progress import say
from bench.search import Search
from bench.search.results import LOOKS, Tried, chosen_of, objectives, tried
from bench.sweeps.cells import Cell, is_done, state

if TYPE_CHECKING:
    from optuna import Study

LOCK = "search.lock"


def run(search: Search, launch: Callable[[Sequence[Sequence[str]]], None]) -> None:
    """Run the trials that are missing, by rounds; then judge what is chosen, and the baseline, on test prompts.

    launch: runs cells, each given by its overrides, and returns when they have ended.
    """
    search.root.mkdir(parents=True, exist_ok=True)
    with _alone(search):
        study = search.study(create=True)
        assert study is not None
        while True:
            open_trials = [trial for trial in tried(search, study) if trial.values is None and not trial.failed]
            # what was under way when an earlier process ended goes first
            open_trials = open_trials or _propose(search, study)
            if not open_trials:
                break
            _run_cells(search, [(trial.params, "validation") for trial in open_trials], launch)
            for trial in open_trials:
                _tell(search, study, trial)
        _judge(search, study, launch)


def _propose(search: Search, study: "Study") -> list[Tried]:
    """The next round; the very first trial is the baseline, where it lies in the space."""
    from optuna.trial import TrialState

    before = len(study.trials)
    study.sampler = search.sampler(before)
    if before == 0 and search.baseline_is_inside:
        study.enqueue_trial(search.baseline)
    for _ in range(min(search.wanted.at_once, search.wanted.trials - before)):
        trial = study.ask(search.space)
        try:
            cfg = search.cell(trial.params).cfg
            checks.check(cfg)
            checks.build_parts(cfg)
        except BenchError as error:  # possible apart, impossible together
            trial.set_user_attr("reason", str(error))
            study.tell(trial, state=TrialState.FAIL)
            say(f"{' '.join(search.values(trial.params))}: FAILED: {error}")
    new = [trial for trial in tried(search, study)[before:] if not trial.failed]
    return new or (_propose(search, study) if len(study.trials) > before else [])


def _tell(search: Search, study: "Study", trial: Tried) -> None:
    from optuna.trial import TrialState

    values = objectives(search, trial.cell) if is_done(trial.cell.folder) else None
    if values is not None and all(math.isfinite(value) for value in values):
        study.tell(trial.number, list(values))
    else:
        study.tell(trial.number, state=TrialState.FAIL)


def _judge(search: Search, study: "Study", launch: Callable[[Sequence[Sequence[str]]], None]) -> None:
    """On test prompts, which nothing before this has looked at: the chosen cell and the baseline."""
    chosen = chosen_of(search, tried(search, study))
    if chosen is None:
        return
    looks = study.user_attrs.get(LOOKS, [])
    if not looks or looks[-1]["run"] != chosen.cell.folder.name:
        study.set_user_attr(LOOKS, [*looks, {"run": chosen.cell.folder.name, "trials": len(study.trials)}])
    wanted = [(chosen.params, "test"), (search.baseline, "test"), (search.baseline, "validation")]
    _run_cells(search, wanted, launch)


def _run_cells(
    search: Search,
    wanted: Sequence[tuple[dict[str, Any], str]],
    launch: Callable[[Sequence[Sequence[str]]], None],
) -> None:
    """Launch those cells, (settings, split), that are not done; each once."""
    cells: dict[str, tuple[Cell, list[str]]] = {}
    for params, split in wanted:
        cell = search.cell(params, split)
        if not is_done(cell.folder):
            cells.setdefault(cell.folder.name, (cell, search.overrides(params, split)))
    if not cells:
        return
    launch([overrides for _, overrides in cells.values()])
    if all(state(cell).kind == "missing" for cell, _ in cells.values()):
        raise BenchError(
            f"None of {len(cells)} cells left anything in {search.root}: the launcher seems not to have run them."
        )


@contextmanager
def _alone(search: Search) -> Iterator[None]:
    """One process at a time may lead a search; the kernel lets go of the lock however the process ends."""
    with (search.root / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BenchError(f"The search in {search.root} is being led by {file.read()}.") from error
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield
