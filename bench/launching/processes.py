"""hydra/launcher=joblib: cells in processes of this machine, each process with GPUs of its own.

Each worker is a one-process executor of joblib's loky: a process that is killed costs its own cell one more try and no
other anything, and what a worker has imported serves its next cell.
"""

import re
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from bench.launching import devices
from bench.launching.jobs import Job, again


def workers(*, n_jobs: int | None, gpus_per_cell: float | None, threads: int) -> list[dict[str, str]]:
    """The environment of each worker; BenchError where this machine has not what is asked for."""
    from joblib import cpu_count

    cpu_workers = max(1, cpu_count() // threads) if threads else 1  # 0: torch takes all of them
    return devices.shares(devices.visible(), n_jobs=n_jobs, gpus_per_cell=gpus_per_cell, cpu_workers=cpu_workers)


def run(jobs: Sequence[Job], environments: Sequence[dict[str, str]], *, retries: int) -> None:
    """Run every job in one of the workers."""
    from joblib.externals.loky import FIRST_COMPLETED, BrokenProcessPool, ProcessPoolExecutor, wait

    queue = deque(range(len(jobs)))
    deaths: Counter[int] = Counter()
    idle = deque(range(len(environments)))
    executors: dict[int, Any] = {}
    running: dict[Any, tuple[int, int]] = {}  # future -> worker, job
    try:
        while queue or running:
            while queue and idle:
                worker, job = idle.popleft(), queue.popleft()
                if worker not in executors:
                    executors[worker] = ProcessPoolExecutor(max_workers=1, env=environments[worker])
                try:
                    future = executors[worker].submit(jobs[job].perform)
                except BrokenProcessPool:  # it died while it had nothing to do
                    executors.pop(worker).shutdown(kill_workers=True)
                    idle.append(worker)
                    queue.appendleft(job)
                else:
                    running[future] = worker, job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, job = running.pop(future)
                idle.append(worker)
                error = future.exception()
                if error is not None:
                    deaths[job] += 1
                    if again(jobs[job], deaths=deaths[job], retries=retries, reason=_reason(error)):
                        queue.append(job)
                if isinstance(error, BrokenProcessPool) or not queue:
                    executors.pop(worker).shutdown(kill_workers=True)
    finally:
        for executor in executors.values():
            executor.shutdown(kill_workers=True)


def _reason(error: BaseException) -> str:
    ended = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
    return ended[1] if ended else f"{type(error).__name__}: {error}"
