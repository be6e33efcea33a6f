"""A sweep before, while and after it runs: its cells, what each of them has come to, and what they share.

python -m bench sweep=NAME [setting=value,value ...]      run what is missing
python -m bench sweep=NAME plan=true                      only say what would run, and its cost
python -m bench.status sweep=NAME                         what is done, running, failed, missing
"""

import fcntl
import functools
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from bench.config import checks, plugins
from bench.config.compose import Composer
from bench.config.keys import id_of_settings
from bench.errors import BenchError
from bench.records.fingerprint import is_current
from bench.records.read import METRICS, TIMES, failure, is_finished, missing_records, read_metrics, seconds

BUSY = "running.lock"  # locked by the process that runs a cell; its content says which


@dataclass(frozen=True, eq=False)
class Cell:
    """One experiment of a sweep."""

    label: str  # what sets it apart, e.g. "num_completions=8 temperature=0.7"
    cfg: DictConfig
    fixed: tuple[str, ...]  # settings given alike to every cell of the sweep

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config: Any = OmegaConf.to_container(self.cfg, resolve=True)
        return config

    @functools.cached_property
    def id(self) -> str:
        return id_of_settings(self.config)

    @functools.cached_property
    def folder(self) -> Path:
        return Path(self.config["outputs"], self.config["name"], self.id).absolute()

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """The parts of the experiment, built but not yet called."""
        return checks.build_parts(self.cfg)


@dataclass(frozen=True)
class State:
    """What a cell has come to."""

    kind: str  # done, running, failed, interrupted, incomplete, outdated or missing
    detail: str = ""  # why, or where
    seconds: float = float("nan")  # it took, where it is done


def cells(overrides: Sequence[str], conf: str) -> list[Cell] | None:
    """Every cell, checked; None where another sweeper than Hydra's own chooses its cells as it goes.

    Raises BenchError, or what Hydra raises, for a cell that can't be run, before any of them is.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    plugins.install()
    _refuse_sweeps_of_wandb(overrides, Path(conf))
    composer = Composer()
    with initialize_config_dir(conf, version_base="1.3"):
        named = [override for override in overrides if override.lstrip("+").startswith(("sweep=", "hydra/sweeper="))]
        sweeper = compose("config", named, return_hydra_config=True).hydra.sweeper
        if not sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
            return None
        grid = sweeper.get("params") or {}
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in grid.items()), *overrides])
        last = {override.get_key_element(): override for override in parsed}
        varied = {key for key, override in last.items() if override.is_sweep_override()}
        batch = [arguments for part in BasicSweeper.split_arguments(parsed, None) for arguments in part]
        if not batch:
            empty = [str(last[key].input_line) for key in varied if not list(last[key].sweep_string_iterator())]
            raise BenchError(f"{', '.join(sorted(empty))} gives no value, so there is no cell to run.")
        found: dict[str, Cell] = {}
        for arguments in batch:
            cfg = composer.compose(arguments)
            checks.check(cfg)
            label = " ".join(argument for argument in arguments if argument.partition("=")[0] in varied)
            cell = Cell(label, cfg, tuple(key for key in last if key not in varied))
            _ = cell.parts  # which refuses what can't be built
            found.setdefault(cell.id, cell)  # two labels of one configuration are one run
    return list(found.values())


def _refuse_sweeps_of_wandb(overrides: Sequence[str], conf: Path) -> None:
    """BenchError for a file of sweeps/ that W&B runs, not Hydra."""
    for override in overrides:
        key, _, name = override.lstrip("+").partition("=")
        file = conf / "sweep" / f"{name}.yaml"
        if key == "sweep" and name.startswith("wandb_") and file.is_file():
            raise BenchError(
                f"sweep={name} is led by W&B: run `wandb sweep sweeps/{name}.yaml`, then `wandb agent` with the ID "
                "that it prints."
            )


def state(cell: Cell) -> State:
    """From the cell's folder alone, wherever it runs."""
    folder = cell.folder
    if holder := _holder(folder / BUSY):
        return State("running", holder)
    if is_done(folder):
        return State("done", seconds=seconds(folder))
    if (reason := failure(folder)) is not None:
        return State("failed", reason)
    if (folder / BUSY).is_file():
        return State("interrupted")
    if not is_finished(folder):
        return State("missing")
    if lacking := missing_records(folder):
        return State("incomplete", f"lacks {', '.join(lacking)}")
    try:
        read_metrics(folder)
    except BenchError:
        return State("incomplete", f"{METRICS} is damaged")
    return State("outdated", "made by other code")


def is_done(folder: Path) -> bool:
    """Whether `folder` holds a complete run of this very code.

    One that was killed when its records were whole is not done: it may have been tracked nowhere.
    """
    if (folder / BUSY).is_file() or missing_records(folder):
        return False
    try:
        read_metrics(folder)
        return is_current(folder)
    except (BenchError, OSError, ValueError):  # a damaged record is no record
        return False


@contextmanager
def busy(folder: Path) -> Iterator[None]:
    """Marks a cell as running while inside; the kernel takes the mark away however the process ends."""
    start = time.time()
    with (folder / BUSY).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # shared: two sweeps may run one cell, whose artifacts are made once
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        except Exception:
            (folder / BUSY).unlink(missing_ok=True)
            raise  # what is no Exception (Ctrl-C, a preempted job) leaves the mark of an interrupted cell
        (folder / TIMES).write_text(json.dumps({"started": start, "seconds": round(time.time() - start, 3)}))
        (folder / BUSY).unlink(missing_ok=True)


def _holder(path: Path) -> str:
    """Who holds the lock; empty where nobody does. Nothing is written, so that others' sweeps can be asked too."""
    try:
        file = _opened(path)
    except FileNotFoundError:
        return ""
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is held, or NFS lets no reader ask, who then takes the mark at its word
            return file.read() or "another process"
    return ""


def _opened(path: Path) -> TextIO:
    """For writing where that is allowed, which NFS wants of whoever locks."""
    try:
        return path.open("r+", errors="replace")
    except FileNotFoundError:
        raise
    except OSError:
        return path.open(errors="replace")
