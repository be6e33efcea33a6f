"""One experiment, top to bottom. `python -m bench` composes its parts from conf/ and calls `run`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.evaluation.along_training import AlongTraining, judged_along
from bench.evaluation.heldout import Graded, Outcomes, grade
from bench.scoring import prepared
from bench.seeds import generator
from bench.selection import matched_random
from bench.selection.evidence import evidence_for
from bench.selection.prompt_filter import prompts_dropped
from bench.sweeps.workload import Asks, Config, arms, drawn, examples, fine_tuned
from bench.tasks import Task

if TYPE_CHECKING:
    from bench.adaptive import Plan
    from bench.generators import Generators
    from bench.hybrid import Hybrid
    from bench.rounds import Rounds


@dataclass(frozen=True)
class Results:
    """Everything an experiment measured, sample by sample; means are taken when it is reported."""

    train: Prompts
    pool: Completions  # [M, N] on the training prompts
    rewards: Rewards  # [M, N]
    prompts_filtered: int  # that the prompt filter left out
    selections: dict[str, Selection]  # tuned, control (where there is one)
    policies: dict[str, Policy]  # base, tuned, control (likewise)
    split: str  # validation or test: of the prompts that the policies are judged on,
    test: Prompts  # which are these
    outcomes: dict[str, Outcomes]  # base, tuned, control (likewise)
    best_of_n: Graded  # the base's held-out pool, drawn with the run's own sampler
    along_training: AlongTraining | None = None  # policies on the way to those, on validation; None: none were kept
    procedure: "Plan | Generators | Hybrid | Rounds | None" = None  # what a procedure other than `run` has to tell


def run(
    task: Task,
    policy: Callable[..., Policy],
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    prompt_filter: Callable[[np.ndarray], np.ndarray],
    selection: Callable[..., Selection],
    training: Callable[..., Policy],
    evaluation: Callable[..., Outcomes],
    *,
    num_completions: int,
    baseline_completions: int,
    control: str,
    split: str,
    seed: int,
) -> Results:
    """Sample, score, select, fine-tune; compare with a random control and with Best-of-N on one measured KL axis.

    Every policy is trained from the base. The control ("matched"; "none" does without) is fine-tuned on as many
    completions of the same prompts, chosen without the reward. Best-of-N is the base with the training pool's
    temperature and top-p. All are judged on the prompts of `split`: "test", or "validation" where many runs are
    compared to choose one of them.
    """
    train = task.prompts("train")
    base = policy(task)
    scoring = prepared(scoring, base=base, task=task, generation=generation)  # one that learns, does so here

    pool = generation(train, base, num_completions=num_completions, seed=seed)  # [M, N]
    rewards = scoring(train, pool)  # [M, N]
    eligible = prompt_filter(rewards.value)  # [M, N], NaN where the prompt is left out
    evidence = evidence_for(selection, pool, task, base)
    selections = {"tuned": selection(eligible, generator(seed, "selection"), **evidence)}  # [K]
    if control == "matched":
        selections["control"] = matched_random(selections["tuned"], eligible, generator(seed, "control"))  # [K]

    return trained_and_judged(
        task,
        base,
        pool,
        rewards,
        prompts_dropped(rewards.value, eligible),
        selections,
        generation,
        scoring,
        training,
        evaluation,
        num_completions=num_completions,
        baseline_completions=baseline_completions,
        split=split,
        seed=seed,
    )


def trained_and_judged(
    task: Task,
    base: Policy,
    pool: Completions,
    rewards: Rewards,
    prompts_filtered: int,
    selections: dict[str, Selection],
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    training: Callable[..., Policy],
    evaluation: Callable[..., Outcomes],
    *,
    num_completions: int,
    baseline_completions: int,
    split: str,
    seed: int,
    compared: Mapping[str, Policy] = MappingProxyType({}),
    procedure: "Plan | Generators | Hybrid | Rounds | None" = None,
) -> Results:
    """Fine-tune the base on each selection's cells of the pool [M, N]; judge all beside Best-of-N of the base.

    compared: policies by name from which the tuned one's KL is taken too. procedure: see Results.
    """
    train, test = task.prompts("train"), task.prompts(split)
    policies = {"base": base}
    policies |= {arm: training(base, train, pool, chosen, seed=seed) for arm, chosen in selections.items()}
    outcomes = {
        arm: evaluation(one, base, test, generation, scoring, task, compared if arm == "tuned" else {}, seed=seed)
        for arm, one in policies.items()
    }
    baseline = generation(test, base, num_completions=max(num_completions, baseline_completions), seed=seed)
    return Results(
        train=train,
        pool=pool,
        rewards=rewards,
        prompts_filtered=prompts_filtered,
        selections=selections,
        policies=policies,
        split=split,
        test=test,
        outcomes=outcomes,
        best_of_n=grade(test, baseline, scoring, task),
        along_training=judged_along(policies, task, generation, scoring, evaluation, seed=seed),
        procedure=procedure,
    )


def asks(cfg: Config, prompts: Callable[[str], int]) -> Asks:
    """What `run` will draw and train; see bench.sweeps.workload."""
    train = prompts("train")
    pool = train * drawn(cfg, cfg["num_completions"])
    return Asks({(): pool}, {fine_tuned(cfg, arm): examples(cfg, train) for arm in arms(cfg)})
