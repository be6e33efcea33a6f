"""A function called in a process of its own, or alike in several that share its work, a GPU each (or a CPU, by gloo).

This module is what each of them runs: `python -m bench.training.processes FOLDER`, under
torch.distributed.run where they are
several. What a process held of a GPU is free when it has ended.
"""

import ctypes
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

RAISED = re.compile(r"^(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception): .*)$", re.MULTILINE)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: little may be done between fork and exec
PR_SET_PDEATHSIG = 1
JOB, RESULT, MISTAKE = "job.pickle", "result.pickle", "mistake.txt"


@dataclass(frozen=True)
class Job:
    function: Callable[..., Any]  # of a module, called alike in every process
    arguments: tuple[Any, ...]


def call(setting: str, processes: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """What function(*arguments) returns in the first of `processes` new processes that all call it.

    setting: that asks for them, e.g. "training.processes=2". folder: for what goes to and fro, of which nothing is left
    there. A BenchError of any process is raised here; BenchError, too, where one ends otherwise, with what it wrote.
    """
    _check_devices(setting, processes)
    job, result, mistake = (folder / name for name in (JOB, RESULT, MISTAKE))
    job.write_bytes(pickle.dumps(Job(function, arguments)))
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(together if processes > 1 else []), "-m", "bench.training.processes", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, preexec_fn=_end_with_parent
        )
        if mistake.is_file():
            raise BenchError(mistake.read_text())
        if ended.returncode:
            said = RAISED.findall(ended.stderr) or ended.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise BenchError(f"{setting}: a process ended by itself: {said[0]}")
        return pickle.loads(result.read_bytes())
    finally:
        for path in (job, result, mistake):
            path.unlink(missing_ok=True)


def rank() -> int:
    """Of this process among those that share a training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def device() -> str:
    """The torch device of this process: a GPU of its own where there are any."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _end_with_parent() -> None:
    """The kernel ends this process when the one that started it has ended, however it did (Linux)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _check_devices(setting: str, processes: int) -> None:
    import torch

    devices = torch.cuda.device_count()
    if torch.cuda.is_available() and devices < processes:
        raise BenchError(f"{setting} is not allowed: each process needs a GPU, and {devices} are visible.")


def main(folder: Path) -> None:
    """Do the job that lies in the folder; the first process leaves its result."""
    import torch

    _end_with_parent()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    job: Job = pickle.loads((folder / JOB).read_bytes())
    try:
        result = job.function(*job.arguments)
    except BenchError as error:
        (folder / MISTAKE).write_text(str(error))
        raise
    if rank() == 0:
        (folder / RESULT).write_bytes(pickle.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
