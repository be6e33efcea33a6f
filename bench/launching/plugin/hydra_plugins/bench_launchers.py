"""The launchers as Hydra knows them, for conf/hydra/launcher; what they do is in bench.launching."""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bench import launching
from bench.config.rules import TRUE_OR_FALSE, Count, one_of, or_null, text, whole
from bench.generation.ray_pool import ADDRESS
from bench.launching import processes, ray_tasks, slurm_jobs
from bench.launching.devices import GPUS
from bench.launching.jobs import Job

Retries = Annotated[int, whole(0)]  # times that a cell whose process was lost is run again
NAME = or_null(text(r"\S+", "a name without spaces"))


class CellLauncher(Launcher):
    """What the three have in common: `check` before a sweep's first cell, `run` for its cells."""

    config: DictConfig
    context: HydraContext

    @abc.abstractmethod
    def check(self, cfg: DictConfig) -> None:
        """Raise BenchError where no cell of this configuration could be launched."""

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job]) -> None: ...

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return launching.launch(self.config, self.context, job_overrides, initial_job_idx, self.run)


class Joblib(CellLauncher):
    def __init__(
        self,
        *,
        n_jobs: Annotated[int | None, or_null(whole(1))] = None,
        gpus_per_cell: Annotated[float | None, or_null(GPUS)] = None,
        retries: Retries = 2,
    ) -> None:
        self.n_jobs, self.gpus_per_cell, self.retries = n_jobs, gpus_per_cell, retries

    def check(self, cfg: DictConfig) -> None:
        self._workers(cfg)

    def run(self, jobs: Sequence[Job]) -> None:
        processes.run(jobs, self._workers(self.config)[: len(jobs)], retries=self.retries)

    def _workers(self, cfg: DictConfig) -> list[dict[str, str]]:
        return processes.workers(n_jobs=self.n_jobs, gpus_per_cell=self.gpus_per_cell, threads=cfg.threads)


class Ray(CellLauncher):
    def __init__(
        self,
        *,
        address: Annotated[str | None, or_null(ADDRESS)] = None,
        cpus_per_cell: Count = 1,
        gpus_per_cell: Annotated[float | None, or_null(GPUS)] = None,
        retries: Retries = 2,
    ) -> None:
        self.address, self.cpus_per_cell = address, cpus_per_cell
        self.gpus_per_cell, self.retries = gpus_per_cell, retries

    def check(self, cfg: DictConfig) -> None:
        ray_tasks.join(self.address, self.cpus_per_cell, self.gpus_per_cell)

    def run(self, jobs: Sequence[Job]) -> None:
        asked = ray_tasks.join(self.address, self.cpus_per_cell, self.gpus_per_cell)
        ray_tasks.run(jobs, asked, retries=self.retries)


class Slurm(CellLauncher):
    def __init__(
        self,
        *,
        cluster: Annotated[str, one_of("slurm", "local")] = "slurm",
        partition: Annotated[str | None, NAME] = None,
        account: Annotated[str | None, NAME] = None,
        qos: Annotated[str | None, NAME] = None,
        constraint: Annotated[str | None, NAME] = None,
        timeout_min: Count = 240,
        cpus_per_cell: Count = 1,
        gpus_per_cell: Annotated[int, whole(0)] = 0,
        mem_gb: Annotated[int | None, or_null(whole(1))] = None,
        array_parallelism: Count = 256,
        requeue: Annotated[bool, TRUE_OR_FALSE] = True,
        signal: Annotated[str, one_of("USR1", "USR2")] = "USR2",
        signal_delay_s: Count = 90,
        max_num_timeout: Annotated[int, whole(0)] = 3,
        retries: Retries = 2,
        commands: Sequence[str] = (),
        additional_parameters: dict[str, Any] | None = None,
    ) -> None:
        self.cluster, self.requeue, self.signal = cluster, requeue, signal
        self.array_parallelism, self.max_num_timeout, self.retries = array_parallelism, max_num_timeout, retries
        more = OmegaConf.to_container(OmegaConf.create(additional_parameters or {}), resolve=True)
        assert isinstance(more, dict)
        self.parameters = {
            "timeout_min": timeout_min,
            "cpus_per_task": cpus_per_cell,
            "gpus_per_node": gpus_per_cell or None,
            "mem_gb": mem_gb,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_signal_delay_s": signal_delay_s,
            "slurm_array_parallelism": array_parallelism,
            "slurm_setup": list(commands) or None,
            "slurm_additional_parameters": {"requeue" if requeue else "no-requeue": True, **more},
        }

    def check(self, cfg: DictConfig) -> None:
        slurm_jobs.check(self.cluster)

    def run(self, jobs: Sequence[Job]) -> None:
        executor = slurm_jobs.executor(
            Path(self.config.outputs, ".multirun", self.cluster).absolute(),
            cluster=self.cluster,
            signal=self.signal,
            max_num_timeout=self.max_num_timeout,
            parameters={"name": f"bench-{self.config.name}", **self.parameters},
        )
        slurm_jobs.run(
            jobs,
            executor,
            cluster=self.cluster,
            requeue=self.requeue,
            array_parallelism=self.array_parallelism,
            retries=self.retries,
        )
