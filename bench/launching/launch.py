"""Turn the cells of a sweep into jobs of a launcher: check the settings, and choose the order and the contents of jobs.

Hydra's sweepers call a launcher with the settings of each cell. Our launchers send each cell, composed and resolved, to
a process that calls `runner.run_cell`. A cell that is done is not sent. A cell whose process dies runs again elsewhere
and goes on from the store. The folder of each cell records its state, wherever it ran.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bench.config.compose import LAUNCHER_PLUGINS, understood
from bench.config.keys import run_folder
from bench.config.rules import rules
from bench.errors import BenchError
from bench.generation.ray_cluster import probes
from bench.launching.jobs import Backend, CellJob, run_all
from bench.progress import say
from bench.sweeps.cells import is_done, number, numbers


def check(overrides: Sequence[str], conf: str, *, devices: bool = True) -> None:
    """Raise BenchError where the launcher that these settings choose can't launch: a value, an extra, a device.

    devices: check what the launcher needs on this machine, too, and not its settings alone.
    """
    from hydra import compose, initialize_config_dir
    from hydra.utils import get_object

    concerned = re.compile(r"\+*(sweep=|hydra/launcher=|hydra\.launcher\.|threads=\d+$)")
    chosen = [override for override in overrides if concerned.match(override)]
    with understood(chosen), initialize_config_dir(conf, version_base="1.3"):
        cfg = compose("config", chosen, return_hydra_config=True)
    settings: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    target = settings.pop("_target_")
    if not target.startswith(f"{LAUNCHER_PLUGINS}."):
        return
    launcher = get_object(target)
    for name, rule in rules(launcher).items():
        if name in settings and not rule.allows(settings[name]):
            value = "null" if settings[name] is None else settings[name]
            raise BenchError(f"hydra.launcher.{name}={value} is not allowed: it must be {rule.words(value)}.")
    if devices:
        launcher(**settings).check(cfg)


def launch(
    config: DictConfig, context: HydraContext, overrides: Sequence[Sequence[str]], first: int, backend: Backend
) -> list[JobReturn]:
    """Run cells for one of Hydra's sweepers; return each one's configuration, by which its folder is found.

    overrides: the settings of each cell; first: the number of the first cell.
    """
    setup_globals()
    cells: list[tuple[str, DictConfig]] = []
    for position, arguments in enumerate(overrides, first):
        cfg = context.config_loader.load_sweep_config(config, list(arguments))
        label = cfg.hydra.job.override_dirname
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        cells.append((label or f"cell {position}", cfg))
    distinct = {run_folder(cfg): (label, cfg) for label, cfg in cells}  # two labels of one configuration are one run
    missing = []
    for folder, (label, cfg) in distinct.items():
        if is_done(folder):
            say(f"{label}: done before")
        else:
            missing.append((label, cfg))
    if not all(folder in numbers for folder in distinct):
        number(list(distinct))
    if missing:
        with prepared(missing) as jobs:
            run_all(jobs, backend, config)
    return [
        JobReturn(overrides=arguments, cfg=cfg, status=JobStatus.COMPLETED)
        for arguments, (_, cfg) in zip(overrides, cells, strict=True)
    ]


@contextlib.contextmanager
def prepared(cells: Sequence[tuple[str, DictConfig]]) -> Iterator[list[CellJob]]:
    """Yield the cells (label, configuration) as jobs, in the order in which to start them.

    While the context lasts, each store and outputs folder holds a file by which a node tells that it sees the folder.
    """
    places = {Path(cfg.store, ".locks").absolute() for _, cfg in cells}
    places |= {Path(cfg.outputs, ".multirun").absolute() for _, cfg in cells}
    with probes(*sorted(places)) as needed:
        jobs = []
        for label, cfg in cells:
            settings: Any = OmegaConf.to_container(cfg, resolve=True)
            folder = run_folder(cfg)
            jobs.append(CellJob(label, folder, settings, Path.cwd(), needed, number=numbers.get(folder, "")))
        yield _leaders_first(jobs)


def _leaders_first(jobs: Sequence[CellJob]) -> list[CellJob]:
    """Put one job of each pool before the second of any: two jobs that draw one pool mostly wait for each other."""
    pools: set[str] = set()
    leaders: list[CellJob] = []
    others: list[CellJob] = []
    for job in jobs:
        pool = repr([job.settings[name] for name in ("task", "policy", "generation", "seed")])
        (others if pool in pools else leaders).append(job)
        pools.add(pool)
    return [*leaders, *others]
