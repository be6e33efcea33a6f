"""The work of a rehearsal: what stands in for the parts of an experiment records what each of them would do.

Prompts, completions and random numbers are placeholders.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection, content_hash
from bench.config.keys import drawing, import_of, settings_key
from bench.models.sampler import GREEDY
from bench.policies import warm_started
from bench.sweeps.cells import prompts_in
from bench.tasks import refuse_without_solutions
from bench.training.demonstrations import every
from bench.training.online import OnlineTraining
from bench.training.online_recipe import OnlineRecipe
from bench.training.recipe import examples_read, num_updates

Config = Mapping[str, Any]
NOMINAL = 64  # prompts of a split of unknown size
UNBOUNDED = 1e6  # a reward above any threshold
WARM_STARTED = f"{warm_started.__module__}.{warm_started.__name__}"
Draw = tuple[Hashable, int, bytes]  # (what decides the samples, the number of the first, the prompts)
SAMPLER = ("temperature", "top_p", "top_k")


@dataclass
class Planned:
    """A stage to come."""

    name: str
    work: Counter[str] = field(default_factory=Counter)  # steps of pretraining, and amounts named as in a Workload
    pools: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # that the base draws: a split, settings


@dataclass
class Record:
    """The work of rehearsed experiments, each distinct piece once, under a key of what decides it."""

    draws: dict[Draw, tuple[int, int]] = field(default_factory=dict)  # -> prompts, samples per prompt
    for_training: set[Draw] = field(default_factory=set)  # draws for training prompts
    trainings: dict[Hashable, float] = field(default_factory=dict)  # examples, counted once per epoch
    judged: dict[Hashable, tuple[int, int]] = field(default_factory=dict)  # completions for KLs, prompts for lm-eval
    unknown: dict[str, None] = field(default_factory=dict)  # settings that take all prompts of data elsewhere
    stages: list[Planned] = field(default_factory=list)  # of one experiment, in order

    def add(self, other: "Record") -> None:
        """Add the work of another experiment; where both draw one pool, the larger one counts."""
        for key, (prompts, samples) in other.draws.items():
            self.draws[key] = (prompts, max(samples, self.draws.get(key, (0, 0))[1]))
        self.for_training |= other.for_training
        self.trainings |= other.trainings
        self.judged |= other.judged
        self.unknown |= other.unknown


class Work:
    """The parts that record. A completion is identified by its log-probability, which is unique."""

    def __init__(self, config: Config, record: Record) -> None:
        self.config, self.record = config, record
        self.engine = drawing(config["generation"])
        others = {name: value for name, value in config["generation"].items() if name not in SAMPLER}
        self.drawn_with = settings_key({"task": config["task"], "generation": others}, "task", "generation")
        self.examples: dict[str, float] = {}  # policy -> examples per epoch
        self.updates: dict[str, int] = {}  # policy -> updates of its training
        self.splits: dict[str, Prompts] = {}

    def prompts(self, split: str) -> Prompts:
        count = prompts_in(self.config["task"], split)
        self.record.unknown |= {f"task.{split}_prompts": None} if count is None else {}
        return self.splits.setdefault(split, prompts_of(split, NOMINAL if count is None else count))

    def base(self, task: Any) -> Policy:
        node = self.config["policy"]
        self.record.stages[-1].work["steps"] += node.get("start", node).get("steps", 0)
        base = Policy(Path("base"), settings_key(self.config, "task", "policy"))
        return self.warm_started(task, base, node["training"]) if node["_target_"] == WARM_STARTED else base

    def warm_started(self, task: Any, start: Policy, recipe: Mapping[str, Any]) -> Policy:
        """The policy after training on the task's worked solutions; recipe: its training settings."""
        refuse_without_solutions(task)
        prompts, seed = self.prompts("train"), self.config["seed"]
        written = placeholders(prompts, ("demonstrations", 0.0, 0.0, seed), range(1))
        return self.train(start, prompts, written, every(len(prompts)), seed=seed, recipe=recipe)

    def generate(
        self,
        prompts: Prompts,
        policy: Policy,
        *,
        num_completions: int,
        seed: int,
        first_sample: int = 0,
        block_size: int | None = None,
        **sampler: float,
    ) -> Completions:
        greedy = sampler.get("temperature", self.engine.get("temperature")) == 0
        settings = {name: sampler.get(name, self.engine.get(name)) for name in SAMPLER}
        stream = (policy.fingerprint, self.drawn_with, *((0,) if greedy else (*settings.values(), seed)))
        block = 1 if greedy else block_size or self.engine.get("block_size", 1)
        samples = math.ceil(num_completions / block) * block - first_sample
        shard_size, here = self.engine.get("shard_size", len(prompts)), self.record.stages[-1]
        if policy.name == "base" and block_size is None and prompts is self.splits.get(prompts.split):
            here.pools.append((prompts.split, {"num_completions": num_completions, "seed": seed, **sampler}))
        imported = not sampler and import_of(self.config["generation"], prompts.split)
        for start in range(0, 0 if imported else len(prompts), shard_size):
            shard = prompts.answer[start : start + shard_size]
            key = (stream, first_sample, shard.tobytes())
            before = self.record.draws.get(key, (0, 0))[1]
            here.work["completions"] += len(shard) * max(0, samples - before)
            self.record.draws[key] = (len(shard), max(samples, before))
            if prompts.split == "train":
                self.record.for_training.add(key)
        return placeholders(prompts, stream, range(first_sample, num_completions))

    def score(self, prompts: Prompts, pool: Completions, most: float) -> Rewards:
        accepted = uniform(settings_key(self.config, "scoring"), bits(pool.logprob)) > prompts.answer[:, None] % 1
        low = most - 1 if most == 1 else -UNBOUNDED
        return Rewards(np.where(pool.drawn, np.where(accepted, min(most, UNBOUNDED), low), np.nan))

    def train(
        self,
        policy: Policy,
        prompts: Prompts,
        completions: Completions,
        selection: Selection,
        *,
        seed: int,
        recipe: Mapping[str, Any] | None = None,
        **length: float | None,  # of epochs and updates, where it is not the configured one
    ) -> Policy:
        settings = {**(self.config["training"] if recipe is None else recipe), **length}
        sides = [side for side in (selection.column, selection.rejected) if side is not None]
        cells = [np.asarray(completions.logprob)[selection.row, side] for side in sides]
        how = settings_key({"training": settings}, "training"), seed
        key = content_hash(policy.fingerprint, *cells, selection.weight, *how)
        self.record.stages[-1].work["trainings"] += key not in self.record.trainings
        self.examples[key] = float((selection.weight > 0).sum())
        self.updates[key] = num_updates(self.examples[key], {"epochs": 1, "batch_size": 1, **settings})
        self.record.trainings[key] = examples_read(self.examples[key], settings)
        return Policy(Path(key), key)

    def train_online(self, prompts: Prompts, policy: Policy, recipe: OnlineRecipe, most: float) -> OnlineTraining:
        """Its samples are its own: the policy that draws them changes."""
        key = content_hash(policy.fingerprint, prompts.answer, self.drawn_with, repr(recipe), self.config["scoring"])
        here, drawn = self.record.stages[-1], len(prompts) * recipe.samples
        if key not in self.record.trainings:
            here.work["online"] += drawn
        self.record.trainings[key] = self.examples[key] = float(drawn * recipe.num_iterations)
        self.updates[key] = recipe.num_updates(len(prompts))
        draw = (key, 0, prompts.answer.tobytes())
        self.record.draws[draw] = (len(prompts), recipe.samples)
        self.record.for_training.add(draw)
        pool = placeholders(prompts, key, range(recipe.samples))
        rewards = self.score(prompts, pool, most)
        return OnlineTraining(Policy(Path(key), key), pool, rewards, rewards.value)

    def path(self, policy: Policy) -> dict[int, Policy]:
        """The policies that a training keeps, by number of updates."""
        settings = self.config["training"]
        if (every := settings.get("keep_every")) is None or policy.fingerprint not in self.examples:
            return {}
        updates = self.updates[policy.fingerprint]
        before = {kept: Policy(policy.path, f"{policy.fingerprint} {kept}") for kept in range(every, updates, every)}
        return {**before, updates: policy} if before else {}

    def evaluate(
        self,
        policy: Policy,
        base: Policy,
        prompts: Prompts,
        generation: Callable[..., Completions],
        scoring: Callable[..., Rewards],
        task: Any,
        others: Mapping[str, Policy] = MappingProxyType({}),
        *,
        seed: int,
        validation: Callable[[], Prompts] | None = None,
        lm_eval: bool = True,
        **without: Any,  # settings that are not the configured ones: empty
    ) -> Any:
        settings = self.config["evaluation"]
        generation(prompts, policy, num_completions=1, seed=seed, **GREEDY.settings)
        generation(prompts, policy, seed=seed, **{name: settings[name] for name in ("num_completions", *SAMPLER)})
        models = 1 if policy == base else 2 * (1 + len(others))  # the base judges itself
        key = (policy.fingerprint, settings_key(self.config, "evaluation"), prompts.answer.tobytes(), seed)
        measured: dict[Hashable, tuple[int, bool]] = {key: (settings["kl_completions"], lm_eval)}
        for temperature in () if "temperatures" in without else settings.get("temperatures") or ():
            count, compared = (settings[name] if temperature else 1 for name in ("num_completions", "kl_completions"))
            at = {**{name: settings[name] for name in SAMPLER}, "temperature": float(temperature)}
            for split in (prompts, *((validation(),) if validation else ())):
                generation(split, policy, num_completions=count, seed=seed, **at)
            if temperature != settings["temperature"]:  # whose KL is measured already
                measured[key, float(temperature)] = (compared, False)
        here = self.record.stages[-1].work
        for what, (completions, harnessed) in measured.items():
            new, also = what not in self.record.judged, harnessed and bool(settings["lm_eval"])
            here.update(evaluations=new, harnessed=new * also, harness_completions=new * also * len(prompts))
            self.record.judged[what] = (len(prompts) * completions * models, len(prompts) * harnessed)


@functools.lru_cache(maxsize=8)
def prompts_of(split: str, count: int) -> Prompts:
    """Numbered prompts. `answer` is the number plus the difficulty."""
    numbers = np.arange(count, dtype=float)
    difficulty = np.round(uniform(split, numbers.view(np.uint64)), 6)
    ids = np.char.add(f"{split}-", numbers.astype(int).astype(str))
    return Prompts(ids, (({"role": "user", "content": ""},),) * count, numbers + difficulty, split)


def placeholders(prompts: Prompts, stream: Hashable, samples: range) -> Completions:
    logprob = -uniform(repr(stream), bits(prompts.answer)[:, None], np.array(samples, np.uint64))
    text, token_ids = np.full(logprob.shape, "", object), np.empty(logprob.shape, object)
    token_ids.fill(np.empty(0, np.int32))
    key = content_hash(repr(stream), prompts.answer, list(samples))
    return Completions(text, token_ids, np.full(logprob.shape, "stop"), logprob, logprob, key)


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, float).view(np.uint64)


def uniform(name: str, *keys: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), a hash of the name and the keys: SplitMix64 (Steele et al. 2014)."""
    state: Any = np.uint64(int(content_hash(name)[:16], 16))
    for key in keys:
        state = state ^ key
        with np.errstate(over="ignore"):
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53
