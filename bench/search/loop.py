"""The trials of a search, which one is chosen, and the loop that makes them.

Optuna proposes rounds of cells, a launcher runs them, and the chosen one is judged on test.
"""

import fcntl
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError, did_you_mean
from bench.progress import say
from bench.records.read import Estimate, Run, read_run
from bench.search.definition import Search, check_cell
from bench.store.files import claim
from bench.sweeps.cells import Cell, State, is_done, number, state

if TYPE_CHECKING:
    from optuna import Study

LOOKS = "looks at test"  # attribute of a study: which runs were chosen for test, and after how many trials
LOCK = "search.lock"
Launch = Callable[[Sequence[Sequence[str]]], None]  # runs cells, each given by its overrides; returns when they ended


@dataclass(frozen=True)
class Trial:
    """One trial: proposed, running, failed, or done with its two objectives."""

    number: int
    params: dict[str, Any]
    cell: Cell  # on validation
    failed: bool
    reason: str  # of a failure
    values: tuple[float, float] | None  # maximize, minimize
    best: bool  # on the Pareto front

    @property
    def open(self) -> bool:
        return self.values is None and not self.failed

    @functools.cached_property
    def state(self) -> State:
        cell = state(self.cell)
        if self.failed:
            why = cell.detail if cell.kind == "failed" else "its objectives are undefined or it left no result"
            return State("failed", self.reason or why)
        return State("done", seconds=cell.seconds) if self.values is not None else cell


@dataclass(frozen=True, eq=False)
class Progress:
    """The progress of a search: its trials in the order of proposal, and the choice among them."""

    search: Search
    trials: Sequence[Trial]
    looks: Sequence[dict[str, Any]]  # at test prompts, see LOOKS

    @property
    def to_propose(self) -> int:
        return max(self.search.settings.trials - len(self.trials), 0)

    @property
    def eligible(self) -> list[Trial]:
        """Trials with objectives, whose `minimize` is within the limit."""
        limit = self.search.settings.limit
        return [trial for trial in self.trials if trial.values and (limit is None or trial.values[1] <= limit)]

    @functools.cached_property
    def chosen(self) -> Trial | None:
        """The eligible trial with the highest `maximize`; among equals, that with the lowest `minimize`."""

        def preference(trial: Trial) -> tuple[float, float]:
            assert trial.values is not None
            return trial.values[0], -trial.values[1]

        return max(self.eligible, key=preference, default=None)

    def test_cells(self) -> dict[str, Cell]:
        assert self.chosen is not None
        search = self.search
        return {
            "chosen": search.cell(self.chosen.params, "test"),
            "without a search": search.cell(search.baseline, "test"),
        }


def progress(search: Search, study: "Study | None") -> Progress:
    """The progress of the search by its study; None where it has not begun."""
    from optuna.trial import TrialState

    if study is None:
        return Progress(search, [], [])
    best = {trial.number for trial in study.best_trials}
    trials = [
        Trial(
            number=trial.number,
            params=trial.params,
            cell=search.cell(trial.params),
            failed=trial.state == TrialState.FAIL,
            reason=trial.user_attrs.get("reason", ""),
            values=(trial.values[0], trial.values[1]) if trial.state == TrialState.COMPLETE else None,
            best=trial.number in best,
        )
        for trial in study.trials
    ]
    return Progress(search, trials, study.user_attrs.get(LOOKS, []))


def objectives(search: Search, run: Run) -> tuple[float, float]:
    """`maximize` and `minimize` of a finished run, NaN where undefined. BenchError where its records lack them."""
    for role in ("maximize", "minimize"):
        name = getattr(search.settings, role)
        if name not in run.metrics or isinstance(run.metrics[name], str):
            near = did_you_mean(name, run.metrics) or "."
            raise BenchError(f"hydra.sweeper.{role}={name} is not a number in {run.folder / 'metrics.json'}{near}")
        if role == "maximize" and f"{name}_low" not in run.metrics:
            raise BenchError(f"hydra.sweeper.maximize={name} has no value per prompt; tuned/pass@1 has one.")
    return estimate(run, search.settings.maximize).value, estimate(run, search.settings.minimize).value


def estimate(run: Run, name: str) -> Estimate:
    """A number of metrics.json with its interval; NaN for what is undefined or missing."""
    numbers = (run.metrics.get(name + end) for end in ("", "_low", "_high"))
    return Estimate(*(float("nan") if value is None else float(value) for value in numbers))


def per_prompt(run: Run, name: str) -> np.ndarray:
    """[M]: the values behind a mean of metrics.json."""
    from bench.evaluation.measures import Measure
    from bench.records.metrics import metric_name

    key = next(key for key in run.curves if metric_name(Measure(*key)) == name)
    return run.per_prompt(*key)


def run(search: Search, launch: Launch) -> None:
    """Run the missing trials in rounds; then judge the chosen cell and the baseline on test prompts."""
    from optuna.trial import TrialState

    search.root.mkdir(parents=True, exist_ok=True)
    with _alone(search):
        study = search.study(create=True)
        assert study is not None
        # trials that an earlier process left open go first
        while trials := [trial for trial in progress(search, study).trials if trial.open] or _propose(search, study):
            _run_cells(search, [(trial.params, "validation") for trial in trials], launch)
            for trial in trials:
                done = is_done(trial.cell.folder)
                values = objectives(search, read_run(trial.cell.folder)) if done else (math.nan,)
                if all(map(math.isfinite, values)):
                    study.tell(trial.number, list(values))
                else:
                    study.tell(trial.number, state=TrialState.FAIL)
        _judge(search, study, launch)


def _propose(search: Search, study: "Study") -> list[Trial]:
    """The next round, empty where none is left. The very first trial is the baseline, where the space contains it."""
    from optuna.trial import TrialState

    from bench.search.space import proposable

    trials: list[Trial] = []
    while not trials and (before := len(study.trials)) < search.settings.trials:
        study.sampler = search.sampler(before)
        if before == 0 and search.baseline_is_inside:
            study.enqueue_trial(proposable(search.space, search.baseline))
        for _ in range(min(search.settings.at_once, search.settings.trials - before)):
            trial = study.ask({**search.space})
            try:
                check_cell(search.cell(trial.params))
            except BenchError as error:  # each value is possible, but not all of them together
                trial.set_user_attr("reason", str(error))
                study.tell(trial, state=TrialState.FAIL)
                say(f"{' '.join(search.values(trial.params))}: FAILED: {error}")
        trials = [trial for trial in progress(search, study).trials[before:] if not trial.failed]
    return trials


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
