"""Online reinforcement learning: a policy draws, is rewarded, and is updated, again and again (GRPO, RLOO; TRL).

Each update draws `num_generations` completions of some training prompts from the policy as it is now, by the suite's
own decoding, scores them, and takes a step. GRPO (Shao et al. 2024, arXiv 2402.03300): a completion's advantage is its
reward minus the mean of its prompt's group, over the group's standard deviation. RLOO (Ahmadian et al. 2024, arXiv
2402.14740): its reward minus the mean of the others' in its group. A truncated completion counts like any other.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, content_hash
from bench.blocks import stored
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.generation.pool import FILE, Unit, write_unit
from bench.models import loading
from bench.models.sampler import RAW, Sampler
from bench.models.tokens import encode
from bench.seeds import generator, small_seed
from bench.store import Address, Store, current, using
from bench.store.files import checksum
from bench.training import checkpoints
from bench.training.lora import Lora, save, trainable
from bench.training.recipe import SINCE, Optimisation
from bench.training.trainers import isolated, write_log

STAGE = "online"
REWARDS = "rewards.npz"  # no .safetensors, which programs take for weights
ALGORITHMS = ("grpo", "rloo")
LOSS_TYPES = ("dapo", "grpo", "bnpo", "dr_grpo")
SCALES = ("group", "batch", "none")
Score = Callable[[Prompts, Completions], Rewards]


@dataclass(frozen=True)
class OnlineRecipe(Optimisation):
    """The settings of one online training; those of bench.procedures.online.online are explained there."""

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
    precision: str
    lora: Lora | None
    keep_every: int | None  # updates
    seed: int

    @property
    def visits(self) -> int:
        """The number of times that each prompt is drawn from."""
        return self.samples // self.num_generations

    @property
    def in_bfloat16(self) -> bool:
        return resolve_dtype(self.precision) == "bfloat16"

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

    def updates(self, examples: int) -> int:
        """The number of updates. examples: training prompts."""
        return -(-examples // self.prompts_per_update) * self.visits * self.num_iterations

    def batches(self, prompts: int) -> list[np.ndarray]:
        """The rows of the prompts of each draw, in random order; sizes differ by at most one prompt."""
        parts = -(-prompts // self.prompts_per_update)
        return [
            rows
            for visit in range(self.visits)
            for rows in np.array_split(generator(self.seed, STAGE, "order", visit).permutation(prompts), parts)
        ]

    @property
    def key_settings(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        speed_only = ("micro_batch_size", "gradient_checkpointing", "epochs", "batch_size")
        settings = {name: value for name, value in asdict(self).items() if name not in speed_only}
        return {name: value for name, value in settings.items() if name not in SINCE or value != SINCE[name]}


@dataclass(frozen=True)
class OnlineTraining:
    """The outcome of one training."""

    policy: Policy
    pool: Completions  # [M, N] in the order drawn
    rewards: Rewards  # [M, N] by the scorer
    seen: np.ndarray  # [M, N] the rewards that the training saw: permuted within groups for a control

    def has_signal(self, num_generations: int) -> bool:
        """Whether any prompt had completions of different rewards in one group."""
        groups = self.seen.reshape(len(self.seen), -1, num_generations)
        return bool((np.nanmax(groups, axis=2, initial=-np.inf) > np.nanmin(groups, axis=2, initial=np.inf)).any())


def train_online(
    policy: Policy,
    prompts: Prompts,
    score: Score,
    recipe: OnlineRecipe,
    *,
    scored_by: Any,
    sampler: Sampler,
    max_new_tokens: int,
    batch_tokens: int,
) -> OnlineTraining:
    """The policy after `recipe` from `policy`, its samples and their rewards, read from the store if they are there.

    scored_by: names the scorer and its settings in the key. batch_tokens: see bench.generation.transformers_engine.
    On a CPU the result is bit for bit the same for equal inputs, seed and thread count. BenchError where the loss is no
    finite number.
    """
    settings = {
        **recipe.key_settings,
        **sampler.settings,
        "max_new_tokens": max_new_tokens,
        "scored_by": scored_by,
    }
    address = Address(STAGE, 1, settings, {"policy": policy.key, "prompts": prompts.key}).piece("00000")
    build = partial(
        _train,
        policy,
        prompts,
        score,
        recipe,
        sampler=sampler,
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
    )
    load = partial(_load, prompts=len(prompts), samples=recipe.samples, code=policy.trust_remote_code)
    return current().make(address, lambda out: build(out=out), load)


def _load(folder: Path, *, prompts: int, samples: int, code: bool) -> OnlineTraining:
    unit = Unit(folder, checksum(folder, FILE), prompts, samples, samples)
    rewards = np.load(folder / REWARDS)
    return OnlineTraining(
        replace(loading.folder(folder), trust_remote_code=code),
        stored([(slice(0, prompts), 0, unit)]),
        Rewards(rewards["value"]),
        rewards["seen"],
    )


class Rollouts:
    """The samples of a training [M, N], in the order drawn, their rewards, and what they cost."""

    def __init__(self, prompts: Prompts, score: Score, recipe: OnlineRecipe, engine: Any, reference: Any) -> None:
        self.prompts, self.score, self.recipe, self.engine, self.reference = prompts, score, recipe, engine, reference
        shape = (len(prompts), recipe.samples)
        self.text, self.token_ids = np.empty(shape, object), np.empty(shape, object)
        self.reason = np.full(shape, "", "<U6")
        self.logprob, self.policy_logprob, self.value, self.seen = (np.full(shape, np.nan) for _ in range(4))
        self.visited = np.zeros(len(prompts), int)
        self.counts: dict[str, float] = {"prompt_tokens": 0, "generated_tokens": 0, "flops": 0}
        self.last: dict[str, float] = {}  # measures of the last draw

    def draw(self, rows: np.ndarray, sampler: Sampler, max_new_tokens: int, bar: Any) -> Completions:
        """Draw one group for each of these prompts [P, G] from the policy as it is, and score it."""
        size, start = self.recipe.num_generations, int(self.visited[rows[0]]) * self.recipe.num_generations
        prompts, columns = self.prompts.take(rows), slice(start, start + size)
        self.engine.forget()
        samples, seed = range(start, start + size), self.recipe.seed
        try:
            drawn, counts = self.engine.sample(
                prompts, samples, sampler, max_new_tokens=max_new_tokens, seed=seed, progress=bar
            )
        except BenchError as error:
            if not self.visited.any():
                raise
            raise BenchError(  # the prompts were checked before, so the weights are not numbers
                f"procedure.learning_rate={self.recipe.learning_rate:g} let the training diverge before sample "
                f"{int((self.reason != '').sum()):,}: the policy's logits are not finite numbers; lower it."
            ) from error
        for name, count in counts.items():
            self.counts[name] += count
        ids = [cell.tolist() for cell in drawn.token_ids.ravel()]
        drawn = replace(drawn, key=content_hash(prompts.key, ids))
        base = self.reference.pair(prompts, drawn.token_ids, RAW)[1]  # [P, G] nats under the raw start
        rewards = self._scored(prompts, drawn)
        seen = rewards
        if self.recipe.shuffled:
            rng = generator(self.recipe.seed, STAGE, "control", start, *rows[:1].tolist())
            seen = rng.permuted(rewards, axis=1)
        for name, values in {
            "text": drawn.text,
            "token_ids": drawn.token_ids,
            "reason": drawn.finish_reason,
            "logprob": drawn.logprob,
            "policy_logprob": drawn.policy_logprob,
            "value": rewards,
            "seen": seen,
        }.items():
            getattr(self, name)[rows, columns] = values
        self.visited[rows] += 1
        spread = np.nanmax(rewards, axis=1, initial=-np.inf) > np.nanmin(rewards, axis=1, initial=np.inf)
        self.last = {
            "reward": float(np.nanmean(rewards)) if np.isfinite(rewards).any() else float("nan"),
            "kl": float((drawn.logprob - base).mean()),
            "length": float(drawn.length.mean()),
            "truncated": float((drawn.finish_reason == "length").mean()),
            "mixed_groups": float(spread.mean()),
            "samples": float((self.reason != "").sum()),
        }
        return drawn

    def _scored(self, prompts: Prompts, drawn: Completions) -> np.ndarray:
        """[P, G]. Stored scores are kept for a new try; their cost is counted as that of this training."""
        apart = Store(current().root, shipped=current().shipped)
        with using(apart):
            value = self.score(prompts, drawn).value
        self.counts["flops"] += sum(use.counts.get("flops", 0) for use in apart.uses)
        return value

    @cached_property
    def completions(self) -> Completions:
        return Completions(self.text, self.token_ids, self.reason, self.logprob, self.policy_logprob, key="")


def _train(
    policy: Policy,
    prompts: Prompts,
    score: Score,
    recipe: OnlineRecipe,
    *,
    sampler: Sampler,
    max_new_tokens: int,
    batch_tokens: int,
    out: Path,
) -> dict[str, float]:
    """Train, and write the policy, its samples and the log to `out`."""
    from bench.generation.transformers_engine import TransformersEngine
    from bench.models.logprobs import Rescorer
    from bench.training.online_trainer import train

    with isolated(small_seed(recipe.seed, "adapter")):
        model = trainable(policy, recipe.lora, in_bfloat16=recipe.in_bfloat16)
        learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        frozen = model.num_parameters() - learnt
        drawing: Any = model if recipe.lora is None else model.get_base_model()  # in which PEFT put the adapter
        engine = TransformersEngine(policy, dtype="float32", batch_tokens=batch_tokens, model=drawing)
        encode(engine.tokenizer, prompts, max_new_tokens=max_new_tokens, context=loading.context(model.config))
        reference = Rescorer(policy, dtype=resolve_dtype())
        rollouts = Rollouts(prompts, score, recipe, engine, reference)

        def write(folder: Path) -> None:
            save(model, policy, folder)
            loading.load_tokenizer(policy).save_pretrained(folder)

        def reached(updates: int) -> None:
            if not checkpoints.is_kept(out, updates):
                checkpoints.keep(out, updates, write)

        log, tokens = train(
            model, policy, recipe, rollouts, sampler=sampler, max_new_tokens=max_new_tokens, out=out, reached=reached
        )
        write(out)
        write_log(log, out)
    write_unit(rollouts.completions, out / FILE)
    np.savez(out / REWARDS, value=rollouts.value, seen=rollouts.seen)
    checkpoints.hand_over(out)
    read_again = recipe.algorithm == "rloo" or recipe.num_iterations > 1  # the old log-probabilities
    forward = 2 * (learnt + frozen) * tokens
    once_more = forward * ((recipe.beta > 0) + read_again)
    return {
        **rollouts.counts,
        "flops": rollouts.counts["flops"] + once_more,
        "completions": rollouts.value.size,
        "trained_completions": rollouts.value.size * recipe.num_iterations,
        "train_tokens": tokens * recipe.num_iterations,
        "train_flops": (6 * learnt + 4 * frozen) * tokens * recipe.num_iterations,
        "reread_flops": once_more,
        "steps": len(log),
    }


def refuse_no_signal(trained: OnlineTraining, recipe: OnlineRecipe) -> None:
    """BenchError where no group had completions of different rewards, so that no update could learn from them."""
    if trained.has_signal(recipe.num_generations):
        return
    values = trained.rewards.value[~np.isnan(trained.rewards.value)]
    rewards = f"all {values.size:,} rewards" if values.size and values.min() == values.max() else "the rewards"
    level = f" are {values[0]:g}" if rewards.startswith("all") else " are equal within each prompt"
    raise BenchError(
        f"procedure=online learnt nothing: {rewards}{level}, and an update needs a prompt whose completions have "
        "different rewards; raise temperature or num_completions, use easier prompts or another scoring. The samples "
        "are in the store."
        if values.size
        else "procedure=online learnt nothing: no completion could be scored; use another scoring."
    )


def described(part: Any) -> Any:
    """A configured part as names and settings, for keys: functions by module and name, their settings inside."""
    if isinstance(part, partial):
        return [described(part.func), described(dict(part.keywords))]
    if isinstance(part, Mapping):
        return {str(name): described(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [described(value) for value in part]
    if part is None or isinstance(part, str | int | float | bool):
        return part
    if callable(part) and hasattr(part, "__qualname__"):
        return f"{part.__module__}.{part.__qualname__}"
    return [f"{type(part).__module__}.{type(part).__qualname__}", described(vars(part))]
