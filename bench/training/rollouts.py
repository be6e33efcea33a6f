"""The samples of an online training: drawn by the suite's own decoding, scored, and measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.artifacts import FIELDS, Completions, Prompts, Rewards, content_hash
from bench.blocks import BLANK, NUMBERS
from bench.errors import BenchError
from bench.models.sampler import RAW, Sampler
from bench.seeds import generator
from bench.store import Store, current, using
from bench.training.online_recipe import OnlineRecipe

Score = Callable[[Prompts, Completions], Rewards]


@dataclass
class Rollouts:
    """The samples of a training [M, N], in the order drawn, their rewards, and what they cost."""

    prompts: Prompts
    score: Score
    recipe: OnlineRecipe
    engine: Any  # draws from the policy as it is
    reference: Any  # the Rescorer of the policy as it was at first
    sampler: Sampler
    max_new_tokens: int

    def __post_init__(self) -> None:
        shape = (len(self.prompts), self.recipe.samples)
        self.drawn = {name: np.full(shape, BLANK.get(name, np.nan), NUMBERS.get(name, object)) for name in FIELDS}
        self.value, self.seen = np.full(shape, np.nan), np.full(shape, np.nan)
        self.visited = np.zeros(len(self.prompts), int)
        self.counts: dict[str, float] = {"prompt_tokens": 0, "generated_tokens": 0, "flops": 0}
        self.last: dict[str, float] = {}  # measures of the last draw

    def draw(self, rows: np.ndarray, bar: Any) -> Completions:
        """Draw one group for each of these prompts [P, G] from the policy as it is, and score it."""
        size, start = self.recipe.num_generations, int(self.visited[rows[0]]) * self.recipe.num_generations
        prompts, columns = self.prompts.take(rows), slice(start, start + size)
        self.engine.forget()
        samples, seed = range(start, start + size), self.recipe.seed
        try:
            drawn, counts = self.engine.sample(
                prompts, samples, self.sampler, max_new_tokens=self.max_new_tokens, seed=seed, progress=bar
            )
        except BenchError as error:
            if not self.visited.any():
                raise
            raise BenchError(  # the prompts were checked before, so the weights are not numbers
                f"procedure.learning_rate={self.recipe.learning_rate:g} let the training diverge before sample "
                f"{self.samples:,}: the policy's logits are not finite numbers; lower it."
            ) from error
        for name, count in counts.items():
            self.counts[name] += count
        ids = [cell.tolist() for cell in drawn.token_ids.ravel()]
        drawn = replace(drawn, key=content_hash(prompts.key, ids))
        base = self.reference.pair(prompts, drawn.token_ids, RAW)[1]  # [P, G] nats under the raw start
        rewards = self._scored(prompts, drawn)
        seen = rewards
        if self.recipe.shuffled:
            rng = generator(self.recipe.seed, "online", "control", start, *rows[:1].tolist())
            seen = rng.permuted(rewards, axis=1)
        for name in FIELDS:
            self.drawn[name][rows, columns] = getattr(drawn, name)
        self.value[rows, columns], self.seen[rows, columns] = rewards, seen
        self.visited[rows] += 1
        spread = np.nanmax(rewards, axis=1, initial=-np.inf) > np.nanmin(rewards, axis=1, initial=np.inf)
        self.last = {
            "reward": float(np.nanmean(rewards)) if np.isfinite(rewards).any() else float("nan"),
            "kl": float((drawn.logprob - base).mean()),
            "length": float(drawn.length.mean()),
            "truncated": float((drawn.finish_reason == "length").mean()),
            "mixed_groups": float(spread.mean()),
            "samples": float(self.samples),
        }
        return drawn

    def _scored(self, prompts: Prompts, drawn: Completions) -> np.ndarray:
        """[P, G]. Stored scores are kept for a new try; their cost is counted as that of this training."""
        apart = Store(current().root, shipped=current().shipped)
        with using(apart):
            value = self.score(prompts, drawn).value
        self.counts["flops"] += sum(use.counts.get("flops", 0) for use in apart.uses)
        return value

    @property
    def samples(self) -> int:
        """The number of samples so far."""
        return int((self.drawn["finish_reason"] != "").sum())

    @cached_property
    def completions(self) -> Completions:
        return Completions(**self.drawn, key="")
