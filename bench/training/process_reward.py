"""Train a process reward model: a token classifier that says at each step's last token whether the step is correct.

The loss is the mean cross-entropy over the steps of a batch, in nats per step of reasoning. Source: Lightman et al.
2023, "Let's Verify Step by Step". TRL 1.16 has no PRMTrainer any more, so this is transformers' Trainer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.artifacts import Message, Policy
from bench.models import chat, loading
from bench.models.tokens import padded
from bench.seeds import small_seed
from bench.store import stage
from bench.training.packing import IGNORED
from bench.training.recipe import Optimisation
from bench.training.trainers import Examples, Silent, isolated, refuse_unreadable, train_classifier

NAMES = {0: "incorrect", 1: "correct"}


class ReasoningStep(NamedTuple):
    text: str  # as in the completion, with the separator that ends it
    content: str  # without the separator, and without surrounding white space


@dataclass(frozen=True)
class StepLabels(Examples):
    """E completions with every step labelled, in order."""

    steps: tuple[tuple[ReasoningStep, ...], ...]  # [E] at least one step each
    correct: tuple[tuple[bool, ...], ...]  # [E] as many as steps


def split(completion: str, *, separator: str, answer_marker: str | None) -> list[ReasoningStep]:
    """The completion's steps of reasoning in order, blank ones left out.

    separator: a regular expression that matches the end of a step. answer_marker: where given, the text after its
    first occurrence is the answer and no step.
    """
    reasoning = completion if answer_marker is None else completion.partition(answer_marker)[0]
    found, start = [], 0
    for match in re.finditer(separator, reasoning):
        if match.end() > match.start():
            found.append(ReasoningStep(reasoning[start : match.end()], reasoning[start : match.start()].strip()))
            start = match.end()
    found.append(ReasoningStep(reasoning[start:], reasoning[start:].strip()))
    return [step for step in found if step.content]


def encode(
    tokenizer: Any, messages: Sequence[Message], steps: Sequence[ReasoningStep], *, ending: str | None
) -> tuple[list[int], list[int]]:
    """(token ids of the prompt and the steps, index of each step's last token).

    Every step is tokenised on its own: no token spans two steps, and a step's last token sees nothing of the next step.
    ending: None leaves the steps as they are. Else this text (e.g. a newline, or a model's own mark) follows the
    content of each step, and its last token is the step's, as in TRL's PRMTrainer.
    """
    ids, ends = chat.encode(tokenizer, messages), []
    for step in steps:
        for text in [step.text] if ending is None else [step.content, ending]:
            ids.extend(tokenizer.encode(text, add_special_tokens=False))
        ends.append(len(ids) - 1)
    return ids, ends


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
    """A token classifier with outputs "incorrect" and "correct", after AdamW: the policy's layers and a new head.

    ending: see `encode`. batch_size: completions per update; warmup: share of the updates in which the learning rate
    rises from 0, to fall to 0 by a cosine. `seed` draws the head and the order. Weights are float32. Raises BenchError
    for an example longer than the policy can read, or where the loss is NaN.
    """
    import torch
    from transformers import AutoModelForTokenClassification, Trainer, TrainingArguments

    class SilentTrainer(Silent, Trainer):
        pass

    how = Optimisation.of(locals())
    with isolated(small_seed(seed, "process reward model", "weights")):
        model: Any = AutoModelForTokenClassification.from_pretrained(
            policy.path, dtype=torch.float32, id2label=NAMES, label2id={name: i for i, name in NAMES.items()}
        )
        rows = tokenized(examples, loading.load_tokenizer(policy), ending=ending)
        refuse_unreadable(model, max(len(row["input_ids"]) for row in rows), "completion with its prompt")
        order, collate = small_seed(seed, "process reward model", "order"), partial(padded, fill={"labels": IGNORED})
        args = how.arguments(TrainingArguments, len(rows), folder=out, seed=order, remove_unused_columns=False)
        trainer = partial(SilentTrainer, model=model, args=args, train_dataset=rows, data_collator=collate)
        log, _ = train_classifier(
            model, policy, trainer, name="process reward model", updates=how.num_updates(len(rows)), out=out
        )
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
