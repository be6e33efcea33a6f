"""Read the folder of a run. Its files are data: nothing is instantiated, resolved or executed."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench.config.keys import id_of_settings
from bench.errors import BenchError
from bench.evaluation.heldout import VALIDATION
from bench.records.fingerprint import FILE as CODE

CONFIG, METRICS, LINEAGE, ARTIFACTS = "config.yaml", "metrics.json", "lineage.json", "chain.json"
CURVES, PER_PROMPT = "curves.parquet", "per_prompt.parquet"
SAMPLES, DIAGNOSTICS = "samples.parquet", "diagnostics.parquet"
# every complete run has these
RECORDS = (CONFIG, METRICS, LINEAGE, ARTIFACTS, CURVES, PER_PROMPT, SAMPLES, DIAGNOSTICS)
FAILURE = "error.txt"  # why the last attempt failed
TIMES = "times.json"  # when the run started and how long it took

LINEAGE_FIELDS = {"stage", "key", "part", "settings", "counts", "seconds"}
SAMPLE_COLUMNS = (
    *("split", "policy", "prompt_id", "prompt", "answer", "sample"),
    *("completion", "finish_reason", "length", "reward", "selected_for"),
)

if TYPE_CHECKING:
    from pandas import DataFrame

Curve = tuple[str, str, str, int]  # policy, method, metric, n


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


@dataclass(frozen=True)
class Run:
    """A finished run. A table is read on first use; BenchError where it is missing or damaged."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    curves: dict[Curve, Estimate]

    @property
    def selection(self) -> str:
        """The name of the selection function."""
        return self.config["selection"]["_target_"].rsplit(".", 1)[-1]

    @property
    def controlled(self) -> bool:
        """Whether the run trained a random control too."""
        return self.config.get("control") != "none"

    @functools.cached_property
    def code(self) -> dict[str, str]:
        """Module -> hash of its source, of the code that made the run. Older records have one hash for all modules."""
        if not (self.folder / CODE).is_file():
            return {"bench": str(self.metrics.get("code"))}
        with _intact(self.folder / CODE) as path:
            return _mapping(json.loads(path.read_text()))

    def series(self, policy: str, method: str, metric: str) -> dict[int, Estimate]:
        """n -> estimate, in order of n."""
        points = {key[3]: estimate for key, estimate in self.curves.items() if key[:3] == (policy, method, metric)}
        return dict(sorted(points.items()))

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        """[M]: the values behind one estimate, in the order of the test prompts."""
        return self._per_prompt[policy, method, metric, n]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of the run's tables, e.g. `run.rows(DIAGNOSTICS)`."""
        with _intact(self.folder / name) as path:
            return _table(path).to_pylist()

    def frame(self, name: str) -> "DataFrame":
        """One of the run's tables as a pandas frame."""
        with _intact(self.folder / name) as path:
            return _table(path).to_pandas()

    @functools.cached_property
    def prompt_ids(self) -> tuple[str, ...]:
        """The ids of the test prompts, in their order."""
        with _intact(self.folder / PER_PROMPT) as path:
            ids = tuple(dict.fromkeys(_table(path, ["prompt_id"])["prompt_id"].to_pylist()))
            expected = self.metrics.get("test/prompts", len(ids))
            if len(ids) != expected:
                raise ValueError(f"it has {len(ids)} prompts, where the run had {expected}")
        return ids

    @functools.cached_property
    def lineage(self) -> list[dict[str, Any]]:
        """Every ancestor artifact: stage, key, part, settings, counts, seconds."""
        with _intact(self.folder / LINEAGE) as path:
            entries = json.loads(path.read_text())
            if not isinstance(entries, list) or not all(
                isinstance(entry, dict) and set(entry) >= LINEAGE_FIELDS for entry in entries
            ):
                raise ValueError(f"it should list artifacts with their {', '.join(sorted(LINEAGE_FIELDS))}")
        return entries

    @functools.cached_property
    def samples(self) -> dict[str, list]:
        """The columns of samples.parquet."""
        with _intact(self.folder / SAMPLES) as path:
            columns = _table(path).to_pydict()
            if missing := [name for name in SAMPLE_COLUMNS if name not in columns]:
                raise ValueError(f"it lacks {', '.join(missing)}")
        return columns

    @functools.cached_property
    def _per_prompt(self) -> dict[Curve, np.ndarray]:
        with _intact(self.folder / PER_PROMPT) as path:
            groups = _table(path).to_pandas().groupby(["policy", "method", "metric", "n"], sort=False)
            values: dict[Any, np.ndarray] = {}
            for curve, part in groups:
                if tuple(part["prompt_id"]) != self.prompt_ids:
                    raise ValueError(f"{' '.join(map(str, curve))} has not one row for each of its prompts")
                values[curve] = part["value"].to_numpy()
            absent = [curve for curve in self.curves if curve not in values and curve[1] != VALIDATION]
            if absent:
                raise ValueError(f"{' '.join(map(str, absent[0]))} of {CURVES} is not in it")
        return values


def read_run(folder: str | Path) -> Run:
    """The run in `folder`; BenchError where the run is not finished, or its config, metrics or curves are damaged."""
    folder = Path(folder)
    if not is_finished(folder):
        raise BenchError(f"{folder} holds no finished run (no {METRICS}); see {FAILURE} there, or run it again.")
    config, metrics = read_config(folder), read_metrics(folder)
    with _intact(folder / CURVES) as path:
        curves = {
            (row["policy"], row["method"], row["metric"], row["n"]): Estimate(row["value"], row["low"], row["high"])
            for row in _table(path).to_pylist()
        }
    return Run(folder, config, metrics, curves)


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds metrics.json, the record that a run writes last."""
    return (folder / METRICS).is_file()


def missing_records(folder: Path) -> list[str]:
    """The names of the records that `folder` lacks: none where a run is complete."""
    return [name for name in RECORDS if not (folder / name).is_file()]


def read_config(folder: Path) -> dict[str, Any]:
    """The run's settings. BenchError where config.yaml is damaged, or differs from the run id that names the folder.

    A folder with another name, such as a copy, is not compared.
    """
    with _intact(folder / CONFIG) as path:
        config = _mapping(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    name = folder.absolute().name
    if re.fullmatch(r"[0-9a-f]{10}", name) and (own := id_of_settings(config)) != name:
        raise BenchError(
            f"{folder / CONFIG} was changed since the run: its settings give the id {own}, not that of the folder; "
            "run the experiment again to rewrite it."
        )
    return config


def read_metrics(folder: Path) -> dict[str, Any]:
    """The run's metrics by name: numbers, texts, and None for an undefined number. BenchError where damaged."""
    with _intact(folder / METRICS) as path:
        metrics = _mapping(json.loads(path.read_text()))
        for name, value in metrics.items():
            # a number in quotes; the hash of the code may look like one
            quoted = isinstance(value, str) and name != "code" and as_number(value) is not None
            if quoted or not (value is None or isinstance(value, int | float | str)):
                raise ValueError(f"{name} should be a number, not {json.dumps(value)[:40]}")
    return metrics


def failure(folder: Path) -> str | None:
    """Why the last attempt at the run failed, in one line; None where it did not fail."""
    if not (folder / FAILURE).is_file():
        return None
    lines = (folder / FAILURE).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason was written"


def seconds(folder: Path) -> float:
    """The run's wall-clock time in seconds; NaN where it was not recorded or can't be read."""
    try:
        return float(json.loads((folder / TIMES).read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # it only serves to predict the time of other runs
        return float("nan")


def as_number(text: str) -> float | None:
    """The number that `text` spells; None where it spells none."""
    try:
        return float(text)
    except ValueError:
        return None


def short(number: float) -> str:
    """Three decimals below 1, without the leading 0; two above."""
    if abs(number) < 1:
        number = round(number, 3) + 0.0  # no -0.000
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"


def _table(path: Path, columns: list[str] | None = None) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=columns)


@contextmanager
def _intact(path: Path) -> Iterator[Path]:
    """Turn the exceptions of reading a missing or damaged file into a BenchError that names the file."""
    try:
        yield path
    except BenchError:
        raise
    except FileNotFoundError as error:
        raise _unreadable(path, "is not found") from error
    except (OSError, ValueError, KeyError, YAMLError, OmegaConfBaseException) as error:
        failed = isinstance(error, OSError) and error.strerror
        reason = f"can't be read ({failed})" if failed else f"is damaged ({' '.join(str(error).split())})"
        raise _unreadable(path, reason) from error


def _unreadable(path: Path, reason: str) -> BenchError:
    return BenchError(f"{path} {reason}; run the experiment again to rewrite it.")


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping) or not content:
        raise ValueError("it should hold names and values")
    return dict(content)
