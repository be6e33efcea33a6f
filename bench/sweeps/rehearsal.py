"""The rehearsal of an experiment: the procedure runs with parts that record their work instead of doing it.

Generation returns M x N placeholders, scoring seeded random rewards, training a named policy. The procedure, the
selection and the prompt filter are the real ones. The difficulty d of a prompt is uniform in [0, 1): its samples are
accepted with probability 1 - d. Nothing is loaded or downloaded, except local task files whose prompts must be counted.
"""

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection, content_hash
from bench.config.checks import RUN_SETTINGS
from bench.config.keys import drawing, import_of, settings_key
from bench.errors import BenchError
from bench.models.sampler import GREEDY
from bench.policies import warm_started
from bench.procedures import elsewhere
from bench.procedures.parts import Parts, Staged
from bench.progress import stage, told
from bench.scoring import highest
from bench.selection.cells import cells
from bench.sweeps.cells import prompts_in
from bench.sweeps.placeholders import bits, placeholders, prompts_of, uniform
from bench.tasks import refuse_without_solutions
from bench.training.demonstrations import every
from bench.training.online import OnlineTraining
from bench.training.online_recipe import OnlineRecipe

Config = Mapping[str, Any]
NOMINAL = 64  # prompts of a split of unknown size
UNBOUNDED = 1e6  # a reward above any threshold
WARM_STARTED = f"{warm_started.__module__}.{warm_started.__name__}"
KINDS = np.array([str(number) for number in range(8)], object)  # the texts, paths and answers of placeholders
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


def rehearse(config: Config, parts: Mapping[str, Any], record: Record) -> None:
    """Run the configured procedure and add its work to the record.

    parts: the configured parts, built but not yet called. BenchError where parts do not fit together.
    """
    work = _Work(config, record)
    rehearsal = Rehearsal(
        **{name: parts[name] for name in ("task", "scoring", "prompt_filter")},
        **{name: config[name] for name in RUN_SETTINGS},
        policy=work.base,
        generation=work.generate,
        selection=_forgiving(parts["selection"]),
        training=work.train,
        evaluation=work.evaluate,
        work=work,
    )
    with told(rehearse=lambda name: record.stages.append(Planned(name))):
        elsewhere.run(parts["procedure"], rehearsal)


class _Work:
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
        epochs: float | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Policy:
        settings = self.config["training"] if recipe is None else recipe
        epochs = settings.get("epochs", 1) if epochs is None else epochs
        sides = [side for side in (selection.column, selection.rejected) if side is not None]
        cells = [np.asarray(completions.logprob)[selection.row, side] for side in sides]
        how = settings_key({"training": settings}, "training"), epochs, seed
        key = content_hash(policy.fingerprint, *cells, selection.weight, *how)
        self.record.stages[-1].work["trainings"] += key not in self.record.trainings
        self.examples[key] = float((selection.weight > 0).sum())
        self.updates[key] = math.ceil(math.ceil(self.examples[key] / settings.get("batch_size", 1)) * epochs)
        self.record.trainings[key] = self.examples[key] * epochs
        return Policy(Path(key), key)

    def train_online(self, prompts: Prompts, policy: Policy, recipe: OnlineRecipe, most: float) -> OnlineTraining:
        """Its samples are its own: the policy that draws them changes."""
        key = content_hash(policy.fingerprint, prompts.answer, self.drawn_with, repr(recipe), self.config["scoring"])
        here, drawn = self.record.stages[-1], len(prompts) * recipe.samples
        if key not in self.record.trainings:
            here.work["online"] += drawn
        self.record.trainings[key] = self.examples[key] = float(drawn * recipe.num_iterations)
        self.updates[key] = recipe.updates(len(prompts))
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
        lm_eval: bool = True,
        transfer: Mapping[str, Any] | None = None,
        harness_tasks: Sequence[str] | None = None,
    ) -> Any:
        settings = self.config["evaluation"]
        generation(prompts, policy, num_completions=1, seed=seed, **GREEDY.settings)
        generation(prompts, policy, seed=seed, **{name: settings[name] for name in ("num_completions", *SAMPLER)})
        models = 1 if policy == base else 2 * (1 + len(others))  # the base judges itself
        key = (policy.fingerprint, settings_key(self.config, "evaluation"), prompts.answer.tobytes(), seed)
        new = int(key not in self.record.judged)
        also = new * bool(lm_eval and settings["lm_eval"])
        self.record.stages[-1].work.update(evaluations=new, harnessed=also, harness_completions=also * len(prompts))
        self.record.judged[key] = (len(prompts) * settings["kl_completions"] * models, len(prompts) * lm_eval)


@dataclass(frozen=True)
class Rehearsal(Parts):
    """Parts whose work is recorded instead of done."""

    work: _Work

    def prompts(self, split: str) -> Prompts:
        return self.work.prompts(split)

    @property
    def scorer(self) -> Callable[[Prompts, Completions], Rewards]:
        return Staged(self.work.score, most=highest(self.scoring))

    def made(self, policy: Callable[..., Policy]) -> Policy:
        if not isinstance(policy, functools.partial):
            return policy(self.task)
        if policy.func is warm_started:
            recipe = policy.keywords["training"].keywords
            return self.work.warm_started(self.task, self.made(policy.keywords["start"]), recipe)
        name = f"{policy.func.__module__}.{policy.func.__name__} {sorted(policy.keywords.items())}"
        return Policy(Path("other"), name)

    @property
    def training_settings(self) -> Mapping[str, Any]:
        return self.work.config["training"]

    def train_online(
        self, name: str, policy: Policy, score: Callable[..., Rewards], recipe: OnlineRecipe
    ) -> OnlineTraining:
        with stage("train-online", name):
            trained = self.work.train_online(self.train, policy, recipe, highest(self.scoring))
        return replace(trained, policy=replace(trained.policy, name=name))

    def evidence(
        self, selection: Callable[..., Selection], pool: Completions, rescored_on: Prompts | None = None
    ) -> dict[str, Any]:
        kinds = (uniform("kind", bits(pool.logprob)) * len(KINDS)).astype(int)
        longest = self.work.config["task"]["max_new_tokens"]
        made: dict[str, Callable[[], Any]] = {
            **{name: lambda: KINDS[kinds] for name in ("paths", "answers", "texts")},
            "steps_true": lambda: kinds % 2 == 0,
            "length": lambda: 1 + (kinds * longest) // len(KINDS),
            "logprob": lambda: np.asarray(pool.logprob),
            "similarity": lambda: (np.equal.outer(row, row).astype(float) for row in kinds),
        }
        return {name: make() for name, make in made.items() if name in inspect.signature(selection).parameters}

    def demonstrations(self, *, foreign: float = 0.0, noise: float = 0.0) -> Completions:
        _ = self.base  # is made first, as in a run: they are in its tokens
        return placeholders(self.train, ("demonstrations", foreign, noise, self.seed), range(1))

    def nll(self, policy: Policy, prompts: Prompts, completions: Completions) -> np.ndarray:
        return uniform(policy.fingerprint, bits(completions.logprob))[:, 0]

    def hinted(self, prompts: Prompts) -> Prompts:
        return replace(prompts, id=np.char.add(prompts.id, " with a hint"), answer=prompts.answer + len(self.train))

    def readable(self, pool: Completions, drawn_by: Policy) -> tuple[Completions, np.ndarray, str | None]:
        return pool, np.ones(pool.shape, bool), None

    def incomparable(self, policy: Policy) -> str | None:
        return None

    def verified(self, prompts: Prompts, pool: Completions) -> np.ndarray:
        """More completions are correct after each training, so that no stop rule ends the rounds early."""
        return np.full(pool.shape, 1 - 1 / (2 + len(self.work.examples)))

    def path(self, policy: Policy) -> dict[int, Policy]:
        return self.work.path(policy)

    def best_of_n(self) -> Any:
        samples = max(self.num_completions, self.baseline_completions)
        self.generation(self.test, self.base, num_completions=samples, seed=self.seed)


def _forgiving(selection: Callable[..., Selection]) -> Callable[..., Selection]:
    """The selection; where it refuses the random rewards, which real ones may not resemble, every scored completion."""

    @functools.wraps(selection)
    def select(rewards: np.ndarray, rng: np.random.Generator, **settings: Any) -> Selection:
        try:
            return selection(rewards, rng, **settings)
        except (BenchError, ValueError):
            return cells(~np.isnan(rewards))

    return select
