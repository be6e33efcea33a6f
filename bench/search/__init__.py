"""A search instead of a grid: cells proposed by Optuna for two objectives, judged on validation prompts only.

    python -m bench sweep=search_temperature_top_p                         run it, or go on with it
    python -m bench -m hydra/sweeper=optuna 'temperature=interval(0.4,1.6)' 'top_p=interval(0.5,1.0)'
    python -m bench sweep=search_temperature_top_p plan=true               only say what would run, and its cost
    python -m bench.status sweep=search_temperature_top_p                  trials so far, and the best of them

What a trial came to is read from its run folder, so that it may run anywhere. outputs/<name>/search.journal keeps the
trials (Optuna's own format). When all are done, the chosen cell and the one without a search are judged on test.
"""

import contextlib
import copy
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import DictConfig, OmegaConf

from bench.artifacts import content_hash
from bench.config import checks, plugins
from bench.config.keys import run_id
from bench.config.rules import Count, Seed, number, or_null, rules, text
from bench.errors import BenchError
from bench.records.fingerprint import code_of, fingerprint
from bench.sweeps.cells import Cell

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

JOURNAL = "search.journal"
METRIC = text(r"[^\s=]+", "the name of a number in metrics.json")


@dataclass(frozen=True)
class Wanted:
    """The settings of conf/hydra/sweeper/optuna.yaml."""

    trials: Count
    at_once: Count  # trials proposed together, and run together where the launcher does
    maximize: Annotated[str, METRIC]  # has a value a prompt, as tuned/pass@1
    minimize: Annotated[str, METRIC]
    limit: Annotated[float | None, or_null(number())]  # chosen is the highest `maximize` with `minimize` at most this
    seed: Seed
    sampler: DictConfig  # an Optuna sampler that takes a seed


@dataclass(frozen=True, eq=False)
class Search:
    """One search, as the command line gives it."""

    wanted: Wanted
    space: "dict[str, BaseDistribution]"
    fixed: tuple[str, ...]  # overrides given alike to every cell
    baseline: dict[str, Any]  # the searched settings as they are without a search
    plain: frozenset[str]  # searched settings that only replace a value: what else there is stays as composed
    conf: str

    def overrides(self, params: dict[str, Any], split: str) -> list[str]:
        """Of the cell with these values of the searched settings."""
        return [*self.fixed, *self.values(params), f"split={split}"]

    def values(self, params: dict[str, Any]) -> list[str]:
        from bench.search.space import typed

        return [f"{key}={typed(distribution, params[key])}" for key, distribution in self.space.items()]

    def cell(self, params: dict[str, Any], split: str = "validation") -> Cell:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        values = self.values(params)
        label = " ".join(values)
        if (label, split) not in self._cells:
            plain = [override for override in values if override.partition("=")[0] in self.plain]
            cfg = copy.deepcopy(self._composed(tuple(override for override in values if override not in plain)))
            for override in OverridesParser.create().parse_overrides([*plain, f"split={split}"]):
                OmegaConf.update(cfg, override.key_or_group, override.value())
            self._cells[label, split] = Cell(label, cfg, self.fixed_keys)
        return self._cells[label, split]

    def _composed(self, overrides: tuple[str, ...]) -> DictConfig:
        """Which takes a tenth of a second."""
        from hydra import compose

        if overrides not in self._bases:
            with composing(self.conf):
                self._bases[overrides] = compose("config", [*self.fixed, *overrides])
        return self._bases[overrides]

    @property
    def fixed_keys(self) -> tuple[str, ...]:
        return tuple(override.partition("=")[0].lstrip("+~") for override in self.fixed)

    @functools.cached_property
    def _cells(self) -> dict[tuple[str, str], Cell]:
        return {}

    @functools.cached_property
    def _bases(self) -> dict[tuple[str, ...], DictConfig]:
        return {}

    @functools.cached_property
    def root(self) -> Path:
        """outputs/<name>"""
        return self.cell(self.baseline).folder.parent

    @functools.cached_property
    def key(self) -> str:
        """Equal where trials may be shared: the same code, fixed settings, space, objectives, sampler and seed."""
        from optuna.distributions import distribution_to_json

        space = {name: distribution_to_json(found) for name, found in self.space.items()}
        sampler = OmegaConf.to_container(self.wanted.sampler, resolve=True)
        cfg = self.cell(self.baseline).cfg
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        wanted = [self.wanted.maximize, self.wanted.minimize, sampler, self.wanted.seed]
        return content_hash(fingerprint(code_of(config)), run_id(cfg), space, wanted)

    @property
    def baseline_is_inside(self) -> bool:
        from bench.search.space import contains

        return all(contains(distribution, self.baseline[key]) for key, distribution in self.space.items())

    def study(self, *, create: bool = False) -> "Study | None":
        """Its trials; None where it has not begun, unless it is to begin now."""
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
        """Seeded by how many trials there are, so that a search which was stopped goes on as if it had not been."""
        from hydra.utils import instantiate

        from bench.seeds import small_seed

        return instantiate(self.wanted.sampler)(seed=small_seed(self.wanted.seed, "search", trials))


def read(overrides: Sequence[str], conf: str) -> Search | None:
    """The search that a command line asks for, checked; None where it asks for none.

    BenchError, or what Hydra raises, where an end of its space is impossible.
    """
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    plugins.install()
    with composing(conf):
        of_hydra = [override for override in overrides if override.lstrip("+~").startswith("hydra")]
        named = [override for override in overrides if override.lstrip("+").startswith("sweep=")]
        node = compose("config", [*named, *of_hydra], return_hydra_config=True).hydra.sweeper
        if node.get("_target_") != f"{plugins.SWEEPERS}.OptunaSearch":
            return None
        _need_optuna()
        from bench.search.space import distribution

        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in node.params.items()), *overrides])
        last = {override.get_key_element(): override for override in parsed}
        space = {key: distribution(override) for key, override in last.items() if override.is_sweep_override()}
        fixed = tuple(
            str(override.input_line)
            for key, override in last.items()
            if key not in space and not key.lstrip("+~").startswith("hydra")
        )
        composed = compose("config", [*fixed, *of_hydra], return_hydra_config=True)
        baseline = {key: _value(composed, key) for key in space}
        choices = composed.hydra.runtime.choices
        plain = frozenset(key for key in space if key not in choices and key[0] not in "+~")
        search = Search(_wanted(composed.hydra.sweeper), space, fixed, baseline, plain, conf)
        _check(search)
    return search


@contextlib.contextmanager
def composing(conf: str) -> Iterator[None]:
    """Inside, Hydra composes from `conf`; where Hydra runs already, from what it runs with."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(conf, version_base="1.3"):
            yield


def _wanted(node: DictConfig) -> Wanted:
    given = {field.name: node[field.name] for field in fields(Wanted)}
    for name, rule in rules(Wanted).items():
        if not rule.allows(given[name]):
            shown = json.dumps(given[name]).strip('"')
            raise BenchError(f"hydra.sweeper.{name}={shown} is not allowed: it must be {rule.description}.")
    return Wanted(**given)


def _value(composed: DictConfig, key: str) -> Any:
    choices = composed.hydra.runtime.choices
    return choices[key] if key in choices else OmegaConf.select(composed, key)


def _check(search: Search) -> None:
    from hydra import compose

    from bench.search.space import extremes

    if not search.space:
        raise BenchError("A search needs settings to vary, e.g. 'temperature=interval(0.4,1.6)'.")
    if any(override.lstrip("+").startswith("split=") for override in search.fixed):
        raise BenchError("split is not a setting of a search: it is judged on validation, what it chooses on test.")
    with composing(search.conf):  # where one of them is no setting, Hydra says so
        compose(
            "config", search.overrides({key: extremes(found)[0] for key, found in search.space.items()}, "validation")
        )
    for key, distribution in search.space.items():
        for value in extremes(distribution):
            cfg = search.cell(search.baseline | {key: value}).cfg
            checks.check(cfg)
            checks.build_parts(cfg)


def _need_optuna() -> None:
    try:
        import optuna
    except ImportError as error:
        raise BenchError("hydra/sweeper=optuna needs Optuna: install the extra `search`.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
