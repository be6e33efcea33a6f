"""Mirror a run to Weights & Biases: offline unless WANDB_MODE, the setting, or a W&B sweep agent say otherwise.

An experiment is one W&B run. Its stages are no runs: users filter, group and plot whole experiments, and many
experiments share a stage. Stages are artifacts of type pool, rewards, selection and policy, named by their content,
with their parents in the metadata. The run logs the artifacts that it made and uses those that the store had, so that
W&B's lineage graph connects runs that share artifacts.

The run folder remembers what was logged (tracking.json). A run with unchanged results is not logged again. A run with
changed results continues under the same id: config, summary, tables, charts and artifacts show the new values, and the
history appends the new points. Rows that a killed process had sent are not sent twice.
"""

import glob
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
from bench.tracking.mirror import FinishedRun, TrackerEntry, command, read
from bench.tracking.wandb_process import Attempt, LoggingJob, alone, last_attempt

ENTITY = or_null(text(r"[^/\s]+", "the name of an account or a team, without / and spaces"))
MODE = one_of("online", "offline", "disabled")
TAGS = list_of(text(r"(?s).{1,64}", "a text of 1 to 64 characters"))


def _check_mode(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where the environment names a mode that W&B does not have."""
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
    in_sweep = "WANDB_SWEEP_ID" in os.environ  # an agent started this process and waits for it on the server
    mode = os.environ.get("WANDB_MODE") or ("online" if in_sweep else mode) or "online"
    if mode == "disabled":
        return None
    try:
        with alone(run_folder) as lock:
            run = read(run_folder)
            place = _place(run, project, entity, tags)
            content = run.content(place)
            last = last_attempt(run.folder)
            known = last if last is not None and last.content == content else None
            if known and known.path and known.complete and known.mode in (mode, "online"):
                return _entry(known.path, known.url)
            job = LoggingJob(
                run_folder=str(run.folder),
                root=str(Path(directory or os.environ.get("WANDB_DIR") or run.folder).absolute()),
                place=place,
                mode=mode,
                content=content,
                start=known.start if known else None,
                timeout=timeout,
                reference_above=reference_above * 2**20,
            )
            answer, problem = _log_or_fall_back(job, lock)
            _remove_superseded(job, answer["path"])
            Attempt(content, "offline" if problem else mode, **answer).write(run.folder)
    except Exception as error:
        say(f"warning: W&B did not log this run ({first_line(error)}); its local records are complete.")
        return None
    if problem:
        say(f"warning: W&B could not be reached ({problem}); the run was logged offline instead, to be synced later.")
    return _entry(answer["path"], answer["url"])


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
    folder.mkdir(parents=True, exist_ok=True)  # where that fails, wandb would silently use a temporary folder
    own = f"*run-*-{glob.escape(job.place['id'])}"
    before = set(folder.glob(own))
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
    try:
        out, _ = process.communicate(json.dumps(asdict(job)), timeout=job.limit)
        answer = json.loads(out.splitlines()[-1]) if out else {"problem": _ended(process.returncode)}
    except subprocess.TimeoutExpired:
        answer = {"problem": f"no answer within {job.limit:.0f} seconds"}
    finally:
        _end(process)
    if "problem" in answer:
        for left in set(folder.glob(own)) - before:
            shutil.rmtree(left, ignore_errors=True)
        raise RuntimeError(answer["problem"])
    return answer


def _end(process: subprocess.Popen) -> None:
    """Kill the process group; wandb's own background process ends when it sees that its parent has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _ended(status: int) -> str:
    return f"W&B's process ended with {signal.Signals(-status).name if status < 0 else f'status {status}'}"


def _place(run: FinishedRun, project: str, entity: str | None, tags: Sequence[str]) -> dict[str, Any]:
    """The arguments of wandb.init that say where the run goes and what it is called."""
    added = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    return {
        "project": os.environ.get("WANDB_PROJECT") or project,
        "entity": os.environ.get("WANDB_ENTITY") or entity,
        "id": os.environ.get("WANDB_RUN_ID") or run.name,
        "name": os.environ.get("WANDB_NAME") or run.name,
        "group": os.environ.get("WANDB_RUN_GROUP") or run.group,
        "job_type": os.environ.get("WANDB_JOB_TYPE") or "experiment",
        "tags": sorted({*tags, *added}),
    }


def _entry(path: str, url: str | None) -> TrackerEntry:
    wandb, folder = command("wandb"), shlex.quote(path)
    commands = {"view": url} if url else {"view": f"{wandb} leet {folder}", "sync": f"{wandb} sync {folder}"}
    return TrackerEntry("W&B run", Path(path), commands, url)


def _remove_superseded(job: LoggingJob, current: str) -> None:
    """Delete the run's other offline folders that were not synced: syncing two would mix them."""
    for path in (Path(job.root) / "wandb").glob(f"offline-run-*-{glob.escape(job.place['id'])}"):
        if path != Path(current) and not list(path.glob("*.synced")):
            shutil.rmtree(path)
