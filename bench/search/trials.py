"""The trials of a search, what became of each, and which one is chosen."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError, did_you_mean
from bench.records.read import Estimate, Run
from bench.search.definition import Search
from bench.sweeps.cells import Cell, State, state

if TYPE_CHECKING:
    from optuna import Study

LOOKS = "looks at test"  # attribute of a study: which runs were chosen for test, and after how many trials


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
        """Whether the study still waits for its result."""
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
        """The two cells that are judged on test prompts."""
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
