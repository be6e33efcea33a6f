"""Which GPUs each of several workers on one machine may see."""

import math
import os
import shutil
import subprocess

from bench.config.rules import Rule
from bench.errors import BenchError

GPUS = Rule(
    lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and (0 <= value <= 1 or value in range(2, 1025))
    ),
    "a number of GPUs: whole, or at most 1 for a share of one",
)


def visible() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; where it is unset, the driver's."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        devices = [device.strip() for device in named.split(",")]
        end = next((i for i, device in enumerate(devices) if device in ("", "-1")), len(devices))
        return devices[:end]  # as CUDA does, which reads no further than what is no device
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def shares(
    devices: list[str], *, n_jobs: int | None, gpus_per_cell: float | None, cpu_workers: int
) -> list[dict[str, str]]:
    """The environment of each worker: its own of the devices, told apart by the worker's number.

    n_jobs: workers; None: as many as the devices are enough for, or `cpu_workers` where none is asked for.
    gpus_per_cell: None is 1 where there are devices; 0 hides them all; below 1, several workers have one device
    together. BenchError where the devices are too few.
    """
    if gpus_per_cell is None and not devices:
        return [{} for _ in range(n_jobs or cpu_workers)]
    gpus = 1.0 if gpus_per_cell is None else float(gpus_per_cell)
    if gpus == 0:
        return [{"CUDA_VISIBLE_DEVICES": ""} for _ in range(n_jobs or cpu_workers)]
    together = max(1, math.floor(1 / gpus + 1e-9))  # workers on one device
    each = math.ceil(gpus)  # devices of one worker
    room = len(devices) // each * together
    if room < (n_jobs or 1):
        raise BenchError(
            f"hydra.launcher.gpus_per_cell={gpus:g} for each of {n_jobs or 1} at once is more than the "
            f"{len(devices)} GPUs visible here ({','.join(devices) or 'none'}); lower it or hydra.launcher.n_jobs."
        )
    blocks = [",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]
    return [{"CUDA_VISIBLE_DEVICES": blocks[i % len(blocks)]} for i in range(n_jobs or room)]
