"""Divide the GPUs of one machine among workers."""

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
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, or else all of the driver's."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        devices = [device.strip() for device in named.split(",")]
        end = next((i for i, device in enumerate(devices) if device in ("", "-1")), len(devices))
        return devices[:end]  # CUDA, too, reads no further than an entry that is no device
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def shares(
    devices: list[str], *, n_jobs: int | None, gpus_per_cell: float | None, cpu_workers: int
) -> list[dict[str, str]]:
    """Return the environment of each worker, which makes the worker's own devices visible and no other.

    n_jobs: number of workers; None: as many as there are devices for, or `cpu_workers` where they use none.
    gpus_per_cell: None is 1 where there are devices; 0 hides them all; below 1, several workers share a device.
    BenchError where there are too few devices.
    """
    if not gpus_per_cell and not (gpus_per_cell is None and devices):
        environment = {} if gpus_per_cell is None else {"CUDA_VISIBLE_DEVICES": ""}
        return [environment] * (n_jobs or cpu_workers)
    gpus = 1.0 if gpus_per_cell is None else float(gpus_per_cell)
    per_device = max(1, math.floor(1 / gpus + 1e-9))  # workers that share one device
    per_worker = math.ceil(gpus)  # devices
    room = len(devices) // per_worker * per_device
    if room < (n_jobs or 1):
        raise BenchError(
            f"hydra.launcher.gpus_per_cell={gpus:g} for each of {n_jobs or 1} at once is more than the "
            f"{len(devices)} GPUs visible here ({','.join(devices) or 'none'}); lower it or hydra.launcher.n_jobs."
        )
    blocks = [",".join(devices[i : i + per_worker]) for i in range(0, len(devices) - per_worker + 1, per_worker)]
    return [{"CUDA_VISIBLE_DEVICES": blocks[i % len(blocks)]} for i in range(n_jobs or room)]
