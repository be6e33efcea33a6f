"""One experiment, top to bottom. `python -m bench` composes its parts from conf/ and calls `run`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.evaluation.heldout import Graded, Outcomes, grade
from bench.scoring.preparing import prepared
from bench.seeds import generator
from bench.selection import matched_random
from bench.tasks import Task


@dataclass(frozen=True)
class Results:
    """Everything an experiment measured, sample by sample; means are taken when it is reported."""

    train: Prompts
    pool: Completions  # [M, N] on the training prompts
    rewards: Rewards  # [M, N]
    selections: dict[str, Selection]  # tuned, control
    policies: dict[str, Policy]  # base, tuned, control
    test: Prompts
    outcomes: dict[str, Outcomes]  # base, tuned, control
    best_of_n: Graded  # the base's held-out pool, drawn with the run's own sampler


def run(
    task: Task,
    policy: Callable[..., Policy],
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    selection: Callable[..., Selection],
    training: Callable[..., Policy],
    evaluation: Callable[..., Outcomes],
    *,
    num_completions: int,
    baseline_completions: int,
    seed: int,
) -> Results:
    """Sample, score, select, fine-tune; compare with a random control and with Best-of-N on one measured KL axis.

    Every policy is trained from the base. The control is fine-tuned on as many completions of the same prompts,
    chosen without the reward. Best-of-N is the base with the training pool's temperature and top-p, on test prompts.
    """
    train, test = task.prompts("train"), task.prompts("test")
    base = policy(task)
    scoring = prepared(scoring, base=base, task=task, generation=generation)  # one that learns, does so here

    pool = generation(train, base, num_completions=num_completions, seed=seed)  # [M, N]
    rewards = scoring(train, pool)  # [M, N]
    evidence = evidence_for(selection, pool, task)
    chosen = selection(rewards.value, generator(seed, "selection"), **evidence)  # [K]
    control = matched_random(chosen, rewards.value, generator(seed, "control"))  # [K]

    policies = {
        "base": base,
        "tuned": training(base, train, pool, chosen, seed=seed),
        "control": training(base, train, pool, control, seed=seed),
    }
    outcomes = {
        arm: evaluation(tuned, base, test, generation, scoring, task, seed=seed) for arm, tuned in policies.items()
    }
    baseline = generation(test, base, num_completions=max(num_completions, baseline_completions), seed=seed)
    return Results(
        train=train,
        pool=pool,
        rewards=rewards,
        selections={"tuned": chosen, "control": control},
        policies=policies,
        test=test,
        outcomes=outcomes,
        best_of_n=grade(test, baseline, scoring, task),
    )


def evidence_for(selection: Callable[..., Selection], pool: Completions, task: Task) -> dict:
    """What a selection method asks for by name beyond the rewards, e.g. `paths` [M, N]."""
    available = {"paths": lambda: np.vectorize(task.path, otypes=[object])(pool.text), "length": lambda: pool.length}
    wanted = inspect.signature(selection).parameters
    return {name: make() for name, make in available.items() if name in wanted}
