"""TRL's SFTTrainer with a weight for every row in the loss, quiet, and leaving global state as it was.

The only module that imports TRL.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import progress
from bench.devices import device
from bench.errors import BenchError
from bench.seeds import small_seed
from bench.training import checkpoints
from bench.training.lora import is_frozen
from bench.training.packing import IGNORED, count_tokens, of_examples, packed, refuse_where_examples_meet
from bench.training.processes import rank
from bench.training.recipe import Recipe

KEPT = 2  # checkpoints: the last may be half written when a training is killed
FSDP = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "reshard_after_forward": True}


@dataclass(frozen=True)
class Trained:
    log: list[dict[str, float]]  # of each update
    tokens: int  # that went through the model: prompts too, padding not
    weights: dict[str, Any] | None  # the whole model's, on the first process, where each holds but a share of them


def train(
    model: Any,
    tokenizer: Any,
    rows: dict[str, list],
    recipe: Recipe,
    *,
    scratch: Path,
    before: checkpoints.Whole | None,
    reached: Callable[[int, Callable[[], dict[str, Any] | None]], None],
) -> Trained:
    """Train `model` in place on rows {input_ids, labels, weight}; in each of recipe.processes that share it, alike.

    Nothing is left in `scratch`; checkpoints lie beside it, and `before` is the one to begin at. reached: called in all
    processes after every recipe.keep_every updates but the last, with their number and what gathers Trained.weights.
    Raises BenchError where the loss diverges.
    """
    from trl.trainer.sft_config import SFTConfig

    on_gpu = device() == "cuda"
    steps = math.ceil(math.ceil(len(rows["weight"]) / recipe.batch_size) * recipe.epochs)
    every, saved = recipe.checkpoint_every, checkpoints.folder(scratch, sharded=recipe.fsdp)
    arguments = SFTConfig(
        output_dir=str(saved if every else scratch),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        per_device_train_batch_size=recipe.at_once,
        gradient_accumulation_steps=recipe.accumulation,
        lr_scheduler_type=recipe.scheduler,
        # the learning rate starts at 0: a lone update must not be part of the warm-up
        warmup_steps=min(math.ceil(recipe.warmup * steps), steps - 1),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        gradient_checkpointing=recipe.gradient_checkpointing,
        router_aux_loss_coef=0.0,  # the loss is the completions' likelihood and nothing else
        seed=small_seed(recipe.seed, "sft"),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # ours is tokenised
        remove_unused_columns=False,  # keeps the weights
        use_cpu=not on_gpu,
        bf16=recipe.in_bfloat16,
        dataloader_pin_memory=on_gpu,
        save_strategy="steps" if every else "no",
        save_steps=every or 1,
        save_total_limit=KEPT,
        ddp_backend=None if on_gpu or recipe.processes == 1 else "gloo",
        fsdp=recipe.fsdp or None,  # type: ignore[arg-type]  # takes a bool too
        fsdp_config=FSDP if recipe.fsdp else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # of several visible GPUs one trains: no DataParallel
    configs = copy.deepcopy((model.config, model.generation_config))
    log: list[dict[str, float]] = []
    gather = partial(_gathered, model) if recipe.fsdp else _whole

    def reach(updates: int) -> None:
        changed = model.config, model.generation_config  # the Trainer writes its own special tokens into them
        model.config, model.generation_config = copy.deepcopy(configs)
        reached(updates, gather)
        model.config, model.generation_config = changed

    if recipe.packing:
        refuse_where_examples_meet(model)
    with progress.bar("fine-tuning", steps, "step") as bar:
        trainer = weighted_trainer(model, tokenizer, rows, arguments, _watcher(log, bar), packing=recipe.packing)
        if recipe.keep_every is not None:
            trainer.add_callback(_keeper(recipe.keep_every, reach))
        if before is not None:
            trainer.tokens = before.tokens if rank() == 0 else 0
            log.extend(before.log)
            bar.advance(len(log))
        trainer.seal = lambda checkpoint, tokens: checkpoints.seal(checkpoint, log, tokens)
        trainer.train(resume_from_checkpoint=str(before.folder) if before else None)
    model.config, model.generation_config = configs
    return Trained(log, trainer.all_tokens(), gather())


def _whole() -> None:
    """Nothing is to be gathered."""


def _gathered(model: Any) -> dict[str, Any]:
    """A sharded model's whole weights by name, those that are trained, on the first process; all take part."""
    from torch.distributed.tensor import DTensor

    weights = {}
    for name, share in model.state_dict().items():
        if is_frozen(model, name):
            continue
        whole = share.full_tensor() if isinstance(share, DTensor) else share
        if rank() == 0:
            weights[name] = whole.detach().cpu()
    return weights


def weighted_trainer(
    model: Any, tokenizer: Any, rows: dict[str, list], arguments: Any, watcher: Any, *, packing: bool = False
) -> Any:
    """The trainer of sum_i w_i sum_t nll_it / sum_i w_i l_i over a whole batch; `tokens` counts what it has seen."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    pad = DataCollatorForLanguageModeling(pad_token_id=pad_id)

    def padded(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**pad(examples), "weight": torch.tensor([example["weight"] for example in examples])}

    def loss_tokens(batch: dict[str, Any]) -> Any:
        counted = (batch["labels"][:, 1:] != IGNORED).to(batch["weight"].dtype)
        return batch["weight"] @ of_examples(batch, counted)

    examples = Dataset.from_dict(rows)

    class WeightedTrainer(SFTTrainer):
        loss_is_scaled_for_ga: Any = True  # compute_loss is given the weight of the whole batch
        tokens = 0  # of this process
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
            """At an epoch's end accelerate gives some examples again, so that all processes have equally many."""
            args, rows = self.args, len(examples)
            read = args.per_device_train_batch_size
            updates = math.ceil(rows / (read * args.gradient_accumulation_steps * args.world_size))
            turn = self.state.global_step % updates * args.gradient_accumulation_steps + number
            first = (turn * args.world_size + args.process_index) * read  # place in the epoch of the batch's first
            batch["weight"][max(0, rows - first) :] = 0.0

        def all_tokens(self) -> int:
            own = torch.as_tensor(self.tokens, device=self.args.device)
            return int(own if self.args.world_size == 1 else self.accelerator.reduce(own, "sum"))

        def compute_loss(
            self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            read = {name: value for name, value in inputs.items() if name not in ("weight", "owner")}
            log_probs = model(**read, fused_lm_head=True).log_probs  # (B, T-1) or (1, T-1), 0 where ignored
            self.tokens = self.tokens + count_tokens(inputs)
            return -(inputs["weight"] @ of_examples(inputs, log_probs)) / num_items_in_batch

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            tokens = self.all_tokens()  # by when every process has written its part
            if self.args.process_index == 0:
                self.seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}", tokens)

        def _send_telemetry(self) -> None:
            """Nothing leaves the machine."""

    trainer = WeightedTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        processing_class=tokenizer,
        data_collator=packed if packing else padded,
        callbacks=[watcher],
    )
    assert trainer.model is not None
    for weight in trainer.model.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:  # TRL narrows the adapters of quantised models
            weight.data = weight.data.float()
    trainer.remove_callback(PrinterCallback)
    return trainer


def _watcher(log: list[dict[str, float]], bar: progress.Bar) -> Any:
    """A callback that keeps each update's numbers in `log`, moves the bar, and stops at the first that is none."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
        ) -> None:
            if logs is None or "loss" not in logs:  # the summary after the last update
                return
            entry = {name: logs[name] for name in ("loss", "learning_rate", "grad_norm")}
            if not (math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"])):
                raise BenchError(
                    f"training.learning_rate={args.learning_rate:g} let the training diverge: loss {entry['loss']} and "
                    f"gradient norm {entry['grad_norm']} at step {state.global_step}; lower it."
                )
            log.append({"step": state.global_step, "epoch": state.epoch, **entry})
            bar.advance()

    return Watcher()


def _keeper(every: int, reach: Callable[[int], None]) -> Any:
    """A callback for every so many updates but the last; it comes before the checkpoint of the same update."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % every == 0 and state.global_step < state.max_steps:
                reach(state.global_step)

    return Keeper()


@contextlib.contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Around a training: the global random generators stand where they stood, and Transformers says nothing.

    seed: of torch's inside, from which new weights are drawn.
    """
    with _global_random_state_kept(), _quiet_transformers():
        if seed is not None:
            import torch

            torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """The Trainer seeds every global generator; afterwards they stand where they stood."""
    import random

    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars beside our own, and no warning that special tokens were changed: they are put back."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
