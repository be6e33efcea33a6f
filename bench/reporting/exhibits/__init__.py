"""What a report shows, one module per subject: its figures, its tables and its sentences.

To add a subject, add a module here; its functions are marked with `bench.reporting.exhibit.shows`, and no other file
changes. A function of your own module joins by a YAML file, conf/figure/NAME.yaml or DIR/figure/NAME.yaml with
config_dir=DIR:

    _target_: my_module.my_exhibit  # (groups, **settings) -> a Figure, a Table, a sentence, a list of these, or None
    _partial_: true
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import BenchError
from bench.records.read import Run
from bench.reporting.axes import NONE, Wanted
from bench.reporting.exhibit import Figure, Kind, Table, from_records
from bench.reporting.groups import Group, grouped

Part = Callable[..., Any]  # of groups and, in this package where axes can be chosen, of those that are wanted
Shown = TypeVar("Shown", Figure, Table, str)


@functools.cache
def parts(kind: Kind) -> tuple[Part, ...]:
    """The functions that are marked with this kind in the modules of this package, in order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    marked = {value for module in modules for value in vars(module).values() if kind in getattr(value, "shows", ())}
    return tuple(sorted(marked, key=lambda function: (function.shows[kind], function.__name__)))


def figures(runs: Sequence[Run], own: Sequence[Part] = (), axes: Wanted = NONE) -> list[Figure]:
    """The figures that these runs' records hold, in the order of a paper. own: functions beside this package's.

    axes: what is wanted on the axes of a figure. BenchError where the runs can't be compared, or it is not possible.
    """
    return list(made("figures", Figure, grouped(runs), own, axes))


def tables(runs: Sequence[Run], own: Sequence[Part] = ()) -> list[Table]:
    """The tables that these runs' records hold, likewise."""
    return list(made("tables", Table, grouped(runs), own))


def sentences(runs: Sequence[Run], own: Sequence[Part] = ()) -> list[str]:
    """What these runs show, each finding with its interval; "not resolved" where nothing is shown."""
    return list(made("sentences", str, grouped(runs), own))


def of_one_run(run: Run) -> list[Figure]:
    """The figures in a single run's own folder."""
    return list(made("of_one_run", Figure, grouped([run])))


def method_sentences(kind: Kind, groups: Sequence[Group]) -> list[str]:
    """The procedures' own sentences in the methods paragraph, each once."""
    return list(dict.fromkeys(made(kind, str, groups)))


def made(
    kind: Kind,
    wanted: type[Shown],
    groups: Sequence[Group],
    own: Sequence[Part] = (),
    axes: Wanted = NONE,
    only: Part | None = None,
) -> Iterator[Shown]:
    """Make the exhibits of a kind one after the other. wanted: their type. only: those of one function."""
    for part in (*parts(kind), *own) if only is None else (only,):
        with from_records(getattr(part, "__name__", "an exhibit"), [run for group in groups for run in group.runs]):
            chosen = part not in own and "axes" in inspect.signature(part).parameters
            exhibits = part(groups, axes) if chosen else part(groups)
        for exhibit in exhibits if isinstance(exhibits, list | tuple) else [exhibits]:
            if isinstance(exhibit, wanted):
                yield exhibit


def from_configs(*folders: Path) -> list[Part]:
    """The functions of FOLDER/figure/*.yaml. BenchError where one can't be read or imported, or is no function."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    functions = []
    for path in sorted(path for folder in folders for path in (folder / "figure").glob("*.yaml")):
        try:
            function = instantiate(OmegaConf.load(path))
        except Exception as error:  # whatever a user's own module raises
            raise BenchError(f"{path} names no exhibit: {' '.join(str(error).split())}") from error
        if not callable(function):
            raise BenchError(f"{path} names no exhibit: it needs _target_, and _partial_: true.")
        functions.append(function)
    return functions
