"""A process reward model trained here, on steps of the base policy's own samples that the task's step check labels.

python -m bench scoring=trained_process_reward scoring.samples=8 scoring.aggregate=product

It learns whether each step is true, not whether the steps lead to the answer: a single true step gets a high score.
Selection over-optimises that (see scorer/ in a run's metrics.json, and its figure).
"""

import functools
from collections.abc import Callable
from typing import Annotated

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.config import rules
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.models.classifiers import Classifier
from bench.models.sampler import RAW
from bench.progress import say, stage
from bench.scoring import Scorer, Scoring
from bench.scoring.process_reward import AGGREGATE, MARKER, SEPARATOR, StepReading, score
from bench.seeds import generator, small_seed
from bench.tasks import Task
from bench.training.process_reward import StepLabels, split, train_process_reward_model

SPLITS = ("train", "validation")


@Scorer(highest=1.0)
@stage("scorer")
def trained_process_reward(
    *,
    base: Policy,
    task: Task,
    generation: Callable[..., Completions],
    samples: rules.Samples,
    label_noise: Annotated[float, rules.number(0, 1)],
    samples_from: Annotated[str, rules.one_of(*SPLITS)],
    samples_seed: rules.Seed,
    separator: Annotated[str, SEPARATOR],
    answer_marker: Annotated[str | None, rules.or_null(MARKER)],
    ending: Annotated[str | None, rules.or_null(MARKER)],
    aggregate: Annotated[str, rules.one_of(*AGGREGATE)],
    epochs: rules.Epochs,
    learning_rate: rules.LearningRate,
    batch_size: rules.Count,
    warmup: Annotated[float, rules.number(0, 1, open_high=True)],
    weight_decay: rules.WeightDecay,
    max_grad_norm: Annotated[float, rules.number(0)],
    seed: rules.Seed,
    dtype: Annotated[str, rules.DTYPE] = "auto",
    batch_tokens: rules.Tokens = 16_384,
) -> Scoring:
    """The scorer (prompts, completions) -> Rewards [M, N] of a process reward model trained here, or stored before.

    samples, label_noise, samples_from, samples_seed: see `labelled_steps`. separator, answer_marker, ending, aggregate,
    dtype, batch_tokens: see bench.scoring.process_reward. The rest: see bench.training.process_reward. `seed` draws the
    new weights and the order of the examples, not the samples.
    """
    examples = labelled_steps(
        task.prompts(samples_from),
        base,
        generation,
        task,
        samples=samples,
        label_noise=label_noise,
        separator=separator,
        answer_marker=answer_marker,
        seed=samples_seed,
    )
    trained = train_process_reward_model(
        base,
        examples,
        ending=ending,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        warmup=warmup,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        seed=seed,
    )
    address = Classifier(str(trained.path), None, trained.key)
    reading = StepReading("correct", separator, answer_marker, ending, aggregate, resolve_dtype(dtype))
    return functools.partial(score, model=address, reading=reading, batch_tokens=batch_tokens)


def labelled_steps(
    prompts: Prompts,
    base: Policy,
    generation: Callable[..., Completions],
    task: Task,
    *,
    samples: int,
    label_noise: float,
    separator: str,
    answer_marker: str | None,
    seed: int,
) -> StepLabels:
    """`samples` completions of every prompt, each step labelled by task.steps_are_true of that step alone.

    The samples are the base's at temperature 1, top-p 1, from a random stream of their own: a pool drawn on the same
    prompts shares none. A repeated text of a prompt counts once. A text without a step is left out; their number is
    printed. Each label is flipped with probability label_noise. Raises BenchError where all labels are equal.
    """
    drawn_with = small_seed(seed, "process reward", "samples")
    pool = generation(prompts, base, num_completions=samples, seed=drawn_with, **RAW.settings)
    messages, steps, correct, without = [], [], [], 0
    for rows, part in pool.shards():
        for row, texts in enumerate(part.text.tolist(), start=rows.start):
            for text in dict.fromkeys(texts):
                cut = split(text, separator=separator, answer_marker=answer_marker)
                if not cut:
                    without += 1
                    continue
                labels = np.array([task.steps_are_true(step.content) for step in cut])
                flipped = generator(seed, "process reward", "noise", str(prompts.id[row]), text).random(len(cut))
                messages.append(prompts.messages[row])
                steps.append(tuple(cut))
                correct.append(tuple((labels ^ (flipped < label_noise)).tolist()))
    labels = np.array([label for labels in correct for label in labels])
    if without:
        say(f"process reward: {without:,} of {without + len(steps):,} distinct samples have no step to learn from")
    if labels.all() or not labels.any():
        raise BenchError(
            f"All {len(labels)} labelled steps are {'correct' if len(labels) and labels[0] else 'incorrect'}: there is "
            "nothing to learn; check scoring.separator and scoring.answer_marker against the base's completions, or "
            "raise scoring.samples."
        )
    return StepLabels(tuple(messages), tuple(steps), tuple(correct))
