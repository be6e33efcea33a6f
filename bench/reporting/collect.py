"""Read back what a run left: its configuration, metrics and curves."""

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError


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
            ids = pq.read_table(path, columns=["prompt_id"])["prompt_id"].to_pylist()
        return tuple(dict.fromkeys(ids))

    @functools.cached_property
    def _per_prompt(self) -> dict[tuple[str, str, str, int], np.ndarray]:
        import pyarrow.parquet as pq

        with _whole(self.folder / "per_prompt.parquet") as path:
            table = pq.read_table(path).to_pandas()
        keys = ["policy", "method", "metric", "n"]
        return {key: part["value"].to_numpy() for key, part in table.groupby(keys, sort=False)}


def read_run(folder: str | Path) -> Run:
    """The run in `folder`; BenchError where it is not a finished one, or a record of it is damaged."""
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf

    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise BenchError(f"{folder} holds no finished run (no metrics.json); see error.txt there, or run it again.")
    with _whole(folder / "config.yaml") as path:
        config = _mapping(OmegaConf.to_container(OmegaConf.load(path)))
    with _whole(folder / "metrics.json") as path:
        metrics = _mapping(json.loads(path.read_text()))
    with _whole(folder / "curves.parquet") as path:
        curves = {
            (row["policy"], row["method"], row["metric"], row["n"]): Estimate(row["value"], row["low"], row["high"])
            for row in pq.read_table(path).to_pylist()
        }
    return Run(folder, config, metrics, curves)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """BenchError where the file can't be read as what it should be."""
    from yaml import YAMLError

    try:
        yield path
    except (OSError, ValueError, KeyError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BenchError(f"{path} is missing or damaged ({reason}); run the experiment again to rewrite it.") from error


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise ValueError("it should hold names and values")
    return content


def short(number: float) -> str:
    """Three decimals below 1, without the leading 0; two above."""
    if abs(number) < 1:
        number = round(number, 3) + 0.0  # no -0.000
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"
