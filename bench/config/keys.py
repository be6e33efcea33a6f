"""Keys of a configuration: the id and the folder of its run, and keys of some of its settings."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from bench.artifacts import content_hash
from bench.config.nodes import target
from bench.devices import default_engine
from bench.errors import BenchError

PLACES = ("store", "outputs", "tracking")  # where a run's files lie: they do not change the run id

UNNAMED = "default"  # conf/config.yaml's name: of runs that are given no other
FINE_TUNING = "bench.training.sft.fine_tune"
IN_PROCESS = "bench.generation.transformers_engine.generate"
IMPORTED = "bench.generation.imported.generate"
OWN_PROMPTS = "bench.tasks.jsonl.Jsonl"
# later settings, by part, or by function for parts that stand in other places too: at these values they don't change
# the run id
LATER: dict[str, dict[str, Any]] = {
    "task": {"cpu_seconds": 2, "continuation": "function"},
    "training": {"updates": None},
    "evaluation": {"temperatures": None},
}
LATER_OF: dict[str, dict[str, Any]] = {
    OWN_PROMPTS: {"solution_field": "solution"},
    "bench.generators.from_several": {"solutions": False},
    "bench.selection.solved": {"accept_above": 0.5},
}


def run_id(cfg: DictConfig) -> str:
    """A short hash of the resolved configuration without PLACES: equal configurations have equal ids."""
    return id_of_settings(OmegaConf.to_container(cfg, resolve=True))


def id_of_settings(settings: Any) -> str:
    """The run id of a resolved configuration, given as a plain dict."""
    named = {name: value for name, value in settings.items() if name not in PLACES and (name != "arms" or value)}
    if isinstance(engine := named.get("generation"), Mapping) and engine.get("_target_") == IMPORTED:
        named["generation"] = {name: value for name, value in engine.items() if name not in PLACES}
    for part, later in LATER.items():
        if isinstance(own := named.get(part), Mapping):
            named[part] = {name: value for name, value in own.items() if name not in later or later[name] != value}
    return content_hash(_without_later(named))[:10]


def _without_later(node: Any) -> Any:
    """The settings without those of LATER_OF that have their defaults."""
    if isinstance(node, list):
        return [_without_later(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    target = str(node.get("_target_"))
    if "transformers_engine" in target and node.get("batch_tokens", 0) is None:
        node = {**node, "batch_tokens": 49_152}  # which was the default
    if target == FINE_TUNING and node.get("packing", False) is None:
        node = {**node, "packing": False}  # which was the default
    later = LATER_OF.get(target, {})
    return {n: _without_later(value) for n, value in node.items() if n not in later or later[n] != value}


def run_folder(cfg: DictConfig) -> Path:
    """`folder_of_settings` of a configuration."""
    return folder_of_settings(OmegaConf.to_container(cfg, resolve=True))


def folder_of_settings(settings: Any) -> Path:
    """Return outputs/<name>/<run id>, or outputs/<task>/<run id> for a user's own task where no name was given.

    A run that was finished in outputs/default before own tasks had folders stays there.
    """
    task, run = settings["task"], id_of_settings(settings)
    folder = Path(settings["outputs"], settings["name"], run).absolute()
    own = not task["_target_"].startswith("bench.") or task["_target_"] == OWN_PROMPTS
    if not own or settings["name"] != UNNAMED or (folder / "metrics.json").is_file():
        return folder
    return folder.parent.parent / task_name(task) / run


def task_name(task: Mapping[str, Any]) -> str:
    """A task's class in snake case; for prompts of a user's own file, with the file's name: "jsonl_prompts"."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(task["_target_"]).rpartition(".")[2]).lower()
    file = f"_{Path(task['path']).stem}" if task["_target_"] == OWN_PROMPTS else ""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name + file)


def for_task(name: str, here: Any, elsewhere: Any, *, _root_: DictConfig) -> Any:
    """Return a setting's default that depends on the task: ${for_task:word_problems,0.5,0.0} in a configuration."""
    return here if task_name({"path": "", **_root_["task"]}) == name else elsewhere


def for_verifier(here: str, elsewhere: str, *, _root_: DictConfig) -> str:
    """Return a default that depends on whether scoring gives verdicts, 0 or 1: ${for_verifier:VALUE,ELSEWHERE}."""
    try:
        known = getattr(target("scoring", _root_["scoring"]), "known_of_scorer", None)
    except (BenchError, KeyError, TypeError, MissingMandatoryValue):
        return elsewhere  # the check of the configuration says what is wrong
    return here if getattr(known, "verdicts", False) else elsewhere


OmegaConf.register_new_resolver("for_task", for_task, replace=True)
OmegaConf.register_new_resolver("for_verifier", for_verifier, replace=True)
OmegaConf.register_new_resolver("default_engine", default_engine, replace=True)


def settings_key(cfg: Any, *names: str) -> str:
    """A key that two resolved configurations share where their settings of these names are equal."""
    return json.dumps([cfg[name] for name in names], sort_keys=True)


def drawing(generation: Any) -> Any:
    """The node of the engine that draws: generation=ray has workers, generation=imported has others."""
    return generation.get("worker") or (generation["others"] if generation["_target_"] == IMPORTED else generation)


def import_of(generation: Any, split: str) -> str | None:
    """The name of the import that the base's completions of a split are taken from; None where they are drawn."""
    return generation.get(split) if generation["_target_"] == IMPORTED else None


def configured(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every part in a configuration, and the parts inside it: the nodes with a _target_."""
    return (part for _, part in parts_within(node, ""))


def parts_within(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same, each with its dotted key. key: of the node."""
    if isinstance(node, Mapping) and "_target_" in node:
        yield key, node
    inside = node if isinstance(node, Mapping) else range(len(node)) if isinstance(node, list | ListConfig) else ()
    for name in inside:
        yield from parts_within(node[name], f"{key}.{name}")
