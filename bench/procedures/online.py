"""Online reinforcement learning: GRPO or RLOO on as many samples as the experiment of one round draws.

python -m bench procedure=online
python -m bench procedure=online procedure.algorithm=rloo procedure.beta=0.04
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from bench.artifacts import content_hash
from bench.config.keys import FINE_TUNING, IN_PROCESS
from bench.config.rules import Count, LearningRate, checked, defaults, number, one_of, or_null, whole
from bench.errors import BenchError
from bench.procedures.findings import ArtifactGraph, Findings, Results, TrainingCost, selection_key, total, uses_of
from bench.procedures.parts import Parts
from bench.scoring import refuse_comparing
from bench.selection.cells import cells
from bench.store import Use
from bench.tasks import Task
from bench.training.online import OnlineTraining
from bench.training.online_recipe import ALGORITHMS, LOSS_TYPES, SCALES, OnlineRecipe
from bench.training.sft import fine_tune
from bench.training.trainers import training_log

OWN = ("epochs", "learning_rate", "batch_size")  # settings of training that the procedure has itself
SHARED = (  # those that it takes from training
    *("micro_batch_size", "scheduler", "warmup", "weight_decay", "max_grad_norm", "gradient_checkpointing"),
    *("precision", "lora", "keep_every"),
)


@dataclass(frozen=True)
class Online(Findings):
    """The trainings of an experiment: of the tuned policy, and of its control."""

    recipe: OnlineRecipe
    trained: Mapping[str, OnlineTraining]  # tuned, control (if any)

    def logs(self) -> dict[str, list[dict[str, float]]]:
        """The updates of each arm."""
        return {arm: training_log(training.policy) for arm, training in self.trained.items()}

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """The metrics under online/; those of the control under online/control/.

        updates: of the weights. samples: drawn in all. first_reward, last_reward: mean reward of the first and the last
        draw. last_kl: nats per sequence of the last draw, from the base. last_length: its mean tokens. mixed_groups:
        the mean share of prompts whose samples had different rewards, which alone move the policy.
        """
        metrics: dict[str, float | str] = {}
        for arm, log in self.logs().items():
            name = "online" if arm == "tuned" else f"online/{arm}"
            metrics |= {
                f"{name}/updates": len(log),
                f"{name}/samples": int(self.trained[arm].pool.drawn.sum()),
                f"{name}/first_reward": log[0]["reward"],
                f"{name}/mixed_groups": float(np.mean([update["mixed_groups"] for update in log])),
                **{f"{name}/last_{measure}": log[-1][measure] for measure in ("reward", "kl", "length")},
            }
        return metrics

    def tables(self, results: Results) -> dict[str, Any]:
        """online.parquet: a row for each update of each arm, in order."""
        rows = [{"arm": arm, **update} for arm, log in self.logs().items() for update in log]
        return {"online.parquet": {name: [row[name] for row in rows] for name in rows[0]}}

    def drawn_by(self, results: Results) -> list[str]:
        return ["tuned"] * results.pool.shape[1]  # as it was being trained

    def cost(self, results: Results, uses: Sequence[Use]) -> TrainingCost:
        """The cost; each visit reads all prompts, and all samples are trained on."""
        own = uses_of(results.pool, uses)
        visits = self.recipe.visits
        return TrainingCost(
            prompt_tokens=total("prompt_tokens", own) / (len(results.train) * visits),
            completion_tokens=float(results.pool.length.mean()),
            samples_per_prompt=float(results.pool.shape[1]),
            prompts_sampled=len(results.train),
            completions_trained=results.pool.logprob.size,
            prompt_reads=float(visits),
            other_generators_flops=total("reread_flops", own),
            pools=tuple(training.pool for training in self.trained.values()),
            epochs=self.recipe.num_iterations,
        )

    def add_to(self, graph: ArtifactGraph, results: Results) -> None:
        """Add the samples, rewards and policy of each arm."""
        base = graph.policy("base", results.policies["base"])
        for arm, training in self.trained.items():
            pool = graph.pool("train" if arm == "tuned" else arm, training.pool, [base])
            chosen = cells(~np.isnan(training.seen))
            columns = {"row": chosen.row, "sample": chosen.column, "reward": training.seen[chosen.row, chosen.column]}
            key = content_hash(training.pool.key, training.seen)
            file = "rewards.parquet" if arm == "tuned" else f"rewards_{arm}.parquet"
            rewards = graph.rewards("train" if arm == "tuned" else arm, key, file, columns, [pool])
            weighted = {**columns, "weight": np.asarray(chosen.weight, float)}
            selection = graph.selection(arm, selection_key(training.pool.key, chosen), weighted, [rewards])
            graph.policy(arm, results.policies[arm], [base, selection])


def check_settings(config: Mapping[str, Any]) -> None:
    """BenchError where settings that are allowed by themselves do not fit together."""
    procedure, training, samples = config["procedure"], config["training"], config["num_completions"]
    in_memory = "draws from weights in memory, which change with each update: use generation=transformers"
    by_itself = "trains by its own objective: use training=sft or training=lora"
    for group, needed, why in (("generation", IN_PROCESS, in_memory), ("training", FINE_TUNING, by_itself)):
        if (given := config[group]["_target_"]) != needed:
            raise BenchError(f"{group}={given.split('.')[-2]} is not allowed: procedure=online {why}.")
    if samples < 2:
        raise BenchError(
            f"num_completions={samples} is not allowed with procedure=online: an advantage compares the samples of a "
            "prompt, so it must be at least 2."
        )
    if (size := procedure["num_generations"]) is not None and (size < 2 or samples % size):
        raise BenchError(
            f"procedure.num_generations={size} is not allowed: it must be at least 2 and divide num_completions="
            f"{samples}, the samples of a prompt in all, or be null."
        )
    if config["temperature"] == 0:
        raise BenchError("temperature=0 is not allowed with procedure=online: equal samples have no advantage.")
    for name in ("loss_type", "scale_rewards"):
        if procedure["algorithm"] != "grpo" and procedure[name] is not None:
            raise BenchError(
                f"procedure.{name}={procedure[name]} is not allowed with procedure.algorithm=rloo: leave it null."
            )
    for name, default in defaults(fine_tune).items():
        if name not in (*OWN, *SHARED, "seed") and name in training and training[name] != default:
            raise BenchError(
                f"training.{name}={training[name]} is not allowed with procedure=online, which has no such setting: "
                f"leave it at {str(default).lower() if default is not None else 'null'}."
            )
    if (lora := training["lora"]) is not None and lora["four_bit"]:
        raise BenchError("training.lora.four_bit=true is not allowed with procedure=online: set it to false.")


@checked(check_settings)
def online(
    parts: Parts,
    *,
    algorithm: Annotated[str, one_of(*ALGORITHMS)],
    num_generations: Annotated[int | None, or_null(whole(2))],
    prompts_per_update: Count,
    learning_rate: LearningRate,
    beta: Annotated[float, number(0)],
    num_iterations: Annotated[int, whole(1, 1_000)],
    epsilon: Annotated[float, number(0, open_low=True)],
    loss_type: Annotated[str | None, or_null(one_of(*LOSS_TYPES))],
    scale_rewards: Annotated[str | None, or_null(one_of(*SCALES))],
) -> Results:
    """Train the base by GRPO or RLOO, on `num_completions` samples of each training prompt in all.

    num_generations: samples of a prompt that are drawn together and compared (G); each prompt is visited
    num_completions / G times, so that a training draws as many samples as the experiment of one round. Each draw takes
    `prompts_per_update` prompts, followed by `num_iterations` updates. beta: the weight of the KL from the base: GRPO
    adds it to the loss of a token (k3, times the ratio: DeepSeek-V3.2, arXiv 2512.02556), RLOO subtracts it from the
    reward of a sequence (k1). epsilon: of the clipped ratio. The optimiser's other settings are those of `training`.

    The control ("matched") is the same training on samples of its own, whose rewards are permuted at random within each
    group: equal samples, updates and rewards, without their relation to the completions. Whatever it gains is no effect
    of the reward (spurious rewards, Shao et al. 2025, arXiv 2506.10947).
    """
    refuse_comparing(parts.scoring, "procedure=online can't learn from")
    training = {**defaults(fine_tune), **parts.training_settings}
    settings = locals() | {name: training[name] for name in SHARED}
    group = num_generations or parts.num_completions
    sizes = {"samples": parts.num_completions, "num_generations": group, "batch_size": prompts_per_update * group}
    recipe = OnlineRecipe.of(settings | sizes | {"epochs": 1, "shuffled": False, "seed": parts.seed})
    train, base, score = parts.train, parts.base, parts.scorer
    recipe.check(len(train))
    arms = {"tuned": recipe} | ({"control": replace(recipe, shuffled=True)} if parts.control == "matched" else {})
    trained = {arm: parts.train_online(arm, base, score, own) for arm, own in arms.items()}
    tuned = trained["tuned"]
    return parts.train_and_judge(
        tuned.pool,
        tuned.rewards,
        {"tuned": cells(~np.isnan(tuned.seen))},  # all that was scored
        prompts_filtered=0,
        trained={arm: training.policy for arm, training in trained.items()},
        findings=Online(recipe, trained),
    )
