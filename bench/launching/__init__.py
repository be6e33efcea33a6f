"""Where the cells of a sweep run: hydra/launcher=local (one after another), joblib, ray or slurm.

Hydra's own sweepers call a launcher with the settings of each cell; ours send each cell, composed and resolved, to a
process that calls runner.run_cell. A cell that is done is not sent, one whose process dies is run again elsewhere and
goes on from the store, and what has become of each lies in its folder, whoever ran it.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.config import plugins
from bench.config.rules import rules
from bench.errors import BenchError

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from bench.launching.jobs import Job


def check(overrides: Sequence[str], conf: str, *, devices: bool = True) -> None:
    """Raise BenchError where the launcher that these settings choose can't launch: a value, an extra, a device.

    devices: also see to what it needs on this machine; without, only its settings are read.
    """
    from hydra import compose, initialize_config_dir
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    concerned = re.compile(r"\+*(sweep=|hydra/launcher=|hydra\.launcher\.|threads=\d+$)")
    chosen = [override for override in overrides if concerned.match(override)]
    with initialize_config_dir(conf, version_base="1.3"):
        cfg = compose("config", chosen, return_hydra_config=True)
    settings: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    target = settings.pop("_target_")
    if not target.startswith(f"{plugins.LAUNCHERS}."):
        return
    launcher = get_object(target)
    for name, rule in rules(launcher).items():
        if name in settings and not rule.allows(settings[name]):
            value = "null" if settings[name] is None else settings[name]
            raise BenchError(f"hydra.launcher.{name}={value} is not allowed: it must be {rule.description}.")
    if devices:
        launcher(**settings).check(cfg)


def launch(
    config: "DictConfig",
    context: "HydraContext",
    overrides: Sequence[Sequence[str]],
    first: int,
    run: "Callable[[Sequence[Job]], None]",
) -> "list[JobReturn]":
    """Run cells for one of Hydra's sweepers; what each returns is its configuration, by which its folder is found."""
    from hydra.core.utils import JobReturn, JobStatus, setup_globals
    from omegaconf import open_dict, read_write

    from bench.config.keys import run_folder
    from bench.launching import jobs
    from bench.progress import say
    from bench.sweeps.cells import is_done

    setup_globals()
    cells: list[tuple[str, DictConfig]] = []
    for number, arguments in enumerate(overrides, first):
        cfg = context.config_loader.load_sweep_config(config, list(arguments))
        label = cfg.hydra.job.override_dirname
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        cells.append((label or f"cell {number}", cfg))
    distinct = {run_folder(cfg): (label, cfg) for label, cfg in cells}  # two labels of one configuration are one run
    todo = []
    for folder, (label, cfg) in distinct.items():
        if is_done(folder):
            say(f"{label}: done before")
        else:
            todo.append((label, cfg))
    if todo:
        with jobs.prepared(todo) as prepared:
            run(prepared)
    return [
        JobReturn(overrides=arguments, cfg=cfg, status=JobStatus.COMPLETED)
        for arguments, (_, cfg) in zip(overrides, cells, strict=True)
    ]
