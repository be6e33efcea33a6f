"""TRL's GRPOTrainer and RLOOTrainer with the suite's own sampling, scoring and order of prompts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import progress
from bench.artifacts import Policy
from bench.models import kv_cache, loading
from bench.models.tokens import encode
from bench.seeds import small_seed
from bench.training.rollouts import Rollouts
from bench.training.trainers import Silent, keeper, refuse_without_padding, watcher

MEASURES = ("loss", "learning_rate", "grad_norm", "entropy", "clip_ratio/region_mean")


def train(
    model: Any, policy: Policy, rollouts: Rollouts, *, out: Path, reached: Callable[[int], None]
) -> tuple[list[dict[str, float]], int]:
    """Train `model` in place. Returns the log of updates, and the tokens of all samples with their prompts.

    reached: called after every recipe.keep_every updates but the last. Raises BenchError where the loss diverges.
    """
    tokenizer, recipe = loading.load_tokenizer(policy), rollouts.recipe
    refuse_without_padding(tokenizer, policy)
    updates = recipe.num_updates(len(rollouts.prompts))
    configs = copy.deepcopy((model.config, model.generation_config))
    keep = keeper(model, recipe.keep_every, reached)
    log: list[dict[str, float]] = []
    arm = "control" if recipe.shuffled else "tuned"
    with (
        progress.bar(f"train by {recipe.algorithm}", updates, "updates") as bar,
        progress.bar("  generate", None, "tokens") as inner,
    ):
        trainer = online_trainer(model, policy, tokenizer, rollouts, out=out, bar=inner)
        setting, name = "procedure.learning_rate", "the training"
        watch = watcher(log, bar, setting=setting, name=name, keep=MEASURES)
        for callback in (watch, _measurer(log, rollouts, updates / recipe.visits, arm), keep):
            trainer.add_callback(callback)
        trainer.train()
    model.config, model.generation_config = configs  # the Trainer writes its own special tokens into them
    prompt_tokens = sum(map(len, encode(tokenizer, rollouts.prompts)))
    return log, prompt_tokens * recipe.samples + int(rollouts.completions.length.sum())


def online_trainer(model: Any, policy: Policy, tokenizer: Any, rollouts: Rollouts, *, out: Path, bar: Any) -> Any:
    """The trainer of the recipe's algorithm. Its data set holds the numbers of prompts, in the recipe's batches."""
    import trl
    from datasets import Dataset
    from torch.utils.data import DataLoader

    recipe = rollouts.recipe
    trainer_class, config = (getattr(trl, f"{recipe.algorithm.upper()}{kind}") for kind in ("Trainer", "Config"))
    only_grpo = {name: getattr(recipe, name) for name in ("loss_type", "scale_rewards") if getattr(recipe, name)}
    arguments = recipe.arguments(
        config,
        len(rollouts.prompts),
        folder=out,
        seed=small_seed(recipe.seed, "online"),
        num_generations=recipe.num_generations,
        max_completion_length=rollouts.max_new_tokens,
        temperature=rollouts.sampler.temperature,
        beta=recipe.beta,
        num_iterations=recipe.num_iterations,
        epsilon=recipe.epsilon,
        router_aux_loss_coef=0.0,
        trust_remote_code=policy.trust_remote_code,  # of the reference, which TRL loads itself
        **only_grpo,
    )
    batches = recipe.batches(len(rollouts.prompts))
    grouped = [[int(row) for row in rows for _ in range(recipe.num_generations)] for rows in batches]
    order = [rows for rows in grouped for _ in range(recipe.accumulation * recipe.num_iterations)]
    prompt_ids = encode(tokenizer, rollouts.prompts)
    drawn: dict[str, Any] = {}

    def reward(prompts: list[str], **others: Any) -> list[float]:
        return rollouts.seen[drawn["rows"], drawn["columns"]].ravel().tolist()

    class OnlineTrainer(Silent, trainer_class):  # type: ignore[valid-type, misc]
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(DataLoader(self.train_dataset, batch_sampler=order, collate_fn=list))

        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict]:
            drawn["numbers"] = [int(number) for number in prompts[:: recipe.num_generations]]
            return [prompt_ids[int(number)] for number in prompts], None, {}

        def _generate_single_turn(self, *given: Any, **others: Any) -> Any:
            rows = np.array(drawn["numbers"])
            start = int(rollouts.visited[rows[0]]) * recipe.num_generations
            drawn["rows"], drawn["columns"] = rows, slice(start, start + recipe.num_generations)
            self.model.eval()
            completions = rollouts.draw(rows, bar)
            self.model.train()
            ids = [cell.tolist() for cell in completions.token_ids.ravel()]
            return (ids, None) if recipe.algorithm == "grpo" else ids

    rows = Dataset.from_dict({"prompt": [str(row) for row in range(len(prompt_ids))]})
    trainer = OnlineTrainer(
        model=model, reward_funcs=reward, args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    if trainer.ref_model is not None:  # TRL reads it from the folder of the base, without an adapter that was merged
        trainer.ref_model.load_state_dict(model.state_dict())
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    turned = getattr(model.config.get_text_config(), "rope_parameters", None)  # only distances matter to such models
    if turned is None and kv_cache.takes(whole, "position_ids"):
        for each in filter(None, (model, trainer.ref_model)):
            each.register_forward_pre_hook(_with_positions, with_kwargs=True)
    return trainer


def _with_positions(model: Any, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Tell the model the tokens' positions, which TRL leaves out, though it pads prompts on the left."""
    mask = named.get("attention_mask")
    if mask is not None and named.get("position_ids") is None and named.get("past_key_values") is None:
        named["position_ids"] = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)
    return inputs, named


def _measurer(log: list[dict[str, float]], rollouts: Rollouts, updates_per_visit: float, arm: str) -> Any:
    """A callback that adds the measures of the last draw to the last entry of the log, and tells them."""
    from transformers import TrainerCallback

    class Measurer(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            if logs is not None and "loss" in logs:
                log[-1] |= {"epoch": state.global_step / updates_per_visit, **rollouts.last}
                progress.measured({f"progress/online/{arm}/{name}": value for name, value in log[-1].items()})

    return Measurer()
