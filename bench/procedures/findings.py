"""What a procedure hands over: everything that it measured (Results), and what it alone has to tell (Findings)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection, content_hash
from bench.evaluation.heldout import AlongTraining, Graded, Outcomes
from bench.store import Use, unique
from bench.tasks import Task

Columns = Mapping[str, Any]  # name -> one value per row of a table


class ArtifactGraph(Protocol):
    """What was made from what. Each method adds one artifact, writes its file, and returns its name."""

    def policy(self, role: str, policy: Policy, parents: Sequence[str] = ()) -> str: ...

    def pool(self, role: str, pool: Completions, parents: Sequence[str]) -> str: ...

    def rewards(self, role: str, key: str, file: str, columns: Columns, parents: Sequence[str]) -> str: ...

    def selection(self, role: str, key: str, columns: Columns, parents: Sequence[str]) -> str: ...


@dataclass(frozen=True)
class TrainingCost:
    """What making the training sets took, as far as the break-even asks for it."""

    prompt_tokens: float  # mean per prompt
    completion_tokens: float  # mean per completion
    samples_per_prompt: float  # of the prompts that were sampled
    prompts_sampled: int
    completions_trained: int  # counted again by every round that trains on them
    prompt_reads: float = 1.0  # how often a policy read each prompt to draw for it, mean over prompts
    other_generators_flops: float = 0.0  # beyond what the base would have taken for the same samples
    pools: tuple[Completions, ...] = ()  # whose draws are counted here, beside the training pool
    probing: tuple[Use, ...] = ()  # trainings and readings that only decided what to train on


@dataclass(frozen=True)
class Findings:
    """What a procedure has to tell beside what every run records; here, of a procedure that has nothing to add.

    The defaults are true of one round: the base draws one pool, and each arm trains on one selection from it.
    """

    def metrics(self, results: "Results", task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """Metrics of the procedure's own, by their names in metrics.json."""
        return {}

    def tables(self, results: "Results") -> dict[str, Columns]:
        """Tables of the procedure's own: file name in the run folder -> columns."""
        return {}

    def drawn(self, results: "Results") -> tuple[Completions, np.ndarray]:
        """The training samples that policies drew, and their rewards, both [H, N]: the pool, without demonstrations."""
        return results.pool, results.rewards.value

    def drawn_by(self, results: "Results") -> list[str]:
        """[N]: the policy that drew each column of the training pool, by its name in every record."""
        return ["base"] * results.pool.shape[1]

    def cost(self, results: "Results", uses: Sequence[Use]) -> TrainingCost:
        """What making the training sets took."""
        samples = results.pool.drawn.sum() / len(results.train)
        return TrainingCost(
            *mean_lengths(results.pool, len(results.train), uses),
            samples_per_prompt=samples,
            prompts_sampled=len(results.train),
            completions_trained=len(results.selections["tuned"]),
            prompt_reads=results.pool.prompt_reads,
        )

    def pools(self, graph: ArtifactGraph, results: "Results", base: str) -> list[str]:
        """Add the training pools, and whoever drew them beside the base; returns the pools' names."""
        return [graph.pool("train", results.pool, [base])]

    def labels(self, results: "Results") -> dict[str, Sequence[str]]:
        """Further columns that say where a sample of the training pool is from: name -> a label per column [N]."""
        return {}

    def add_to(self, graph: ArtifactGraph, results: "Results") -> None:
        """Add everything from the base's pool to the policies that were trained, in the order of making."""
        base = graph.policy("base", results.policies["base"])
        pools = self.pools(graph, results, base)
        row, column = np.nonzero(results.pool.drawn)
        scored = Selection(row, column, np.ones(len(row)))
        key = content_hash(results.pool.key, results.rewards.value)
        rewards = graph.rewards("train", key, "rewards.parquet", self._cells(results, scored, {}), pools)
        for arm, chosen in results.selections.items():
            columns = self._cells(results, chosen, {"weight": np.asarray(chosen.weight, float)})
            selection = graph.selection(arm, selection_key(results.pool.key, chosen), columns, [rewards])
            graph.policy(arm, results.policies[arm], [base, selection])

    def _cells(self, results: "Results", chosen: Selection, more: Columns) -> Columns:
        row, column = np.asarray(chosen.row), np.asarray(chosen.column)
        labels = {name: np.asarray(values, object)[column] for name, values in self.labels(results).items()}
        return {"row": row, "sample": column, **more, "reward": results.rewards.value[row, column], **labels}


@dataclass(frozen=True)
class Results:
    """Everything that an experiment measured, sample by sample; means are taken when it is reported."""

    train: Prompts
    pool: Completions  # [M, N] of the training prompts
    rewards: Rewards  # [M, N]
    prompts_filtered: int  # prompts that the prompt filter left out
    selections: dict[str, Selection]  # tuned, and control where there is one
    policies: dict[str, Policy]  # base, tuned, and control where there is one
    split: str  # validation or test: the split on which the policies are judged
    test: Prompts  # the prompts of that split
    outcomes: dict[str, Outcomes]  # by the policy's name in every record: base, tuned, control, ...
    best_of_n: Graded  # the base's held-out pool, drawn with the run's own sampler
    along_training: AlongTraining | None = None  # policies on the way there, on validation prompts; None: none was kept
    findings: Findings = field(default_factory=Findings)


def uses_of(pool: Completions, uses: Sequence[Use]) -> list[Use]:
    """The stored units that hold a pool, each once; they may hold more samples than it."""
    return [use for use in unique(uses) if f"{use.key}/{use.part}" in pool.stored_as]


def total(count: str, uses: Sequence[Use]) -> float:
    """The sum of one count over artifacts, e.g. of "generated_tokens"."""
    return float(sum(use.counts.get(count, 0) for use in uses))


def mean_lengths(pool: Completions, prompts: int, uses: Sequence[Use]) -> tuple[float, float]:
    """(tokens per prompt, tokens per completion) of a pool, means."""
    prompt_tokens = total("prompt_tokens", uses_of(pool, uses)) / (prompts * len(pool.parts))
    return prompt_tokens, float(pool.length[pool.drawn].mean())


def selection_key(pools: str | list[str], chosen: Selection) -> str:
    """The content key of a selection from one pool, or from several side by side."""
    return content_hash(pools, np.asarray(chosen.row), np.asarray(chosen.column), np.asarray(chosen.weight, float))
