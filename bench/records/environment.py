"""The versions and the machine that made a run, for those who compare its numbers with theirs."""

import functools
import platform
from importlib import metadata
from pathlib import Path

FILE = "environment.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "numpy", "tokenizers", "vllm", "lm-eval")  # those that make numbers


@functools.cache
def environment() -> dict[str, str]:
    """Name -> value: Python, the packages that are installed, the processor with its vector instructions, the GPU."""
    import torch

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["processor"] = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """The name of the processor; its architecture where the system does not tell the name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
