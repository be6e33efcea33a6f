"""What the trials of a search came to: their objectives, the one that is chosen, and what it is worth on test."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.evaluation.summary import Cell as Measured
from bench.evaluation.summary import metric_name
from bench.records.read import METRICS, Estimate, Run, read_metrics
from bench.search import Search
from bench.sweeps.cells import Cell, State, state

if TYPE_CHECKING:
    from optuna import Study

LOOKS = "looks at test"  # of a study: which runs were chosen for test, and after how many trials


@dataclass(frozen=True)
class Tried:
    """One trial: proposed, under way, failed, or with its two objectives."""

    number: int
    params: dict[str, Any]
    cell: Cell  # on validation
    failed: bool
    reason: str  # of a failure
    values: tuple[float, float] | None  # maximize, minimize
    best: bool  # no other trial is better in one objective and as good in the other

    @property
    def state(self) -> State:
        if self.failed:
            found = state(self.cell)
            why = found.detail if found.kind == "failed" else "its objectives are undefined or it left no result"
            return State("failed", self.reason or why)
        found = state(self.cell)
        return State("done", seconds=found.seconds) if self.values is not None else found


def tried(search: Search, study: "Study") -> list[Tried]:
    """Every trial in the order of proposal."""
    from optuna.trial import TrialState

    best = {trial.number for trial in study.best_trials}
    return [
        Tried(
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


def eligible(search: Search, trials: Sequence[Tried]) -> list[Tried]:
    """Those with objectives, and `minimize` within the limit."""
    limit = search.wanted.limit
    return [trial for trial in trials if trial.values is not None and (limit is None or trial.values[1] <= limit)]


def chosen_of(search: Search, trials: Sequence[Tried]) -> Tried | None:
    """The highest `maximize` within the limit on `minimize`, of equals the lowest `minimize`; None where none is."""
    return max(eligible(search, trials), key=_preference, default=None)


def _preference(trial: Tried) -> tuple[float, float]:
    assert trial.values is not None
    return trial.values[0], -trial.values[1]


def objectives(search: Search, cell: Cell) -> tuple[float, float]:
    """`maximize` and `minimize` of a finished cell, NaN where undefined; BenchError where its records lack them."""
    metrics = read_metrics(cell.folder)
    found = []
    for role in ("maximize", "minimize"):
        name = getattr(search.wanted, role)
        if name not in metrics or isinstance(metrics[name], str):
            close = difflib.get_close_matches(name, metrics, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise BenchError(f"hydra.sweeper.{role}={name} is not a number in {cell.folder / METRICS}{hint}")
        if role == "maximize" and f"{name}_low" not in metrics:
            raise BenchError(f"hydra.sweeper.maximize={name} has no value a prompt, as tuned/pass@1 has.")
        found.append(float("nan") if metrics[name] is None else float(metrics[name]))
    return found[0], found[1]


def per_prompt(run: Run, name: str) -> np.ndarray:
    """[M]: the values behind a mean of metrics.json."""
    cell = next(key for key in run.curves if metric_name(Measured(*key)) == name)
    return run.per_prompt(*cell)


def estimate(run: Run, name: str) -> Estimate:
    """A number of metrics.json with its interval, where it has one."""
    nan = float("nan")
    return Estimate(*(run.metrics.get(name + end, nan) for end in ("", "_low", "_high")))
