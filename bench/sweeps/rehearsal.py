"""The rehearsal of an experiment: the procedure runs with parts that record their work instead of doing it.

Generation returns M x N placeholders, scoring seeded random rewards, training a named policy. The procedure, the
selection and the prompt filter are the real ones. The difficulty d of a prompt is uniform in [0, 1): its samples are
accepted with probability 1 - d. Nothing is loaded or downloaded, except local task files whose prompts must be counted.
"""

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection, content_hash
from bench.config.keys import drawing, import_of, settings_key
from bench.errors import BenchError
from bench.models.sampler import GREEDY
from bench.procedures.parts import Parts, Staged
from bench.progress import told
from bench.scoring import highest
from bench.selection.cells import cells
from bench.sweeps.cells import prompts_in
from bench.sweeps.placeholders import bits, numbered_prompts, placeholders, uniform
from bench.training.recipe import examples_read, num_updates

Config = Mapping[str, Any]
NOMINAL = 64  # prompts of a split of unknown size
UNBOUNDED = 1e6  # a reward above any threshold
KINDS = np.array([str(number) for number in range(8)], object)  # the texts, paths and answers of placeholders
Draw = tuple[Hashable, int, bytes]  # (what decides the samples, the number of the first, the prompts)
SAMPLER = ("temperature", "top_p", "top_k")


@dataclass
class Planned:
    """A stage to come."""

    name: str
    work: Counter[str] = field(default_factory=Counter)  # steps of pretraining, completions, trainings, evaluations
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
    own = {name: parts[name] for name in ("task", "scoring", "prompt_filter")}
    shared = {name: config[name] for name in ("num_completions", "baseline_completions", "control", "split", "seed")}
    work = _Work(config, record)
    rehearsal = Rehearsal(
        **own,
        **shared,
        policy=work.base,
        generation=work.generate,
        selection=_forgiving(parts["selection"]),
        training=work.train,
        evaluation=work.evaluate,
        work=work,
    )
    with told(rehearse=lambda name: record.stages.append(Planned(name))):
        parts["procedure"](rehearsal)


class _Work:
    """The parts that record. A completion is identified by its log-probability, which is unique."""

    def __init__(self, config: Config, record: Record) -> None:
        self.config, self.record = config, record
        self.engine = drawing(config["generation"])
        others = {name: value for name, value in config["generation"].items() if name not in SAMPLER}
        self.drawn_with = settings_key({"task": config["task"], "generation": others}, "task", "generation")
        self.examples: dict[str, float] = {}  # policy -> examples per epoch
        self.splits: dict[str, Prompts] = {}

    def prompts(self, split: str) -> Prompts:
        count = prompts_in(self.config["task"], split)
        self.record.unknown |= {f"task.{split}_prompts": None} if count is None else {}
        return self.splits.setdefault(split, numbered_prompts(split, NOMINAL if count is None else count))

    def base(self, task: Any) -> Policy:
        self.record.stages[-1].work["steps"] += self.config["policy"].get("steps", 0)
        return Policy(Path("base"), settings_key(self.config, "task", "policy"))

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
        **length: float | None,  # of epochs and updates, where it is not the configured one
    ) -> Policy:
        settings = {**self.config["training"], **length}
        cells = np.asarray(completions.logprob)[selection.row, selection.column]
        recipe = settings_key(self.config, "training")
        key = content_hash(policy.fingerprint, cells, selection.weight, recipe, sorted(length.items()), seed)
        self.record.stages[-1].work["trainings"] += key not in self.record.trainings
        self.examples[key] = float((selection.weight > 0).sum())
        self.record.trainings[key] = examples_read(self.examples[key], settings)
        return Policy(Path(key), key)

    def path(self, policy: Policy) -> dict[int, Policy]:
        """The policies that a training keeps, by number of updates."""
        settings = self.config["training"]
        if (every := settings.get("keep_every")) is None or policy.fingerprint not in self.examples:
            return {}
        updates = num_updates(self.examples[policy.fingerprint], settings)
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
        sampler = {name: settings[name] for name in SAMPLER}
        generation(prompts, policy, num_completions=settings["num_completions"], seed=seed, **sampler)
        models = 1 if policy == base else 2 * (1 + len(others))  # the base judges itself
        key = (policy.fingerprint, settings_key(self.config, "evaluation"), prompts.answer.tobytes(), seed)
        measured: dict[Hashable, tuple[int, bool]] = {key: (settings["kl_completions"], lm_eval)}
        for temperature in () if "temperatures" in without else settings.get("temperatures") or ():
            count, compared = (settings[name] if temperature else 1 for name in ("num_completions", "kl_completions"))
            at = {**sampler, "temperature": float(temperature)}
            for split in (prompts, *((validation(),) if validation else ())):
                generation(split, policy, num_completions=count, seed=seed, **at)
            if temperature != sampler["temperature"]:  # whose KL is measured already
                measured[key, float(temperature)] = (compared, False)
        for what, (completions, harnessed) in measured.items():
            self.record.stages[-1].work["evaluations"] += what not in self.record.judged
            self.record.judged[what] = (len(prompts) * completions * models, len(prompts) * harnessed)


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
        name = f"{policy.func.__module__}.{policy.func.__name__} {sorted(policy.keywords.items())}"
        return Policy(Path("other"), name)

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

    def demonstrations(self, *, foreign: float, noise: float) -> Completions:
        return placeholders(self.train, ("demonstrations", foreign, noise, self.seed), range(1))

    def nll(self, policy: Policy, prompts: Prompts, completions: Completions) -> np.ndarray:
        return uniform(policy.fingerprint, bits(completions.logprob))[:, 0]

    def hinted(self, prompts: Prompts) -> Prompts:
        return replace(prompts, id=np.char.add(prompts.id, " with a hint"), answer=prompts.answer + len(self.train))

    def readable(self, pool: Completions, drawn_by: Policy) -> tuple[Completions, np.ndarray, str | None]:
        return pool, np.ones(pool.shape, bool), None

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
