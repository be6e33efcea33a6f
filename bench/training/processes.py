"""One training shared by several processes, a GPU each (or a CPU each, by gloo), through accelerate.

Each update has the examples that it would have in one process, each process a share of them; the loss is divided by
the weight of all. Under FSDP2 each process holds a share of the weights, gradients and optimizer states too.

This module is what each process runs: `python -m torch.distributed.run ... -m bench.training.processes JOB`.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

JOB, RESULT, MISTAKE = "job.pickle", "result.pickle", "mistake.txt"


@dataclass(frozen=True)
class Job:
    function: Callable[..., Any]  # of a module, called alike in every process
    arguments: tuple[Any, ...]


def shared(processes: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """What function(*arguments) returns in the first of `processes` processes that all call it.

    folder: on this machine, for what goes to and fro; it is empty of that afterwards. A BenchError of any process is
    raised here; BenchError, too, where one ends otherwise, with the last line that it wrote.
    """
    _check_devices(processes)
    job, result, mistake = (folder / name for name in (JOB, RESULT, MISTAKE))
    job.write_bytes(pickle.dumps(Job(function, arguments)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        ended = subprocess.run(
            [*command, "-m", __name__, str(folder)], env=environment, capture_output=True, text=True, check=False
        )
        if mistake.is_file():
            raise BenchError(mistake.read_text())
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if "Error" in line] or ["it said nothing"]
            raise BenchError(f"training.processes={processes}: a process ended by itself: {lines[0].strip()}")
        return pickle.loads(result.read_bytes())
    finally:
        for path in (job, result, mistake):
            path.unlink(missing_ok=True)


def rank() -> int:
    """Of this process among those that share a training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def _check_devices(processes: int) -> None:
    import torch

    devices = torch.cuda.device_count()
    if torch.cuda.is_available() and devices < processes:
        raise BenchError(f"training.processes={processes} is not allowed: each needs a GPU, and {devices} are visible.")


def main(folder: Path) -> None:
    """Do the job that lies in the folder; the first process leaves its result."""
    import torch

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
