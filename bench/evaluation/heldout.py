"""Evaluate one policy on held-out prompts: greedy and sampled completions, and its KL from the base."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Divergence, Policy, Prompts, Rewards
from bench.config import rules
from bench.errors import BenchError
from bench.estimators.policy_divergence import kl_per_token
from bench.evaluation.harness import HarnessResult, harness, transferred
from bench.evaluation.harness_tasks import ENGINES, vllm_options
from bench.evaluation.harness_tasks import harness_tasks as run_tasks
from bench.models.logprobs import DivergenceSamples, divergence_samples
from bench.models.sampler import GREEDY, Sampler
from bench.models.tokens import distributions_differ
from bench.scoring.verifier import gold_rewards, verify
from bench.tasks import Task

NAMES = rules.list_of(rules.text(r"(?s).+", "a name"), "a list of tasks' names, each once", distinct=True)
SEEDS = rules.list_of(
    rules.SEED, "a list of one or more whole numbers of at least 0, each once", empty=False, distinct=True
)
TEMPERATURES = rules.or_null(
    rules.list_of(rules.TEMPERATURE, "a list of one or more temperatures, each once", empty=False, distinct=True)
)


def raw(name: str) -> str:
    """The reference of a KL, in words."""
    return f"{name} at temperature 1, top-p 1"


RAW_BASE = raw("base")


@dataclass(frozen=True)
class Graded:
    """Completions with the reward that the selection sees (proxy), the verdict (gold), answers and paths."""

    completions: Completions
    proxy: np.ndarray  # [M, N]
    gold: np.ndarray  # [M, N] 0/1
    answers: np.ndarray  # [M, N] str or None: what a majority votes on
    paths: np.ndarray  # [M, N] str or None: equal where two completions reason in the same way
    gold_reward: np.ndarray | None = None  # [M, N] in the gold model's units; None without a gold model


@dataclass(frozen=True)
class AtTemperature:
    """One policy at one temperature of evaluation.temperatures: K samples per prompt, one at temperature 0."""

    test: Graded  # [M, K] on the prompts on which policies are judged
    kl: DivergenceSamples  # [M, K'] from the raw base, on the first K' of these samples
    validation: Completions | None  # [V, K] on validation prompts; None: policies are judged on these themselves
    validation_gold: np.ndarray | None  # [V, K] 0/1


@dataclass(frozen=True)
class OverTemperatures:
    """One policy at every temperature of evaluation.temperatures."""

    at: dict[float, AtTemperature]  # in rising order
    prompts: Prompts | None  # of the validation split; None: policies are judged on these themselves

    @property
    def best(self) -> float | None:
        """The temperature of the highest accuracy on validation prompts, the lowest of equals; None without them.

        No test prompt is read for this choice.
        """
        accuracy = {T: at.validation_gold.mean() for T, at in self.at.items() if at.validation_gold is not None}
        return max(accuracy, key=lambda temperature: (accuracy[temperature], -temperature)) if accuracy else None

    @property
    def pools(self) -> list[Completions]:
        """Every pool that was drawn for it."""
        drawn = [pool for at in self.at.values() for pool in (at.test.completions, at.validation)]
        return [pool for pool in drawn if pool is not None]


@dataclass(frozen=True)
class Outcomes:
    """The results of one policy on M prompts, sample by sample."""

    greedy: Graded  # [M, 1]
    sampled: Graded  # [M, N]
    kl: Divergence  # Rao-Blackwellised
    kl_k1: Divergence  # mean log-ratio of the same samples; it must agree within its interval
    kl_per_token: float  # total KL over total tokens, Rao-Blackwellised
    log_ratio: np.ndarray  # [M, kl_completions] nats per sequence: log(this sampler / raw base) of the first samples
    harness: HarnessResult | None
    transfer: dict[str, HarnessResult]  # lm-eval on other tasks, by their names in the settings
    kl_from: dict[str, Divergence] = field(default_factory=dict)  # from other policies by name, on the same samples
    harness_tasks: dict[str, float] = field(default_factory=dict)  # lm-eval's own tasks, by task/metric
    metrics: dict[str, np.ndarray] = field(default_factory=dict)  # [M] by the metric's name in the settings
    temperatures: OverTemperatures | None = None  # None: evaluation.temperatures names none


VALIDATION = "validation"  # the method of measures on validation prompts; their n is the number of updates


@dataclass(frozen=True)
class AlongTraining:
    """The policies that trainings kept (training.keep_every), evaluated on validation prompts.

    No run chooses among them: the last policy is the result. A choice must not see the test prompts, and the best of
    several on validation prompts is a little less good on others (the winner's curse).
    """

    prompts: Prompts  # of the validation split
    outcomes: dict[str, dict[int, Outcomes]]  # tuned, control (if any) -> updates in rising order, from 0: the base


def grade(prompts: Prompts, completions: Completions, scoring: Callable[..., Rewards], task: Task) -> Graded:
    """Score completions by the proxy, which the selection sees, and by the task's own verifier."""
    answers, paths = np.empty(completions.shape, object), np.empty(completions.shape, object)
    for rows, part in completions.shards():
        texts = part.text.ravel().tolist()
        answers[rows] = np.array([*map(task.extract_answer, texts)], object).reshape(part.shape)
        paths[rows] = np.array([*map(task.path, texts)], object).reshape(part.shape)
    gold = verify(prompts, completions, task=task).value
    proxy = scoring(prompts, completions).value
    return Graded(completions, proxy, gold, answers, paths, gold_rewards(prompts, completions, task=task))


def _find_own_tasks(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where the folder of lm-eval tasks is missing."""
    if (include := settings.get("harness_include")) is not None and not Path(include).is_dir():
        raise BenchError(f"evaluation.harness_include={include} is no folder.")


@rules.here(_find_own_tasks)
def evaluate(
    policy: Policy,
    base: Policy,
    prompts: Prompts,
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    task: Task,
    others: Mapping[str, Policy] = MappingProxyType({}),
    *,
    validation: Callable[[], Prompts] | None = None,
    seed: int,
    num_completions: rules.Samples,
    temperature: Annotated[float, rules.number(0, open_low=True, least=rules.COLDEST, most=100)],
    top_p: rules.TopP,
    top_k: rules.TopK,
    temperatures: Annotated[Sequence[float] | None, TEMPERATURES] = None,
    kl_completions: rules.Samples,
    kl_dtype: Annotated[str, rules.one_of("float32", "bfloat16")] = "float32",
    lm_eval: Annotated[bool, rules.TRUE_OR_FALSE],
    transfer: Mapping[str, Task],
    harness_tasks: Annotated[Sequence[str], NAMES] = (),
    harness_engine: Annotated[str, rules.one_of(*ENGINES)] = "auto",
    harness_include: Annotated[str | None, rules.or_null(rules.FOLDER)] = None,
    harness_fewshot: Annotated[int | None, rules.or_null(rules.whole(0))] = None,
    harness_limit: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    harness_seeds: Annotated[Sequence[int], SEEDS] = (0,),
    metrics: Mapping[str, Callable[[Graded], np.ndarray]] = MappingProxyType({}),
) -> Outcomes:
    """Greedy and sampled completions of `policy`, graded; its KL from the raw `base`; and lm-eval's verdict.

    The KL is that of the sampler (this policy at `temperature`, `top_p`, `top_k`) from the raw base, in nats per
    sequence, on the first `kl_completions` samples per prompt, those cut at the length limit included. It is NaN where
    the token ids of the two policies differ (bench.models.tokens). others: raw policies by name, from which the KL is
    estimated too. kl_dtype: of both models' weights; bfloat16 halves their memory and adds rounding errors to the KL.

    temperatures: those at which the policy is judged too. validation: the prompts on which the best of them is chosen.

    transfer: other tasks by name; lm-eval judges greedy completions of their test prompts. harness_tasks: lm-eval's own
    tasks by name, or those of the folder harness_include. harness_engine: "auto" is vLLM where `generation` is, else
    transformers (see bench.evaluation.harness_tasks). metrics: name -> function of the graded samples [M, N], which
    returns one value per prompt [M].

    BenchError where lm-eval can't judge a task, or a metric returns another shape.
    """
    sampler = Sampler(temperature, top_p, top_k)
    greedy = generation(prompts, policy, num_completions=1, seed=seed, **GREEDY.settings)
    sampled = generation(prompts, policy, num_completions=num_completions, seed=seed, **sampler.settings)
    measured = sampled.first(kl_completions)
    from_base = _divergence(policy, base, prompts, measured, sampler, kl_dtype)
    unknown = np.isnan(from_base.k1).all()
    samplers = {T: replace(sampler, temperature=T) for T in sorted(map(float, temperatures or ()))}
    given = policy, base, prompts, generation, scoring, task, validation, samplers, (num_completions, kl_completions)
    from_others = {}
    for name, other in others.items():
        samples = _divergence(policy, other, prompts, measured, sampler, kl_dtype)
        from_others[name] = Divergence(samples.rao_blackwell.mean(axis=1), "rao_blackwell", raw(name))
    graded_greedy, graded = (grade(prompts, pool, scoring, task) for pool in (greedy, sampled))
    return Outcomes(
        greedy=graded_greedy,
        sampled=graded,
        kl=Divergence(from_base.rao_blackwell.mean(axis=1), "rao_blackwell", RAW_BASE),
        kl_k1=Divergence(from_base.k1.mean(axis=1), "k1", RAW_BASE),
        kl_per_token=float("nan") if unknown else kl_per_token(from_base.rao_blackwell, measured.length),
        log_ratio=from_base.k1,
        harness=harness(policy, prompts, task) if lm_eval else None,
        transfer={name: transferred(policy, name, other) for name, other in transfer.items()},
        kl_from=from_others,
        harness_tasks=run_tasks(
            policy,
            harness_tasks,
            include=harness_include,
            num_fewshot=harness_fewshot,
            limit=harness_limit,
            seeds=harness_seeds,
            vllm=vllm_options(harness_engine, generation),
        ),
        metrics={name: _per_prompt(name, metric(graded), len(prompts)) for name, metric in metrics.items()},
        temperatures=_over_temperatures(*given, kl_dtype=kl_dtype, seed=seed) if samplers else None,
    )


def _over_temperatures(
    policy: Policy,
    base: Policy,
    prompts: Prompts,
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    task: Task,
    validation: Callable[[], Prompts] | None,
    samplers: Mapping[float, Sampler],
    sizes: tuple[int, int],
    *,
    kl_dtype: str,
    seed: int,
) -> OverTemperatures:
    """The policy under each sampler. sizes: samples per prompt, and those of them that the KL is measured on.

    At temperature 0 the policy is a point mass on its greedy completion, whose KL is its surprisal under the raw base.
    """
    others, at = validation() if validation else None, {}
    for temperature, sampler in samplers.items():
        count, measured = (1, 1) if sampler.is_greedy else sizes
        draw = partial(generation, num_completions=count, seed=seed, **sampler.settings)
        pool, chosen_on = draw(prompts, policy), draw(others, policy) if others is not None else None
        at[temperature] = AtTemperature(
            grade(prompts, pool, scoring, task),
            _divergence(policy, base, prompts, pool.first(measured), sampler, kl_dtype),
            chosen_on,
            verify(others, chosen_on, task=task).value if others is not None and chosen_on is not None else None,
        )
    return OverTemperatures(at, others)


def _per_prompt(name: str, values: np.ndarray, prompts: int) -> np.ndarray:
    """The values [M] of a user's metric, checked."""
    if np.shape(values) != (prompts,):
        raise BenchError(
            f"evaluation.metrics.{name} returns an array of shape {np.shape(values)}; it must be one value per prompt, "
            f"({prompts},)."
        )
    return np.asarray(values, float)


def _divergence(
    policy: Policy, reference: Policy, prompts: Prompts, drawn: Completions, sampler: Sampler, dtype: str
) -> DivergenceSamples:
    if distributions_differ(policy, reference, prompts):
        return DivergenceSamples(*(np.full(drawn.shape, np.nan) for _ in range(2)))
    return divergence_samples(policy, reference, prompts, drawn, **sampler.settings, dtype=dtype)
