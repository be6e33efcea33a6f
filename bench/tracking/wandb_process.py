"""The process that logs one run to W&B, started by bench.tracking.to_wandb. No other module imports wandb.

It is a process of its own for two reasons: wandb waits without limit in places (log_artifact, when a server stops
answering), and wandb keeps one background process for all runs of a process, so that one run's failure would reach the
next. This process can be killed, and ends itself when its time is up.
"""

import contextlib
import fcntl
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import first_line
from bench.progress import AXIS
from bench.store import write_durably
from bench.store.reading import matches, read_json
from bench.tracking.mirror import FinishedRun, Row, frontier, read

RECORD = "tracking.json"
LIVE = "live"  # in place of the content's hash, while a run goes on
SHAPE: dict[str, Any] = {"content": str, "mode": str, "path": str | None, "url": str | None, "start": int | None}
STARTUP = 60  # seconds for the start of Python and wandb, and for reading and writing files, on a busy machine
OFFLINE = 600  # seconds: no server can be slow, only a disk


@dataclass(frozen=True)
class Attempt:
    """The last attempt to log a run, remembered in the run's folder, so that nothing is logged twice."""

    content: str  # a hash, see FinishedRun.content
    mode: str  # online or offline
    path: str | None  # the folder that wandb wrote; None during the attempt, and where it was killed
    url: str | None  # on the server
    start: int | None  # rows of history on the server before this content's first; None where no server was reached

    def write(self, folder: Path) -> None:
        write_durably(folder / RECORD, json.dumps(asdict(self), indent=1))


def last_attempt(folder: Path) -> Attempt | None:
    """Read the last attempt to log the run in `folder`. A damaged record counts as none."""
    try:
        content = read_json(folder / RECORD)
        return Attempt(**content) if matches(content, SHAPE) else None
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Let one process at a time log a run (OSError where it doesn't `wait`). Yields the lock's file descriptor."""
    # neither through a link, which would empty another file, nor waiting for a pipe's other end
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(folder / f".{RECORD}.lock", flags, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        for left in folder.glob(f".{RECORD}.*"):  # of a process that was killed
            if left.suffix != ".lock":
                left.unlink(missing_ok=True)
        yield file
    finally:
        os.close(file)


@dataclass(frozen=True)
class LoggingJob:
    """What to log, and where."""

    run_folder: str
    root: str  # wandb writes into root/wandb
    place: dict[str, Any]  # arguments of wandb.init: project, entity, id, name, group, job_type, tags
    mode: str  # online or offline
    timeout: float  # seconds
    reference_above: float  # bytes
    content: str = LIVE  # a hash, see FinishedRun.content
    start: int | None = None  # rows of history on the server before this content's first; None where none was sent yet
    config: dict[str, Any] | None = None  # of a run that goes on: log the rows that standard input gives, nothing else

    @property
    def limit(self) -> float:
        """Seconds for the whole job. It waits for the server at the start, for the artifacts, and at the end."""
        return STARTUP + 3 * self.timeout if self.mode == "online" else OFFLINE


def main() -> None:
    """Read a job from standard input, do it, and print {"path", "url", "start"} or {"problem"} as the last line."""
    job = LoggingJob(**json.loads(sys.stdin.readline()))
    if job.config is None:
        signal.alarm(math.ceil(job.limit) + 5)  # ends this process where its parent is gone
    try:
        answer: dict[str, Any] = log(job) if job.config is None else show(job, job.config, sys.stdin)
        status = 0
    except Exception as error:
        answer, status = {"problem": first_line(error)}, 1
    print("\n" + json.dumps(answer), flush=True)
    os._exit(status)  # at a normal exit wandb would wait once more for what is done, or has failed


def log(job: LoggingJob) -> dict[str, Any]:
    """Open a W&B run, log everything, close it. Raises whatever W&B raises."""
    import wandb

    finished = read(Path(job.run_folder))
    run, start, skip = _opened(job)
    path, online = run.settings.sync_dir, job.mode == "online"
    os.environ.setdefault("WANDB_DATA_DIR", path)  # files that wait for upload stay with their run
    run.config.update(finished.config, allow_val_change=True)
    _log_series(run, finished, skip)
    figures = {name: wandb.Image(str(figure)) for name, figure in finished.figures.items()}
    tables = {name: _table(rows) for name, rows in finished.tables.items()}
    run.log({**finished.metrics, **tables, **figures, **_charts(finished.curves)})
    artifacts = _log_artifacts(run, finished, job.reference_above)
    if online:  # without waiting, nobody would notice an artifact that the server refuses
        end = time.monotonic() + job.timeout
        for artifact in artifacts:
            artifact.wait(timeout=max(1, math.ceil(end - time.monotonic())))
    run.finish()
    return {"path": path, "url": run.url if online else None, "start": start}


def show(job: LoggingJob, config: Row, rows: Iterable[str]) -> dict[str, Any]:
    """Log where a run is, row by row as they come, until its process closes its end or ends."""
    run, start, skip = _opened(job)
    run.config.update(config, allow_val_change=True)
    run.define_metric(AXIS, hidden=True, summary="none")
    run.define_metric("progress/*", step_metric=AXIS, summary="none")
    for row in itertools.islice(rows, skip, None):
        run.log(json.loads(row))
    signal.alarm(math.ceil(job.limit))
    run.finish()
    return {"path": run.settings.sync_dir, "url": None, "start": start}


def _opened(job: LoggingJob) -> tuple[Any, int | None, int]:
    """The W&B run; rows of its history before this content's first; rows of this content that the server has."""
    import wandb

    run = wandb.init(
        **job.place,
        mode=job.mode,  # type: ignore[arg-type]
        resume=os.environ.get("WANDB_RESUME") or "allow",  # type: ignore[arg-type]
        dir=job.root,
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,  # the work is done when this starts
            init_timeout=job.timeout,
            finish_timeout=job.timeout,
            finish_timeout_raises=True,
            x_graphql_retry_max=2,
            x_graphql_retry_wait_max_seconds=2,
            x_graphql_timeout_seconds=min(job.timeout, 10),
            x_file_stream_retry_max=2,
            x_file_transfer_retry_max=2,
        ),
    )
    if job.mode != "online":
        return run, job.start, 0
    start = run.starting_step if job.start is None else job.start
    Attempt(job.content, job.mode, None, None, start).write(Path(job.run_folder))
    return run, start, run.starting_step - start


def _log_series(run: Any, finished: FinishedRun, skip: int) -> None:
    """Log each series so that W&B plots it against its axis. skip: rows that the server has already."""
    for axis, rows in finished.series.items():
        run.define_metric(axis, hidden=True, summary="none")
        for name in sorted({name.partition("/")[0] for row in rows for name in row if name != axis}):
            run.define_metric(f"{name}/*", step_metric=axis, summary="none")
        for row in rows[skip:]:
            run.log(row)
        skip = max(0, skip - len(rows))


def _charts(curves: list[Row]) -> Row:
    """Accuracy of every method in one chart, by n and by the KL from the base."""
    import wandb

    by_n = [row for row in curves if row["metric"] == "accuracy"]
    charts = {}
    for axis, value, rows in (("n", "value", by_n), ("kl", "accuracy", frontier(curves))):
        table = _table([row | {"series": f"{row['policy']} {row['method']}"} for row in rows])
        charts[f"charts/accuracy_by_{axis}"] = wandb.plot.line(table, axis, value, "series", f"accuracy by {axis}")
    return charts


def _log_artifacts(run: Any, finished: FinishedRun, reference_above: float) -> list[Any]:
    """Log the chain of artifacts and every file of the run; returns what was sent."""
    import wandb

    def add(artifact: Any, path: Path, name: str, *, mutable: bool = False) -> None:
        """Add a file from where it lies. A mutable file, which a later run may rewrite, is copied."""
        if path.stat().st_size > reference_above:
            artifact.add_reference(path.as_uri(), name=name, checksum=False)  # the artifact is named by its content
        else:
            artifact.add_file(str(path), name=name, policy="mutable" if mutable else "immutable", skip_cache=True)

    sent = []
    for link in finished.chain:
        metadata = {name: link[name] for name in ("role", "parents", "settings")}
        artifact = wandb.Artifact(link["name"], type=link["type"], metadata=metadata)
        for name, path in link["files"].items():
            add(artifact, finished.folder / path, name)
        if link["reused"]:
            # what use_artifact does, which refuses offline and waits without limit online
            sent.append(run._log_artifact(artifact, is_user_created=True, use_after_commit=True))
        else:
            sent.append(run.log_artifact(artifact))
    ancestors = [f"{entry['stage']}/{entry['key']}" for entry in finished.lineage]
    files = wandb.Artifact(
        f"run-{run.id}",
        type="run-files",
        description="Everything the run left on its own disk.",
        metadata={"ancestors": ancestors, "chain": [link["name"] for link in finished.chain]},
    )
    for path in finished.files:
        add(files, path, path.name, mutable=path.suffix == ".json")
    return [*sent, run.log_artifact(files)]


def _table(rows: list[Row]) -> Any:
    import wandb

    columns: list[Any] = list(rows[0]) if rows else []
    return wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])


if __name__ == "__main__":
    main()
