"""Finished runs as pandas tables, which the column `run` joins.

runs = bench.load("outputs/default/*")
tuned = runs.curves.query("policy == 'tuned' and metric == 'accuracy'")
tuned.merge(runs.config[["temperature"]], on="run")
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, expanded
from bench.records import packed
from bench.records.completions import completions, frame
from bench.records.read import CURVES, FAILURE, METRICS, PER_PROMPT, SAMPLES, Run, is_finished, read_run

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Runs(Sequence[Run]):
    """Finished runs, in the given order. Tables are read on first use; BenchError where one is missing or damaged."""

    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: Any) -> Any:
        return Runs(self.runs[index]) if isinstance(index, slice) else self.runs[index]

    @functools.cached_property
    def metrics(self) -> "DataFrame":
        """One row per run, one column per metric; KL in nats per sequence. NaN: undefined, or not measured."""
        return self._by_run(run.metrics for run in self.runs)

    @functools.cached_property
    def config(self) -> "DataFrame":
        """One row per run, one column per setting by its dotted name, e.g. "training.learning_rate"."""
        return self._by_run(dotted(run.config) for run in self.runs)

    @functools.cached_property
    def curves(self) -> "DataFrame":
        """Every estimate: run, policy, method, metric, n, and value with its 95 % interval low to high."""
        return self._stacked(lambda run: frame(run, CURVES))

    @functools.cached_property
    def per_prompt(self) -> "DataFrame":
        """The values behind the estimates: run, prompt_id, policy, method, metric, n, value."""
        return self._stacked(lambda run: frame(run, PER_PROMPT))

    @functools.cached_property
    def samples(self) -> "DataFrame":
        """The completions that samples.parquet holds, of the first prompts, with their text, reward and verdict."""
        return self._stacked(lambda run: frame(run, SAMPLES))

    def completions(self, split: str, *, store: str | os.PathLike | None = None) -> "DataFrame":
        """Every completion of the runs' pools: `run` and the columns of `bench.records.completions.completions`.

        split: "train", or "test" for the held-out pool of Best-of-N ("validation" in runs that were judged there).
        """
        place = None if store is None else Path(store)
        return self._stacked(lambda run: completions(run, split, store=place))

    def _by_run(self, rows: Iterable[Mapping[str, Any]]) -> "DataFrame":
        import pandas as pd

        return pd.DataFrame(list(rows), index=pd.Index([run.folder.name for run in self.runs], name="run"))

    def _stacked(self, read: Callable[[Run], "DataFrame"]) -> "DataFrame":
        import pandas as pd

        tables = {run.folder.name: read(run) for run in self.runs}
        return pd.concat(tables, names=["run"]).reset_index("run").reset_index(drop=True)


def load(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> Runs:
    """Read the finished runs in these folders.

    paths: run folders, folders of committed reports, or patterns such as "outputs/default/*"; what a pattern finds
    beside finished runs (a report, a run that failed) is left out. A committed report has no samples, and the values
    per prompt that it reads. Raises BenchError where a folder holds no finished run, a pattern finds none, or two runs
    have one id.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    folders = [folder for path in given for folder in _folders(os.fspath(path))]
    runs = tuple(read_run(folder) for folder in dict.fromkeys(folders))
    if not runs:
        raise BenchError("bench.load was given no path; give run folders, or a pattern such as 'outputs/default/*'.")
    first: dict[str, Run] = {}
    for run in runs:
        if (other := first.setdefault(run.folder.name, run)) is not run:
            raise BenchError(f"{other.folder} and {run.folder} have one id, {run.folder.name}: give one of them.")
    return Runs(runs)


def _folders(path: str) -> list[Path]:
    if (Path(path) / packed.FILE).is_file():
        return packed.run_folders(Path(path))
    found = [Path(name) for name in expanded(path) if name == path or is_finished(Path(name))]
    if not found:
        raise BenchError(f"{path} finds no finished run.")
    if not is_finished(found[0]):
        raise no_run(found)
    return found


def no_run(folders: Sequence[Path]) -> BenchError:
    """The refusal of folders without a finished run: they failed, or hold folders of runs."""
    names = ", ".join(map(str, folders))
    above = next((folder for folder in folders if any(map(is_finished, folder.glob("*")))), None)
    todo = f"see {FAILURE} there, or run it again" if above is None else f"its runs are {str(above / '*')!r}"
    todo = todo if any(folder.is_dir() for folder in folders) else "there is no such folder"
    return BenchError(f"{names} holds no finished run (no {METRICS}); {todo}.")


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings by their dotted names."""
    names: dict[str, Any] = {}
    for name, value in settings.items():
        names |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return names


def by_last_names(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return settings by dotted names, with functions of the user's own by their last names where these are unique."""
    targets = {value for own in configs for name, value in own.items() if name.endswith("_target_")}
    last = {target: str(target).rsplit(".", 1)[-1] for target in targets}
    unique = {
        target: name
        for target, name in last.items()
        if not str(target).startswith("bench.") and list(last.values()).count(name) == 1
    }
    return [
        {name: unique.get(value, value) if name.endswith("_target_") else value for name, value in own.items()}
        for own in configs
    ]
