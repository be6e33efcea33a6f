"""The process that talks to W&B for one run, started by bench.tracking.to_wandb: the only module that imports wandb.

A process of its own, because wandb waits without limit in places (log_artifact asks a server that no longer answers)
and keeps one background process for all runs of a process, so that what befalls one befalls the next. This one can be
ended, and ends itself when its time is up.
"""

import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.tracking import logged
from bench.tracking.logged import Logged
from bench.tracking.mirror import Finished, Row, first_line, frontier, read, send

STARTUP = 60  # seconds that Python and wandb may take to start, and to read and write files, on a busy machine
OFFLINE = 600  # seconds: there is no server that could be slow, only a disk


@dataclass(frozen=True)
class Task:
    """What to log, and where."""

    run_folder: str
    root: str  # wandb writes into root/wandb
    place: dict[str, Any]  # arguments of wandb.init: project, entity, id, name, group, job_type, tags
    mode: str  # online or offline
    content: str  # a hash of what is logged, see bench.tracking.logged
    start: int | None  # rows of history that the server had before this content's first; None where it begins now
    timeout: float  # seconds
    reference_above: float  # bytes

    @property
    def limit(self) -> float:
        """Seconds for everything: the server is waited for at the start, for the artifacts, and at the end."""
        return STARTUP + 3 * self.timeout if self.mode == "online" else OFFLINE

    def json(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    """Read a task on standard input, do it, and print {"path", "url", "start"}, or {"problem"}, as the last line."""
    task = Task(**json.load(sys.stdin))
    signal.alarm(math.ceil(task.limit) + 5)  # ends this process, should the one that waits for it be gone
    try:
        answer: dict[str, Any] = log(task)
        status = 0
    except Exception as error:
        answer, status = {"problem": first_line(error)}, 1
    print("\n" + json.dumps(answer), flush=True)
    os._exit(status)  # what wandb would still wait for at exit is done, or has failed


def log(task: Task) -> dict[str, Any]:
    """Open a W&B run, log everything, close it. Raises whatever W&B raises."""
    import wandb

    finished = read(Path(task.run_folder))
    run = wandb.init(
        **task.place,
        mode=task.mode,  # type: ignore[arg-type]
        resume=os.environ.get("WANDB_RESUME") or "allow",  # type: ignore[arg-type]
        dir=task.root,
        settings=_settings(task.timeout),
    )
    path, online = run.settings.sync_dir, task.mode == "online"
    os.environ.setdefault("WANDB_DATA_DIR", path)  # what waits for upload stays with its run
    start, skip = task.start, 0
    if online:
        start = run.starting_step if start is None else start
        skip = run.starting_step - start
        Logged(task.content, task.mode, None, None, start).write(finished.folder)
    told = WandbRun(run, skip, task.reference_above)
    send(finished, told)
    told.charts(finished.curves)
    told.close()
    told.artifacts(finished)
    if online:
        told.wait(task.timeout)
    run.finish()
    return {"path": path, "url": run.url if online else None, "start": start}


class WandbRun:
    """An open W&B run, as bench.tracking.mirror speaks to it. Tables and figures go with the metrics in one row.

    skip: the first rows of history that the server has already.
    """

    def __init__(self, run: Any, skip: int, reference_above: float) -> None:
        self.run, self.skip, self.reference_above = run, skip, reference_above
        self.last: Row = {}
        self.sent: list[Any] = []  # artifacts

    def config(self, settings: Row) -> None:
        self.run.config.update(settings, allow_val_change=True)

    def series(self, axis: str, rows: list[Row]) -> None:
        """Series plot themselves against their axis."""
        names = sorted({name.partition("/")[0] for row in rows for name in row if name != axis})
        self.run.define_metric(axis, hidden=True, summary="none")
        for name in names:
            self.run.define_metric(f"{name}/*", step_metric=axis, summary="none")
        for row in rows:
            if self.skip > 0:
                self.skip -= 1
            else:
                self.run.log(row)

    def metrics(self, values: Row) -> None:
        self.last |= values

    def table(self, name: str, rows: list[Row]) -> None:
        self.last[name] = _table(rows)

    def figure(self, name: str, path: Path) -> None:
        import wandb

        self.last[name] = wandb.Image(str(path))

    def charts(self, curves: list[Row]) -> None:
        """Accuracy of every method in one chart, against n and against the KL from the base."""
        import wandb

        by_n = [row | {"series": _series(row)} for row in curves if row["metric"] == "accuracy"]
        by_kl = [row | {"series": _series(row)} for row in frontier(curves)]
        for axis, value, rows in (("n", "value", by_n), ("kl", "accuracy", by_kl)):
            title = f"accuracy by {axis}"
            self.last[f"charts/accuracy_by_{axis}"] = wandb.plot.line(_table(rows), axis, value, "series", title)

    def artifacts(self, finished: Finished) -> None:
        """The chain, and every file of the run."""
        import wandb

        for link in finished.chain:
            made_by = {name: link[name] for name in ("role", "parents", "settings")}
            artifact = wandb.Artifact(link["name"], type=link["type"], metadata=made_by)
            for name, path in link["files"].items():
                self._add(artifact, finished.folder / path, name)
            if link["reused"]:
                # what use_artifact does; that refuses offline, and online waits without limit
                self.sent.append(self.run._log_artifact(artifact, is_user_created=True, use_after_commit=True))
            else:
                self.sent.append(self.run.log_artifact(artifact))
        ancestors = [f"{entry['stage']}/{entry['key']}" for entry in finished.lineage]
        chain = [link["name"] for link in finished.chain]
        files = wandb.Artifact(
            f"run-{self.run.id}",
            type="run-files",
            description="Everything the run left on its own disk.",
            metadata={"ancestors": ancestors, "chain": chain},
        )
        for path in logged.files(finished.folder):
            self._add(files, path, path.name, mutable=path.suffix == ".json")
        self.sent.append(self.run.log_artifact(files))

    def close(self) -> None:
        self.run.log(self.last)

    def wait(self, timeout: float) -> None:
        """Until the server has every artifact; raises what W&B raises, after `timeout` seconds at the latest.

        Without this an artifact that the server does not take goes unnoticed.
        """
        end = time.monotonic() + timeout
        for artifact in self.sent:
            artifact.wait(timeout=max(1, math.ceil(end - time.monotonic())))

    def _add(self, artifact: Any, path: Path, name: str, *, mutable: bool = False) -> None:
        """Put a file into an artifact from where it lies; one that a later run may rewrite is copied."""
        if path.stat().st_size > self.reference_above:
            artifact.add_reference(path.as_uri(), name=name, checksum=False)  # the artifact is named by its content
        else:
            artifact.add_file(str(path), name=name, policy="mutable" if mutable else "immutable", skip_cache=True)


def _settings(timeout: float) -> Any:
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,  # the work is done when this starts
        init_timeout=timeout,
        finish_timeout=timeout,
        finish_timeout_raises=True,
        x_graphql_retry_max=2,
        x_graphql_retry_wait_max_seconds=2,
        x_graphql_timeout_seconds=min(timeout, 10),
        x_file_stream_retry_max=2,
        x_file_transfer_retry_max=2,
    )


def _series(row: Row) -> str:
    return f"{row['policy']} {row['method']}"


def _table(rows: list[Row]) -> Any:
    import wandb

    columns: list[Any] = list(rows[0]) if rows else []
    return wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])


if __name__ == "__main__":
    main()
