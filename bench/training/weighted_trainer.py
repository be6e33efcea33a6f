"""TRL's SFTTrainer with a weight for every row in the loss."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from bench import progress
from bench.devices import Halving, device
from bench.seeds import small_seed
from bench.training import checkpoints
from bench.training.lora import is_frozen
from bench.training.packing import attention, count_tokens, inputs, loss_tokens, of_examples, packed, packs, parts
from bench.training.processes import rank
from bench.training.recipe import Recipe
from bench.training.trainers import Silent, keeper, watcher

CHECKPOINTS = 2  # that stay: the last may be half written when a training is killed
FSDP = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "reshard_after_forward": True}


@dataclass(frozen=True)
class Trained:
    log: list[dict[str, float]]  # of each update
    tokens: int  # that went through the model, those of prompts included, padding excluded
    weights: dict[str, Any] | None  # of the whole model, on the first process, where each holds only a share of them


def train(
    model: Any,
    tokenizer: Any,
    rows: dict[str, list],
    recipe: Recipe,
    *,
    scratch: Path,
    before: checkpoints.Checkpoint | None,
    reached: Callable[[int, Callable[[], dict[str, Any] | None]], None],
) -> Trained:
    """Train `model` in place on rows {input_ids, labels, weight}, in each of recipe.processes that share the training.

    scratch: nothing is left there; checkpoints lie beside it. before: the checkpoint to begin at. reached: called in
    all processes after every recipe.keep_every updates but the last, with the number of updates and a function that
    gathers Trained.weights. Raises BenchError where the loss diverges.
    """
    from trl.trainer.sft_config import SFTConfig

    steps = recipe.num_updates(len(rows["weight"]))
    every, saved = recipe.checkpoint_every, checkpoints.folder(scratch, sharded=recipe.fsdp)
    arguments = recipe.arguments(
        SFTConfig,
        len(rows["weight"]),
        folder=saved if every else scratch,
        seed=small_seed(recipe.seed, "sft"),
        router_aux_loss_coef=0.0,  # the loss is the completions' likelihood and nothing else
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # ours is tokenised
        remove_unused_columns=False,  # keeps the weights
        save_strategy="steps" if every else "no",
        save_steps=every or 1,
        save_total_limit=CHECKPOINTS,
        ddp_backend=None if device() == "cuda" or recipe.processes == 1 else "gloo",
        fsdp=recipe.fsdp or None,
        fsdp_config=FSDP if recipe.fsdp else None,
    )
    configs = copy.deepcopy((model.config, model.generation_config))
    log: list[dict[str, float]] = []
    gather = partial(_gathered, model) if recipe.fsdp else _whole
    keep = keeper(model, recipe.keep_every, lambda updates: reached(updates, gather))
    if not recipe.fsdp and not (recipe.lora and recipe.lora.four_bit):
        model.to(arguments.device)  # as the Trainer does later: packing is tried where it is used
    packing = packs(model, recipe.packing, in_bfloat16=recipe.in_bfloat16)
    within = attention(model) if packing else contextlib.nullcontext()
    with within, progress.bar("fine-tuning", steps, "steps") as bar:
        watch = watcher(log, bar, setting="training.learning_rate", name="the training")
        trainer = weighted_trainer(model, tokenizer, rows, arguments, [watch, keep], packing=packing)
        if before is not None:
            trainer.tokens = before.tokens if rank() == 0 else 0
            log.extend(before.log)
            bar.advance(len(log))
        trainer.seal = lambda checkpoint, tokens: checkpoints.seal(checkpoint, log, tokens)
        trainer.train(resume_from_checkpoint=str(before.folder) if before else None)
    model.config, model.generation_config = configs  # the Trainer writes its own special tokens into them
    return Trained(log, trainer.all_tokens(), gather())


def _whole() -> None:
    """Return None: each process holds all weights."""


def _gathered(model: Any) -> dict[str, Any]:
    """The trained weights of a sharded model, by name, whole, on the first process. All processes must call it."""
    from torch.distributed.tensor import DTensor

    weights = {}
    for name, share in model.state_dict().items():
        if is_frozen(model, name):
            continue
        whole = share.full_tensor() if isinstance(share, DTensor) else share
        if rank() == 0:
            weights[name] = whole.detach().cpu()
    return weights


class InParts(Silent):
    """For a Trainer of summed losses: where a GPU's memory runs out, its batches are read in smaller parts."""

    args: Any
    state: Any
    tokens: Any = 0  # of this process
    update, before = -1, 0  # the present update, and `tokens` before it
    batches: tuple[dict, ...] = ()  # of the update, so far

    def training_step(self, model: Any, inputs: dict, num_items_in_batch: Any = None) -> Any:
        """Add the gradient of a batch; where memory runs out, of all of the update's batches anew."""
        if self.update != self.state.global_step:
            self.update, self.batches, self.before = self.state.global_step, (), self.tokens
        self.batches = (*self.batches, inputs)
        todo = self.batches[-1:]
        step = partial(super().training_step, model, num_items_in_batch=num_items_in_batch)  # type: ignore[misc]
        while True:
            try:
                return [sum(step(part) for part in parts(batch, self.halving.most)) for batch in todo][-1]
            except Exception as error:
                if self.args.world_size > 1:  # the other processes wait for this one's gradient
                    raise
                self.halving.halve(error, min(self.halving.most, max(len(batch["weight"]) for batch in todo)))
            model.zero_grad()  # a backward pass that ended early leaves a part of its gradient
            self.tokens, todo = self.before, self.batches

    @cached_property
    def halving(self) -> Halving:
        return Halving("example", "set training.gradient_checkpointing=true or training=lora")


def weighted_trainer(
    model: Any, tokenizer: Any, rows: dict[str, list], arguments: Any, callbacks: list[Any], *, packing: bool
) -> Any:
    """The trainer whose loss is sum_i w_i sum_t nll_it / sum_i w_i l_i over a batch (see bench.training.sft).

    Its `tokens` counts the tokens that went through the model.
    """
    import torch
    from datasets import Dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer
    from trl.trainer.utils import add_fused_lm_head

    known = [token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None]
    pad = DataCollatorForLanguageModeling(pad_token_id=[*known, 0][0])  # masked, whichever it is

    def padded(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**pad(examples), "weight": torch.tensor([example["weight"] for example in examples])}

    examples = Dataset.from_dict(rows)

    class WeightedTrainer(InParts, SFTTrainer):
        loss_is_scaled_for_ga: Any = True  # compute_loss is given the weight of the whole batch
        seal: Any = None  # called with the folder of each checkpoint and the tokens of all processes

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Any]:
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            if self.args.world_size == 1:
                return batches, sum(loss_tokens(batch) for batch in batches)
            for number, batch in enumerate(batches):
                self._leave_out_what_fills_up(number, batch)
            own = torch.stack([loss_tokens(batch) for batch in batches]).sum()
            return batches, self.accelerator.reduce(own.to(device), "sum") / self.args.world_size  # DDP takes the mean

        def _leave_out_what_fills_up(self, number: int, batch: dict[str, Any]) -> None:
            """Set the weight of examples to 0 that accelerate repeats to fill up the processes at an epoch's end."""
            args, rows = self.args, len(examples)
            read = args.per_device_train_batch_size
            updates = math.ceil(rows / (read * args.gradient_accumulation_steps * args.world_size))
            turn = self.state.global_step % updates * args.gradient_accumulation_steps + number
            first = (turn * args.world_size + args.process_index) * read  # the first example's place in the epoch
            batch["weight"][max(0, rows - first) :] = 0.0

        def all_tokens(self) -> int:
            own = torch.as_tensor(self.tokens, device=self.args.device)
            return int(own if self.args.world_size == 1 else self.accelerator.reduce(own, "sum"))

        def compute_loss(
            self, model: Any, batch: dict, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            read = inputs(trained, batch)
            log_probs = model(**read, fused_lm_head=True).log_probs  # (B, T-1) or (1, T-1), 0 where ignored
            self.tokens = self.tokens + count_tokens(batch)
            return -(batch["weight"] @ of_examples(batch, log_probs)) / num_items_in_batch

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            tokens = self.all_tokens()  # after every process has written its part
            if self.args.process_index == 0:
                self.seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}", tokens)

    trainer = WeightedTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        processing_class=tokenizer,
        data_collator=packed if packing else padded,
        callbacks=callbacks,
    )
    trained: Any = trainer.model
    # in place of the head that TRL gave the model, which measures every token's entropy and accuracy for TRL's log
    add_fused_lm_head(trained.get_base_model() if hasattr(trained, "get_base_model") else trained)
    for weight in trained.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:  # TRL narrows the adapters of quantised models
            weight.data = weight.data.float()
    return trainer
