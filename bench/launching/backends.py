"""Three backends for a sweep's jobs: processes of this machine, tasks of a Ray cluster, Slurm jobs through submitit.

Their settings are those of conf/hydra/launcher/{joblib,ray,slurm}.yaml.
"""

import os
import re
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf

from bench.config.rules import TRUE_OR_FALSE, Count, Retries, Workers, one_of, or_null, text, whole
from bench.errors import BenchError
from bench.generation.ray_cluster import ADDRESS, WAIT, connect, listed, no_room, requested, room
from bench.launching import devices
from bench.launching.launch import Backend, CellJob, Outcome
from bench.progress import say

CARRIED = ("HF_", "WANDB_", "TOKENIZERS_", "VLLM_")  # this user's variables, which a running cluster may lack
CANCEL = 5.0  # seconds until a Ray task that still runs is told to end once more: Ray may lose a request
POLL = 1.0  # seconds between two looks at the results of Slurm jobs; submitit asks Slurm itself less and less often

Gpus = Annotated[float | None, or_null(devices.GPUS)]
Name = Annotated[str | None, or_null(text(r"\S+", "a name without spaces"))]


@dataclass(kw_only=True, eq=False)
class Processes(Backend):
    """Processes of this machine, each with GPUs of its own.

    Each worker is a one-process executor of joblib's loky. So a process that is killed costs only its own job one more
    try, and what a worker has imported serves its next job.
    """

    n_jobs: Annotated[int | None, or_null(whole(1, 1_024))] = None
    gpus_per_cell: Gpus = None
    retries: Retries = 2

    def check(self, cfg: DictConfig) -> None:
        """Find the environment of each worker; BenchError where this machine has too few GPUs."""
        from joblib import cpu_count

        cpu_workers = max(1, cpu_count() // cfg.threads) if cfg.threads else 1  # 0: torch takes all of them
        self._environments = devices.shares(
            devices.visible(), n_jobs=self.n_jobs, gpus_per_cell=self.gpus_per_cell, cpu_workers=cpu_workers
        )

    def open(self, cfg: DictConfig, count: int) -> None:
        self._idle = deque(range(min(len(self._environments), count)))
        self._executors: dict[int, Any] = {}  # of each worker that runs
        self._workers: dict[Any, int] = {}  # by the future of its job

    def start(self, waiting: deque[CellJob], running: dict[Any, CellJob]) -> None:
        from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

        while waiting and self._idle:
            worker = self._idle[0]
            if worker not in self._executors:
                self._executors[worker] = ProcessPoolExecutor(max_workers=1, env=self._environments[worker])
            try:
                future = self._executors[worker].submit(waiting[0].perform)
            except BrokenProcessPool:  # it died while it had nothing to do
                self._end(worker)
                continue
            running[future] = waiting.popleft()
            self._workers[future] = self._idle.popleft()
        if not waiting:  # an idle worker would only hold memory
            self._end(*self._idle)

    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        from joblib.externals.loky import FIRST_COMPLETED, BrokenProcessPool, wait

        ended = []
        for future in wait(handles, return_when=FIRST_COMPLETED).done:
            worker, error = self._workers.pop(future), future.exception()
            self._idle.append(worker)
            if error is None:
                outcome = replace(future.result(), lines=())  # the reader sees the worker's standard error
            else:
                status = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
                outcome = Outcome(loss=status[1] if status else f"{type(error).__name__}: {error}")
            if isinstance(error, BrokenProcessPool):
                self._end(worker)
            ended.append((future, outcome))
        return ended

    def close(self, handles: list[Any]) -> None:
        self._end(*self._executors)

    def _end(self, *workers: int) -> None:
        for worker in workers:
            if executor := self._executors.pop(worker, None):
                executor.shutdown(kill_workers=True)


@dataclass(kw_only=True, eq=False)
class RayTasks(Backend):
    """Tasks on the nodes of a Ray cluster, with the GPUs that Ray gives each of them.

    Ray's own retries are off: `run_all` reports each loss, and looks at the records of the cell before another try.
    """

    address: Annotated[str | None, or_null(ADDRESS)] = None
    cpus_per_cell: Workers = 1
    gpus_per_cell: Gpus = None
    retries: Retries = 2

    def check(self, cfg: DictConfig) -> None:
        """Connect to Ray; BenchError where that fails, or where no node has room for a cell."""
        connect(self.address, group="hydra/launcher")
        self._resources = requested(self.cpus_per_cell, self.gpus_per_cell)
        if not room(self._resources):
            raise no_room(self._resources, "cell", "hydra.launcher.cpus_per_cell or hydra.launcher.gpus_per_cell")

    def open(self, cfg: DictConfig, count: int) -> None:
        import ray

        gpus = self._resources.get("GPU", 0)
        self._environment = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        if not gpus:
            self._environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a task that asked for none
        self._task: Any = ray.remote(
            num_cpus=self.cpus_per_cell, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD"
        )(_on_node)

    def start(self, waiting: deque[CellJob], running: dict[Any, CellJob]) -> None:
        while waiting:  # Ray has a queue of its own
            running[self._task.remote(waiting[0], self._environment)] = waiting[0]
            waiting.popleft()

    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        import ray

        done, _ = ray.wait(handles, timeout=WAIT)
        if not done and not room(self._resources):
            say(f"waiting for the Ray cluster: no node has {listed(self._resources)} any more")
        return [(task, self._outcome(task)) for task in done]

    def close(self, handles: list[Any]) -> None:
        import ray

        for _ in range(12):  # a minute at most: a node that is gone answers no request
            for task in handles:
                ray.cancel(task, force=True)
            handles = ray.wait(handles, num_returns=len(handles), timeout=CANCEL)[1] if handles else []

    def _outcome(self, task: Any) -> Outcome:
        import ray

        try:
            return ray.get(task)
        except ray.exceptions.RayError as error:  # the process died, or the job raised
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Outcome(loss=": ".join([type(error).__name__, *lines[:1]]))


def _on_node(job: CellJob, environment: dict[str, str]) -> Outcome:
    os.environ.update(environment)
    return job.perform()


@dataclass(kw_only=True, eq=False)
class SlurmJobs(Backend):
    """Slurm jobs, submitted through submitit, that go on after preemption."""

    cluster: Annotated[str, one_of("slurm", "local")] = "slurm"
    partition: Name = None
    account: Name = None
    qos: Name = None
    constraint: Name = None
    timeout_min: Count = 240
    cpus_per_cell: Workers = 1
    gpus_per_cell: Annotated[int, whole(0, 1_024)] = 0
    mem_gb: Annotated[int | None, or_null(whole(1))] = None
    array_parallelism: Count = 256
    requeue: Annotated[bool, TRUE_OR_FALSE] = True
    signal: Annotated[str, one_of("USR1", "USR2")] = "USR2"
    signal_delay_s: Annotated[int, whole(1, 86_400)] = 90
    max_num_timeout: Retries = 3
    retries: Retries = 2
    commands: Sequence[str] = ()
    additional_parameters: dict[str, Any] = field(default_factory=dict)

    def check(self, cfg: DictConfig) -> None:
        """BenchError where submitit or Slurm is missing."""
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = self.signal  # read where submitit is first imported, and in the job
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise BenchError(
                "hydra/launcher=slurm needs submitit; install the extra `slurm` (or `launchers`)."
            ) from error
        if self.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise BenchError(
                "hydra/launcher=slurm finds no Slurm here (sbatch and srun are not in PATH); start the sweep on a node "
                "of the cluster that can submit jobs."
            )

    def open(self, cfg: DictConfig, count: int) -> None:
        import submitit

        folder = Path(cfg.outputs, ".multirun", self.cluster).absolute() / "%j"
        more: Any = OmegaConf.to_container(OmegaConf.create(self.additional_parameters or {}), resolve=True)
        of_slurm = ("partition", "account", "qos", "constraint", "signal_delay_s", "array_parallelism")
        parameters = {
            "name": f"bench-{cfg.name}",
            "timeout_min": self.timeout_min,
            "cpus_per_task": self.cpus_per_cell,
            "gpus_per_node": self.gpus_per_cell or None,
            "mem_gb": self.mem_gb,
            **{f"slurm_{name}": getattr(self, name) for name in of_slurm},
            "slurm_setup": list(self.commands) or None,
            "slurm_additional_parameters": {"requeue" if self.requeue else "no-requeue": True, **more},
        }
        self._executor: Any = submitit.AutoExecutor(
            folder, cluster=self.cluster, slurm_max_num_timeout=self.max_num_timeout
        )
        self._executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})

    def start(self, waiting: deque[CellJob], running: dict[Any, CellJob]) -> None:
        # Slurm limits an array by itself; submitit's local processes all start at once
        room = len(waiting) if self.cluster == "slurm" else min(len(waiting), self.array_parallelism - len(running))
        jobs = [waiting.popleft() for _ in range(room)]
        submitted = self._executor.map_array(PreemptibleCell(self.requeue), jobs) if jobs else []
        if jobs and self.cluster == "slurm":
            say(f"submitted {len(jobs)} Slurm jobs ({submitted[0].job_id} ...), logs in {self._executor.folder}")
        running.update(zip(submitted, jobs, strict=True))

    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        while not (done := [submitted for submitted in handles if submitted.done()]):
            time.sleep(POLL)
        return [(submitted, self._outcome(submitted)) for submitted in done]

    def close(self, handles: list[Any]) -> None:
        for submitted in handles:
            submitted.cancel()

    def _outcome(self, submitted: Any) -> Outcome:
        error = submitted.exception()
        if error is None:
            return submitted.result()
        raised = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exit|Exception): .*)$", str(error), re.MULTILINE)
        reason = raised[-1].rstrip(".") if raised else f"{submitted.state.lower()}, no result"
        return Outcome(loss=f"job {submitted.job_id}: {reason}; log {submitted.paths.stderr}")


@dataclass(frozen=True)
class PreemptibleCell:
    """A cell that submitit pickles and calls on a node; `checkpoint` is called when Slurm announces the job's end."""

    requeue: bool

    def __call__(self, job: CellJob) -> Outcome:
        return job.perform()

    def checkpoint(self, job: CellJob) -> Any:
        """Return the same cell, which finds in the store what it had finished, or None: it is not requeued."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job) if self.requeue else None
