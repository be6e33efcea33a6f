"""Checks of the nodes of a configuration: what a `_target_` names, its settings, and the values that they may have."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra._internal.utils import _locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from bench.config.rules import Rule, rules
from bench.errors import BenchError, did_you_mean

SUPPLIED = {  # group -> what its functions are called with beside their settings
    "generation": ("num_completions", "seed"),
    "scoring": ("base", "task", "generation", "prepare"),  # see bench.scoring.prepared
    "selection": ("paths", "answers", "steps_true", "texts", "length", "logprob"),  # see evidence_for
    "training": ("seed",),
    "evaluation": ("validation", "seed"),
    "adapt": ("seed",),
}


def resolved(cfg: DictConfig) -> Any:
    """The settings with the values that they refer to. BenchError where they refer to each other in a circle."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except RecursionError as error:
        raise BenchError(
            "A setting refers to itself, by itself or through others (${...}); give one of them a value."
        ) from error


def check_node(key: str, node: Any) -> None:
    """Refuse settings that the function of a configured part lacks or does not allow, in the parts inside it too."""
    if not isinstance(node, Mapping | list | ListConfig):
        return
    names: list[Any] = list(node) if isinstance(node, Mapping) else list(range(len(node)))
    if isinstance(node, Mapping) and "_target_" in node:
        settings = [str(name) for name in names if name not in ("_target_", "_partial_")]
        function = target(key, node)
        _check_partial(key, node, function)
        known = _settings_of(function)
        for name in settings:
            if name not in known:
                raise BenchError(
                    f"{key}.{name} is not a setting of {function.__name__} ({node['_target_']}), which has "
                    f"{', '.join(known) or 'none'}{did_you_mean(name, known) or f'; leave it out: ~{key}.{name}.'}"
                )
        for name, rule in rules(function).items():
            if name in settings:
                refuse(f"{key}.{name}", node[name], rule)
        _refuse_missing(key, node, function)
    for name in names:
        check_node(f"{key}.{name}", node[name])


def target(key: str, node: Any) -> Any:
    name = node["_target_"]
    try:
        found = _locate(name)  # get_object would log what the message here says
        inspect.signature(found)
    except Exception as error:  # an import may raise anything, and Hydra has several exceptions
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        if not isinstance(name, str):
            reason = "it must be a dotted name"
        raise BenchError(f"{key}._target_={name} is no function or class that can be imported: {reason}.") from error
    return found


def _check_partial(key: str, node: Mapping[str, Any], function: Any) -> None:
    """BenchError where a function that needs artifacts would be called at once, or a class be made too late."""
    expected = not inspect.isclass(function) and any(
        parameter.kind == parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
        for parameter in inspect.signature(function).parameters.values()
    )
    given_now = node.get("_partial_", False)
    if given_now != expected and (expected or inspect.isclass(function)):
        raise BenchError(
            f"{key}._partial_={shown(given_now)} is not allowed: it must be {shown(expected)}, since "
            f"{function.__name__} is {'called with what other stages made' if expected else 'made before all stages'}."
        )


def _refuse_missing(key: str, node: Mapping[str, Any], function: Any) -> None:
    """BenchError for a setting without a default that is not given, and that who calls the function does not supply.

    What calls a part inside a part may supply more: there, only settings with a rule are known to be settings.
    """
    group, known = next((name for name in reversed(key.split(".")) if name in SUPPLIED), ""), rules(function)
    inside, given = "." in key and node.get("_partial_", False), {*map(str, node), *SUPPLIED.get(group, ())}
    parameters = inspect.signature(function).parameters
    for name in _settings_of(function):
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and name not in given and (name in known or not inside):
            allowed = f": it must be {known[name].description}" if name in known else ""
            raise BenchError(
                f"{key}.{name} has no value, and {function.__name__} ({node['_target_']}) needs one{allowed}."
            )


def _settings_of(function: Any) -> list[str]:
    """The settings of a function: its keyword-only parameters, since the others are artifacts; of a class, all."""
    also = [inspect.Parameter.POSITIONAL_OR_KEYWORD] if inspect.isclass(function) else []
    kinds = [inspect.Parameter.KEYWORD_ONLY, *also]
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in kinds]


def refuse(key: str, value: Any, rule: Rule) -> None:
    for name, part, its_rule in rule.inside(value):
        refuse(f"{key}.{name}", part, its_rule)
    if not rule.allows(value):
        raise BenchError(f"{key}={shown(value)} is not allowed: it must be {rule.words(value)}.")


def shown(value: Any) -> str:
    """The value as on the command line; a part as the name of its function, another mapping as its names."""
    if isinstance(value, Mapping):
        names = ", ".join(str(name) for name in value)
        return str(value["_target_"]).rsplit(".", 1)[-1] if "_target_" in value else f"{{{names}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def without_value(node: Any, prefix: str = "") -> list[str]:
    """Keys whose value is ???, OmegaConf's mark for a value that the user must give."""
    if isinstance(node, dict):
        return [key for name, value in node.items() for key in without_value(value, f"{prefix}{name}.")]
    return [prefix[:-1]] if node == "???" else []
