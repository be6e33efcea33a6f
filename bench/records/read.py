"""Read back what a run left: its configuration, metrics and curves."""

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.keys import run_id
from bench.errors import BenchError
from bench.evaluation.along_training import VALIDATION

SAMPLE_COLUMNS = (
    *("split", "policy", "prompt_id", "prompt", "answer", "sample"),
    *("completion", "finish_reason", "length", "reward", "selected_for"),
)


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
    """A finished run, as its folder tells it."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    curves: dict[tuple[str, str, str, int], Estimate]  # (policy, method, metric, n)

    @property
    def selection(self) -> str:
        return self.config["selection"]["_target_"].rsplit(".", 1)[-1]

    @property
    def controlled(self) -> bool:
        """Whether a random twin was trained too."""
        return self.config.get("control") != "none"

    def series(self, policy: str, method: str, metric: str) -> dict[int, Estimate]:
        """n -> estimate, in order of n."""
        found = {key[3]: estimate for key, estimate in self.curves.items() if key[:3] == (policy, method, metric)}
        return dict(sorted(found.items()))

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        """[M]: the values behind one mean, in the order of the test prompts."""
        return self._per_prompt[policy, method, metric, n]

    @functools.cached_property
    def prompt_ids(self) -> tuple[str, ...]:
        """Of the test prompts, in their order."""
        import pyarrow.parquet as pq

        with _whole(self.folder / "per_prompt.parquet") as path:
            ids = tuple(dict.fromkeys(pq.read_table(path, columns=["prompt_id"])["prompt_id"].to_pylist()))
            expected = self.metrics.get("test/prompts", len(ids))
            if len(ids) != expected:
                raise ValueError(f"it has {len(ids)} prompts, where the run had {expected}")
        return ids

    @functools.cached_property
    def lineage(self) -> list[dict[str, Any]]:
        """Every ancestor artifact: stage, key, part, settings, counts, seconds."""
        with _whole(self.folder / "lineage.json") as path:
            entries = json.loads(path.read_text())
            needed = {"stage", "key", "part", "settings", "counts", "seconds"}
            if not isinstance(entries, list) or not all(
                isinstance(one, dict) and needed <= set(one) for one in entries
            ):
                raise ValueError(f"it should list artifacts with their {', '.join(sorted(needed))}")
        return entries

    @functools.cached_property
    def samples(self) -> dict[str, list]:
        """The columns of samples.parquet."""
        import pyarrow.parquet as pq

        with _whole(self.folder / "samples.parquet") as path:
            columns = pq.read_table(path).to_pydict()
            if missing := [name for name in SAMPLE_COLUMNS if name not in columns]:
                raise ValueError(f"it lacks {', '.join(missing)}")
        return columns

    @functools.cached_property
    def _per_prompt(self) -> dict[tuple[str, str, str, int], np.ndarray]:
        import pyarrow.parquet as pq

        with _whole(self.folder / "per_prompt.parquet") as path:
            table = pq.read_table(path).to_pandas()
            keys = ["policy", "method", "metric", "n"]
            parts = dict(iter(table.groupby(keys, sort=False)))
            for key, part in parts.items():
                if tuple(part["prompt_id"]) != self.prompt_ids:
                    raise ValueError(f"{' '.join(map(str, key))} has not one row for each of its prompts")
            if absent := [key for key in self.curves if key not in parts and key[1] != VALIDATION]:
                raise ValueError(f"{' '.join(map(str, absent[0]))} of curves.parquet is not in it")
        return {key: part["value"].to_numpy() for key, part in parts.items()}


def read_run(folder: str | Path) -> Run:
    """The run in `folder`; BenchError where it is not a finished one, or a record of it is damaged."""
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf

    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise BenchError(f"{folder} holds no finished run (no metrics.json); see error.txt there, or run it again.")
    with _whole(folder / "config.yaml") as path:
        loaded = OmegaConf.load(path)
        config = _mapping(OmegaConf.to_container(loaded))
        _refuse_edited(folder, loaded)
    with _whole(folder / "metrics.json") as path:
        metrics = _mapping(json.loads(path.read_text()))
        _refuse_no_numbers(metrics)
    with _whole(folder / "curves.parquet") as path:
        curves = {
            (row["policy"], row["method"], row["metric"], row["n"]): Estimate(row["value"], row["low"], row["high"])
            for row in pq.read_table(path).to_pylist()
        }
    return Run(folder, config, metrics, curves)


def _refuse_edited(folder: Path, config: Any) -> None:
    """BenchError where the folder is called by a configuration, and the one in it is another.

    Folders of other names, as of a copy, say nothing of their configuration.
    """
    name = folder.absolute().name
    if re.fullmatch(r"[0-9a-f]{10}", name) and run_id(config) != name:
        raise BenchError(
            f"{folder / 'config.yaml'} was changed since the run: its settings give the id {run_id(config)}, "
            "not that of the folder; run the experiment again to rewrite it."
        )


def _refuse_no_numbers(metrics: dict[str, Any]) -> None:
    """ValueError where a metric is neither a number nor a word; a hash of code may look like either."""
    for name, value in metrics.items():
        text = isinstance(value, str) and name != "code" and _is_number(value)
        if text or not (value is None or isinstance(value, int | float | str)):
            raise ValueError(f"{name} should be a number, not {json.dumps(value)[:40]}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """BenchError where the file can't be read as what it should be."""
    from yaml import YAMLError

    try:
        yield path
    except BenchError:
        raise
    except (OSError, ValueError, KeyError, YAMLError) as error:
        raise BenchError(f"{path} {_why(error)}; run the experiment again to rewrite it.") from error


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not found"
    if isinstance(error, OSError) and error.strerror:
        return f"can't be read ({error.strerror})"
    return f"is damaged ({' '.join(str(error).split())})"


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise ValueError("it should hold names and values")
    return content


def short(number: float) -> str:
    """Three decimals below 1, without the leading 0; two above."""
    if abs(number) < 1:
        number = round(number, 3) + 0.0  # no -0.000
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"
