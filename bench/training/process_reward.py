"""Train a process reward model: a token classifier that says at each step's last token whether the step is correct.

The loss is the mean cross-entropy over the steps of a batch, in nats a step of reasoning. Source: Lightman et al. 2023,
"Let's Verify Step by Step". TRL 1.16 has no PRMTrainer any more, so this is transformers' Trainer.
"""

import copy
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import progress
from bench.artifacts import Message, Policy, content_hash
from bench.devices import device
from bench.errors import BenchError
from bench.models import loading
from bench.seeds import small_seed
from bench.store import stage
from bench.training.packing import IGNORED
from bench.training.steps import Step, encode
from bench.training.weighted_trainer import isolated

LOG = "train_log.json"
NAMES = {0: "incorrect", 1: "correct"}


@dataclass(frozen=True)
class StepLabels:
    """E completions with every step labelled, in order."""

    messages: tuple[tuple[Message, ...], ...]  # [E] prompts
    steps: tuple[tuple[Step, ...], ...]  # [E] one step at least
    correct: tuple[tuple[bool, ...], ...]  # [E] as many as steps

    def __len__(self) -> int:
        return len(self.messages)

    @cached_property
    def key(self) -> str:
        return content_hash(self.messages, self.steps, self.correct)


def training_log(model: Policy) -> list[dict[str, float]]:
    """What each update measured before it: step, epoch, loss (nats a step of reasoning), learning_rate and grad_norm
    (before clipping)."""
    return json.loads((model.path / LOG).read_text())


@stage(version=1, load=loading.folder)
def train_process_reward_model(
    policy: Policy,
    examples: StepLabels,
    *,
    ending: str | None,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    warmup: float,
    weight_decay: float,
    max_grad_norm: float,
    seed: int,
    out: Path,
) -> dict[str, float]:
    """A token classifier with outputs "incorrect" and "correct", from the policy's layers and a new head, after AdamW.

    ending: see bench.training.steps. batch_size: completions an update; warmup: share of the updates in which the
    learning rate rises from 0, to fall to 0 by a cosine. `seed` draws the head and the order. Weights are float32.
    Raises BenchError for an example longer than the policy can read, or where the loss stops being a number.
    """
    import torch
    from transformers import AutoModelForTokenClassification

    with isolated():
        tokenizer = loading.load_tokenizer(policy)
        torch.manual_seed(small_seed(seed, "process reward model", "weights"))
        model: Any = AutoModelForTokenClassification.from_pretrained(
            policy.path, dtype=torch.float32, id2label=NAMES, label2id={name: i for i, name in NAMES.items()}
        )
        rows = tokenized(examples, tokenizer, ending=ending)
        longest = max(len(row["input_ids"]) for row in rows)
        readable = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest
        if longest > readable:
            raise BenchError(
                f"A completion has {longest} tokens with its prompt, more than the {readable} that the base policy can "
                "read; lower task.max_new_tokens."
            )
        config = copy.deepcopy(model.config)
        log = _train(
            model,
            rows,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            warmup=warmup,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            seed=small_seed(seed, "process reward model", "order"),
            scratch=out,
        )
        model.config = config  # the Trainer writes into it
        model.save_pretrained(out)
        loading.load_tokenizer(policy).save_pretrained(out)
    (out / LOG).write_text(json.dumps(log, indent=1))
    tokens = round(epochs * sum(len(row["input_ids"]) for row in rows))
    labels = [label for labels in examples.correct for label in labels]
    return {
        "completions": len(examples),
        "labelled_steps": len(labels),
        "correct_steps": sum(labels),
        "train_tokens": tokens,
        "train_flops": 6 * model.num_parameters() * tokens,
        "steps": len(log),
    }


def tokenized(examples: StepLabels, tokenizer: Any, *, ending: str | None) -> list[dict[str, list[int]]]:
    """[E] input_ids, and labels: 0 or 1 at each step's last token, IGNORED elsewhere."""
    rows = []
    for messages, steps, correct in zip(examples.messages, examples.steps, examples.correct, strict=True):
        ids, ends = encode(tokenizer, messages, steps, ending=ending)
        labels = [IGNORED] * len(ids)
        for end, label in zip(ends, correct, strict=True):
            labels[end] = int(label)
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def _train(
    model: Any,
    rows: list[dict[str, list[int]]],
    *,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    warmup: float,
    weight_decay: float,
    max_grad_norm: float,
    seed: int,
    scratch: Path,
) -> list[dict[str, float]]:
    """Train `model` in place; the numbers of each update."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    on_gpu = device() == "cuda"
    updates = math.ceil(math.ceil(len(rows) / batch_size) * epochs)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=min(math.ceil(warmup * updates), updates - 1),  # it starts at 0: a lone update must not be in it
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        seed=seed,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # of several visible GPUs one trains: no DataParallel
    log: list[dict[str, float]] = []
    with progress.bar("train process reward model", updates, "steps") as bar:
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=_collate, callbacks=[_watcher(log, bar)]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return log


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Padded to the right, the padding masked and without a label."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    return {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
        for name, value in fill.items()
    }


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
            if not all(map(math.isfinite, entry.values())):
                raise BenchError(
                    f"scoring.learning_rate={args.learning_rate:g} let the process reward model's training diverge at "
                    f"step {state.global_step}: loss {entry['loss']}, gradient norm {entry['grad_norm']}; lower it."
                )
            log.append({"step": state.global_step, "epoch": state.epoch, **entry})
            bar.advance()

    return Watcher()
