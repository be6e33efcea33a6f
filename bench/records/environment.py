"""The versions and the machine that made a run, for those who compare its numbers with theirs."""

import csv
import functools
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

FILE = "environment.json"
OF_TABLES = "environment.csv"  # of a report without runs
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
    information = Path("/proc/cpuinfo")  # of a system that tells the processor's name, not its architecture alone
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found["processor"] = f"{[*names, platform.machine()][0]}, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def note(table: Path) -> None:
    """Write into environment.csv, beside a table, the environment that made it. A report without runs states it."""
    path = table.parent / OF_TABLES
    made = read_noted(table.parent) | {table.name: in_words(environment())}
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "environment"), *sorted(made.items())])


def read_noted(folder: Path) -> dict[str, str]:
    """Name of a table in the folder -> the environment that made it, in words; only those in environment.csv."""
    path = folder / OF_TABLES
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["file"]: row["environment"] for row in csv.DictReader(lines)}


def in_words(environment: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in environment.items())
