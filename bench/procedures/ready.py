"""Check an experiment before its first artifact: its data, and lengths and sizes against the base policy.

Prompts are read, and nothing is made. What one setting may be is said by bench.config.rules, what this machine lacks by
functions that are attached with `here`.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from bench import policies
from bench.artifacts import Prompts
from bench.config.arms import several
from bench.config.checks import refuse_more_than_the_pool
from bench.config.keys import configured, drawing, parts_within
from bench.config.rules import defaults
from bench.errors import BenchError
from bench.generation import imported
from bench.models import loading, tokens
from bench.procedures import elsewhere
from bench.procedures.parts import Parts
from bench.store import Finder, MissingError, using
from bench.tasks import SPLITS, Corpus
from bench.training import pretraining, processes

TRAINED = "bench.scoring.trained_reward_model.trained_reward_model"
BY_STEPS = "bench.scoring.trained_process_reward.trained_process_reward"
ADAPTED = "is an adapter, not merged into its base model"


class PolicyShape(NamedTuple):
    """The known properties of a policy before it is made."""

    context: int | None  # tokens; None: no limit is known
    layers: int | None
    modules: frozenset[str]  # the last parts of their names; empty: not known
    tokenizer: Callable[[], Any]
    most: Callable[[str], float] = lambda text: float("inf")  # tokens of a text
    config: Any = None  # transformers' configuration; None: not known
    unfit: str | None = None  # why no classifier can start from it, as a verb and more; None: not known


def check(parts: Parts, procedure: Callable[..., Any], config: Mapping[str, Any]) -> None:
    """Raise BenchError for an experiment that would fail later. config: the resolved configuration."""
    prompts = {split: parts.prompts(split) for split in _splits(config)}
    refuse_more_than_the_pool(config, len(prompts["train"]))
    imported.check_pools(prompts, config, parts.selection)
    for name, task in (getattr(parts.evaluation, "keywords", {}).get("transfer") or {}).items():
        task.prompts("test")
        if task.answer_pattern is None:
            raise BenchError(
                f"evaluation.transfer.{name} is {task.name}, which lm-eval can't judge: it has no answer pattern."
            )
    if (shared := config["training"].get("processes", 1)) > 1:
        processes.check_gpus(f"training.processes={shared}", shared)
    base = _shape(parts, parts.policy)
    for key, scorer in parts_within(config["scoring"], "scoring"):
        if scorer["_target_"] in (TRAINED, BY_STEPS):
            _check_scorer(key, scorer, base, {split: len(held) for split, held in prompts.items()})
    if base is not None:
        _check_adapter(config["training"].get("lora"), base)
    generators = getattr(procedure, "keywords", {}).get("generators") or {}
    drawing = {id(entry["policy"]): entry["policy"] for entry in generators.values() if entry["policy"] is not None}
    arms = elsewhere.configured(parts)
    for shape in (base, *(_shape(parts, policy) for policy in (*drawing.values(), *arms.values()))):
        if shape is not None:
            for held in prompts.values():
                _check_lengths(held, shape, config)
    root = Path(config["store"]).absolute()
    with using(Finder(root)), contextlib.suppress(MissingError):  # a base that is not yet made is checked when it is
        made = parts.made(parts.policy) if arms else None
        for arm in arms.values():
            with contextlib.suppress(MissingError):  # an adapter that fits, and is not yet copied
                parts.made(partial(arm, base=made))


def _splits(config: Mapping[str, Any]) -> list[str]:
    along = config["training"].get("keep_every") or several(config["arms"])
    besides = [along and "validation", config["procedure"].get("stop")]
    learned_from = [value for node in configured(config["scoring"]) for name, value in node.items() if "_from" in name]
    named = dict.fromkeys(["train", config["split"], *besides, *learned_from])
    return [split for split in named if split in SPLITS]


def _shape(parts: Parts, policy: Any) -> PolicyShape | None:
    """The shape of a configured policy; None for one of a kind that is not known here."""
    function, settings = (policy.func, policy.keywords) if isinstance(policy, partial) else (policy, {})
    if function is policies.warm_started:
        start = _shape(parts, settings["start"])
        tuned = getattr(settings["training"], "keywords", {}).get("lora") is not None
        return start._replace(unfit=ADAPTED) if start is not None and tuned else start
    if function is policies.tiny:
        known = defaults(function) | settings
        own = {name: known[name] for name in ("seed", "demonstrations", "vocabulary")}
        return PolicyShape(
            context=pretraining.CONTEXT,
            layers=known["layers"],
            modules=frozenset(pretraining.LAYERS),
            tokenizer=lambda: pretraining.tokenizer_of(cast(Corpus, parts.task), **own),
            most=lambda text: 1 + len(text.encode()),  # BOS, and a token has a byte or more
        )
    if function not in (policies.from_folder, policies.from_hub, policies.from_elsewhere):
        return None
    if function is policies.from_elsewhere:
        if (Path(settings["place"]) / loading.ADAPTER).is_file():  # it has the base's shape, or is refused below
            loading.folder(settings["place"], setting=settings["setting"], on="")
            return None
        policy = partial(policy, base=None)
    made = policy(parts.task)
    base = loading.base_of(made)
    described = loading.load_config(base)
    own_code = made.trust_remote_code and getattr(described, "auto_map", None)
    return PolicyShape(
        context=loading.context(described),
        layers=getattr(described.get_text_config(), "num_hidden_layers", None),
        modules=frozenset(part for name, _ in loading.weights(base.path) for part in name.split(".")),
        tokenizer=lambda: loading.load_tokenizer(made),
        config=described,
        unfit=ADAPTED if base != made else "brings Python code of its own" if own_code else None,
    )


def _check_lengths(prompts: Prompts, shape: PolicyShape, config: Mapping[str, Any]) -> None:
    """BenchError where a prompt leaves no room for a completion; texts are encoded only where that is in doubt."""
    engine = drawing(config["generation"])
    limits = [limit for limit in (shape.context, engine.get("max_model_len")) if limit is not None]
    longest = config["task"].get("max_new_tokens")
    if not limits or longest is None:
        return
    if longest >= min(limits):
        raise BenchError(
            f"task.max_new_tokens={longest} is not allowed: prompt and completion must fit the policy's context of "
            f"{min(limits)} tokens."
        )
    texts = ["\n\n".join(message["content"] for message in messages) for messages in prompts.messages]
    if max(map(shape.most, texts), default=0) + longest > min(limits):
        tokens.encode(shape.tokenizer(), prompts, max_new_tokens=longest, context=min(limits))


def _check_adapter(lora: Mapping[str, Any] | None, base: PolicyShape) -> None:
    targets = (lora or {}).get("target_modules", ())
    if isinstance(targets, str) or not targets or not base.modules:
        return
    if "lm_head" in targets:
        raise BenchError(
            "training.lora.target_modules=lm_head can't be adapted: the loss reads the head's own weights."
        )
    if not any(name.rpartition(".")[2] in base.modules for name in targets):
        raise BenchError(
            f"training.lora.target_modules={','.join(targets)} are no modules of the policy; it has "
            f"{', '.join(name for name in sorted(base.modules) if name.endswith('_proj')) or 'others'}."
        )


def _check_scorer(key: str, scorer: Mapping[str, Any], base: PolicyShape | None, prompts: Mapping[str, int]) -> None:
    """BenchError where no reward model can start from the base policy, or its sizes go beyond what there is."""
    kind = "token" if scorer["_target_"] == BY_STEPS else "sequence"
    unfit = None if base is None else base.unfit
    if base is not None and unfit is None and base.config is not None:
        import transformers

        if type(base.config) not in getattr(transformers, f"MODEL_FOR_{kind.upper()}_CLASSIFICATION_MAPPING"):
            unfit = f"has the type {base.config.model_type}, of which transformers has no {kind} classifier"
    if unfit is not None:
        raise BenchError(
            f"{key} can't train a reward model from the base policy, which {unfit}; use another policy or scoring."
        )
    if kind == "token":
        return
    layers, most = scorer["layers"], prompts[scorer["pairs_from"]] * (scorer["most_completions"] // 2)
    if base is not None and None not in (layers, base.layers) and layers > base.layers:
        raise BenchError(
            f"{key}.layers={layers} is more than the base policy has: it must be at most {base.layers}, or null for "
            "all."
        )
    if scorer["pairs"] > most:
        raise BenchError(
            f"{key}.pairs={scorer['pairs']} is more than {prompts[scorer['pairs_from']]} prompts with "
            f"{key}.most_completions={scorer['most_completions']} can give: at most {most}."
        )
