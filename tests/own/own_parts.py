"""Parts that live outside the suite: a procedure, a selection, a scorer, a task, a metric; conf/ configures them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards, Selection
from bench.blocks import side_by_side
from bench.config.rules import Count, whole
from bench.evaluation.heldout import Graded
from bench.procedures.findings import Findings, Results
from bench.procedures.parts import Parts
from bench.reporting.exhibit import Figure
from bench.reporting.groups import Group
from bench.seeds import small_seed
from bench.selection import top_per_prompt
from bench.selection.cells import prompts_dropped
from bench.store import Use
from bench.tasks import Task
from bench.tasks.word_problems import WordProblems


@dataclass(frozen=True)
class TwoTemperatures(Findings):
    """What the procedure has to tell: the temperatures, and the mean reward at each."""

    temperatures: tuple[float, float]

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        halves = np.split(results.rewards.value, 2, axis=1)
        pairs = zip(self.temperatures, halves, strict=True)
        return {f"two_temperatures/reward_at_{at:g}": float(half.mean()) for at, half in pairs}


def at_two_temperatures(parts: Parts, *, hot: Annotated[float, whole(1)]) -> Results:
    """One round whose pool is drawn half at temperature 1, half at temperature `hot`."""
    train, half = parts.train, parts.num_completions // 2
    pools = [
        parts.generation(train, parts.base, num_completions=half, seed=seed, temperature=temperature)
        for temperature, seed in ((1.0, parts.seed), (float(hot), small_seed(parts.seed, "hot")))
    ]
    pool = side_by_side(pools)  # [M, N]
    rewards = parts.scorer(train, pool)
    eligible = parts.prompt_filter(rewards.value)
    return parts.train_and_judge(
        pool,
        rewards,
        parts.select(eligible, pool, rescored_on=train),
        prompts_filtered=prompts_dropped(rewards.value, eligible),
        findings=TwoTemperatures((1.0, float(hot))),
    )


def longest_correct(rewards: np.ndarray, rng: np.random.Generator, *, length: np.ndarray) -> Selection:
    """The longest correct completion of every prompt. rewards, length: [M, N]."""
    return top_per_prompt(np.where(rewards > 0.5, length, np.nan), rng)


def ends_in_digit(prompts: Prompts, completions: Completions, *, worth: Count = 1) -> Rewards:
    """[M, N]: `worth` where the completion ends in a digit, else 0."""
    value = np.empty(completions.shape)
    for rows, part in completions.shards():
        value[rows] = np.vectorize(lambda text: worth * text.strip()[-1:].isdigit(), otypes=[float])(part.text)
    return Rewards(value)


class EvenAnswers(WordProblems):
    """Word problems of which only an even answer is right."""

    def is_correct(self, completion: str, answer: str) -> bool:
        return super().is_correct(completion, answer) and int(answer) % 2 == 0


def share_finished(graded: Graded) -> np.ndarray:
    """[M]: the share of samples that the policy ended itself."""
    return (graded.completions.finish_reason == "stop").mean(axis=1)


def finished_samples(groups: Sequence[Group]) -> Figure | None:
    """The share of samples that each tuned policy ended itself, where the runs measured it."""
    shares = [run.metrics.get("tuned/share_finished") for group in groups for run in group.runs]
    if not shares or None in shares:
        return None

    def draw(figure: Any) -> None:
        figure.subplots().bar(range(len(shares)), shares)

    runs = [run for group in groups for run in group.runs]
    rows = [{"run": run.folder.name, "share": share} for run, share in zip(runs, shares, strict=True)]
    return Figure("finished_samples", "Samples that the policy ended itself.", rows, runs, draw)
