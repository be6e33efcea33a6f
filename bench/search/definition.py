"""The definition of a search: its space, settings, cells and trials, read from the command line and checked."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from bench.artifacts import content_hash
from bench.config import checks
from bench.config.compose import SWEEPER_PLUGINS, Composer, composing, install_plugins, opened
from bench.config.nodes import refuse
from bench.config.rules import Count, Seed, Workers, number, or_null, rules, text
from bench.errors import BenchError
from bench.records.fingerprint import code_of, fingerprint
from bench.seeds import small_seed
from bench.sweeps.cells import Cell, refuse_given_twice

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

    from bench.search.space import Distribution

JOURNAL = "search.journal"
METRIC = text(r"[^\s=]+", "the name of a number in metrics.json")


@dataclass(frozen=True)
class SearchSettings:
    """The settings of conf/hydra/sweeper/optuna.yaml."""

    trials: Count
    at_once: Workers  # trials that are proposed together, and run together where the launcher can
    maximize: Annotated[str, METRIC]  # has a value per prompt, such as tuned/pass@1
    minimize: Annotated[str, METRIC]
    limit: Annotated[float | None, or_null(number())]  # the chosen trial has `minimize` at most this
    seed: Seed
    sampler: DictConfig  # an Optuna sampler that takes a seed


@dataclass(frozen=True, eq=False)
class Search:
    """One search, as the command line gives it."""

    settings: SearchSettings
    space: "dict[str, Distribution]"
    fixed: tuple[str, ...]  # overrides that all cells share
    baseline: dict[str, Any]  # the searched settings as the experiment has them without a search
    conf: str
    _cells: dict[tuple[str, str], Cell] = field(default_factory=dict, init=False)
    _composer: Composer = field(default_factory=Composer, init=False)

    def overrides(self, params: dict[str, Any], split: str) -> list[str]:
        """The overrides of the cell with these values of the searched settings."""
        return [*self.fixed, *self.values(params), f"split={split}"]

    def values(self, params: dict[str, Any]) -> list[str]:
        from bench.search.space import as_text

        return [f"{key}={as_text(distribution, params[key])}" for key, distribution in self.space.items()]

    def cell(self, params: dict[str, Any], split: str = "validation") -> Cell:
        label = " ".join(self.values(params))
        if (label, split) not in self._cells:
            with composing(self.conf):
                cfg = self._composer.compose(self.overrides(params, split))
            self._cells[label, split] = Cell(label, cfg, self.fixed_keys)
        return self._cells[label, split]

    @property
    def fixed_keys(self) -> tuple[str, ...]:
        return tuple(override.partition("=")[0].lstrip("+~") for override in self.fixed)

    @functools.cached_property
    def root(self) -> Path:
        """outputs/<name>"""
        return self.cell(self.baseline).folder.parent

    @functools.cached_property
    def key(self) -> str:
        """Equal for searches that share trials: same code, fixed settings, space, objectives, sampler and seed."""
        from optuna.distributions import distribution_to_json

        space = {name: distribution_to_json(distribution) for name, distribution in self.space.items()}
        sampler = OmegaConf.to_container(self.settings.sampler, resolve=True)
        wanted = [self.settings.maximize, self.settings.minimize, sampler, self.settings.seed]
        cell = self.cell(self.baseline)
        return content_hash(fingerprint(code_of(cell.config)), cell.id, space, wanted)

    @property
    def baseline_is_inside(self) -> bool:
        from bench.search.space import contains

        return all(contains(distribution, self.baseline[key]) for key, distribution in self.space.items())

    def study(self, *, create: bool = False) -> "Study | None":
        """Optuna's study of this search, or None where it has not begun and is not to be created."""
        from optuna import create_study, get_all_study_names
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journal = self.root / JOURNAL
        if not create and not journal.is_file():
            return None
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        if not create and self.key not in get_all_study_names(storage):
            return None
        return create_study(
            storage=storage, study_name=self.key, directions=["maximize", "minimize"], load_if_exists=True
        )

    def sampler(self, trials: int) -> "BaseSampler":
        """The sampler after so many trials, whose seed they are: a search that was stopped continues unchanged."""
        from hydra.utils import instantiate

        return instantiate(self.settings.sampler)(seed=small_seed(self.settings.seed, "search", trials))


def read(overrides: Sequence[str], conf: str) -> Search | None:
    """The search that a command line describes, if any. BenchError, or Hydra's, where an end of it is impossible."""
    install_plugins()
    overrides = opened(overrides)
    with composing(conf):
        of_hydra = [override for override in overrides if override.lstrip("+~").startswith("hydra")]
        named = [override for override in overrides if override.lstrip("+").startswith("sweep=")]
        if not named and not of_hydra:
            return None  # Hydra's own sweeper
        node = compose("config", [*named, *of_hydra], return_hydra_config=True).hydra.sweeper
        if node.get("_target_") != f"{SWEEPER_PLUGINS}.OptunaSearch":
            return None
        try:
            import optuna
        except ImportError as error:
            raise BenchError("hydra/sweeper=optuna needs Optuna: install the extra `search`.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        from bench.search.space import distribution

        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in node.params.items()), *overrides])
        refuse_given_twice(parsed[len(node.params) :])
        last = {override.get_key_element(): override for override in parsed}
        space = {key: distribution(override) for key, override in last.items() if override.is_sweep_override()}
        fixed = tuple(
            str(override.input_line)
            for key, override in last.items()
            if key not in space and (key == "hydra.searchpath" or not key.lstrip("+~").startswith("hydra"))
        )
        composed = compose("config", [*fixed, *of_hydra], return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        baseline = {key: choices[key] if key in choices else OmegaConf.select(composed, key) for key in space}
        search = Search(_settings(composed.hydra.sweeper), space, fixed, baseline, conf)
        _check(search)
    return search


def _settings(node: DictConfig) -> SearchSettings:
    given = {setting.name: node[setting.name] for setting in fields(SearchSettings)}
    for name, rule in rules(SearchSettings).items():
        refuse(f"hydra.sweeper.{name}", given[name], rule)
    return SearchSettings(**given)


def _check(search: Search) -> None:
    from bench.search.space import extremes

    if not search.space:
        raise BenchError("A search needs settings to vary, e.g. 'temperature=interval(0.4,1.6)'.")
    if any(override.lstrip("+").startswith("split=") for override in search.fixed):
        raise BenchError("split is not a setting of a search: it is judged on validation, what it chooses on test.")
    search.cell({key: extremes(distribution)[0] for key, distribution in search.space.items()})  # knows every setting
    try:
        check_cell(search.cell(search.baseline))
    except BenchError as error:
        judged = "The experiment without a search, which is judged at its end, can't be run"
        raise BenchError(f"{judged}: {error}") from error
    for key, distribution in search.space.items():
        for value in extremes(distribution):
            check_cell(search.cell(search.baseline | {key: value}))


def check_cell(cell: Cell) -> None:
    """BenchError where the cell can't be run."""
    checks.check(cell.cfg)
    _ = cell.parts
