"""The default device and number format of a model's computations."""

import ctypes
import functools
import sys
from pathlib import Path

DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of WSL, of AMD


def device() -> str:
    """A torch device: "cuda" where there is a GPU, else "cpu"."""
    if "torch" not in sys.modules and not _has_driver():
        return "cpu"  # at once: torch takes seconds to import
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str = "auto") -> str:
    """A torch name: "auto" is bfloat16 on a GPU and float32 on a CPU."""
    return dtype if dtype != "auto" else "bfloat16" if device() == "cuda" else "float32"


@functools.cache
def _has_driver() -> bool:
    """Whether this machine has the driver of a GPU, without which torch finds none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return any(Path(place).exists() for place in DRIVERS)
    return True
