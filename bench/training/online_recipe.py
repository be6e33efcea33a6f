"""The settings of online training, and the order in which it visits prompts."""

from dataclasses import dataclass

import numpy as np

from bench.errors import BenchError
from bench.seeds import generator
from bench.training.recipe import Optimisation

ALGORITHMS = ("grpo", "rloo")
LOSS_TYPES = ("dapo", "grpo", "bnpo", "dr_grpo")
SCALES = ("group", "batch", "none")


@dataclass(frozen=True, kw_only=True)
class OnlineRecipe(Optimisation):
    """The settings of one online training; those of bench.procedures.online.online are explained there."""

    speed_only = ("micro_batch_size", "gradient_checkpointing", "epochs", "batch_size", "processes")

    algorithm: str
    samples: int  # per prompt in all, N
    num_generations: int  # per prompt and visit, a divisor of `samples`
    prompts_per_update: int  # at most: batches differ by one prompt where it does not divide the prompts
    beta: float
    num_iterations: int
    epsilon: float
    loss_type: str | None
    scale_rewards: str | None
    shuffled: bool  # train on rewards that are permuted within each group: a control

    @property
    def visits(self) -> int:
        """The number of times that each prompt is drawn from."""
        return self.samples // self.num_generations

    def check(self, prompts: int) -> None:
        """BenchError where the micro-batches of an update would differ in size."""
        if self.micro_batch_size is None:
            return
        groups = f"procedure.prompts_per_update={self.prompts_per_update} times {self.num_generations} samples"
        if self.batch_size % self.micro_batch_size:
            raise BenchError(
                f"training.micro_batch_size={self.micro_batch_size} is not allowed: it must divide {groups}, or be "
                "null."
            )
        if any(len(rows) * self.num_generations % self.accumulation for rows in self.batches(prompts)):
            raise BenchError(
                f"training.micro_batch_size={self.micro_batch_size} is not allowed with {prompts} training prompts and "
                f"{groups}: each draw must split into {self.accumulation} equal parts; set it to null, or "
                "procedure.prompts_per_update to a divisor of the number of prompts."
            )

    def num_updates(self, examples: int) -> int:
        """The number of updates. examples: training prompts."""
        return -(-examples // self.prompts_per_update) * self.visits * self.num_iterations

    def batches(self, prompts: int) -> list[np.ndarray]:
        """The rows of the prompts of each draw, in random order; sizes differ by at most one prompt."""
        parts = -(-prompts // self.prompts_per_update)
        return [
            rows
            for visit in range(self.visits)
            for rows in np.array_split(generator(self.seed, "online", "order", visit).permutation(prompts), parts)
        ]
