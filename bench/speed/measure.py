"""The parts that benchmarks share: options, measures of time and memory, and tables."""

import argparse
import csv
import ctypes
import gc
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bench.errors import CommandLine
from bench.records.environment import note

T = TypeVar("T")


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show each option's default, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def option_parser(name: str, docstring: str) -> CommandLine:
    """A parser for the benchmark of this name and module docstring."""
    return CommandLine(f"python -m bench.speed {name}: {docstring}", Help)


class Cost(NamedTuple):
    """The time of one call, in seconds."""

    cpu: float  # of all threads, user and system
    wall: float


def timed(call: Callable[[], T], *, children: bool = False) -> tuple[T, Cost]:
    """Call, and measure what it took. children: count the CPU time of running child processes as well."""
    _wait_for_gpu()
    cpu, wall = _cpu_seconds(children), time.perf_counter()
    result = call()
    _wait_for_gpu()
    return result, Cost(_cpu_seconds(children) - cpu, time.perf_counter() - wall)


def repetitions(most: int, deadline: float = math.inf) -> Iterator[int]:
    """Count from 1 to `most`; stop before a further repetition, as long as the last, would end after the deadline.

    deadline: of time.monotonic(), in seconds.
    """
    for number in range(1, most + 1):
        start = time.monotonic()
        yield number
        if 2 * time.monotonic() - start > deadline:
            return


def in_turns(ways: Mapping[str, Callable[[], T]], turns: Iterable[int]) -> tuple[dict[str, list[Cost]], dict[str, T]]:
    """Call every way in each turn, so that a busy machine slows all alike: the costs of all calls, the last results."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    results: dict[str, T] = {}
    for _ in turns:
        for name, way in ways.items():
            results[name], cost = timed(way)
            costs[name].append(cost)
    return costs, results


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*np.median(costs, axis=0).tolist())


def in_words(values: np.ndarray, form: str) -> str:
    """The median of the values, and their ends."""
    return f"{np.median(values):{form}} ({values.min():{form}}, {values.max():{form}})"


def columns_of(name: str, values: np.ndarray) -> dict[str, str]:
    """The same as columns of a table, by their names in it."""
    ends = {"": np.median(values), "_low": values.min(), "_high": values.max()}
    return {f"{name}{end}": f"{value:.6g}" for end, value in ends.items()}


def _children(counted: bool) -> list[Any]:
    if not counted:
        return []
    import psutil

    return psutil.Process().children(recursive=True)


def _cpu_seconds(children: bool) -> float:
    times = [child.cpu_times() for child in _children(children)]
    return time.process_time() + sum(own.user + own.system for own in times)


def _wait_for_gpu() -> None:
    if cuda := gpu():
        cuda.synchronize()


def highest_memory() -> int:
    """The most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident(field: str) -> int:
    """Bytes of this process in memory (Linux): VmRSS, now; VmHWM, at the peak since `reset_peak`."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def reset_peak() -> None:
    """Start the measurement of `highest` anew, see proc(5)."""
    gc.collect()
    if cuda := gpu():
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def highest() -> int:
    """The most bytes in use since `reset_peak`: of the GPU, by all its processes; else of this process's memory."""
    if not (cuda := gpu()):
        return resident("VmHWM")
    free, total = cuda.mem_get_info()
    return total - free + cuda.max_memory_reserved() - cuda.memory_reserved()


def gpu() -> Any:
    """torch.cuda, where this process has loaded torch, and torch finds a GPU; else None."""
    torch: Any = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() else None


def peak_memory(run: Callable[[], Any], *, children: bool = False) -> float:
    """Bytes that a run holds at its peak beyond those before it, with its child processes; NaN where unknown.

    On a GPU: torch's memory in this process, which does not include vLLM's.
    """
    if cuda := gpu():
        reset_peak()
        before = cuda.memory_allocated()
        run()
        return cuda.max_memory_allocated() - before
    if not Path("/proc/self/status").exists():
        run()
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that earlier ways freed would be used again unseen
    reset_peak()
    before = resident("VmRSS")
    run()
    return highest() - before + sum(child.memory_info().rss for child in _children(children))


def cells_of(overrides: Sequence[str]) -> list[Any]:
    """The cells of a sweep with these settings."""
    from bench.config.compose import CONF
    from bench.sweeps.cells import cells

    found = cells(overrides, CONF)
    assert found is not None  # None: another sweeper than Hydra's own would choose them
    return found


def python(folder: Path, *arguments: str, **environment: str) -> str:
    """What Python prints, called in `folder` with this package; SystemExit with its errors where it fails.

    It may keep bytecode, as it does unless told otherwise.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, *arguments]
    answer = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{answer.stderr}")
    return answer.stdout


class Printout:
    """A table that is printed row by row: a name, then cells aligned to the right below their headings.

    `rows` are what was printed, by heading.
    """

    def __init__(self, name_width: int, columns: Mapping[str, int]) -> None:  # heading -> width
        self.widths = (name_width, *columns.values())
        self.headings = tuple(columns)
        self.rows: list[dict[str, str]] = []
        self.row("", *columns)
        self.rows.clear()

    def row(self, name: str, *cells: str) -> None:
        self.rows.append({"name": name} | dict(zip(self.headings, cells, strict=False)))
        first, *widths = self.widths
        line = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
        print(f"{name:{first}}{line}".rstrip(), flush=True)


def keep(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a file where one is asked for, and the environment beside it."""
    if path is not None:
        write_csv(path, rows)
        note(path)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a file, with the columns of the first."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
