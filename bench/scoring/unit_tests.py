"""Programs scored by running them: 1 where a completion passes every test of its prompt, else 0.

    python -m bench task=list_programs scoring=unit_tests

Completions are untrusted: each runs in bench.sandbox, without network or files. The tests are the prompt's `answer`
(see bench.sandbox.cases). The task says which part of a completion is the program.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Protocol

import numpy as np
from hydra.utils import get_object, instantiate

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import Count, Rule, number, one_of, whole
from bench.errors import BenchError
from bench.sandbox import ISOLATION, VERDICTS, Job, Limits, verdicts
from bench.sandbox.cases import from_answer
from bench.scoring import Scorer
from bench.scoring.units import scored
from bench.tasks import Task, judged_by


class ReadsPrograms(Protocol):
    """A task whose completions are programs and whose answers are unit tests, or the `programs` of such a task."""

    def program(self, completion: str) -> str:
        """The Python source in a completion, as it should run."""
        ...


def programs_of(task: Any) -> ReadsPrograms | None:
    """What reads the programs in a task's completions; None where the completions are no programs."""
    return task if hasattr(task, "program") else getattr(task, "programs", None)


def job_of(reads: ReadsPrograms, completion: str, answer: str) -> Job:
    """What runs for a completion, made by the task's own `job` where its tests need more than plain values."""
    made = getattr(reads, "job", None)
    return Job(reads.program(completion), *_parsed(answer)) if made is None else made(completion, answer)


@lru_cache(maxsize=1 << 14)
def _parsed(answer: str) -> tuple:
    return from_answer(answer)


def _has_programs(task: Any) -> bool:
    """Whether the completions of a task, or of its configuration before it is built, are programs."""
    if isinstance(task, Mapping):
        made = get_object(task["_target_"])
        if not hasattr(made, "programs"):
            return hasattr(made, "program")
        task = instantiate(task, _convert_="all")  # its settings decide
    return programs_of(task) is not None


PROGRAMS = Rule(_has_programs, "a task whose completions are programs, such as list_programs")


@Scorer(highest=1.0)
def unit_tests(
    prompts: Prompts,
    completions: Completions,
    *,
    task: Annotated[Task, PROGRAMS],
    isolation: Annotated[str, one_of(*ISOLATION)] = "auto",
    cpu_seconds: Count = 2,
    wall_seconds: Annotated[float, number(0, open_low=True)] = 10.0,
    memory_megabytes: Annotated[int, whole(64)] = 512,
    disk_megabytes: Count = 16,
    processes: Count = 1,
    workers: Count = 1,
) -> Rewards:
    """[M, N] of 1.0 where all tests pass, else 0.0 (wrong, failed, beyond a limit, cut off); each outcome is counted.

    Each distinct program of a prompt runs once. isolation: "auto" takes bubblewrap where it is installed, else
    namespaces; with "none", completions can reach your files. memory_megabytes: address space of each of `processes`.
    workers: programs that run side by side. Neither isolation nor workers changes a score. Raises BenchError where a
    program can't be run in isolation (never a silent 0), or where the task has no programs; finished units stay.
    """
    reads = programs_of(task)
    if reads is None:
        raise BenchError(
            "scoring=unit_tests needs a task whose completions are programs, such as list_programs; "
            f"{task.name} has none."
        )
    limits = Limits(cpu_seconds, wall_seconds, memory_megabytes, disk_megabytes, processes)

    def score(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        jobs = [job_of(reads, text, str(prompts.answer[row])) for row, text in zip(rows, texts, strict=True)]
        found = verdicts(jobs, limits=limits, isolation=isolation, workers=workers)
        outcomes = Counter(verdict.outcome for verdict in found)
        values = np.array([verdict.passed for verdict in found], float)
        return values, {outcome: float(outcomes[outcome]) for outcome in VERDICTS}

    name = judged_by(task) if hasattr(reads, "job") else task.name
    settings: dict[str, Any] = {"task": name, "limits": vars(limits)}
    return scored(prompts, completions, score, stage="unit_tests", version=1, settings=settings)
