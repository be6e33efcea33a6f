"""The rehearsal of an experiment: the procedure runs with parts that record their work instead of doing it.

Generation returns M x N placeholders, scoring seeded random rewards, training a named policy. The procedure, the
selection and the prompt filter are the real ones. The difficulty d of a prompt is uniform in [0, 1): its samples are
accepted with probability 1 - d. Nothing is loaded or downloaded, except local task files whose prompts must be counted.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.config.checks import RUN_SETTINGS
from bench.errors import BenchError
from bench.policies import warm_started
from bench.procedures import elsewhere
from bench.procedures.parts import Parts, Staged
from bench.progress import stage, told
from bench.scoring import highest
from bench.selection.cells import cells
from bench.sweeps.work import Config, Planned, Record, Work, bits, placeholders, uniform
from bench.training.online import OnlineTraining
from bench.training.online_recipe import OnlineRecipe

KINDS = np.array([str(number) for number in range(8)], object)  # the texts, paths and answers of placeholders


def rehearse(config: Config, parts: Mapping[str, Any], record: Record) -> None:
    """Add the work of the configured procedure to the record. parts: built but not yet called. BenchError if unfit."""
    work = Work(config, record)
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


@dataclass(frozen=True)
class Rehearsal(Parts):
    """Parts whose work is recorded instead of done."""

    work: Work

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
