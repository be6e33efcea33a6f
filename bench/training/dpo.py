"""Direct preference optimisation on pairs of completions from the scored pool, with TRL's DPOTrainer.

    python -m bench training=dpo training.beta=0.05

For a prompt x with a chosen completion y_w and a rejected one y_l, the policy pi and the reference pi_ref,

    loss = -log sigmoid(beta (log pi(y_w|x) / pi_ref(y_w|x) - log pi(y_l|x) / pi_ref(y_l|x)))    in nats per pair,

the mean over the pairs of an update. Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7. The reference is the
policy that the training starts from; it reads every pair once, before the first update. The training reads the token
ids that were drawn, never re-tokenised text; a truncated completion gets no EOS.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bench import progress
from bench.artifacts import Completions, Policy, Prompts, Selection, content_hash
from bench.config import rules
from bench.errors import BenchError
from bench.models import loading
from bench.models.tokens import ending_ids
from bench.seeds import small_seed
from bench.selection.pairs import gives_pairs
from bench.store import Address, current
from bench.training import sft, trainers
from bench.training.lora import Lora, save, trainable
from bench.training.recipe import PRECISIONS, SCHEDULERS, Recipe

IMPLICIT = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")  # TRL's names


@dataclass(frozen=True)
class PairSet:
    """P pairs, in order; the chosen and the rejected completions of the same prompts."""

    chosen: sft.TrainingSet  # [P]
    rejected: sft.TrainingSet  # [P]

    def __len__(self) -> int:
        return len(self.chosen)

    @cached_property
    def key(self) -> str:
        return content_hash(self.chosen.key, self.rejected.key)


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise BenchError where the configured settings of `preference_tune` don't go together."""
    if "selection" in config and not gives_pairs(config):
        name = config["selection"]["_target_"].rpartition(".")[2]
        raise BenchError(
            f"training=dpo needs pairs, and {name} selects single completions: leave it out, or set pairs."
        )
    lora = config["training"].get("lora") or {}
    for name, what in (("four_bit", "on exact weights"), ("dropout", "without dropout")):
        if lora.get(name):
            raise BenchError(
                f"training.lora.{name}={lora[name]} is not allowed with training=dpo, which trains {what}."
            )
    sft.check_recipe(config)


@rules.checked(check_settings)
def preference_tune(
    policy: Policy,
    prompts: Prompts,
    completions: Completions,
    selection: Selection,
    *,
    beta: Annotated[float, rules.ABOVE_ZERO] = 0.1,
    epochs: Annotated[float | None, rules.or_null(rules.EPOCHS)] = 3,
    updates: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    learning_rate: rules.LearningRate = 1e-4,
    batch_size: rules.Count = 32,
    micro_batch_size: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    scheduler: Annotated[str, rules.one_of(*SCHEDULERS)] = "cosine",
    warmup: Annotated[float, rules.number(0, 1, open_high=True)] = 0.05,
    weight_decay: rules.WeightDecay = 0.0,
    max_grad_norm: Annotated[float, rules.number(0)] = 1.0,
    gradient_checkpointing: Annotated[bool, rules.TRUE_OR_FALSE] = False,
    precision: Annotated[str, rules.one_of(*PRECISIONS)] = "auto",
    lora: Lora | None = None,
    seed: int,
) -> Policy:
    """The policy after AdamW on the selected pairs, starting from `policy`, which is the reference too.

    beta: the strength of the KL regularisation; a small one lets the policy move far. batch_size, micro_batch_size: in
    pairs. Dropout is off. The other settings are those of bench.training.sft.fine_tune. On a CPU the result is bit for
    bit the same for equal inputs, seed and thread count. Raises BenchError where there is no pair, or the loss is NaN.
    """
    recipe = Recipe.of(locals())
    recipe.check()
    pairs = pair_set(prompts, completions, selection)
    parents = {"policy": policy.key, "pairs": pairs.key}
    address = Address("dpo", 1, {**recipe.key_settings, "beta": beta}, parents)
    made = current().make(address, partial(_train, policy, pairs, recipe, beta), loading.folder)
    return replace(made, trust_remote_code=policy.trust_remote_code)


def pair_set(prompts: Prompts, completions: Completions, selection: Selection) -> PairSet:
    """The selected pairs of a pool, in the selection's order."""
    if selection.rejected is None:
        raise ValueError("selection.rejected is None: preference tuning needs pairs (see bench.selection.pairs).")
    if (np.asarray(selection.weight) != 1).any():
        raise ValueError("selection.weight must be 1 for every pair.")
    if not len(selection):
        raise BenchError(
            "No prompt gives a pair to train on: the rewards tell no two of its completions apart (a verifier's are "
            "equal where all are right or all wrong); raise num_completions or temperature, or use another scoring. "
            "What was drawn is kept in the store."
        )
    rejected = replace(selection, column=selection.rejected)
    return PairSet(*(sft.training_set(prompts, completions, side) for side in (selection, rejected)))


def _train(policy: Policy, pairs: PairSet, recipe: Recipe, beta: float, out: Path) -> dict[str, float]:
    """Write the trained policy and its log to `out`; return the counts."""
    from trl.trainer.dpo_config import DPOConfig

    log: list[dict[str, float]] = []
    with trainers.isolated(small_seed(recipe.seed, "adapter")):  # an adapter's weights start at random
        tokenizer = loading.load_tokenizer(policy)
        trainers.refuse_without_padding(tokenizer, policy)
        model = trainable(policy, recipe.lora, in_bfloat16=recipe.in_bfloat16)
        learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        frozen = model.num_parameters() - learnt
        columns = tokenized(pairs, tokenizer, ending_ids(tokenizer, model.generation_config))
        longest = max(len(prompt) + max(map(len, both)) for prompt, *both in zip(*columns.values(), strict=True))
        trainers.refuse_unreadable(model, longest, *sft.TOO_LONG)
        configs = copy.deepcopy((model.config, model.generation_config))
        arguments = recipe.arguments(
            DPOConfig,
            len(pairs),
            folder=out,
            seed=small_seed(recipe.seed, "dpo"),
            beta=beta,
            max_length=None,
            precompute_ref_log_probs=True,
            remove_unused_columns=False,
            router_aux_loss_coef=0.0,
        )
        with progress.bar("fine-tuning", recipe.num_updates(len(pairs)), "steps") as bar:
            keep = ("loss", *IMPLICIT, *trainers.MEASURES[1:])
            watch = trainers.watcher(log, bar, setting="training.learning_rate", name="the training", keep=keep)
            trainer = _trainer(model, tokenizer, columns, arguments, watch)
            trainer.train()
        model.config, model.generation_config = configs  # the Trainer writes its own special tokens into them
        save(model, policy, out)
        trainers.write_log(log, out)
    read = sum(len(ids) for name in ("chosen_ids", "rejected_ids") for ids in columns[name])
    read += 2 * sum(map(len, columns["prompt_ids"]))
    tokens = int(trainer._total_train_tokens)
    flops = (6 * learnt + 4 * frozen) * tokens + 2 * (learnt + frozen) * read
    counts = {"pairs": len(pairs), "train_tokens": tokens, "reference_tokens": read, "train_flops": flops}
    return {**counts, "steps": len(log)}


def tokenized(pairs: PairSet, tokenizer: Any, eos_ids: set[int]) -> dict[str, list]:
    """Columns prompt_ids, chosen_ids and rejected_ids, [P] each; see bench.training.sft.tokenized."""
    encoded = sft.tokenized(pairs.chosen, tokenizer, eos_ids)["input_ids"]
    sft.tokenized(pairs.rejected, tokenizer, eos_ids)  # raises ValueError where a finished one lacks its EOS
    chosen, rejected = ([list(ids) for ids in side.token_ids] for side in (pairs.chosen, pairs.rejected))
    prompts = [ids[: len(ids) - len(completion)] for ids, completion in zip(encoded, chosen, strict=True)]
    return {"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected}


def _trainer(model: Any, tokenizer: Any, columns: dict[str, list], arguments: Any, callback: Any) -> Any:
    """TRL's trainer on token ids, whose updates weigh all pairs alike, also across micro-batches."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    class PairTrainer(trainers.PairsAlike, DPOTrainer):
        averaged = IMPLICIT

        def _prepare_dataset(self, dataset: Any, *others: Any) -> Any:
            return dataset  # it is tokenised

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            """Add what the reference, which the model still is, gives each pair: in memory, not in a cache."""
            columns: dict[str, list[float]] = {"ref_chosen_logps": [], "ref_rejected_logps": []}
            for start in range(0, len(dataset), batch_size):
                rows = [dataset[row] for row in range(start, min(start + batch_size, len(dataset)))]
                batch = self._prepare_inputs(self.data_collator(rows))
                for values, logps in zip(columns.values(), self.compute_ref_log_probs(self.model, batch), strict=True):
                    values += logps.tolist()
            return Dataset.from_dict({**dataset.to_dict(), **columns})

    return PairTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        callbacks=[callback],
    )
