"""The loop of a search: Optuna proposes rounds of cells, a launcher runs them, and the chosen one is judged on test."""

import fcntl
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.progress import say
from bench.records.read import read_run
from bench.search.definition import Search, check_cell
from bench.search.trials import LOOKS, Trial, objectives, progress
from bench.store.files import claim
from bench.sweeps.cells import Cell, is_done, number, state

if TYPE_CHECKING:
    from optuna import Study

LOCK = "search.lock"
Launch = Callable[[Sequence[Sequence[str]]], None]  # runs cells, each given by its overrides; returns when they ended


def run(search: Search, launch: Launch) -> None:
    """Run the missing trials in rounds; then judge the chosen cell and the baseline on test prompts."""
    search.root.mkdir(parents=True, exist_ok=True)
    with _alone(search):
        study = search.study(create=True)
        assert study is not None
        # trials that an earlier process left open go first
        while trials := [trial for trial in progress(search, study).trials if trial.open] or _propose(search, study):
            _run_cells(search, [(trial.params, "validation") for trial in trials], launch)
            for trial in trials:
                _tell(search, study, trial)
        _judge(search, study, launch)


def _propose(search: Search, study: "Study") -> list[Trial]:
    """The next round, empty where none is left. The very first trial is the baseline, where the space contains it."""
    from optuna.trial import TrialState

    trials: list[Trial] = []
    while not trials and (before := len(study.trials)) < search.settings.trials:
        study.sampler = search.sampler(before)
        if before == 0 and search.baseline_is_inside:
            study.enqueue_trial(search.baseline)
        for _ in range(min(search.settings.at_once, search.settings.trials - before)):
            trial = study.ask(search.space)
            try:
                check_cell(search.cell(trial.params))
            except BenchError as error:  # each value is possible, but not all of them together
                trial.set_user_attr("reason", str(error))
                study.tell(trial, state=TrialState.FAIL)
                say(f"{' '.join(search.values(trial.params))}: FAILED: {error}")
        trials = [trial for trial in progress(search, study).trials[before:] if not trial.failed]
    return trials


def _tell(search: Search, study: "Study", trial: Trial) -> None:
    from optuna.trial import TrialState

    values = objectives(search, read_run(trial.cell.folder)) if is_done(trial.cell.folder) else ()
    if values and all(math.isfinite(value) for value in values):
        study.tell(trial.number, list(values))
    else:
        study.tell(trial.number, state=TrialState.FAIL)


def _judge(search: Search, study: "Study", launch: Launch) -> None:
    """Run the chosen cell and the baseline on test prompts, which nothing before this has looked at."""
    now = progress(search, study)
    if now.chosen is None:
        return
    name = now.chosen.cell.folder.name
    if not now.looks or now.looks[-1]["run"] != name:
        study.set_user_attr(LOOKS, [*now.looks, {"run": name, "trials": len(now.trials)}])
    wanted = [(now.chosen.params, "test"), (search.baseline, "test"), (search.baseline, "validation")]
    _run_cells(search, wanted, launch)


def _run_cells(search: Search, wanted: Sequence[tuple[dict[str, Any], str]], launch: Launch) -> None:
    """Launch those of the wanted cells, (settings, split), that are not done; each once."""
    cells: dict[str, tuple[Cell, list[str]]] = {}
    for params, split in wanted:
        cell = search.cell(params, split)
        if not is_done(cell.folder):
            cells.setdefault(cell.folder.name, (cell, search.overrides(params, split)))
    if not cells:
        return
    number([cell.folder for cell, _ in cells.values()])
    launch([overrides for _, overrides in cells.values()])
    if all(state(cell).kind == "missing" for cell, _ in cells.values()):
        raise BenchError(
            f"None of {len(cells)} cells left anything in {search.root}: the launcher seems not to have run them."
        )


@contextmanager
def _alone(search: Search) -> Iterator[None]:
    """Let one process at a time lead a search. The kernel releases the lock however the process ends."""
    with (search.root / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BenchError(f"The search in {search.root} is being led by {file.read()}.") from error
        claim(file)
        yield
