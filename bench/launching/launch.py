"""Turn the cells of a sweep into jobs of a launcher, and run lost jobs again.

Hydra's sweepers call a launcher with the settings of each cell. Our launchers send each cell, composed and resolved, to
a process that calls `runner.run_cell`. A cell that is done is not sent. A cell whose process dies runs again elsewhere
and goes on from the store. The folder of each cell records its state, wherever it ran.
"""

import abc
import contextlib
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bench.config.compose import LAUNCHER_PLUGINS, as_given, composing, understood
from bench.config.keys import run_folder
from bench.config.nodes import refuse
from bench.config.rules import rules
from bench.errors import BenchError
from bench.generation.ray_cluster import probes
from bench.progress import Bar, counted, relayed, say, told
from bench.store.files import FAILURE
from bench.sweeps.cells import is_done, number, numbers


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
        """Raise BenchError where no cell of this configuration could run; called before `open`, too."""

    @abc.abstractmethod
    def open(self, cfg: DictConfig, count: int) -> None:
        """Get ready for so many jobs."""

    @abc.abstractmethod
    def start(self, waiting: deque[CellJob], running: dict[Any, CellJob]) -> None:
        """Move as many of the waiting jobs as there is room for to those that run, and start them.

        running: each job that runs, by the handle under which `ended` reports it. A job is there as soon as it has
        started: an interrupt in the midst of this must find it.
        """

    @abc.abstractmethod
    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        """Wait for some of the running jobs; return those that have ended, or none after a while without news."""

    @abc.abstractmethod
    def close(self, handles: list[Any]) -> None:
        """Stop what still runs, and the processes that this backend has started."""


def run_all(jobs: Sequence[CellJob], backend: Backend, cfg: DictConfig) -> None:
    """Run every job, one whose process is lost again. BenchError where a node sees no store or outputs."""
    waiting, losses = deque(jobs), Counter[Path]()
    running: dict[Any, CellJob] = {}
    backend.check(cfg)
    backend.open(cfg, len(jobs))
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: backend.close(list(running)))
        stack.enter_context(told())
        finished = stack.enter_context(counted(Bar("sweep", len(jobs), "cells")))
        while waiting or running:
            backend.start(waiting, running)
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
    (job.folder / FAILURE).write_text(sentence)
    say(f"{job.label}: FAILED: {sentence} ({job.folder / FAILURE})")
    return False


def check(overrides: Sequence[str], conf: str, *, devices: bool = True) -> None:
    """BenchError where the launcher of these settings can't launch: a value or, if `devices`, this machine is unfit."""
    concerned = re.compile(r"\+*(sweep=|hydra/launcher=|hydra\.launcher\.|hydra\.searchpath=|threads=\d+$)")
    if not (chosen := [override for override in overrides if concerned.match(override)]):
        return  # Hydra's own
    with understood(chosen), composing(conf):
        cfg = compose("config", chosen, return_hydra_config=True)
    settings: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    target = settings.pop("_target_")
    if not target.startswith(f"{LAUNCHER_PLUGINS}."):
        return
    launcher = get_object(target)
    for name, rule in rules(launcher).items():
        if name in settings:
            refuse(f"hydra.launcher.{name}", settings[name], rule)
    if devices:
        launcher(**settings).check(cfg)


def launch(
    config: DictConfig, context: HydraContext, overrides: Sequence[Sequence[str]], first: int, backend: Backend
) -> list[JobReturn]:
    """Run cells for one of Hydra's sweepers; return their configurations. first: the number of the first cell."""
    setup_globals()
    cells: list[tuple[str, DictConfig]] = []
    for position, arguments in enumerate(overrides, first):
        cfg = context.config_loader.load_sweep_config(config, list(arguments))
        label = as_given(cfg.hydra.job.override_dirname)
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        cells.append((label or f"cell {position}", cfg))
    distinct = {run_folder(cfg): (label, cfg) for label, cfg in cells}  # two labels of one configuration are one run
    missing = []
    for folder, (label, cfg) in distinct.items():
        if is_done(folder):
            say(f"{label}: done before")
        else:
            missing.append((label, cfg))
    if not all(folder in numbers for folder in distinct):
        number(list(distinct))
    if missing:
        with prepared(missing) as jobs:
            run_all(jobs, backend, config)
    return [
        JobReturn(overrides=arguments, cfg=cfg, status=JobStatus.COMPLETED)
        for arguments, (_, cfg) in zip(overrides, cells, strict=True)
    ]


@contextlib.contextmanager
def prepared(cells: Sequence[tuple[str, DictConfig]]) -> Iterator[list[CellJob]]:
    """Yield the cells (label, configuration) as jobs, in the order in which to start them.

    While the context lasts, each store and outputs folder holds a file by which a node tells that it sees the folder.
    """
    places = {Path(cfg.store, ".locks").absolute() for _, cfg in cells}
    places |= {Path(cfg.outputs, ".multirun").absolute() for _, cfg in cells}
    with probes(*sorted(places)) as needed:
        jobs = []
        for label, cfg in cells:
            settings: Any = OmegaConf.to_container(cfg, resolve=True)
            folder = run_folder(cfg)
            jobs.append(CellJob(label, folder, settings, Path.cwd(), needed, number=numbers.get(folder, "")))
        yield _leaders_first(jobs)


def _leaders_first(jobs: Sequence[CellJob]) -> list[CellJob]:
    """Put one job of each pool before the second of any: two jobs that draw one pool mostly wait for each other."""
    pools: set[str] = set()
    leaders: list[CellJob] = []
    others: list[CellJob] = []
    for job in jobs:
        pool = repr([job.settings[name] for name in ("task", "policy", "generation", "seed")])
        (others if pool in pools else leaders).append(job)
        pools.add(pool)
    return [*leaders, *others]
