"""Fine-tune a policy on selected completions: rejection-sampling fine-tuning, with TRL's SFTTrainer.

The training reads the token ids that were drawn, never re-tokenised text. A truncated completion gets no EOS; a
finished one has its own. Only completion tokens carry loss. For a batch B with selection weights w, completion lengths
l (tokens) and negative log-likelihoods nll (nats per token),

    loss(B) = sum_{i in B} w_i sum_t nll_it / sum_{i in B} w_i l_i

so that a row of weight 2 counts as that row twice in its batch, also where a batch is split into micro-batches.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bench import progress
from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.config import rules
from bench.errors import BenchError
from bench.models import chat, loading
from bench.models.tokens import ending_ids
from bench.seeds import small_seed
from bench.selection.pairs import refuse_pairs
from bench.store import Address, current
from bench.training import checkpoints, processes
from bench.training.checkpoints import hand_over, is_kept, keep, kept
from bench.training.lora import Lora, fill, save, trainable
from bench.training.packing import IGNORED
from bench.training.recipe import PRECISIONS, SCHEDULERS, Recipe
from bench.training.trainers import Examples, isolated, refuse_unreadable, training_log, write_log
from bench.training.weighted_trainer import train

ONLINE = "bench.procedures.online.online"
TOO_LONG = "completion with its prompt", "train on shorter ones, or from a policy with a longer context"


@dataclass(frozen=True)
class TrainingSet(Examples):
    """K completions with their prompts. Selections of the same completions share one training."""

    token_ids: tuple[tuple[int, ...], ...]  # [K] completions as drawn, EOS included where it was drawn
    finish_reason: tuple[str, ...]  # [K] "stop" or "length"
    weight: tuple[float, ...]  # [K] in the loss, above 0


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise BenchError where the configured settings of `fine_tune` don't go together; others have their defaults."""
    if config["training"].get("_target_") == f"{__name__}.{fine_tune.__name__}":  # not that of a warm start alone
        refuse_pairs(config, "training=sft", "it trains on single completions; set training=dpo, or leave out pairs")
    training = config["training"]
    if config.get("procedure", {}).get("_target_") == ONLINE:  # whose batches have another size, which it checks
        training = {**training, "micro_batch_size": None}
    check_recipe({**config, "training": training})


def check_recipe(config: Mapping[str, Any]) -> None:
    """Raise BenchError where the settings of a recipe don't go together."""
    recipe = Recipe.of({**rules.defaults(fine_tune), **config["training"], "seed": config["seed"]})
    if isinstance(recipe.lora, Mapping):
        recipe = replace(recipe, lora=Lora(**{field.name: recipe.lora[field.name] for field in fields(Lora)}))
    recipe.check()


@rules.checked(check_settings)
def fine_tune(
    policy: Policy,
    prompts: Prompts,
    completions: Completions,
    selection: Selection,
    *,
    epochs: Annotated[float | None, rules.or_null(rules.EPOCHS)] = 3,
    updates: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    learning_rate: rules.LearningRate = 1e-3,
    batch_size: rules.Count = 32,
    micro_batch_size: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    scheduler: Annotated[str, rules.one_of(*SCHEDULERS)] = "cosine",
    warmup: Annotated[float, rules.number(0, 1, open_high=True)] = 0.05,
    weight_decay: rules.WeightDecay = 0.0,
    max_grad_norm: Annotated[float, rules.number(0)] = 1.0,
    gradient_checkpointing: Annotated[bool, rules.TRUE_OR_FALSE] = False,
    packing: Annotated[bool | None, rules.or_null(rules.TRUE_OR_FALSE)] = None,
    precision: Annotated[str, rules.one_of(*PRECISIONS)] = "auto",
    lora: Lora | None = None,
    keep_every: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    checkpoint_every: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    processes: rules.Workers = 1,
    fsdp: Annotated[bool, rules.TRUE_OR_FALSE] = False,
    seed: int,
) -> Policy:
    """The policy after AdamW on the selected completions, starting from `policy`; equal training sets are trained once.

    updates: the number to make, with epochs=None; the data is passed over as often as that takes, shuffled each time.
    batch_size: examples per update; micro_batch_size: examples in memory at a time (None: all), a divisor of it.
    scheduler: "constant", "linear" or "cosine"; warmup: share of the updates in which the learning rate rises from 0.
    max_grad_norm: the gradient is scaled down to this Euclidean norm; 0 leaves it as it is.
    lora: train an adapter and freeze the rest (see bench.training.lora); None: train every weight.
    precision: of computing, "float32", "bfloat16" or "auto" (bfloat16 on a GPU, float32 on a CPU). The trained weights
    are float32 throughout: bfloat16 weights lose small updates to rounding.
    packing: examples lie one after another in a row without padding, and none sees another; None: on a GPU, where the
    model allows it. It changes only the speed.
    keep_every: updates between two policies that are kept along the way (see bench.training.checkpoints); None: none.
    checkpoint_every: updates between two checkpoints, from the last of which a killed training goes on; None: none.
    processes: the number that share the training, a GPU each. fsdp: each holds only a share of weights and optimizer
    (FSDP2). On a CPU the result is bit for bit the same for equal inputs, seed and thread count.
    Rows of weight 0 are left out. Raises BenchError where nothing is left, or where the loss is NaN.
    """
    recipe = Recipe.of(locals())
    recipe.check()
    return sft(policy, training_set(prompts, completions, selection), recipe)


def training_set(prompts: Prompts, completions: Completions, selection: Selection) -> TrainingSet:
    """The selected completions of a pool, in the selection's order, without those of weight 0."""
    weight = np.asarray(selection.weight, float)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(f"selection.weight holds {weight.min()}; every weight must be a finite number of at least 0.")
    cells = [(row, column) for row, column, w in zip(selection.row, selection.column, weight, strict=True) if w > 0]
    if not cells:
        raise BenchError(
            "The selection kept no completion to train on: no sample's reward is what selection and prompt_filter ask "
            "for (the correct ones: above 0.5); raise num_completions or temperature, use a scoring with such rewards, "
            "or choose what always keeps some (selection=top_per_prompt prompt_filter=all)."
        )
    return TrainingSet(
        messages=tuple(prompts.messages[row] for row, _ in cells),
        token_ids=tuple(tuple(completions.token_ids[cell].tolist()) for cell in cells),
        finish_reason=tuple(str(completions.finish_reason[cell]) for cell in cells),
        weight=tuple(weight[weight > 0].tolist()),
    )


def last_epoch(policy: Policy, measure: str) -> float | None:
    """The mean of a measure over the updates of the last epoch; None where the log has none of that name."""
    log = training_log(policy)
    last = [update[measure] for update in log if update["epoch"] > log[-1]["epoch"] - 1 and measure in update]
    return float(np.mean(last)) if last else None


def last_epoch_loss(policy: Policy) -> float:
    """Nats per token (of preference tuning: per pair), the mean over the updates of the last epoch."""
    loss = last_epoch(policy, "loss")
    assert loss is not None
    return loss


def sft(policy: Policy, examples: TrainingSet, recipe: Recipe) -> Policy:
    """The policy trained on the examples, read from the store where it was trained before."""
    parents = {"policy": policy.key, "examples": examples.key}
    address = Address("sft", 2, recipe.key_settings, parents)
    made = current().make(address, partial(_train, policy, examples, recipe), loading.folder)
    shutil.rmtree(checkpoints.beside(current().scratch(address)), ignore_errors=True)  # no longer needed
    if recipe.keep_every is not None and not kept(made):
        progress.say(
            f"training.keep_every={recipe.keep_every} kept no policy on the way, and none is judged on validation "
            f"prompts: the training had {len(training_log(made))} updates; lower training.keep_every."
        )
    return replace(made, trust_remote_code=policy.trust_remote_code)  # the chat settings are in its template now


def _train(policy: Policy, examples: TrainingSet, recipe: Recipe, out: Path) -> dict[str, float]:
    before = checkpoints.last(checkpoints.folder(out, sharded=recipe.fsdp)) if recipe.checkpoint_every else None
    given, setting = (policy, examples, recipe, before, out), f"training.processes={recipe.processes}"
    counts = _fit(*given) if recipe.processes == 1 else processes.call(setting, recipe.processes, out, _fit, *given)
    hand_over(out)
    return counts


def _fit(
    policy: Policy, examples: TrainingSet, recipe: Recipe, before: checkpoints.Checkpoint | None, out: Path
) -> dict[str, float]:
    """Train, in each of the processes that share the training; the first one writes the policy to `out`."""
    with isolated(small_seed(recipe.seed, "adapter")):  # an adapter's weights start at random
        tokenizer = loading.load_tokenizer(policy)
        model = trainable(policy, recipe.lora, in_bfloat16=recipe.in_bfloat16)
        learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        frozen = model.num_parameters() - learnt  # used forwards and backwards, without gradients of their own
        rows = tokenized(examples, tokenizer, ending_ids(tokenizer, model.generation_config))
        refuse_unreadable(model, max(map(len, rows["input_ids"])), *TOO_LONG)

        def write(weights: dict[str, Any] | None, folder: Path) -> None:
            whole = model
            if weights is not None:  # the trained model holds only a share of each
                with isolated(0):
                    whole = trainable(policy, recipe.lora, in_bfloat16=recipe.in_bfloat16)
                fill(whole, weights)
            save(whole, policy, folder)

        def reached(updates: int, weights: Callable[[], dict[str, Any] | None]) -> None:
            if not is_kept(out, updates):  # by a try that was killed; all processes decide alike, and gather together
                gathered = weights()
                if processes.rank() == 0:
                    keep(out, updates, partial(write, gathered))

        trained = train(model, tokenizer, rows, recipe, scratch=out, before=before, reached=reached)
        if processes.rank() == 0:
            write(trained.weights, out)
            write_log(trained.log, out)
    flops = (6 * learnt + 4 * frozen) * trained.tokens
    return {"train_tokens": trained.tokens, "train_flops": flops, "steps": len(trained.log)}


def tokenized(examples: TrainingSet, tokenizer: Any, eos_ids: set[int]) -> dict[str, list]:
    """Columns input_ids, labels (the completion's tokens; IGNORED for the prompt's) and weight, [K] each.

    Raises ValueError where a completion has finish_reason "stop" and does not end in EOS.
    """
    columns: dict[str, list] = {"input_ids": [], "labels": [], "weight": list(examples.weight)}
    for messages, completion, reason in zip(examples.messages, examples.token_ids, examples.finish_reason, strict=True):
        if reason == "stop" and not eos_ids.intersection(completion[-1:]):
            raise ValueError(
                f"A completion with finish_reason 'stop' ends in token {completion[-1:]}; "
                f"it must end in the EOS that was drawn, one of {sorted(eos_ids)}."
            )
        prompt = chat.encode(tokenizer, messages)
        columns["input_ids"].append([*prompt, *completion])
        columns["labels"].append([IGNORED] * len(prompt) + list(completion))
    return columns
