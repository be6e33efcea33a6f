"""Policies along their training, judged on validation prompts: accuracy and KL from the base after so many updates.

    python -m bench training.keep_every=10

No run chooses one of them: what is reported on `split` is the last. Which one to take is a choice that must not see
the test prompts; what is best of several on validation prompts is a little less good on others (winner's curse).
"""

from dataclasses import dataclass

from bench.artifacts import Prompts
from bench.evaluation.heldout import Outcomes

VALIDATION = "validation"  # the method of what was measured there, by numbers of updates


@dataclass(frozen=True)
class AlongTraining:
    """What each arm's policies did, from the base (0 updates) to the one that is the result."""

    prompts: Prompts  # of validation
    outcomes: dict[str, dict[int, Outcomes]]  # tuned, control (where there is one) -> updates, rising


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
