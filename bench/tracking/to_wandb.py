"""Mirror a run to Weights & Biases: offline unless WANDB_MODE, the setting, or a W&B sweep agent say otherwise.

An experiment is one W&B run, not one a stage: what a user filters, groups and plots is a whole experiment, and its
stages are shared by many. They are artifacts of type pool, rewards, selection and policy, named by their content, with
their parents in the metadata: the run logs those that it made and uses those that the store had, so that W&B's lineage
graph leads from a run to the runs that it shares them with.

What was logged is remembered in the run folder. A run whose results did not change is not logged again. One whose
results did goes on under the same id: config, summary, tables, charts and artifacts show the new values, and the new
points follow the old in the history. The rows that a killed process had sent already are not sent twice.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import bench
from bench.config.rules import ABOVE_ZERO, FOLDER, PROJECT, list_of, number, one_of, or_null, text
from bench.progress import say
from bench.tracking import logged
from bench.tracking.logged import Logged
from bench.tracking.mirror import Finished, Tracked, command, first_line, read
from bench.tracking.wandb_process import Task

ENTITY = or_null(text(r"[^/\s]+", "the name of an account or a team, without / and spaces"))
TAGS = list_of(text(r"(?s).{1,64}", "a text of 1 to 64 characters"))


def log_to_wandb(
    run_folder: Path,
    *,
    project: Annotated[str, PROJECT],
    entity: Annotated[str | None, ENTITY] = None,
    mode: Annotated[str, or_null(one_of("online", "offline", "disabled"))] = "offline",
    tags: Annotated[Sequence[str], TAGS] = (),
    directory: Annotated[str | None, or_null(FOLDER)] = None,
    timeout: Annotated[float, ABOVE_ZERO] = 60,
    reference_above: Annotated[float, number(0)] = 64,
) -> Tracked | None:
    """Log what a finished run left: config, metrics, curves, tables, figures, artifacts; None where W&B would not.

    The W&B run has the folder's name as its id and the sweep or experiment as its group. wandb's own variables
    (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_ID, WANDB_NAME, WANDB_RUN_GROUP, WANDB_JOB_TYPE, WANDB_RESUME)
    go before the settings, WANDB_TAGS are added. wandb writes into `directory`/wandb; by default into WANDB_DIR, or the
    run folder. timeout: seconds to wait for the server when a run starts, for its artifacts, and again when it ends;
    where it does not answer, or refuses, the run is logged offline. reference_above: MiB; files that are larger are not
    uploaded but referred to where they lie. Any failure is one line of warning.
    """
    in_sweep = "WANDB_SWEEP_ID" in os.environ  # an agent started this process and waits for it on the server
    mode = os.environ.get("WANDB_MODE") or ("online" if in_sweep else mode) or "online"
    if mode == "disabled":
        return None
    try:
        with logged.alone(run_folder) as lock:
            finished = read(run_folder)
            place = _place(finished, project, entity, tags)
            content = logged.content(finished, place)
            earlier = logged.earlier(finished.folder)
            known = earlier if earlier is not None and earlier.content == content else None
            if known and known.path and known.complete and known.mode in (mode, "online"):
                return _tracked(known.path, known.url)
            task = Task(
                run_folder=str(finished.folder),
                root=str(Path(directory or os.environ.get("WANDB_DIR") or finished.folder).absolute()),
                place=place,
                mode=mode,
                content=content,
                start=known.start if known else None,
                timeout=timeout,
                reference_above=reference_above * 2**20,
            )
            answer, problem = _log_or_fall_back(task, lock)
            _remove_superseded(task, answer["path"])
            Logged(content, "offline" if problem else mode, **answer).write(finished.folder)
    except Exception as error:
        say(f"warning: W&B did not log this run ({first_line(error)}); its local records are complete.")
        return None
    if problem:
        say(f"warning: W&B could not be reached ({problem}); the run was logged offline instead, to be synced later.")
    return _tracked(answer["path"], answer["url"])


def _log_or_fall_back(task: Task, lock: int) -> tuple[dict[str, Any], str | None]:
    """What a process of W&B answered, and what was wrong with the server where the run is offline for that reason."""
    try:
        return _log(task, lock), None
    except Exception as error:
        if task.mode != "online":
            raise
        begun = logged.earlier(Path(task.run_folder))
        answer = _log(replace(task, mode="offline"), lock)
        start = begun.start if begun is not None and begun.content == task.content else task.start
        return {**answer, "start": start}, first_line(error)


def _log(task: Task, lock: int) -> dict[str, Any]:
    """Do the task in a process of its own; RuntimeError says why not. An attempt that fails leaves no folder behind.

    lock: a file that the process keeps locked, should it outlive this one.
    """
    folder = Path(task.root) / "wandb"
    folder.mkdir(parents=True, exist_ok=True)  # where it can't be, wandb would silently turn to a temporary folder
    own = f"*run-*-{task.place['id']}"
    before = set(folder.glob(own))
    defaults = {
        "WANDB_SILENT": "true",  # also asks for no key on a terminal
        "WANDB_ERROR_REPORTING": "false",  # whose own failures would be printed
        "WANDB_CACHE_DIR": str(folder / "cache"),
    }
    here = str(Path(bench.__path__[0]).parent)
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
        out, _ = process.communicate(task.json(), timeout=task.limit)
        answer = json.loads(out.splitlines()[-1]) if out else {"problem": _ended(process.returncode)}
    except subprocess.TimeoutExpired:
        answer = {"problem": f"no answer within {task.limit:.0f} seconds"}
    finally:
        _end(process)
    if "problem" in answer:
        for left in set(folder.glob(own)) - before:
            shutil.rmtree(left, ignore_errors=True)
        raise RuntimeError(answer["problem"])
    return answer


def _end(process: subprocess.Popen) -> None:
    """The process and what it started; wandb's own background process ends when it sees that its parent has."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _ended(status: int) -> str:
    return f"W&B's process ended with {signal.Signals(-status).name if status < 0 else f'status {status}'}"


def _place(finished: Finished, project: str, entity: str | None, tags: Sequence[str]) -> dict[str, Any]:
    """Where the run goes in W&B, and what it is called there."""
    added = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    return {
        "project": os.environ.get("WANDB_PROJECT") or project,
        "entity": os.environ.get("WANDB_ENTITY") or entity,
        "id": os.environ.get("WANDB_RUN_ID") or finished.name,
        "name": os.environ.get("WANDB_NAME") or finished.name,
        "group": os.environ.get("WANDB_RUN_GROUP") or finished.group,
        "job_type": os.environ.get("WANDB_JOB_TYPE") or "experiment",
        "tags": sorted({*tags, *added}),
    }


def _tracked(path: str, url: str | None) -> Tracked:
    wandb, where = command("wandb"), shlex.quote(path)
    look = {"view": url} if url else {"view": f"{wandb} leet {where}", "sync": f"{wandb} sync {where}"}
    return Tracked("W&B run", Path(path), look, url)


def _remove_superseded(task: Task, now: str) -> None:
    """Drop this run's other unsynced offline folders, a killed process's among them: syncing two would mix them."""
    for path in (Path(task.root) / "wandb").glob(f"offline-run-*-{task.place['id']}"):
        if path != Path(now) and not list(path.glob("*.synced")):
            shutil.rmtree(path)
