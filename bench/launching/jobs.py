"""A sweep's cells on their way to other processes: what is sent, what runs there, what is done where a process dies."""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.config.keys import run_folder
from bench.progress import relayed, say
from bench.sweeps.cells import is_done


@dataclass(frozen=True)
class Outcome:
    """What came back of a cell; its records lie in its folder."""

    lines: tuple[str, ...] = ()  # what it told
    complaint: str | None = None  # why no cell can be run where it was


@dataclass(frozen=True)
class Job:
    """One cell, as any process on any node can run it."""

    label: str
    folder: Path  # of its run
    settings: dict[str, Any]  # its resolved configuration
    directory: Path  # where its relative paths begin
    needed: tuple[Path, ...]  # seen by every node that shares the store and the outputs

    def perform(self) -> Outcome:
        """Run the cell in this process, whose standard error hears what it tells at once."""
        unseen = next((path for path in (self.directory, *self.needed) if not path.exists()), None)
        if unseen is not None:
            return Outcome(
                complaint=f"The node {os.uname().nodename} does not see {unseen}; a sweep on several nodes needs its "
                "working directory, the store and the outputs under the same path on all of them."
            )
        os.chdir(self.directory)
        from bench.launching.runner import run_cell

        lines: list[str] = []

        def hear(line: str) -> None:
            lines.append(line)
            print(line, file=sys.stderr, flush=True)

        with relayed(hear):
            run_cell(OmegaConf.create(self.settings), self.label)
        return Outcome(tuple(lines))


@contextlib.contextmanager
def prepared(cells: Sequence[tuple[str, DictConfig]]) -> Iterator[list[Job]]:
    """The cells (label, configuration) as jobs, in the order in which to start them."""
    places = {Path(cfg.store, ".locks").absolute() for _, cfg in cells}
    places |= {Path(cfg.outputs, ".multirun").absolute() for _, cfg in cells}
    probes = tuple(place / f".seen-{uuid.uuid4().hex}" for place in sorted(places))
    jobs = []
    for label, cfg in cells:
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        jobs.append(Job(label, run_folder(cfg), settings, Path.cwd(), probes))
    try:
        for probe in probes:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
        yield leaders_first(jobs)
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)


def leaders_first(jobs: Sequence[Job]) -> list[Job]:
    """One job of each pool before the second of any: two that draw one pool mostly wait for each other."""
    seen: set[str] = set()
    leaders: list[Job] = []
    others: list[Job] = []
    for job in jobs:
        pool = repr([job.settings[name] for name in ("task", "policy", "generation", "seed")])
        (others if pool in seen else leaders).append(job)
        seen.add(pool)
    return [*leaders, *others]


def again(job: Job, *, deaths: int, retries: int, reason: str) -> bool:
    """Whether a cell whose process was lost for the `deaths`th time is run again; if not, it is recorded as failed."""
    if is_done(job.folder):  # lost after the last of its work
        return False
    if deaths <= retries:
        say(f"{job.label}: its process was lost ({reason}); run again")
        return True
    sentence = f"{deaths} of its processes were lost, more than hydra.launcher.retries={retries} allows; "
    sentence += f"the last: {reason}"
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "error.txt").write_text(sentence)
    say(f"{job.label}: FAILED: {sentence} ({job.folder / 'error.txt'})")
    return False
