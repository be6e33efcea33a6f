"""The configuration before any work: impossible values refused in one sentence, parts built, the run named."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from bench.config import cross_checks
from bench.config.rules import FOLDER, PLAIN_NAME, PROBABILITY_MASS, Rule, number, one_of, rules, whole
from bench.errors import BenchError

PARTS = (
    *("task", "policy", "generation", "scoring", "prompt_filter", "selection", "training", "evaluation", "tracking"),
    "procedure",  # what calls the others with RUN_SETTINGS
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
REPEATS = {  # a setting that only repeats another -> the one to set
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
    """Raise BenchError, naming key, value and what is allowed, where no experiment could be run as configured."""
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
        value = cross_checks.value_of(cfg, key)
        if value is not cross_checks.ABSENT and value != cross_checks.value_of(cfg, repeated):
            raise BenchError(
                f"{key}={_shown(value)} is not allowed: it only repeats {repeated}; set {repeated} instead."
            )
    for part in PARTS:
        _check_node(part, cfg[part])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    for function in _functions({part: cfg[part] for part in PARTS}):
        if (check_settings := getattr(function, "check_settings", None)) is not None:
            check_settings(config)
    cross_checks.check(cfg)


def _check_node(key: str, node: Any) -> None:
    """Refuse, in a configured part and the parts inside it, settings that its function lacks or does not allow."""
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


def _functions(node: Any) -> Iterator[Any]:
    """What every configured part is made by, and the parts inside it."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield _target("", node)
        for name in node:
            yield from _functions(node[name])
    elif isinstance(node, ListConfig):
        for part in node:
            yield from _functions(part)


def _target(key: str, node: Any) -> Any:
    try:
        return get_object(node["_target_"])
    except Exception as error:  # Hydra raises several kinds, and what an import raises
        raise BenchError(f"{key}._target_={node['_target_']} can't be imported: {error}") from error


def _settings_of(function: Any) -> list[str]:
    """Keyword-only parameters are settings, positional ones artifacts; a class's are all settings."""
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
    """As one would type it on the command line; of a part its function, of other mappings the names."""
    if isinstance(value, DictConfig):
        names = ", ".join(str(name) for name in value)
        return str(value["_target_"]).rsplit(".", 1)[-1] if "_target_" in value else f"{{{names}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _without_value(node: Any, prefix: str = "") -> list[str]:
    """Keys that still hold ???, OmegaConf's mark for a value the user must give."""
    if isinstance(node, dict):
        return [key for name, value in node.items() for key in _without_value(value, f"{prefix}{name}.")]
    return [prefix[:-1]] if node == "???" else []


def build_parts(cfg: DictConfig) -> dict[str, Any]:
    """Each part of the experiment, instantiated; a setting that its function does not know is refused here."""
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
