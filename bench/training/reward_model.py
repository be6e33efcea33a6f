"""Train a reward model on pairs of completions, the better one first, with TRL's RewardTrainer.

The Bradley-Terry model says P(chosen over rejected) = sigmoid(r_chosen - r_rejected); the loss is its negative
log-likelihood, in nats per pair. Source: Ouyang et al. 2022 (InstructGPT), "Training language models to follow
instructions with human feedback", equation 1.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.artifacts import Policy
from bench.errors import BenchError
from bench.models import chat, loading
from bench.seeds import small_seed
from bench.store import stage
from bench.training import trainers
from bench.training.recipe import Optimisation


@dataclass(frozen=True)
class Pairs(trainers.Examples):
    """P pairs, in order, each of two completions of one prompt."""

    chosen: tuple[str, ...]  # [P] completions labelled the better ones
    rejected: tuple[str, ...]  # [P]


@stage(version=1, load=loading.folder, speed_only=("micro_batch_size", "gradient_checkpointing"))
def train_reward_model(
    policy: Policy,
    pairs: Pairs,
    *,
    from_scratch: bool,
    layers: int | None,
    hidden_size: int | None,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int | None,
    warmup: float,
    weight_decay: float,
    max_grad_norm: float,
    gradient_checkpointing: bool,
    seed: int,
    out: Path,
) -> dict[str, float]:
    """A sequence classifier with one output, after AdamW: the policy's layers (see `untrained`) and a new head.

    `seed` draws the head (from scratch, all weights) and the order of the pairs. Weights are float32. batch_size: pairs
    per update; micro_batch_size: pairs in memory at a time (None: all), a divisor of it. warmup: share of the updates
    in which the learning rate rises from 0, to fall to 0 by a cosine. Raises BenchError for a pair longer than the
    policy can read, or where the loss is NaN.
    """
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    class RankingTrainer(trainers.PairsAlike, RewardTrainer):
        averaged = ("accuracy",)

    how = Optimisation.of(locals())
    with trainers.isolated(small_seed(seed, "reward model", "weights")):
        tokenizer = loading.load_tokenizer(policy)
        trainers.refuse_without_padding(tokenizer, policy)
        model = untrained(policy, tokenizer, from_scratch=from_scratch, layers=layers, hidden_size=hidden_size)
        sides = {
            name: [row["input_ids"] for row in chat.encode_conversations(tokenizer, pairs.messages, texts)]
            for name, texts in (("chosen_ids", pairs.chosen), ("rejected_ids", pairs.rejected))
        }
        trainers.refuse_unreadable(model, max(len(ids) for rows in sides.values() for ids in rows), "pair")
        order = small_seed(seed, "reward model", "order")
        # max_length: its filter would drop pairs
        args = how.arguments(RewardConfig, len(pairs), folder=out, seed=order, max_length=None)
        data = Dataset.from_dict(sides)
        log, trainer = trainers.train_classifier(
            model,
            policy,
            partial(RankingTrainer, model=model, args=args, train_dataset=data, processing_class=tokenizer),
            name="reward model",
            updates=how.num_updates(len(pairs)),
            measures=("loss", "accuracy", "learning_rate", "grad_norm"),
            out=out,
        )
    tokens = int(trainer._total_train_tokens)
    return {
        "pairs": len(pairs),
        "train_tokens": tokens,
        "train_flops": 6 * model.num_parameters() * tokens,
        "steps": len(log),
    }


def untrained(
    policy: Policy, tokenizer: Any, *, from_scratch: bool, layers: int | None, hidden_size: int | None
) -> Any:
    """The policy's architecture with a random head of one output, and the policy's weights unless from_scratch.

    layers: how many of its layers, from the first; None: all. hidden_size: of a model from scratch, a multiple of the
    policy's head size; heads and feed-forward size change in proportion. Draws from torch's global generator.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(policy.path)
    config.num_labels = 1
    of_text = config.get_text_config()
    if of_text.pad_token_id is None:
        has_pad = tokenizer.pad_token_id is not None
        of_text.pad_token_id = tokenizer.pad_token_id if has_pad else tokenizer.eos_token_id
    if layers is not None:
        if layers > of_text.num_hidden_layers:
            raise BenchError(
                f"scoring.layers={layers} is more than the base policy has: it must be at most "
                f"{of_text.num_hidden_layers}, or null for all."
            )
        of_text.num_hidden_layers = layers
        if getattr(of_text, "layer_types", None):
            of_text.layer_types = of_text.layer_types[:layers]
    if hidden_size is not None:
        _resize(of_text, hidden_size, from_scratch=from_scratch)
    if from_scratch:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return AutoModelForSequenceClassification.from_pretrained(policy.path, config=config, dtype=torch.float32)


def _resize(config: Any, hidden_size: int, *, from_scratch: bool) -> None:
    if not from_scratch:
        raise BenchError(
            f"scoring.hidden_size={hidden_size} is for a model from scratch: the base's weights have their own size; "
            "set scoring.from_scratch=true, or scoring.hidden_size=null."
        )
    head = config.hidden_size // config.num_attention_heads
    if hidden_size % head:
        raise BenchError(
            f"scoring.hidden_size={hidden_size} is not allowed: it must be a multiple of the base policy's head size, "
            f"{head}."
        )
    shared = config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    wider = hidden_size / config.hidden_size
    config.hidden_size, config.num_attention_heads = hidden_size, hidden_size // head
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = max(1, config.num_attention_heads // shared)
    if isinstance(getattr(config, "intermediate_size", None), int):
        config.intermediate_size = max(1, round(config.intermediate_size * wider))
