"""The outcome of a procedure: its measurements (Results), and what only this procedure reports (Findings)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection, content_hash
from bench.evaluation.heldout import AlongTraining, Graded, Outcomes
from bench.procedures.artifact_graph import ArtifactGraph, Columns
from bench.selection.cells import cells
from bench.store import Use, unique
from bench.tasks import Task


@dataclass(frozen=True)
class TrainingCost:
    """The cost of making the training sets, as the break-even needs it."""

    prompt_tokens: float  # mean per prompt
    completion_tokens: float  # mean per completion
    samples_per_prompt: float  # mean over the prompts that were sampled
    prompts_sampled: int
    completions_trained: int  # counted once per round that trains on them
    completions_compared: int = 0  # that the reference of preference tuning reads, counted likewise
    prompt_reads: float = 1.0  # how often a policy reads a prompt to draw for it, mean over prompts
    other_generators_flops: float = 0.0  # FLOPs beyond those of the base for the same samples
    pools: tuple[Completions, ...] = ()  # further pools whose draws are counted here
    epochs: float | None = None  # over the completions; None: as long as `training` says
    trainings: tuple[int, ...] = ()  # the examples of each training, where there are several
    probing: tuple[Use, ...] = ()  # trainings and readings that only choose the training set


@dataclass(frozen=True)
class Findings:
    """The reports of one procedure beyond the records of every run.

    The defaults describe a single round: the base draws one pool, and each arm trains on one selection from it.
    """

    def metrics(self, results: "Results", task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """Further metrics, by their names in metrics.json."""
        return {}

    def tables(self, results: "Results") -> dict[str, Columns]:
        """Further tables: file name in the run folder -> columns."""
        return {}

    def drawn(self, results: "Results") -> tuple[Completions, np.ndarray]:
        """The samples [H, N] that policies drew for training, demonstrations left out, and their rewards [H, N]."""
        return results.pool, results.rewards.value

    def drawn_by(self, results: "Results") -> list[str]:
        """The policy that drew each column of the training pool [N], by its name in the records."""
        return ["base"] * results.pool.shape[1]

    def cost(self, results: "Results", uses: Sequence[Use]) -> TrainingCost:
        """The cost of making the training sets."""
        samples = results.pool.drawn.sum() / len(results.train)
        return TrainingCost(
            *mean_lengths(results.pool, len(results.train), uses),
            samples_per_prompt=samples,
            prompts_sampled=len(results.train),
            completions_trained=results.selections["tuned"].completions,
            completions_compared=in_pairs([results.selections["tuned"]]),
            trainings=(len(results.selections["tuned"]),),
            prompt_reads=results.pool.prompt_reads,
        )

    def pools(self, graph: ArtifactGraph, results: "Results", base: str) -> list[str]:
        """Add the training pools and the policies that drew them, beside the base. Returns the names of the pools."""
        return [graph.pool("train", results.pool, [base])]

    def labels(self, results: "Results") -> dict[str, Sequence[str]]:
        """Labels of the samples' origin: name of a further column -> label per column of the training pool [N]."""
        return {}

    def add_to(self, graph: ArtifactGraph, results: "Results") -> None:
        """Add all artifacts from the base to the trained policies, in the order in which they were made."""
        base = graph.policy("base", results.policies["base"])
        pools = self.pools(graph, results, base)
        key, scored = content_hash(results.pool.key, results.rewards.value), cells(results.pool.drawn)
        rewards = graph.rewards("train", key, "rewards.parquet", self._cells(results, scored, {}), pools)
        for arm, chosen in results.selections.items():
            columns = self._cells(results, chosen, {"weight": np.asarray(chosen.weight, float)})
            if chosen.rejected is not None:
                reward = results.rewards.value[chosen.row, chosen.rejected]
                columns = {**columns, "rejected": chosen.rejected, "rejected_reward": reward}
            selection = graph.selection(arm, selection_key(results.pool.key, chosen), columns, [rewards])
            graph.policy(arm, results.policies[arm], [base, selection])

    def _cells(self, results: "Results", chosen: Selection, more: Columns) -> Columns:
        row, column = np.asarray(chosen.row), np.asarray(chosen.column)
        labels = {name: np.asarray(values, object)[column] for name, values in self.labels(results).items()}
        return {"row": row, "sample": column, **more, "reward": results.rewards.value[row, column], **labels}


@dataclass(frozen=True)
class Elsewhere:
    """A policy that was trained elsewhere, and judged beside the others."""

    policy: Policy
    differs: str | None  # how its tokens differ from the base's, so that it has no KL; None: its KL is measured


@dataclass(frozen=True)
class Results:
    """Everything that an experiment measured, sample by sample; reports take the means."""

    train: Prompts
    pool: Completions  # [M, N] of the training prompts
    rewards: Rewards  # [M, N]
    prompts_filtered: int  # the number of prompts that the prompt filter left out
    selections: dict[str, Selection]  # tuned, control (if any)
    policies: dict[str, Policy]  # base, tuned, control (if any)
    split: str  # validation or test: the split on which policies are judged
    test: Prompts  # the prompts of that split
    outcomes: dict[str, Outcomes]  # by the policy's name in the records: base, tuned, control, ...
    best_of_n: Graded  # the base's held-out pool, drawn with the run's own sampler
    along_training: AlongTraining | None = None  # the policies that trainings kept; None: none was kept
    findings: Findings = field(default_factory=Findings)
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)  # by name; `outcomes` has theirs too


def uses_of(pool: Completions, uses: Sequence[Use]) -> list[Use]:
    """The stored units that hold a pool, each once. They may hold further samples."""
    return [use for use in unique(uses) if use.unit in pool.stored_as]


def total(count: str, uses: Sequence[Use]) -> float:
    """The sum of one count over artifacts, e.g. "generated_tokens"."""
    return float(sum(use.counts.get(count, 0) for use in uses))


def mean_lengths(pool: Completions, prompts: int, uses: Sequence[Use]) -> tuple[float, float]:
    """Mean (tokens per prompt, tokens per completion) of a pool."""
    prompt_tokens = total("prompt_tokens", uses_of(pool, uses)) / (prompts * len(pool.parts))
    return prompt_tokens, float(pool.length[pool.drawn].mean())


def in_pairs(selections: Sequence[Selection]) -> int:
    """The number of completions in pairs, which the reference of preference tuning reads."""
    return sum(chosen.completions for chosen in selections if chosen.rejected is not None)


def selection_key(pools: str | list[str], chosen: Selection) -> str:
    """The content key of a selection from one pool, or from several side by side."""
    rejected = [] if chosen.rejected is None else [np.asarray(chosen.rejected)]
    cells = np.asarray(chosen.row), np.asarray(chosen.column), np.asarray(chosen.weight, float)
    return content_hash(pools, *cells, *rejected)


def correct_paths(pool: Completions, right: np.ndarray, task: Task) -> list[set[str]]:
    """[M] the distinct reasoning paths of each prompt's correct completions. right: [M, N] bool."""
    distinct: list[set[str]] = []
    for rows, part in pool.shards():
        for texts, ours in zip(np.asarray(part.text), right[rows], strict=True):
            paths = {task.path(text) for text in texts[ours]}
            distinct.append({path for path in paths if path is not None})
    return distinct
