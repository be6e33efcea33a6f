"""Cells as jobs of other processes, and the loop that runs them, again where a process is lost."""

import abc
import contextlib
import os
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.errors import BenchError
from bench.progress import Bar, counted, relayed, say, told
from bench.sweeps.cells import is_done, numbers


@dataclass(frozen=True)
class Outcome:
    """The end of a job; the records of its cell lie in the cell's folder."""

    lines: tuple[str, ...] = ()  # that it said and the reader has not seen yet
    complaint: str | None = None  # why no job can run on its node
    loss: str | None = None  # how its process ended, where that was not at the end of the job


@dataclass(frozen=True)
class CellJob:
    """One cell, as any process on any node can run it."""

    label: str
    folder: Path  # of its run
    settings: dict[str, Any]  # its resolved configuration
    directory: Path  # its relative paths start here
    needed: tuple[Path, ...]  # every node that shares the store and the outputs sees these
    number: str = field(default="", kw_only=True)  # what lines begin with, e.g. "cell 3 of 16: "

    def perform(self) -> Outcome:
        """Run the cell in this process, which also prints what the cell says to its own standard error."""
        unseen = next((path for path in (self.directory, *self.needed) if not path.exists()), None)
        if unseen is not None:
            return Outcome(
                complaint=f"The node {os.uname().nodename} does not see {unseen}; a sweep on several nodes needs its "
                "working directory, the store and the outputs under the same path on all of them."
            )
        os.chdir(self.directory)
        from bench.launching.runner import run_cell

        numbers[self.folder] = self.number

        lines: list[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            print(line, file=sys.stderr, flush=True)

        with relayed(keep):
            run_cell(OmegaConf.create(self.settings), self.label)
        return Outcome(tuple(lines))


class Backend(abc.ABC):
    """A place where jobs run: it starts them in other processes and reports which have ended."""

    retries: int  # times that a job whose process was lost is run again

    @abc.abstractmethod
    def check(self, cfg: DictConfig) -> None:
        """Raise BenchError where no cell of this configuration could run."""

    @abc.abstractmethod
    def open(self, cfg: DictConfig, count: int) -> None:
        """Get ready for so many jobs."""

    @abc.abstractmethod
    def start(self, waiting: deque[CellJob], running: int) -> dict[Any, CellJob]:
        """Start as many of the waiting jobs as there is room for, beside those that run, and take them from the queue.

        Return each started job by the handle under which `ended` reports it.
        """

    @abc.abstractmethod
    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        """Wait for some of the running jobs; return those that have ended, or none after a while without news."""

    @abc.abstractmethod
    def close(self, handles: list[Any]) -> None:
        """Stop what still runs, and the processes that this backend has started."""


def run_all(jobs: Sequence[CellJob], backend: Backend, cfg: DictConfig) -> None:
    """Run every job; one whose process is lost runs again, and the others go on.

    BenchError where a node does not see the store or the outputs.
    """
    waiting, losses = deque(jobs), Counter[Path]()
    running: dict[Any, CellJob] = {}
    backend.open(cfg, len(jobs))
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: backend.close(list(running)))
        stack.enter_context(told())
        finished = stack.enter_context(counted(Bar("sweep", len(jobs), "cells")))
        while waiting or running:
            running |= backend.start(waiting, len(running))
            for handle, outcome in backend.ended(list(running)):
                job = running.pop(handle)
                if outcome.complaint is not None:
                    raise BenchError(outcome.complaint)
                for line in outcome.lines:
                    say(line)
                if outcome.loss is not None:
                    losses[job.folder] += 1
                    if _runs_again(job, outcome.loss, losses[job.folder], backend.retries):
                        waiting.append(job)
                        continue
                finished.advance()


def _runs_again(job: CellJob, loss: str, losses: int, retries: int) -> bool:
    """Return whether a job whose process was lost for the `losses`-th time runs again; if not, record its failure."""
    if is_done(job.folder):  # the process was lost after the last of its work
        return False
    if losses <= retries:
        say(f"{job.label}: its process was lost ({loss}); run again")
        return True
    sentence = f"{losses} of its processes were lost, more than hydra.launcher.retries={retries} allows; "
    sentence += f"the last: {loss}"
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "error.txt").write_text(sentence)
    say(f"{job.label}: FAILED: {sentence} ({job.folder / 'error.txt'})")
    return False
