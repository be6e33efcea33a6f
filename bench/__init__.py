"""Rejection sampling in language models, measured: Best-of-N and fine-tuned policies on one KL axis.

    runs = bench.load("outputs/default/*")          # finished runs as pandas frames
    bench.plot.frontier(runs)                       # the figures of a report, on any matplotlib axes
    bench.estimators.best_of_n(rewards, [1, 2, 4])  # what computes them, on arrays
    bench.import_pool("samples.jsonl", name="mine") # completions drawn elsewhere, as a finished run

A part is imported at its first use, so that `import bench` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import estimators as estimators
    from bench.pools.importing import import_pool as import_pool
    from bench.records.frames import load as load
    from bench.reporting import plot as plot

PUBLIC = {
    "estimators": "bench.estimators",
    "import_pool": "bench.pools.importing",
    "load": "bench.records.frames",
    "plot": "bench.reporting.plot",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    module = importlib.import_module(PUBLIC[name])
    return getattr(module, name) if name in ("import_pool", "load") else module


def __dir__() -> list[str]:
    return sorted(PUBLIC)
