"""hydra/launcher=slurm: each cell a Slurm job, submitted through submitit, that goes on after preemption."""

import os
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.launching.jobs import Job, Outcome, again
from bench.progress import say

POLL = 1.0  # seconds between two looks at the folder of results; Slurm itself is asked less and less often


@dataclass(frozen=True)
class Cell:
    """What submitit pickles and calls on a node; `checkpoint` is asked when Slurm announces the job's end."""

    requeue: bool

    def __call__(self, job: Job) -> Outcome:
        return job.perform()

    def checkpoint(self, job: Job) -> Any:
        """The same cell again, which finds in the store what it had finished; None: it is not requeued."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job) if self.requeue else None


def check(cluster: str) -> None:
    """BenchError where submitit or Slurm is missing."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise BenchError("hydra/launcher=slurm needs submitit; install the extra `slurm` (or `launchers`).") from error
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise BenchError(
            "hydra/launcher=slurm finds no Slurm here (sbatch and srun are not in PATH); start the sweep on a node of "
            "the cluster that can submit jobs."
        )


def executor(folder: Path, *, cluster: str, signal: str, max_num_timeout: int, parameters: dict[str, Any]) -> Any:
    """submitit's executor for one cell a job; `parameters` as its update_parameters takes them, Nones left out."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = signal  # read where submitit is imported, here and in the job
    import submitit

    found = submitit.AutoExecutor(folder / "%j", cluster=cluster, slurm_max_num_timeout=max_num_timeout)
    found.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    return found


def run(
    jobs: Sequence[Job], executor: Any, *, cluster: str, requeue: bool, array_parallelism: int, retries: int
) -> None:
    """Submit every job and wait for all; one that ends without an outcome is submitted again."""
    queue = deque(range(len(jobs)))
    deaths: Counter[int] = Counter()
    running: dict[int, Any] = {}
    cell = Cell(requeue)
    try:
        while queue or running:
            # Slurm has a limit of its own for an array; submitit's local processes all start at once
            room = len(queue) if cluster == "slurm" else min(len(queue), array_parallelism - len(running))
            numbers = [queue.popleft() for _ in range(room)]
            if numbers:
                submitted = executor.map_array(cell, [jobs[number] for number in numbers])
                running.update(zip(numbers, submitted, strict=True))
                if cluster == "slurm":
                    say(f"submitted {len(numbers)} Slurm jobs ({submitted[0].job_id} ...), logs in {executor.folder}")
            for number, submitted in list(running.items()):
                if not submitted.done():
                    continue
                del running[number]
                error = submitted.exception()
                if error is not None:
                    deaths[number] += 1
                    if again(jobs[number], deaths=deaths[number], retries=retries, reason=_reason(submitted, error)):
                        queue.append(number)
                    continue
                outcome: Outcome = submitted.result()
                if outcome.complaint is not None:
                    raise BenchError(outcome.complaint)
                for line in outcome.lines:
                    say(line)
            if running and not queue:
                time.sleep(POLL)
    finally:
        for submitted in running.values():
            submitted.cancel()


def _reason(submitted: Any, error: Exception) -> str:
    raised = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exit|Exception): .*)$", str(error), re.MULTILINE)
    told = raised[-1].rstrip(".") if raised else f"{submitted.state.lower()}, no result"
    return f"job {submitted.job_id}: {told}; log {submitted.paths.stderr}"
