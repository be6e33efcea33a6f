"""Mirror a finished run folder to a tracker. The local files stay the truth, and a tracker's failure costs nothing.

    tracking=wandb            Weights & Biases, offline unless told otherwise (the default)
    tracking=tensorboard      event files in the run folder
    tracking=none

Each tracker is one function (run_folder, *, settings) -> TrackerEntry, or None where nothing was logged. All log the
same `FinishedRun`, see bench.tracking.mirror. W&B shows the progress of a run while it goes on, too.
"""

import contextlib
import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.errors import first_line
from bench.progress import AXIS, Course, Row, say
from bench.records.read import is_finished
from bench.tracking.mirror import PROGRESS, TrackerEntry, progress_rows
from bench.tracking.to_tensorboard import log_to_tensorboard
from bench.tracking.to_wandb import answer_of, end, log_to_wandb, open_live
from bench.tracking.wandb_process import STARTUP

__all__ = ["TrackerEntry", "followed", "log_nothing", "log_to_tensorboard", "log_to_wandb"]
LIVE_AFTER = 20.0  # seconds: a run that is over before is shown at its end alone


def log_nothing(run_folder: Path) -> None:
    """Track nothing: the run folder is the only record."""


@contextlib.contextmanager
def followed(tracker: Callable[..., Any], folder: Path, config: dict[str, Any], course: Course) -> Iterator[None]:
    """Keep the progress of a run in its folder, one row a line, after those of a killed attempt, and show it in W&B."""
    rows = [] if is_finished(folder) else progress_rows(folder)
    course.before = rows[-1][AXIS] if rows else 0.0
    lines, begun = [json.dumps(row) + "\n" for row in rows], False
    own = tracker.keywords if isinstance(tracker, functools.partial) and tracker.func is log_to_wandb else None
    live: subprocess.Popen | None = None

    def follow(row: Row) -> None:
        nonlocal begun, live, own
        lines.append(json.dumps(row) + "\n")
        with (folder / PROGRESS).open("a" if begun else "w") as file:
            file.writelines(lines[-1:] if begun else lines)
        begun, new = True, lines[-1:]
        try:
            if own is not None and row[AXIS] - course.before >= LIVE_AFTER:
                live, own, new = open_live(folder, config, own), None, lines
            if live is not None and live.stdin is not None:
                if live.poll() is not None:  # what wandb began may hold the pipe open a little longer
                    raise BrokenPipeError
                live.stdin.writelines(new)
                live.stdin.flush()
        except Exception as error:
            ended = live if isinstance(error, BrokenPipeError) else None
            why = answer_of(ended, STARTUP)["problem"] if ended else first_line(error)
            live = own = None
            say(f"warning: W&B shows no progress of this run ({why}); its results are logged at its end.")

    course.follow = follow
    try:
        yield
    finally:
        with course.lock:
            course.follow = None
        if live is not None:
            end(live, wait=STARTUP)
