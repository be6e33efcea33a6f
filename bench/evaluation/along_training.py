"""Policies along their training, judged on validation prompts: accuracy and KL from the base after so many updates.

    python -m bench training.keep_every=10

No run chooses one of them: what is reported on `split` is the last. Which one to take is a choice that must not see
the test prompts; what is best of several on validation prompts is a little less good on others (winner's curse).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.artifacts import Completions, Policy, Prompts, Rewards
from bench.evaluation.heldout import Outcomes
from bench.tasks import Task
from bench.training.checkpoints import kept
from bench.training.sft import training_log

VALIDATION = "validation"  # the method of what was measured there, by numbers of updates


@dataclass(frozen=True)
class AlongTraining:
    """What each arm's policies did, from the base (0 updates) to the one that is the result."""

    prompts: Prompts  # of validation
    outcomes: dict[str, dict[int, Outcomes]]  # tuned, control (where there is one) -> updates, rising


def judged_along(
    policies: Mapping[str, Policy],
    task: Task,
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    evaluation: Callable[..., Outcomes],
    *,
    seed: int,
) -> AlongTraining | None:
    """Each policy that a training kept, as the run judges its own, without lm-eval; None where none was kept.

    policies: base, tuned, control (where there is one).
    """
    base = policies["base"]
    trained = {arm: one for arm, one in policies.items() if arm != "base" and kept(one)}
    if not trained:
        return None
    prompts = task.prompts("validation")

    def judged(policy: Policy) -> Outcomes:
        alone: dict[str, Any] = {"lm_eval": False, "transfer": {}, "harness_tasks": ()}
        return evaluation(policy, base, prompts, generation, scoring, task, seed=seed, **alone)

    start = judged(base)
    found: dict[str, dict[int, Outcomes]] = {}
    for arm, last in trained.items():
        path = {**kept(last), len(training_log(last)): last}
        found[arm] = {0: start, **{updates: judged(one) for updates, one in path.items()}}
    return AlongTraining(prompts, found)


def along_counts(along: AlongTraining | None) -> dict[str, int]:
    """Validation prompts; of each arm's training the updates, and after how many accuracy there was highest.

    By one sample at the evaluation's temperature; the earliest of equals; the base is not in the choice.
    """
    if along is None:
        return {}
    counts = {f"{VALIDATION}/prompts": len(along.prompts)}
    for arm, path in along.outcomes.items():
        accuracy = {updates: float(one.sampled.gold.mean()) for updates, one in path.items() if updates}
        counts[f"{arm}/{VALIDATION}_updates"] = max(accuracy)
        counts[f"{arm}/{VALIDATION}_best_updates"] = max(accuracy, key=lambda updates: (accuracy[updates], -updates))
    return counts
