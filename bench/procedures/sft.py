"""Fine-tuning on the task's worked solutions, without a sample: SFT, the warm start of published recipes.

python -m bench experiment=sft task=gsm8k policy=folder policy.path=PATH
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards, Selection
from bench.blocks import side_by_side
from bench.config.rules import checked, one_of, require
from bench.procedures.findings import ArtifactGraph, Findings, Results, TrainingCost, mean_lengths
from bench.procedures.parts import Parts
from bench.progress import say
from bench.selection.cells import in_order
from bench.selection.pairs import refuse_pairs
from bench.store import Use
from bench.tasks import Task
from bench.training.demonstrations import every


def solution_metrics(written: Completions, prompts: Prompts, task: Task) -> dict[str, float | str]:
    """The metrics of the worked solutions [M, 1] of these prompts, under solutions/.

    written: their number; right: the share that the task's own verifier accepts; too_long: those of more tokens than
    task.max_new_tokens. All are trained on as they are; a line says how many are not accepted.
    """
    right = np.array(task.are_correct(written.text[:, 0].tolist(), list(map(str, prompts.answer))), bool)
    if not right.all():
        say(
            f"{(~right).sum()} of {len(right)} worked solutions are not accepted by the verifier of task={task.name}; "
            "they are trained on as they are"
        )
    return {
        "solutions/written": len(right),
        "solutions/right": float(right.mean()),
        "solutions/too_long": int((written.length > task.max_new_tokens).sum()),
    }


def with_solutions(
    parts: Parts,
    written: Completions,
    pools: Sequence[Completions],
    rewards: Rewards,
    selections: Mapping[str, Selection],
) -> tuple[Completions, Rewards, dict[str, Selection]]:
    """Add the worked solutions [M, 1] to a training pool as its last column, and to the training set of each arm.

    pools: side by side the training pool [M, N]; rewards: theirs.
    """
    last = replace(all_of := every(len(written.text)), column=all_of.column + rewards.value.shape[1])
    value = np.concatenate([rewards.value, parts.scorer(parts.train, written).value], axis=1)
    chosen = {arm: in_order([kept, last]) for arm, kept in selections.items()}
    return side_by_side([*pools, written]), Rewards(value), chosen


@dataclass(frozen=True)
class Supervised(Findings):
    """A training set that nothing was drawn for: the training pool [M, 1] holds the worked solutions."""

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        return solution_metrics(results.pool, results.train, task)

    def drawn_by(self, results: Results) -> list[str]:
        return ["solution"]

    def cost(self, results: Results, uses: Sequence[Use]) -> TrainingCost:
        """The cost of training alone. Lengths are those of the held-out pool, as a user's queries have them."""
        return TrainingCost(
            *mean_lengths(results.best_of_n.completions, len(results.test), uses),
            samples_per_prompt=0.0,
            prompts_sampled=0,
            completions_trained=len(results.selections["tuned"]),
        )

    def pools(self, graph: ArtifactGraph, results: Results, base: str) -> list[str]:
        return [graph.pool("train", results.pool, [])]


def check_settings(config: Mapping[str, Any]) -> None:
    """BenchError for pairs and for a random control: there is one solution per prompt, and no other to choose."""
    refuse_pairs(config, "procedure=sft", "it trains on worked solutions alone")
    require(config, "control", one_of("none"))


@checked(check_settings)
def on_solutions(parts: Parts) -> Results:
    """Fine-tune the base on the worked solution of every training prompt, and judge it like any other policy.

    Scoring says what the reward of a solution is, and chooses none. BenchError for a task without worked solutions.
    """
    parts.refuse_without_solutions()
    written = parts.demonstrations()  # [M, 1]
    rewards = parts.scorer(parts.train, written)
    chosen = {"tuned": every(len(parts.train))}
    return parts.train_and_judge(written, rewards, chosen, prompts_filtered=0, findings=Supervised())
