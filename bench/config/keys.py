"""Keys of a configuration: the id and the folder of its run, and keys of some of its settings."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from bench.artifacts import content_hash

PLACES = ("store", "outputs", "tracking")  # where a run's files lie: they do not change the run id

LATER = {"cpu_seconds": 2}  # settings of tasks that came later; at these values they do not change the run id


def run_id(cfg: DictConfig) -> str:
    """A short hash of the resolved configuration without PLACES: equal configurations have equal ids."""
    return id_of_settings(OmegaConf.to_container(cfg, resolve=True))


def id_of_settings(settings: Any) -> str:
    """The run id of a resolved configuration, given as a plain dict."""
    named = {name: value for name, value in settings.items() if name not in PLACES}
    if isinstance(task := named.get("task"), Mapping):
        named["task"] = {name: value for name, value in task.items() if name not in LATER or LATER[name] != value}
    return content_hash(named)[:10]


def run_folder(cfg: DictConfig) -> Path:
    """The folder outputs/<name>/<run id>."""
    return Path(cfg.outputs, cfg.name, run_id(cfg)).absolute()


def settings_key(cfg: Any, *names: str) -> str:
    """A key that two resolved configurations share where their settings of these names are equal."""
    return json.dumps([cfg[name] for name in names], sort_keys=True)


def configured(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every part in a configuration, and the parts inside it: the nodes with a _target_."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        for name in node:
            yield from configured(node[name])
    elif isinstance(node, list | ListConfig):
        for part in node:
            yield from configured(part)
