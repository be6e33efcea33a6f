"""The classes of the launchers for Hydra (conf/hydra/launcher); bench.launching does the work."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bench.launching.backends import Processes, RayTasks, SlurmJobs
from bench.launching.launch import Backend, launch


class CellLauncher(Backend, Launcher):
    """A backend whose jobs are the cells of one of Hydra's sweepers."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return launch(self.config, self.context, job_overrides, initial_job_idx, self)


class Joblib(Processes, CellLauncher):
    """hydra/launcher=joblib."""


class Ray(RayTasks, CellLauncher):
    """hydra/launcher=ray."""


class Slurm(SlurmJobs, CellLauncher):
    """hydra/launcher=slurm."""
