"""Train a reward model on pairs of completions, the better one first, with TRL's RewardTrainer.

The Bradley-Terry model says P(chosen over rejected) = sigmoid(r_chosen - r_rejected); the loss is its negative
log-likelihood, in nats a pair. Source: Ouyang et al. 2022 (InstructGPT), "Training language models to follow
instructions with human feedback", equation 1.
"""

import copy
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import progress
from bench.artifacts import Message, Policy, content_hash
from bench.devices import device
from bench.errors import BenchError
from bench.models import chat, loading
from bench.seeds import small_seed
from bench.store import stage
from bench.training.weighted_trainer import isolated

LOG = "train_log.json"


@dataclass(frozen=True)
class Pairs:
    """P pairs of completions of one prompt each, in order."""

    messages: tuple[tuple[Message, ...], ...]  # [P] prompts
    chosen: tuple[str, ...]  # [P] completions labelled the better ones
    rejected: tuple[str, ...]  # [P]

    def __len__(self) -> int:
        return len(self.messages)

    @cached_property
    def key(self) -> str:
        return content_hash(self.messages, self.chosen, self.rejected)


def training_log(model: Policy) -> list[dict[str, float]]:
    """What each update measured before it: step, epoch, loss (nats a pair), accuracy (share of the batch's pairs
    ordered right), learning_rate and grad_norm (before clipping)."""
    return json.loads((model.path / LOG).read_text())


@stage(version=1, load=loading.folder, speed_only=("micro_batch_size", "gradient_checkpointing"))
def train_reward_model(
    policy: Policy,
    pairs: Pairs,
    *,
    from_scratch: bool,
    layers: int | None,
    hidden_size: int | None,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int | None,
    warmup: float,
    weight_decay: float,
    max_grad_norm: float,
    gradient_checkpointing: bool,
    seed: int,
    out: Path,
) -> dict[str, float]:
    """A sequence classifier with one output, from the policy's layers (see `untrained`) and a new head, after AdamW on
    the pairs: `seed` draws the head (all weights, from scratch) and the order of the pairs. Weights are float32.

    batch_size: pairs an update; micro_batch_size: pairs in memory at a time (None: all), a divisor of it. warmup: share
    of the updates in which the learning rate rises from 0, to fall to 0 by a cosine. Raises BenchError where the loss
    stops being a number.
    """
    with isolated():
        tokenizer = loading.load_tokenizer(policy)
        model = untrained(
            policy,
            tokenizer,
            from_scratch=from_scratch,
            layers=layers,
            hidden_size=hidden_size,
            seed=small_seed(seed, "reward model", "weights"),
        )
        sides = {
            name: [row["input_ids"] for row in chat.encode_conversations(tokenizer, pairs.messages, texts)]
            for name, texts in (("chosen_ids", pairs.chosen), ("rejected_ids", pairs.rejected))
        }
        longest = max(len(ids) for rows in sides.values() for ids in rows)
        readable = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest
        if longest > readable:
            raise BenchError(
                f"A pair has {longest} tokens, more than the {readable} that the base policy can read; lower "
                "task.max_new_tokens."
            )
        log, tokens = _train(
            model,
            tokenizer,
            sides,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size or batch_size,
            warmup=warmup,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            gradient_checkpointing=gradient_checkpointing,
            seed=small_seed(seed, "reward model", "order"),
            scratch=out,
        )
        model.save_pretrained(out)
        loading.load_tokenizer(policy).save_pretrained(out)
    (out / LOG).write_text(json.dumps(log, indent=1))
    return {
        "pairs": len(pairs),
        "train_tokens": tokens,
        "train_flops": 6 * model.num_parameters() * tokens,
        "steps": len(log),
    }


def untrained(
    policy: Policy, tokenizer: Any, *, from_scratch: bool, layers: int | None, hidden_size: int | None, seed: int
) -> Any:
    """The policy's architecture with a random head of one output, and its weights unless from_scratch.

    layers: how many of its layers, from the first; None: all. hidden_size: of a model from scratch, a multiple of the
    policy's head size; heads and feed-forward size shrink in proportion. Seeds torch's global generator.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(policy.path)
    config.num_labels = 1
    if config.get_text_config().pad_token_id is None:
        has_pad = tokenizer.pad_token_id is not None
        config.get_text_config().pad_token_id = tokenizer.pad_token_id if has_pad else tokenizer.eos_token_id
    if layers is not None:
        if layers > config.num_hidden_layers:
            raise BenchError(
                f"scoring.layers={layers} is more than the base policy has: it must be at most "
                f"{config.num_hidden_layers}, or null for all."
            )
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    if hidden_size is not None:
        _resize(config, hidden_size, from_scratch=from_scratch)
    torch.manual_seed(seed)
    if from_scratch:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return AutoModelForSequenceClassification.from_pretrained(policy.path, config=config, dtype=torch.float32)


def _resize(config: Any, hidden_size: int, *, from_scratch: bool) -> None:
    if not from_scratch:
        raise BenchError(
            f"scoring.hidden_size={hidden_size} is for a model from scratch: the base's weights have their own size; "
            "set scoring.from_scratch=true, or scoring.hidden_size=null."
        )
    head = config.hidden_size // config.num_attention_heads
    if hidden_size % head:
        raise BenchError(
            f"scoring.hidden_size={hidden_size} is not allowed: it must be a multiple of the base policy's head size, "
            f"{head}."
        )
    shared = config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    wider = hidden_size / config.hidden_size
    config.hidden_size, config.num_attention_heads = hidden_size, hidden_size // head
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = max(1, config.num_attention_heads // shared)
    if isinstance(getattr(config, "intermediate_size", None), int):
        config.intermediate_size = max(1, round(config.intermediate_size * wider))


def _train(
    model: Any,
    tokenizer: Any,
    sides: dict[str, list[list[int]]],
    *,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int,
    warmup: float,
    weight_decay: float,
    max_grad_norm: float,
    gradient_checkpointing: bool,
    seed: int,
    scratch: Path,
) -> tuple[list[dict[str, float]], int]:
    """Train `model` in place on the token ids of both sides; the numbers of each update, and the tokens seen."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    class QuietTrainer(RewardTrainer):
        def _send_telemetry(self) -> None:
            """Nothing leaves the machine."""

    on_gpu = device() == "cuda"
    steps = math.ceil(math.ceil(len(sides["chosen_ids"]) / batch_size) * epochs)
    arguments = RewardConfig(
        output_dir=str(scratch),
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=batch_size // micro_batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=min(math.ceil(warmup * steps), steps - 1),  # it starts at 0: a lone update must not be part of it
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
        max_length=None,  # its filter would drop pairs
        use_cpu=not on_gpu,
        bf16=on_gpu,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # of several visible GPUs one trains: no DataParallel
    config = copy.deepcopy(model.config)
    log: list[dict[str, float]] = []
    with progress.bar("train reward model", steps, "steps") as bar:
        trainer: Any = QuietTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(sides),
            processing_class=tokenizer,
            callbacks=[_watcher(log, bar)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.config = config  # the Trainer writes into it
    return log, int(trainer._total_train_tokens)


def _watcher(log: list[dict[str, float]], bar: progress.Bar) -> Any:
    """A callback that keeps each update's numbers in `log`, moves the bar, and stops at the first that is none."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
        ) -> None:
            if logs is None or "loss" not in logs:  # the summary after the last update
                return
            entry = {name: logs[name] for name in ("loss", "accuracy", "learning_rate", "grad_norm")}
            if not _finite(entry.values()):
                raise BenchError(
                    f"scoring.learning_rate={args.learning_rate:g} let the reward model's training diverge at step "
                    f"{state.global_step}: loss {entry['loss']}, gradient norm {entry['grad_norm']}; lower it."
                )
            log.append({"step": state.global_step, "epoch": state.epoch, **entry})
            bar.advance()

    return Watcher()


def _finite(numbers: Iterable[float]) -> bool:
    return all(math.isfinite(number) for number in numbers)
