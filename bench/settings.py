"""The configuration before any work: impossible values refused in one sentence, parts built, the run named."""

import inspect
import math
import re
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


Rule = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and what is


def _whole(minimum: int) -> Rule:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
        f"a whole number of at least {minimum}",
    )


def _number(low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False) -> Rule:
    def allowed(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > low if open_low else value >= low) and (value < high if open_high else value <= high)

    upper = f" and {'below' if open_high else 'at most'} {high:g}" if high < math.inf else ""
    return allowed, f"a number {'above' if open_low else 'of at least'} {low:g}{upper}"


def _one_of(*choices: str) -> Rule:
    return lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"


def _text(pattern: str, description: str) -> Rule:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, description


def _or_null(rule: Rule) -> Rule:
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


ABOVE_ZERO = _number(0, open_low=True)
PROBABILITY_MASS = _number(0, 1, open_low=True)
TRUE_OR_FALSE: Rule = (lambda value: isinstance(value, bool), "true or false")
FOLDER = _text(r"[^\0\n]+", "the path of a folder, as text")
PLAIN_NAME = _text(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]*",
    "a plain name of letters, digits, '.', '_' and '-', not starting with '.', and not a mere number",
)

RULES = {
    "name": PLAIN_NAME,
    "seed": _whole(0),
    "num_completions": _whole(1),
    "baseline_completions": _whole(1),
    "temperature": _number(0),
    "top_p": PROBABILITY_MASS,
    "threads": _whole(0),
    "store": FOLDER,
    "outputs": FOLDER,
    "task.train_prompts": _whole(1),
    "task.validation_prompts": _whole(1),
    "task.test_prompts": _whole(2),  # lm-eval's standard error needs two
    "task.max_new_tokens": _whole(1),
    "task.seed": _whole(0),
    "policy.path": FOLDER,
    "policy.seed": _whole(0),
    "policy.demonstrations": _whole(1),
    "policy.steps": _whole(1),
    "policy.learning_rate": ABOVE_ZERO,
    "generation.top_k": _whole(0),
    "generation.dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "generation.block_size": _whole(1),
    "generation.shard_size": _whole(1),
    "generation.batch_tokens": _whole(1),
    "scoring.every_step": TRUE_OR_FALSE,
    "selection.k": _whole(1),
    "training.epochs": ABOVE_ZERO,
    "training.learning_rate": ABOVE_ZERO,
    "training.batch_size": _whole(1),
    "training.micro_batch_size": _or_null(_whole(1)),
    "training.scheduler": _one_of("constant", "linear", "cosine"),
    "training.warmup": _number(0, 1, open_high=True),
    "training.weight_decay": _number(0),
    "training.max_grad_norm": _number(0),
    "training.gradient_checkpointing": TRUE_OR_FALSE,
    "evaluation.num_completions": _whole(1),
    "evaluation.kl_completions": _whole(1),
    "evaluation.temperature": ABOVE_ZERO,
    "evaluation.top_p": PROBABILITY_MASS,
    "evaluation.top_k": _whole(0),
    "evaluation.lm_eval": TRUE_OR_FALSE,
    "tracking.mode": _or_null(_one_of("online", "offline", "disabled")),
    "tracking.timeout": _or_null(_number(0)),
}
REPEATS = {  # a setting that only repeats another -> the one to set
    "generation.temperature": "temperature",
    "generation.top_p": "top_p",
    "generation.max_new_tokens": "task.max_new_tokens",
}
ABSENT = object()


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
    for key, (allowed, description) in RULES.items():
        value = _value(cfg, key)
        if value is not ABSENT and not allowed(value):
            raise BenchError(f"{key}={_shown(value)} is not allowed: it must be {description}.")
    for key, repeated in REPEATS.items():
        value = _value(cfg, key)
        if value is not ABSENT and value != _value(cfg, repeated):
            raise BenchError(
                f"{key}={_shown(value)} is not allowed: it only repeats {repeated}; set {repeated} instead."
            )
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
    batch, micro = cfg.training.get("batch_size"), cfg.training.get("micro_batch_size")
    if batch is not None and micro is not None and batch % micro:
        raise BenchError(
            f"training.micro_batch_size={micro} is not allowed: it must divide training.batch_size={batch}."
        )
    k, prompts = OmegaConf.select(cfg, "selection.k", default=None), cfg.task.get("train_prompts")
    if k is not None and prompts is not None and k > prompts * cfg.num_completions:
        raise BenchError(
            f"selection.k={k} is more than the pool holds: {prompts} prompts x {cfg.num_completions} completions = "
            f"{prompts * cfg.num_completions}."
        )


def _value(cfg: DictConfig, key: str) -> Any:
    """The resolved value at a dotted key, None where it is null, ABSENT where the chosen part has no such setting."""
    group, _, name = key.rpartition(".")
    node = cfg[group] if group else cfg
    return node[name] if name in set(node) else ABSENT


def _shown(value: Any) -> str:
    """As one would type it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


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
