"""Online reinforcement learning: a policy draws, is rewarded, and is updated, again and again (GRPO, RLOO; TRL).

Each update draws `num_generations` completions of some training prompts from the policy as it is now, by the suite's
own decoding, scores them, and takes a step. GRPO (Shao et al. 2024, arXiv 2402.03300): a completion's advantage is its
reward minus the mean of its prompt's group, over the group's standard deviation. RLOO (Ahmadian et al. 2024, arXiv
2402.14740): its reward minus the mean of the others' in its group. A truncated completion counts like any other.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards
from bench.blocks import stored
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.generation.pool import FILE, Unit, write_unit
from bench.models import loading
from bench.models.classifiers import find, find_configured
from bench.models.sampler import Sampler
from bench.models.tokens import encode
from bench.seeds import small_seed
from bench.store import Address, current
from bench.store.files import checksum
from bench.store.reading import sha256
from bench.training import checkpoints
from bench.training.lora import save, trainable
from bench.training.online_recipe import OnlineRecipe
from bench.training.rollouts import Rollouts, Score
from bench.training.trainers import isolated, write_log

STAGE = "online"
REWARDS = "rewards.npz"  # no .safetensors, which programs take for weights


@dataclass(frozen=True)
class OnlineTraining:
    """The outcome of one training."""

    policy: Policy
    pool: Completions  # [M, N] in the order drawn
    rewards: Rewards  # [M, N] by the scorer
    seen: np.ndarray  # [M, N] the rewards that the training saw: permuted within groups for a control

    def has_signal(self, num_generations: int) -> bool:
        """Whether any prompt had completions of different rewards in one group."""
        groups = self.seen.reshape(len(self.seen), -1, num_generations)
        return bool((np.nanmax(groups, axis=2, initial=-np.inf) > np.nanmin(groups, axis=2, initial=np.inf)).any())


def train_online(
    policy: Policy,
    prompts: Prompts,
    score: Score,
    recipe: OnlineRecipe,
    *,
    scored_by: Any,
    sampler: Sampler,
    max_new_tokens: int,
    batch_tokens: int | None,
) -> OnlineTraining:
    """The policy after `recipe` from `policy`, its samples and their rewards, read from the store if they are there.

    scored_by: names the scorer and its settings in the key. batch_tokens: see bench.generation.transformers_engine.
    On a CPU the result is bit for bit the same for equal inputs, seed and thread count. BenchError where the loss is no
    finite number.
    """
    own = {"max_new_tokens": max_new_tokens, "scored_by": scored_by}
    settings = {**recipe.key_settings, **sampler.settings, **own}
    address = Address(STAGE, 1, settings, {"policy": policy.key, "prompts": prompts.key}).piece("00000")
    build = partial(_train, policy, prompts, score, recipe, sampler, max_new_tokens, batch_tokens)
    load = partial(_load, prompts=len(prompts), samples=recipe.samples, code=policy.trust_remote_code)
    trained = current().make(address, build, load)
    shutil.rmtree(checkpoints.beside(current().scratch(address)), ignore_errors=True)  # no longer needed
    return trained


def _load(folder: Path, *, prompts: int, samples: int, code: bool) -> OnlineTraining:
    unit = Unit(folder, checksum(folder, FILE), prompts, samples, samples)
    rewards = np.load(folder / REWARDS)
    return OnlineTraining(
        replace(loading.folder(folder), trust_remote_code=code),
        stored([(slice(0, prompts), 0, unit)]),
        Rewards(rewards["value"]),
        rewards["seen"],
    )


def _train(
    policy: Policy,
    prompts: Prompts,
    score: Score,
    recipe: OnlineRecipe,
    sampler: Sampler,
    max_new_tokens: int,
    batch_tokens: int | None,
    out: Path,
) -> dict[str, float]:
    """Train, and write the policy, its samples and the log to `out`."""
    from bench.generation.transformers_engine import TransformersEngine
    from bench.models.logprobs import Rescorer
    from bench.training.online_trainer import train

    with isolated(small_seed(recipe.seed, "adapter")):
        model = trainable(policy, recipe.lora, in_bfloat16=recipe.in_bfloat16)
        learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        frozen = model.num_parameters() - learnt
        drawing: Any = model if recipe.lora is None else model.get_base_model()  # in which PEFT put the adapter
        engine = TransformersEngine(policy, dtype="float32", batch_tokens=batch_tokens, model=drawing)
        encode(engine.tokenizer, prompts, max_new_tokens=max_new_tokens, context=loading.context(model.config))
        reference = Rescorer(policy, dtype=resolve_dtype())
        rollouts = Rollouts(prompts, score, recipe, engine, reference, sampler, max_new_tokens)

        write = partial(save, model, policy)

        def reached(updates: int) -> None:
            if not checkpoints.is_kept(out, updates):
                checkpoints.keep(out, updates, write)

        log, tokens = train(model, policy, rollouts, out=out, reached=reached)
        write(out)
        write_log(log, out)
    write_unit(rollouts.completions, out / FILE)
    np.savez(out / REWARDS, value=rollouts.value, seen=rollouts.seen)
    checkpoints.hand_over(out)
    read_again = recipe.algorithm == "rloo" or recipe.num_iterations > 1  # the old log-probabilities
    forward = 2 * (learnt + frozen) * tokens
    once_more = forward * ((recipe.beta > 0) + read_again)
    return {
        **rollouts.counts,
        "flops": rollouts.counts["flops"] + once_more,
        "completions": rollouts.value.size,
        "trained_completions": rollouts.value.size * recipe.num_iterations,
        "train_tokens": tokens * recipe.num_iterations,
        "train_flops": (6 * learnt + 4 * frozen) * tokens * recipe.num_iterations,
        "reread_flops": once_more,
        "steps": len(log),
    }


def refuse_no_signal(trained: OnlineTraining, recipe: OnlineRecipe) -> None:
    """BenchError where no group had completions of different rewards, so that no update could learn from them."""
    if trained.has_signal(recipe.num_generations):
        return
    values = trained.rewards.value[~np.isnan(trained.rewards.value)]
    if not values.size:
        raise BenchError("procedure=online learnt nothing: no completion could be scored; use another scoring.")
    of_each = f"all {values.size:,} rewards are {values[0]:g}"
    found = of_each if values.min() == values.max() else "the rewards are equal within each prompt"
    raise BenchError(
        f"procedure=online learnt nothing: {found}, and an update needs a prompt whose completions have different "
        "rewards; raise temperature or num_completions, use easier prompts or another scoring. The samples are in the "
        "store."
    )


def described(part: Any) -> Any:
    """A configured part as names and settings, for keys: functions by module and name, their settings inside.

    A user's function counts by the content of its module too, and a model in a local folder by that of its files.
    """
    if isinstance(part, partial):
        settings = dict(part.keywords)
        if getattr(part.func, "check_here", None) is find_configured and Path(settings["model"]).expanduser().is_dir():
            settings["model"] = find(settings["model"], trust_remote_code=settings.get("trust_remote_code", False)).key
        return [described(part.func), described(settings)]
    if isinstance(part, Mapping):
        return {str(name): described(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [described(value) for value in part]
    if part is None or isinstance(part, str | int | float | bool):
        return part
    if callable(part) and hasattr(part, "__qualname__"):
        name, code = f"{part.__module__}.{part.__qualname__}", own_code(part)
        return [name, *code] if code else name
    return [f"{type(part).__module__}.{type(part).__qualname__}", described(vars(part))]


def own_code(part: Any) -> list[str]:
    """The hash of the user's module that defines a function or class; empty for those of the suite, by their names."""
    file = getattr(sys.modules.get(part.__module__), "__file__", None)
    return [] if file is None or part.__module__.startswith("bench.") else [sha256(Path(file))]
