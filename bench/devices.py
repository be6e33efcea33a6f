"""The default device and number format of a model's computations, and batches that fit the memory of a GPU."""

import ctypes
import functools
import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError, is_out_of_gpu_memory
from bench.progress import say

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


def that_fit(on_cpu: int, bytes_each: float, most: int) -> int:
    """As many as half of the GPU's free memory holds, 1 to `most`; on a CPU, `on_cpu`."""
    if device() == "cpu":
        return on_cpu
    import torch

    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(min(max(free / 2 / bytes_each, 1), most))


def release_memory() -> None:
    """Free what is no longer used, and give back the GPU memory that torch holds for later."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


class Halving:
    """Work on batches: where one does not fit a GPU's memory, it and the later ones are cut in half."""

    def __init__(self, what: str, advice: str) -> None:
        """what: a batch has several of; advice: how a single one fits."""
        self.what, self.advice = what, advice
        self.most = sys.maxsize  # in a batch

    def each(self, work: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each batch, or its parts in order, and the work on it. batches: sequences or arrays."""
        for batch in batches:
            waiting = [batch]
            while waiting:
                part = waiting.pop()
                if len(part) > self.most:
                    waiting += [part[self.most :], part[: self.most]]
                    continue
                try:
                    done = work(part)
                except Exception as error:
                    self.halve(error, len(part))
                    waiting.append(part)
                else:
                    yield part, done

    def halve(self, error: Exception, size: int) -> None:
        """Let later batches be at most half of `size`; raise an error of another kind, and a BenchError at size 1."""
        if not is_out_of_gpu_memory(error):
            raise error
        if size == 1:
            raise BenchError(f"The GPU's memory ran out with one {self.what} at a time: {self.advice}.") from error
        self.most = size // 2
        traceback.clear_frames(error.__traceback__)  # they hold what was in memory
        say(f"the GPU's memory ran out with {size} {self.what}s at a time: it goes on with {self.most}")


@functools.cache
def _has_driver() -> bool:
    """Whether this machine has the driver of a GPU, without which torch finds none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return any(Path(place).exists() for place in DRIVERS)
    return True
