"""The configuration before any work: impossible values refused in one sentence, parts built, the run named."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.artifacts import content_hash
from bench.errors import BenchError

PARTS = ("task", "policy", "generation", "scoring", "selection", "training", "evaluation", "tracking")
SETTINGS = (
    "name",
    "seed",
    "num_completions",
    "baseline_completions",
    "temperature",
    "top_p",
    "threads",
    "store",
    "outputs",
)
PLACES = ("store", "outputs", "tracking")  # where a run's files lie: not part of what it is


def _whole(minimum: int) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
        f"a whole number of at least {minimum}",
    )


def _number(low: float, high: float, *, open_low: bool = False) -> tuple[Callable[[Any], bool], str]:
    def allowed(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > low if open_low else value >= low) and value <= high

    bounds = f"{'above' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    return allowed, f"a number {bounds}"


RULES = {
    "num_completions": _whole(1),
    "baseline_completions": _whole(1),
    "temperature": _number(0, math.inf),
    "top_p": _number(0, 1, open_low=True),
    "seed": _whole(0),
    "threads": _whole(0),
    "task.max_new_tokens": _whole(1),
    "generation.temperature": _number(0, math.inf),
    "generation.top_p": _number(0, 1, open_low=True),
    "generation.top_k": _whole(0),
    "generation.max_new_tokens": _whole(1),
    "generation.block_size": _whole(1),
    "generation.shard_size": _whole(1),
    "selection.k": _whole(1),
    "training.epochs": _number(0, math.inf, open_low=True),
    "training.batch_size": _whole(1),
    "training.learning_rate": _number(0, math.inf, open_low=True),
    "evaluation.num_completions": _whole(1),
    "evaluation.kl_completions": _whole(1),
    "evaluation.temperature": _number(0, math.inf, open_low=True),
    "evaluation.top_p": _number(0, 1, open_low=True),
}


def check(cfg: DictConfig) -> None:
    """Raise BenchError, naming key, value and what is allowed, where no experiment could be run as configured."""
    unknown = sorted(set(cfg) - {*PARTS, *SETTINGS})
    if unknown:
        raise BenchError(
            f"{unknown[0]} is not a setting; the settings are {', '.join(SETTINGS)} and those of its parts."
        )
    missing = [*(part for part in PARTS if part not in cfg), *_without_value(OmegaConf.to_container(cfg))]
    if missing:
        raise BenchError(f"{missing[0]} has no value; give one: {missing[0]}=VALUE.")
    for key, (allowed, description) in RULES.items():
        value = OmegaConf.select(cfg, key, default=None)
        if value is not None and not allowed(value):
            raise BenchError(f"{key}={value} is not allowed: it must be {description}.")
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
    k, prompts = OmegaConf.select(cfg, "selection.k", default=None), cfg.task.get("train_prompts")
    if k is not None and prompts is not None and k > prompts * cfg.num_completions:
        raise BenchError(
            f"selection.k={k} is more than the pool holds: {prompts} prompts x {cfg.num_completions} completions = "
            f"{prompts * cfg.num_completions}."
        )


def _without_value(node: Any, prefix: str = "") -> list[str]:
    """Keys that still hold ???, OmegaConf's mark for a value the user must give."""
    if isinstance(node, dict):
        return [key for name, value in node.items() for key in _without_value(value, f"{prefix}{name}.")]
    return [prefix[:-1]] if node == "???" else []


def run_id(cfg: DictConfig) -> str:
    """A short hash of the resolved configuration, places left out: same configuration, same run."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(resolved, dict)
    return content_hash({name: value for name, value in resolved.items() if name not in PLACES})[:10]


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
        if isinstance(parts[name], partial):
            _refuse_unknown_settings(name, parts[name])
    return parts


def _refuse_unknown_settings(group: str, part: partial) -> None:
    known = [
        name
        for name, parameter in inspect.signature(part.func).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in part.keywords:
        if name not in known:
            raise BenchError(f"{group}.{name} is not a setting of {part.func.__name__}; it has {', '.join(known)}.")
