"""The parts of an experiment, which each procedure receives, and the steps that procedures share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench import store
from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.config.checks import RUN_SETTINGS
from bench.config.rules import defaults
from bench.evaluation.heldout import AlongTraining, Graded, Outcomes, grade
from bench.models import loading
from bench.models.logprobs import sequence_logprobs
from bench.models.sampler import Sampler
from bench.models.tokens import distributions_differ, encode, ids_differ, reencoded
from bench.procedures.findings import Findings, Results
from bench.progress import stage
from bench.scoring import prepared
from bench.scoring.verifier import verify
from bench.seeds import generator
from bench.selection import matched_random
from bench.selection.evidence import evidence_for
from bench.store.files import load_arrays, save_arrays
from bench.tasks import Task, refuse_without_solutions
from bench.training import checkpoints
from bench.training.demonstrations import demonstrations
from bench.training.online import OnlineTraining, described, own_code, refuse_no_signal, train_online
from bench.training.online_recipe import OnlineRecipe
from bench.training.sft import training_log

LOGPROBS = "logprobs.safetensors"


def nll_per_token(policy: Policy, prompts: Prompts, completions: Completions) -> np.ndarray:
    """[M] nats per token: minus the log-probability of each completion [M, 1] over its length, EOS included."""
    return -teacher_forced(policy, prompts, completions)[:, 0] / completions.length[:, 0]


@store.stage(version=1, load=lambda out: load_arrays(out / LOGPROBS)["logprob"])
def teacher_forced(policy: Policy, prompts: Prompts, completions: Completions, *, out: Path) -> dict[str, float]:
    """[M, N] nats per sequence under the raw policy, kept in the store; see bench.models.logprobs.sequence_logprobs."""
    save_arrays(out / LOGPROBS, logprob=sequence_logprobs(policy, prompts, completions))
    lengths = np.array([len(ids) for ids in encode(loading.load_tokenizer(policy), prompts)])
    read = int((lengths[:, None] + completions.length).sum())
    return {"read_tokens": read, "flops": 2 * loading.count_parameters(policy) * read}


class Staged(partial):
    """An engine or a scorer, each call of which is a stage of the run; its settings can be read as those of a part."""

    def __call__(self, prompts: Prompts, given: Policy | Completions, /, *others: Any, **settings: Any) -> Any:
        kind = ("generate", given.name) if isinstance(given, Policy) else ("score",)
        with stage(*kind, prompts.split):
            return super().__call__(prompts, given, *others, **settings)


@dataclass(frozen=True)
class Parts:
    """The parts of one experiment, built from its configuration. Costly objects are made on first use.

    A procedure works through these parts alone, so that bench.sweeps.rehearsal can replace them. Each generation,
    scoring, fine-tuning and evaluation is a stage of the run (bench.progress), named for its policy and its split.
    """

    task: Task
    policy: Callable[..., Policy]
    generation: Callable[..., Completions]
    scoring: Callable[..., Any]
    prompt_filter: Callable[[np.ndarray], np.ndarray]
    selection: Callable[..., Selection]
    training: Callable[..., Policy]
    evaluation: Callable[..., Outcomes]
    num_completions: int  # samples per training prompt, N
    baseline_completions: int  # samples per held-out prompt for Best-of-N, at least
    control: str  # "matched" or "none"
    split: str  # "test" or "validation": the split on which policies are judged
    seed: int
    arms: Mapping[str, Any] = field(default_factory=dict, kw_only=True)  # policies from elsewhere, see elsewhere.py
    last_first: bool = field(default=False, kw_only=True)  # judge policies from the last, see launching/second.py

    @classmethod
    def of(cls, cfg: Mapping[str, Any], built: Mapping[str, Any], *, last_first: bool = False) -> "Parts":
        """Return the parts of a configuration. built: all that it configures, built but not yet called."""
        own = {name: part for name, part in built.items() if name not in ("tracking", "procedure")}
        return cls(**own, **{name: cfg[name] for name in RUN_SETTINGS}, last_first=last_first)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generation", Staged(self.generation))  # a part's function and settings stay apart

    def prompts(self, split: str) -> Prompts:
        """The prompts of "train", "validation" or "test"."""
        return replace(self.task.prompts(split), split=split)

    @cached_property
    def train(self) -> Prompts:
        return self.prompts("train")

    @cached_property
    def test(self) -> Prompts:
        """The prompts on which policies are judged."""
        return self.prompts(self.split)

    @cached_property
    def base(self) -> Policy:
        return self.named("base", self.policy)

    def named(self, name: str, policy: Callable[..., Policy]) -> Policy:
        """The policy that a configured part makes, under its name in the run."""
        with stage("policy", name):
            return replace(self.made(policy), name=name)

    @cached_property
    def scorer(self) -> Callable[[Prompts, Completions], Rewards]:
        """`scoring`, after the training that a learned scorer needs."""
        return Staged(prepared(self.scoring, base=self.base, task=self.task, generation=self.generation))

    def made(self, policy: Callable[..., Policy]) -> Policy:
        return policy(self.task)

    def fine_tune(self, name: str, policy: Policy, pool: Completions, chosen: Selection, **settings: Any) -> Policy:
        """The policy after training on the chosen completions of the training prompts, under its name in the run."""
        with stage("fine-tune", name):
            return replace(self.training(policy, self.train, pool, chosen, **settings), name=name)

    @property
    def training_settings(self) -> Mapping[str, Any]:
        """The settings of `training` as they are configured."""
        return defaults(self.training)

    def train_online(
        self, name: str, policy: Policy, score: Callable[..., Rewards], recipe: OnlineRecipe
    ) -> OnlineTraining:
        """Train the policy on its own scored samples of the training prompts; see bench.training.online."""
        engine = defaults(self.generation)
        with stage("train-online", name):
            trained = train_online(
                policy,
                self.train,
                score,
                recipe,
                scored_by=[described(self.scoring), self.task.judged_by, *own_code(type(self.task))],
                sampler=Sampler(*(engine[name] for name in ("temperature", "top_p", "top_k"))),
                max_new_tokens=engine["max_new_tokens"],
                batch_tokens=engine["batch_tokens"],
            )
        refuse_no_signal(trained, recipe)
        return replace(trained, policy=replace(trained.policy, name=name))

    def evidence(
        self, selection: Callable[..., Selection], pool: Completions, rescored_on: Prompts | None = None
    ) -> dict[str, Any]:
        """The arguments that a selection needs beyond the rewards; see bench.selection.evidence."""
        return evidence_for(selection, pool, self.task, self.base, rescored_on=rescored_on)

    def select(
        self, eligible: np.ndarray, pool: Completions, rescored_on: Prompts | None = None
    ) -> dict[str, Selection]:
        """The completions of each arm: "tuned" by the selection; "control", if any, as many at random.

        eligible: rewards [M, N], NaN where a completion must not be selected.
        """
        evidence = self.evidence(self.selection, pool, rescored_on)
        selections = {"tuned": self.selection(eligible, generator(self.seed, "selection"), **evidence)}
        if self.control == "matched":
            selections["control"] = matched_random(selections["tuned"], eligible, generator(self.seed, "control"))
        return selections

    def verified(self, prompts: Prompts, pool: Completions) -> np.ndarray:
        """[M, N] 1 where the task's own verifier accepts the completion, else 0."""
        return verify(prompts, pool, task=self.task).value

    def refuse_without_solutions(self, *, foreign: float = 0.0, noise: float = 0.0) -> None:
        """BenchError where the task has no such worked solutions; call it before any work."""
        refuse_without_solutions(self.task, foreign=foreign, noise=noise)

    def demonstrations(self, *, foreign: float = 0.0, noise: float = 0.0) -> Completions:
        """[M, 1]: the task's worked solutions of the training prompts; see bench.training.demonstrations."""
        return demonstrations(self.task, self.train, self.base, foreign=foreign, noise=noise, seed=self.seed)

    def nll(self, policy: Policy, prompts: Prompts, completions: Completions) -> np.ndarray:
        """[M] nats per token: the negative log-likelihood of each prompt's completion [M, 1] under the raw policy."""
        return nll_per_token(policy, prompts, completions)

    def hinted(self, prompts: Prompts) -> Prompts:
        """The prompts with their answers as hints."""
        return replace(self.task.with_hint(prompts), split=prompts.split)  # type: ignore[attr-defined]  # checked before

    def readable(self, pool: Completions, drawn_by: Policy) -> tuple[Completions, np.ndarray, str | None]:
        """(the pool in the base's token ids, [M, N] whether its text is preserved, the differing field or None)."""
        differs = ids_differ(drawn_by, self.base, self.train)
        if differs is None:
            return pool, np.ones(pool.shape, bool), None
        return *reencoded(pool, self.base), differs

    def incomparable(self, policy: Policy) -> str | None:
        """What differs between a policy's tokens and the base's, so that it has no KL, in words; None where it has."""
        return distributions_differ(policy, self.base, self.test)

    def path(self, policy: Policy) -> dict[int, Policy]:
        """The policies that a training kept, and its last one, by number of updates; empty where it kept none."""
        before = checkpoints.kept(policy)
        return {**before, len(training_log(policy)): policy} if before else {}

    def judge(self, policy: Policy, others: Mapping[str, Policy] = MappingProxyType({})) -> Outcomes:
        """Evaluate the policy on the held-out prompts. others: policies from which its KL is estimated too."""
        with stage("evaluate", policy.name, self.split):
            given = (policy, self.base, self.test, self.generation, self.scorer, self.task, others)
            apart = partial(self.prompts, "validation") if self.split != "validation" else None
            return self.evaluation(*given, validation=apart, seed=self.seed)

    def judge_paths(self, paths: Mapping[str, Mapping[int, Policy]]) -> AlongTraining | None:
        """Evaluate policies, if any, on validation prompts, without lm-eval. paths: arm -> updates -> policy."""
        if not paths:
            return None
        alone = partial(self.evaluation, lm_eval=False, transfer={}, harness_tasks=(), temperatures=None)
        prompts = self.prompts("validation")

        def judge(policy: Policy, name: str) -> Outcomes:
            with stage("evaluate", name, "validation"):
                return alone(policy, self.base, prompts, self.generation, self.scorer, self.task, seed=self.seed)

        start = judge(self.base, "base")
        judged = {
            arm: {0: start, **{updates: judge(policy, f"{arm} after {updates}") for updates, policy in path.items()}}
            for arm, path in paths.items()
        }
        return AlongTraining(prompts, judged)

    def best_of_n(self) -> Graded:
        """The base's held-out pool, drawn with the run's own sampler and graded."""
        samples = max(self.num_completions, self.baseline_completions)
        with stage("generate", self.base.name, self.split):
            pool = self.generation(self.test, self.base, num_completions=samples, seed=self.seed)
            return grade(self.test, pool, self.scorer, self.task)

    def train_and_judge(
        self,
        pool: Completions,
        rewards: Rewards,
        selections: dict[str, Selection],
        *,
        prompts_filtered: int,
        compared: Mapping[str, Policy] = MappingProxyType({}),
        trained: Mapping[str, Policy] = MappingProxyType({}),
        findings: Findings | None = None,
    ) -> Results:
        """Fine-tune the base on each selection from the pool [M, N]; evaluate all policies, and Best-of-N of the base.

        compared: policies by name from which the KL of the tuned policy is estimated too. trained: the policies of arms
        that were trained before; the other arms with a selection are fine-tuned here.
        """
        policies = {"base": self.base, **trained}
        policies |= {
            arm: self.fine_tune(arm, self.base, pool, chosen, seed=self.seed)
            for arm, chosen in selections.items()
            if arm not in trained
        }
        in_order = reversed(policies) if self.last_first else policies
        outcomes = {arm: self.judge(policies[arm], compared if arm == "tuned" else {}) for arm in in_order}
        kept = {arm: path for arm, policy in policies.items() if arm != "base" and (path := self.path(policy))}
        return Results(
            train=self.train,
            pool=pool,
            rewards=rewards,
            prompts_filtered=prompts_filtered,
            selections=selections,
            policies=policies,
            split=self.split,
            test=self.test,
            outcomes=outcomes,
            best_of_n=self.best_of_n(),
            along_training=self.judge_paths(kept),
            findings=findings or Findings(),
        )
