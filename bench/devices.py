"""The default device and number format of a model's computations."""

import ctypes
import functools
import os
import sys
from importlib.util import find_spec
from pathlib import Path

DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of WSL, of AMD
DEVICES = Path("/dev")  # where GPUs are files


def device() -> str:
    """A torch device: "cuda" where there is a GPU that CUDA_VISIBLE_DEVICES does not hide, else "cpu"."""
    if _hidden() or ("torch" not in sys.modules and not _has_driver()):
        return "cpu"  # at once: torch takes seconds to import
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str = "auto") -> str:
    """A torch name: "auto" is bfloat16 on a GPU and float32 on a CPU."""
    return dtype if dtype != "auto" else "bfloat16" if device() == "cuda" else "float32"


def default_engine() -> str:
    """Return "vllm" where it is installed and this process may use an NVIDIA GPU, else "transformers".

    Files alone decide: at once, and alike in a plan and in its runs.
    """
    files = [] if _hidden() else [*DEVICES.glob("nvidia[0-9]*"), *DEVICES.glob("dxg")]
    usable = any(os.access(file, os.R_OK | os.W_OK) for file in files)  # Slurm forbids a job the GPUs of others
    return "vllm" if usable and find_spec("vllm") else "transformers"


def _hidden() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


@functools.cache
def _has_driver() -> bool:
    """Whether this machine has the driver of a GPU, without which torch finds none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return any(Path(place).exists() for place in DRIVERS)
    return True
