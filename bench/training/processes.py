"""Call a function in a new process, or in several that share its work, each with its own GPU (or on a CPU, by gloo).

Each of them runs this module: `python -m bench.training.processes FOLDER`, several under torch.distributed.run. The
GPU memory that a process held is free when the process has ended.
"""

import ctypes
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import BenchError

RAISED = re.compile(r"^(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception): .*)$", re.MULTILINE)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: little may be done between fork and exec
PR_SET_PDEATHSIG = 1
JOB, RESULT, MISTAKE = "job.pickle", "result.pickle", "mistake.txt"


def check_gpus(setting: str, processes: int) -> None:
    """Raise BenchError where there are GPUs, and fewer than processes."""
    import torch

    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and gpus < processes:
        raise BenchError(f"{setting} is not allowed: each process needs a GPU, and {gpus} are visible.")


def call(setting: str, processes: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call function(*arguments) in each of `processes` new processes; return what the first of them returns.

    setting: the setting that chose the processes, for messages, e.g. "training.processes=2". folder: for files between
    the processes, removed at the end. Raise the BenchError of any process, and BenchError with the last words of one
    that ends otherwise.
    """
    check_gpus(setting, processes)
    job, result, mistake = (folder / name for name in (JOB, RESULT, MISTAKE))
    job.write_bytes(pickle.dumps((function, arguments)))
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
            words = RAISED.findall(ended.stderr) or ended.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise BenchError(f"{setting}: a process ended by itself: {words[0]}")
        return pickle.loads(result.read_bytes())
    finally:
        for path in (job, result, mistake):
            path.unlink(missing_ok=True)


def rank() -> int:
    """Return the number of this process among those that share a training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def device() -> str:
    """Return the torch device of this process: a GPU of its own where there are any."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _end_with_parent() -> None:
    """Have the kernel end this process when the process that started it has ended in any way (Linux)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(folder: Path) -> None:
    """Do the job in the folder; the first process leaves the result there."""
    import torch

    _end_with_parent()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    function, arguments = pickle.loads((folder / JOB).read_bytes())
    try:
        result = function(*arguments)
    except BenchError as error:
        (folder / MISTAKE).write_text(str(error))
        raise
    if rank() == 0:
        (folder / RESULT).write_bytes(pickle.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
