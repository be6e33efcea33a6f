"""The search as a sweeper of Hydra, for conf/hydra/sweeper; bench.search does the work."""

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSearch(Sweeper):
    def __init__(self, **settings: Any) -> None:
        """settings: those of conf/hydra/sweeper/optuna.yaml, which `bench.search.read` reads and checks."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = list(config.hydra.overrides.hydra)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.launched = 0

    def sweep(self, arguments: list[str]) -> None:
        """Run the missing trials of the search that these settings describe."""
        from bench.search import loop, read  # Hydra imports this module for every command

        search = read([*self.given, *arguments], conf="")  # Hydra runs, and composes from its own configuration
        assert search is not None
        loop.run(search, self._launch)

    def _launch(self, jobs: Sequence[Sequence[str]]) -> None:
        returned = self.launcher.launch(jobs, initial_job_idx=self.launched)
        self.launched += len(jobs)
        for job in returned:
            _ = job.return_value  # raises what a launcher could not do; a cell's own failure is in its folder
