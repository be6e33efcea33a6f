"""A finished run as trackers see it, read from the run's own files."""

import contextlib
import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.artifacts import content_hash
from bench.errors import printable
from bench.progress import AXIS
from bench.records.read import ARTIFACTS, CURVES, SAMPLES, read_run, record_files
from bench.store.reading import CHECKSUMS, as_json, intact, matches, read_bytes, sha256

Row = dict[str, Any]
ONLINE = "online.parquet"  # of runs with procedure=online alone
PROGRESS = "progress.jsonl"  # where a run was while it went on, one row a line
CHAIN: list[Any] = [  # the shape of chain.json
    {
        **dict.fromkeys(("name", "type", "role"), str),
        "parents": [str],
        "files": {str: str},
        "settings": dict,
        "reused": bool,
    }
]


@dataclass(frozen=True)
class TrackerEntry:
    """Where a tracker keeps a run, and the commands that show or upload it."""

    tracker: str  # the label that users read
    path: Path
    commands: dict[str, str]  # by what they do: view, sync
    url: str | None = None  # on a server; None where the entry is only local

    def __str__(self) -> str:
        lines = [f"{self.tracker:9} {self.path}", *(f"  {name:7} {line}" for name, line in self.commands.items())]
        return printable("\n".join(lines))


@dataclass(frozen=True)
class FinishedRun:
    """What trackers log of one run."""

    folder: Path
    config: Row  # one level, see `flat`
    metrics: Row  # numbers and verdicts, without undefined ones
    curves: list[Row]  # policy, method, metric, n, value, low, high
    samples: list[Row]
    lineage: list[Row]  # every ancestor artifact
    chain: list[Row]  # every artifact of the run with its parents, see bench.procedures.artifact_graph
    progress: list[Row]  # where it was while it went on
    updates: list[Row]  # of each arm's online training, in order

    @property
    def series(self) -> dict[str, list[Row]]:
        """Rows of named values by their axis: seconds, n, update, or kl (from the base, in nats per sequence)."""
        points = [
            {"kl": point["kl"], f"frontier/{point['policy']}/{point['method']}": point["accuracy"]}
            for point in frontier(self.curves)
        ]
        curves = {"n": list(_by_n(self.curves)), "kl": points}
        curves |= {"update": list(_by_update(self.updates))} if self.updates else {}
        return {AXIS: self.progress, **curves} if self.progress else curves

    @property
    def tables(self) -> dict[str, list[Row]]:
        lineage = [
            {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in entry.items()}
            for entry in self.lineage
        ]
        return {"curves": self.curves, "samples": self.samples, "lineage": lineage}

    @property
    def figures(self) -> dict[str, Path]:
        return {f"figures/{path.stem}": path for path in sorted(self.folder.glob("*.png"))}

    @property
    def files(self) -> list[Path]:
        sums = [self.folder / CHECKSUMS] if (self.folder / CHECKSUMS).is_file() else []
        return [*(self.folder / name for name in record_files(self.folder)), *sums, *sorted(self.folder.glob("*.png"))]

    def content(self, place: dict[str, Any]) -> str:
        """Hash the results and the place where they are to be logged.

        What the run did not make itself differs from process to process and is no result: it is left out.
        """
        metrics = {name: value for name, value in self.metrics.items() if not name.startswith("saved/")}
        artifacts = [
            [{name: value for name, value in entry.items() if name not in ("reused", "shipped")} for entry in entries]
            for entries in (self.lineage, self.chain)
        ]
        others = [path for path in self.files if path.suffix != ".json"]
        return content_hash(place, metrics, artifacts, [sha256(path) for path in others])


def read(folder: Path) -> FinishedRun:
    folder = folder.absolute()
    run = read_run(folder)
    with intact(folder / ARTIFACTS) as content:
        chain = as_json(content)
        if not matches(chain, CHAIN):
            raise ValueError("it should list artifacts with their names, types, roles, parents, files and settings")
    return FinishedRun(
        folder=folder,
        config=flat({name: value for name, value in run.config.items() if name != "tracking"}),
        metrics={name: value for name, value in run.metrics.items() if value is not None},
        curves=run.rows(CURVES),
        samples=run.rows(SAMPLES),
        lineage=run.lineage,
        chain=chain,
        progress=progress_rows(folder),
        updates=run.rows(ONLINE) if (folder / ONLINE).is_file() else [],
    )


def progress_rows(folder: Path) -> list[Row]:
    """The rows of progress of the run in `folder`; a line that was cut when its process was killed is left out."""
    rows = []
    for line in read_bytes(folder / PROGRESS).splitlines() if (folder / PROGRESS).is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(as_json(line))
    return [row for row in rows if matches(row, {str: int | float}) and AXIS in row]


def flat(config: Any, prefix: str = "") -> Row:
    """Flatten nested settings, so that runs can be searched, grouped and compared by any of them.

    {"selection": {"_target_": "bench.selection.top_k", "k": 2}} becomes {"selection": "top_k", "selection/k": 2}. The
    separator is "/", as in the names of metrics: trackers use a period for nesting. A function loses the name of its
    package: "bench.training.sft.fine_tune" becomes "sft.fine_tune".
    """
    if isinstance(config, list) and any(isinstance(value, dict | list) for value in config):
        config = {str(position): value for position, value in enumerate(config)}
    if not isinstance(config, dict):
        return {prefix: config}
    settings: Row = {}
    for name, value in config.items():
        if name == "_target_":
            function = str(value).removeprefix("bench.").partition(".")[2]
            settings[prefix or name] = function if str(value).startswith("bench.") and function else value
        elif name != "_partial_":
            settings |= flat(value, f"{prefix}/{name}" if prefix else str(name))
    return settings


def _by_n(curves: list[Row]) -> Iterator[Row]:
    """One row per n, with the values and intervals of every curve."""
    for n in sorted({row["n"] for row in curves}):
        at_n: Row = {"n": n}
        for row in curves:
            if row["n"] == n:
                name = f"curves/{row['policy']}/{row['method']}/{row['metric']}"
                at_n |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        yield at_n


def _by_update(updates: list[Row]) -> Iterator[Row]:
    """One row per update of online training, with the measures of each arm."""
    for step in sorted({row["step"] for row in updates}):
        arms = [row for row in updates if row["step"] == step]
        measures = {f"training/{row['arm']}/{name}": row[name] for row in arms for name in row if name != "arm"}
        yield {"update": step} | {name: value for name, value in measures.items() if value == value}  # W&B takes no NaN


def frontier(curves: list[Row]) -> list[Row]:
    """Points of accuracy and KL: Best-of-N at each n, and each policy's single sample; in ascending order of KL."""
    kl = {(row["policy"], row["method"], row["n"]): row["value"] for row in curves if row["metric"] == "kl"}
    points = []
    for row in curves:
        if row["metric"] == "accuracy":
            own = (row["policy"], row["method"], row["n"])
            of_policy = (row["policy"], "policy", 1) if row["method"] == "pass" and row["n"] == 1 else own
            distance = kl.get(own, kl.get(of_policy))
            if distance is not None and not math.isnan(distance):
                names = {name: row[name] for name in ("policy", "method", "n")}
                points.append({**names, "kl": distance, "accuracy": row["value"]})
    return sorted(points, key=lambda point: (point["kl"], point["policy"], point["method"]))


def command(name: str) -> str:
    """The command that starts a program of this environment: its name where the shell finds it, else its path."""
    return name if shutil.which(name) else shlex.quote(str(Path(sys.executable).parent / name))
