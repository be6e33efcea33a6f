"""Programs scored by running them: 1 where a completion passes every test of its prompt, else 0.

    python -m bench task=list_programs scoring=unit_tests

Completions are untrusted: each runs in bench.sandbox, without network or files. The tests are the prompt's `answer`
(bench.tasks.program_tests); the task says which part of a completion is the program.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from hydra.utils import instantiate

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import Count, Rule, Seconds, Workers, here, one_of, whole
from bench.errors import BenchError
from bench.sandbox import ISOLATION, PASSED, VERDICTS, Limits, Sandbox, verdicts
from bench.scoring import Scorer
from bench.scoring.units import scored
from bench.tasks import Task


def _has_programs(task: Any) -> bool:
    """Whether the completions of a task are programs; also of its configuration before it is built."""
    made = instantiate(task, _convert_="all") if isinstance(task, Mapping) else task
    return getattr(made, "programs", None) is not None


PROGRAMS = Rule(_has_programs, "a task whose completions are programs, such as list_programs")


def _start_sandbox(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where programs can't be isolated on this machine."""
    with Sandbox(Limits(), isolation=settings.get("isolation", "auto")):
        pass


@here(_start_sandbox)
@Scorer(highest=1.0, verdicts=True)
def unit_tests(
    prompts: Prompts,
    completions: Completions,
    *,
    task: Annotated[Task, PROGRAMS],
    isolation: Annotated[str, one_of(*ISOLATION)] = "auto",
    cpu_seconds: Annotated[int, whole(1, 86_400)] = 2,
    wall_seconds: Seconds = 10.0,
    memory_megabytes: Annotated[int, whole(64)] = 512,
    disk_megabytes: Count = 16,
    processes: Workers = 1,
    workers: Workers = 1,
) -> Rewards:
    """[M, N] of 1.0 where all tests pass, else 0.0 (wrong, failed, beyond a limit, cut off); each outcome is counted.

    Each distinct program of a prompt runs once. isolation: "auto" takes bubblewrap where it is installed, else
    namespaces; with "none", completions can reach your files and end your processes. memory_megabytes: address space of
    each of `processes`; tests in source run in one more. workers: programs that run side by side. Neither isolation nor
    workers changes a score. Raises BenchError where a program can't be run in isolation (never a silent 0), or where
    the task has no programs; finished units stay.
    """
    programs = task.programs
    if programs is None:
        raise BenchError(
            "scoring=unit_tests needs a task whose completions are programs, such as list_programs; "
            f"{task.name} has none."
        )
    limits = Limits(cpu_seconds, wall_seconds, memory_megabytes, disk_megabytes, processes)

    def score(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        jobs = [programs.job(text, str(prompts.answer[row])) for row, text in zip(rows, texts, strict=True)]
        found = verdicts(jobs, limits=limits, isolation=isolation, workers=workers)
        return np.array([verdict == PASSED for verdict in found], float), {
            verdict: float(found.count(verdict)) for verdict in VERDICTS
        }

    settings: dict[str, Any] = {"task": task.judged_by, "limits": vars(limits)}
    return scored(prompts, completions, score, stage="unit_tests", version=1, settings=settings)
