"""Cells of a sweep that only leave notes: their processes import neither torch nor the tests, and begin at once.

They wait while they are held, raise, or kill their process, as files on their desk tell them.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.launching import launch


@dataclass(frozen=True)
class StubJob(launch.CellJob):
    """A cell that leaves a note, waits while it is held, and kills its process as often as it is told to."""

    desk: Path = Path()

    def perform(self) -> launch.Outcome:
        ray = sys.modules.get("ray")
        place = ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else "here"
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset") or "none"
        note = f"{self.label} {os.getpid()} {place} {os.environ.get('WANDB_NAME', 'none')} {seen}"
        (self.desk / f"began {time.monotonic_ns()} {note}").write_text("")
        deaths = self.desk / f"deaths {self.label}"
        if deaths.exists() and (left := int(deaths.read_text())):
            deaths.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.desk / f"raise {self.label}").exists():
            raise ZeroDivisionError("a bug")
        deadline = time.monotonic() + 300
        while (self.desk / f"hold {self.label}").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.label} is still held")
            time.sleep(0.02)
        (self.desk / f"ended {note}").write_text("")
        return launch.Outcome((f"{self.label} has ended",))


def stubs(desk: Path, *labels: str) -> list[StubJob]:
    return [StubJob(label, desk / "runs" / label, {}, desk, (), desk) for label in labels]


def notes(desk: Path, kind: str) -> list[list[str]]:
    """The words of each note, in the order of time where it has one: label, process, node, W&B's name, devices."""
    found = sorted(path.name.split()[1:] for path in desk.glob(f"{kind} *"))
    return [words[1:] for words in found] if kind == "began" else found


def failed(desk: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in desk.glob("runs/*/error.txt")}


def impatient() -> None:
    """submitit waits for no result of a process that has ended, as it does in case a file system is slow."""
    from submitit.core.core import Job

    Job._results_timeout_s = 0
