"""What a tracker is told of a finished run, read from the run's own files."""

import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class Tracked:
    """Where a tracker has a run, and the commands that show or upload it."""

    tracker: str  # as users call it
    path: Path
    commands: dict[str, str] = field(default_factory=dict)
    url: str | None = None  # on a server; None where it is only local

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.tracker:9} {self.path}", *(f"  {name:7} {line}" for name, line in self.commands.items())]
        )


@dataclass(frozen=True)
class Finished:
    """A run as trackers see it."""

    folder: Path
    config: Row  # flat, see `flat`
    metrics: Row  # numbers and verdicts; what is undefined is left out
    curves: list[Row]  # policy, method, metric, n, value, low, high
    samples: list[Row]
    lineage: list[Row]  # every ancestor artifact
    chain: list[Row]  # what was made from what, see bench.records.artifact_graph
    figures: dict[str, Path]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def group(self) -> str:
        """The sweep or experiment that the run belongs to."""
        return self.folder.parent.name


class Run(Protocol):
    """An open run of a tracker."""

    def config(self, settings: Row) -> None: ...

    def series(self, axis: str, rows: list[Row]) -> None:
        """Rows of named values, each at its row[axis]."""

    def metrics(self, values: Row) -> None: ...

    def table(self, name: str, rows: list[Row]) -> None: ...

    def figure(self, name: str, path: Path) -> None:
        """A PNG file."""


def read(folder: Path) -> Finished:
    """A finished run, from its folder."""
    from omegaconf import OmegaConf

    folder = folder.absolute()
    metrics = json.loads((folder / "metrics.json").read_text())
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
    assert isinstance(config, dict)
    return Finished(
        folder=folder,
        config=flat({str(name): value for name, value in config.items() if name != "tracking"}),
        metrics={name: value for name, value in metrics.items() if value is not None},
        curves=_rows(folder / "curves.parquet"),
        samples=_rows(folder / "samples.parquet"),
        lineage=json.loads((folder / "lineage.json").read_text()),
        chain=json.loads((folder / "chain.json").read_text()),
        figures={path.stem: path for path in sorted(folder.glob("*.png"))},
    )


def send(finished: Finished, run: Run) -> None:
    """Tell an open run everything that all trackers understand."""
    run.config(finished.config)
    run.series("n", list(_against_n(finished.curves)))
    run.series("kl", list(_against_kl(finished.curves)))
    run.metrics(finished.metrics)
    run.table("curves", finished.curves)
    run.table("samples", finished.samples)
    run.table("lineage", [{name: _cell(value) for name, value in entry.items()} for entry in finished.lineage])
    for name, path in finished.figures.items():
        run.figure(f"figures/{name}", path)


def flat(config: Any, prefix: str = "") -> Row:
    """Nested settings as one level: {"selection": {"_target_": "bench.selection.top_k", "k": 2}} becomes
    {"selection": "top_k", "selection/k": 2}, so that runs can be searched, grouped and compared by any setting.

    "/" as in the names of metrics: trackers take a period for nesting. A function loses the name of its package,
    "bench.training.sft.fine_tune" is "sft.fine_tune".
    """
    if isinstance(config, list) and any(isinstance(value, dict | list) for value in config):
        config = {str(position): value for position, value in enumerate(config)}
    if not isinstance(config, dict):
        return {prefix: config}
    found: Row = {}
    for name, value in config.items():
        if name == "_target_":
            function = str(value).removeprefix("bench.").partition(".")[2]
            found[prefix or name] = function if str(value).startswith("bench.") and function else value
        elif name != "_partial_":
            found |= flat(value, f"{prefix}/{name}" if prefix else str(name))
    return found


def _against_n(curves: list[Row]) -> Iterator[Row]:
    """Each n's values of every curve, with their intervals."""
    for n in sorted({row["n"] for row in curves}):
        at_n: Row = {"n": n}
        for row in curves:
            if row["n"] == n:
                name = f"curves/{row['policy']}/{row['method']}/{row['metric']}"
                at_n |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        yield at_n


def _against_kl(curves: list[Row]) -> Iterator[Row]:
    """Accuracy by the KL from the base, in nats a sequence; see `frontier`."""
    for point in frontier(curves):
        yield {"kl": point["kl"], f"frontier/{point['policy']}/{point['method']}": point["accuracy"]}


def frontier(curves: list[Row]) -> list[Row]:
    """Best-of-N at each n, and a point for each policy's single sample, in the order of their KL from the base."""
    kl = {(row["policy"], row["method"], row["n"]): row["value"] for row in curves if row["metric"] == "kl"}
    points = []
    for row in curves:
        if row["metric"] == "accuracy":
            own = (row["policy"], row["method"], row["n"])
            of_policy = (row["policy"], "policy", 1) if row["method"] == "pass" and row["n"] == 1 else own
            distance = kl.get(own, kl.get(of_policy))
            if distance is not None and not math.isnan(distance):
                named = {name: row[name] for name in ("policy", "method", "n")}
                points.append({**named, "kl": distance, "accuracy": row["value"]})
    return sorted(points, key=lambda point: (point["kl"], point["policy"], point["method"]))


def command(name: str) -> str:
    """How to call a program of this environment: by name where the shell finds it, else the one beside this Python."""
    return name if shutil.which(name) else shlex.quote(str(Path(sys.executable).parent / name))


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _rows(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
