"""Mirror a run to Weights & Biases: offline unless WANDB_MODE, the setting, or a W&B sweep agent say otherwise.

An experiment is one W&B run. Its stages are no runs: users filter, group and plot whole experiments, and many
experiments share a stage. Stages are artifacts of type pool, rewards, selection and policy, named by their content,
with their parents in the metadata. The run logs the artifacts that it made and uses those that the store had, so that
W&B's lineage graph connects runs that share artifacts.

The run folder remembers what was logged (tracking.json). A run with unchanged results is not logged again. A run with
changed results continues under the same id: config, summary, tables, charts and artifacts show the new values, and the
history appends the new points. Rows that a killed process had sent are not sent twice.
"""

import contextlib
import glob
import inspect
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from bench.config.rules import FOLDER, PROJECT, Seconds, here, list_of, number, one_of, or_null, text
from bench.errors import BenchError, first_line
from bench.progress import say
from bench.tracking.mirror import Row, TrackerEntry, command, flat, read
from bench.tracking.wandb_process import LIVE, Attempt, LoggingJob, alone, last_attempt

ENTITY = or_null(text(r"[^/\s]+", "the name of an account or a team, without / and spaces"))
MODE = one_of("online", "offline", "disabled")
TAGS = list_of(text(r"(?s).{1,64}", "a text of 1 to 64 characters"))


def _check_mode(settings: Mapping[str, Any]) -> None:
    if (mode := os.environ.get("WANDB_MODE")) and not MODE.allows(mode):
        raise BenchError(f"WANDB_MODE={mode} in the environment is not allowed: it must be {MODE.description}.")


@here(_check_mode)
def log_to_wandb(
    run_folder: Path,
    *,
    project: Annotated[str, PROJECT],
    entity: Annotated[str | None, ENTITY] = None,
    mode: Annotated[str, or_null(MODE)] = "offline",
    tags: Annotated[Sequence[str], TAGS] = (),
    directory: Annotated[str | None, or_null(FOLDER)] = None,
    timeout: Seconds = 60,
    reference_above: Annotated[float, number(0)] = 64,
) -> TrackerEntry | None:
    """Log what a finished run left: config, metrics, curves, tables, figures and artifacts.

    The W&B run has the folder's name as its id and the sweep or experiment as its group. wandb's own variables
    (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_ID, WANDB_NAME, WANDB_RUN_GROUP, WANDB_JOB_TYPE, WANDB_RESUME)
    override the settings; WANDB_TAGS adds to the tags. wandb writes into `directory`/wandb, by default into
    WANDB_DIR or the run folder. timeout: seconds to wait for the server when a run starts, for its artifacts, and when
    it ends; where the server does not answer, or refuses, the run is logged offline. reference_above: MiB; larger
    files are not uploaded but referred to where they lie. On any failure print one warning and return None.
    """
    job = _job(run_folder, project, entity, mode, tags, directory, timeout, reference_above)
    if job.mode == "disabled":
        return None
    try:
        with alone(run_folder) as lock:
            run = read(run_folder)
            content = run.content(job.place)
            last = last_attempt(run.folder)
            known = last if last is not None and last.content == content else None
            if known and known.path and Path(known.path).is_dir() and known.mode in (job.mode, "online"):
                return _entry(known.path, known.url)
            start = last.start if last is not None and last.content in (content, LIVE) else None
            job = replace(job, content=content, start=start)
            answer, problem = _log_or_fall_back(job, lock)
            for path in (Path(job.root) / "wandb").glob(f"offline-run-*-{glob.escape(job.place['id'])}"):
                if path != Path(answer["path"]) and not list(path.glob("*.synced")):
                    shutil.rmtree(path)  # of an earlier attempt: to sync two would mix them
            Attempt(content, "offline" if problem else job.mode, **answer).write(run.folder)
    except Exception as error:
        say(f"warning: W&B did not log this run ({first_line(error)}); its local records are complete.")
        return None
    if problem:
        say(f"warning: W&B could not be reached ({problem}); the run was logged offline instead, to be synced later.")
    return _entry(answer["path"], answer["url"])


def open_live(run_folder: Path, config: Row, settings: Mapping[str, Any]) -> subprocess.Popen | None:
    """Start the process that shows rows of progress from its standard input until it ends; None: W&B is disabled."""
    given = inspect.signature(log_to_wandb).bind(run_folder, **settings)
    given.apply_defaults()
    last, job = last_attempt(run_folder), _job(**given.arguments)
    if job.mode == "disabled":
        return None
    start = last.start if last is not None and last.content == LIVE else None
    config = flat({name: value for name, value in config.items() if name != "tracking"})
    with alone(run_folder, wait=False) as lock:
        return _process(replace(job, start=start, config=config), lock)


def _job(
    run_folder: Path,
    project: str,
    entity: str | None,
    mode: str | None,
    tags: Sequence[str],
    directory: str | None,
    timeout: float,
    reference_above: float,
) -> LoggingJob:
    """What to do with these settings; wandb's own variables have the last word."""
    given, folder = os.environ.get, run_folder.absolute()
    mode = "online" if "WANDB_SWEEP_ID" in os.environ else mode  # an agent started this process and waits for it
    place = {
        "project": given("WANDB_PROJECT") or project,
        "entity": given("WANDB_ENTITY") or entity,
        "id": given("WANDB_RUN_ID") or folder.name,
        "name": given("WANDB_NAME") or folder.name,
        "group": given("WANDB_RUN_GROUP") or folder.parent.name,
        "job_type": given("WANDB_JOB_TYPE") or "experiment",
        "tags": sorted({*tags, *(tag for tag in given("WANDB_TAGS", "").split(",") if tag)}),
    }
    root = Path(directory or given("WANDB_DIR") or folder).absolute()
    mode = given("WANDB_MODE") or mode or "online"
    return LoggingJob(str(folder), str(root), place, mode, timeout, reference_above * 2**20)


def _log_or_fall_back(job: LoggingJob, lock: int) -> tuple[dict[str, Any], str | None]:
    """Log online, or offline where that fails. Returns the process's answer, and what was wrong with the server."""
    try:
        return _log(job, lock), None
    except Exception as error:
        if job.mode != "online":
            raise
        begun = last_attempt(Path(job.run_folder))
        answer = _log(replace(job, mode="offline"), lock)
        start = begun.start if begun is not None and begun.content == job.content else job.start
        return {**answer, "start": start}, first_line(error)


def _log(job: LoggingJob, lock: int) -> dict[str, Any]:
    """Do the job in a process of its own. RuntimeError where it fails, with no folder left behind.

    lock: a file descriptor that the process inherits, so that the lock holds even where the process outlives this one.
    """
    folder = Path(job.root) / "wandb"
    own = f"*run-*-{glob.escape(job.place['id'])}"
    before = set(folder.glob(own))
    answer = answer_of(_process(job, lock), job.limit)
    if "problem" in answer:
        for left in set(folder.glob(own)) - before:
            shutil.rmtree(left, ignore_errors=True)
        raise RuntimeError(answer["problem"])
    return answer


def _process(job: LoggingJob, lock: int) -> subprocess.Popen:
    """Start the process that does the job; it inherits the lock."""
    folder = Path(job.root) / "wandb"
    folder.mkdir(parents=True, exist_ok=True)  # where that fails, wandb would silently use a temporary folder
    defaults = {
        "WANDB_SILENT": "true",  # wandb then asks for no key on a terminal
        "WANDB_ERROR_REPORTING": "false",  # its own failures would be printed
        "WANDB_CACHE_DIR": str(folder / "cache"),
    }
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.tracking.wandb_process"],
        env={**defaults, **os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        pass_fds=[lock],
    )
    process.stdin.write(json.dumps(asdict(job)) + "\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]
    return process


def answer_of(process: subprocess.Popen, wait: float) -> dict[str, Any]:
    """Return what the process says within so many seconds, at its end; {"problem"} where it fails or says nothing."""
    try:
        out, _ = process.communicate(timeout=wait)
        if out:
            return json.loads(out.splitlines()[-1])
        status = process.returncode
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return {"problem": f"W&B's process ended with {how}"}
    except subprocess.TimeoutExpired:
        return {"problem": f"no answer within {wait:.0f} seconds"}
    finally:
        end(process)


def end(process: subprocess.Popen, *, wait: float = 0) -> None:
    """Wait; then kill the process group. wandb's own background process ends when it sees that its parent has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        process.communicate(timeout=wait)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _entry(path: str, url: str | None) -> TrackerEntry:
    wandb, folder = command("wandb"), shlex.quote(path)
    commands = {"view": url} if url else {"view": f"{wandb} leet {folder}", "sync": f"{wandb} sync {folder}"}
    return TrackerEntry("W&B run", Path(path), commands, url)
