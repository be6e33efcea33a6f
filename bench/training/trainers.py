"""The steps that all trainings with transformers' Trainer share: isolation, a log of updates, and the folder."""

import contextlib
import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench import progress
from bench.artifacts import Message, Policy, content_hash
from bench.errors import BenchError
from bench.models import loading

LOG = "train_log.json"
MEASURES = ("loss", "learning_rate", "grad_norm")


@dataclass(frozen=True)
class Examples:
    """Examples in order. The key is a hash of their content: equal ones share one training."""

    messages: tuple[tuple[Message, ...], ...]  # the prompt of each

    def __len__(self) -> int:
        return len(self.messages)

    @cached_property
    def key(self) -> str:
        return content_hash(*(getattr(self, each.name) for each in fields(self)))


def training_log(model: Policy) -> list[dict[str, float]]:
    """The log of updates: step, epoch, loss, learning_rate and grad_norm (unclipped), measured before each update.

    The loss is in nats per token; of a reward model and of preference tuning, per pair; of a process reward model, per
    step of reasoning. A reward model's log has accuracy too, the share of the batch's pairs that it orders right, and
    that of preference tuning the implicit rewards of the batch under TRL's names (rewards/margins, ...).
    """
    return json.loads((model.path / LOG).read_text())


def write_log(log: list[dict[str, float]], folder: Path) -> None:
    (folder / LOG).write_text(json.dumps(log, indent=1))


def train_classifier(
    model: Any,
    policy: Policy,
    trainer: Callable[..., Any],
    *,
    name: str,
    updates: int,
    measures: Sequence[str] = MEASURES,
    out: Path,
) -> tuple[list[dict[str, float]], Any]:
    """Train a model that learns from the policy, and save it with the policy's tokenizer and the log in `out`.

    trainer: makes the Trainer, given its callbacks. name: of the model, for messages. Returns the log and the Trainer.
    """
    loading.cap_attention(model)
    config = copy.deepcopy(model.config)
    log: list[dict[str, float]] = []
    with progress.bar(f"train {name}", updates, "steps") as bar:
        watch = watcher(log, bar, setting="scoring.learning_rate", name=f"the {name}'s training", keep=measures)
        made = trainer(callbacks=[watch])
        made.train()
    model.config = config  # the Trainer writes into it
    model.save_pretrained(out)
    loading.load_tokenizer(policy).save_pretrained(out)
    write_log(log, out)
    return log, made


class Silent:
    """For Trainers: nothing is printed, and nothing leaves the machine."""

    remove_callback: Callable[[Any], None]

    def __init__(self, *given: Any, **settings: Any) -> None:
        from transformers import PrinterCallback

        super().__init__(*given, **settings)
        self.remove_callback(PrinterCallback)

    def _send_telemetry(self) -> None:
        """TRL would report each training."""


class PairsAlike(Silent):
    """For TRL's Trainers on pairs: an update weighs all its pairs alike, also across micro-batches."""

    loss_is_scaled_for_ga: Any = True  # compute_loss is given the number of pairs of the whole batch
    averaged: tuple[str, ...]  # the measures whose mean over micro-batches is logged
    micro_batches: int
    _metrics: Any

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Any]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self.micro_batches = len(batches)
        return batches, sum(len(batch["input_ids"]) // 2 for batch in batches)

    def compute_loss(
        self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = super().compute_loss(model, inputs)  # type: ignore[misc]  # the mean over these pairs
        share = len(inputs["input_ids"]) // 2 / num_items_in_batch
        for name in self.averaged:
            self._metrics["train"][name][-1] *= share * self.micro_batches
        return loss * share


def refuse_unreadable(model: Any, longest: int, name: str, advice: str = "lower task.max_new_tokens") -> None:
    """Raise BenchError where the longest example, of so many tokens, is longer than the model can read."""
    readable = loading.context(model.config) or longest
    if longest > readable:
        raise BenchError(
            f"A {name} has {longest} tokens, more than the {readable} that the base policy can read; {advice}."
        )


def refuse_without_padding(tokenizer: Any, policy: Policy) -> None:
    """Raise BenchError where the tokenizer has no token that TRL would pad texts with."""
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise BenchError(
            f"The tokenizer in {policy.path} has neither a padding token nor an EOS token, and this training needs one "
            "of them to pad with; set pad_token in its tokenizer_config.json."
        )


def watcher(
    log: list[dict[str, float]], bar: progress.Bar, *, setting: str, name: str, keep: Sequence[str] = MEASURES
) -> Any:
    """A callback that adds each update's numbers to `log`, moves the bar, and raises BenchError where one is NaN."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
        ) -> None:
            if logs is None or "loss" not in logs:  # the summary after the last update
                return
            entry = {measure: logs[measure] for measure in keep}
            if not all(map(math.isfinite, entry.values())):
                raise BenchError(
                    f"{setting}={args.learning_rate:g} let {name} diverge at step {state.global_step}: loss "
                    f"{entry['loss']}, gradient norm {entry['grad_norm']}; lower it."
                )
            log.append({"step": state.global_step, "epoch": state.epoch, **entry})
            bar.advance()

    return Watcher()


def keeper(model: Any, every: int | None, reached: Callable[[int], None]) -> Any:
    """A callback that calls `reached` after every `every` updates but the last, before the update's checkpoint.

    every: None: never. Make it before the Trainer, which writes its own special tokens into the model's configurations:
    inside `reached` they are as they were.
    """
    from transformers import TrainerCallback

    configs = copy.deepcopy((model.config, model.generation_config))

    class Keeper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if every is not None and state.global_step % every == 0 and state.global_step < state.max_steps:
                changed = model.config, model.generation_config
                model.config, model.generation_config = copy.deepcopy(configs)
                reached(state.global_step)
                model.config, model.generation_config = changed

    return Keeper()


@contextlib.contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Around a training: the global random generators are as before afterwards, and Transformers prints nothing inside.

    seed: of torch's generator inside, from which new weights are drawn.
    """
    import torch
    from transformers.utils import logging

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    bars = logging.is_progress_bar_enabled()
    # silent, as special tokens are changed, and restored
    with loading.silent(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            if seed is not None:
                torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            if bars:
                logging.enable_progress_bar()
