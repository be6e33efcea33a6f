"""Read back what a run left: its configuration, metrics and curves."""

import json
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
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


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

    def series(self, policy: str, method: str, metric: str) -> dict[int, Estimate]:
        """n -> estimate, in order of n."""
        found = {key[3]: estimate for key, estimate in self.curves.items() if key[:3] == (policy, method, metric)}
        return dict(sorted(found.items()))

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        """[M]: the values behind one mean, in the order of the test prompts."""
        import pyarrow.parquet as pq

        wanted = [("policy", "=", policy), ("method", "=", method), ("metric", "=", metric), ("n", "=", n)]
        return pq.read_table(self.folder / "per_prompt.parquet", filters=wanted)["value"].to_numpy()


def read_run(folder: str | Path) -> Run:
    """The run in `folder`; BenchError where it is not a finished one."""
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf

    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise BenchError(f"{folder} holds no finished run (no metrics.json); see error.txt there, or run it again.")
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    rows = pq.read_table(folder / "curves.parquet").to_pylist()
    curves = {
        (row["policy"], row["method"], row["metric"], row["n"]): Estimate(row["value"], row["low"], row["high"])
        for row in rows
    }
    return Run(folder, config, json.loads((folder / "metrics.json").read_text()), curves)


def _short(number: float) -> str:
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.2f}"
