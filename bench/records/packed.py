"""The records of a committed report in one file, records.tar.xz: what its figures, tables and sentences read.

Tables are rounded to float32, other numbers to seven digits. Values per prompt are rounded to some three digits where
that saves space, and their means stay as they were. Samples, pools, selections and progress are left out, and so are
the values per prompt that the report does not read, accuracies aside.
"""

import functools
import json
import re
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import store
from bench.errors import BenchError
from bench.procedures.artifact_graph import ARTIFACTS
from bench.records.environment import FILE as ENVIRONMENT
from bench.records.environment import in_words
from bench.records.read import COMPLETIONS, CONFIG, METRICS, PER_PROMPT, SAMPLES, Curve, Run, read_run, record_files
from bench.store.reading import CHECKSUMS, LINEAGE, LINEAGE_SHAPE, as_json, checksums_of, intact, mapping

FILE = "records.tar.xz"
UNREAD = re.compile(rf"{ARTIFACTS}|{COMPLETIONS}|(rewards|selection_|validation).*\.parquet")  # by no report
MOST_BYTES = 2**30  # unpacked; a few bytes of a damaged file can stand for any number
POINT = ("policy", "method", "metric", "n")  # the columns of what a value is of
BITS = 11  # of values per prompt, from the largest one's first
FEW = 128  # distinct values: they take little space as they are


@dataclass(frozen=True)
class NotedRun(Run):
    """A run that notes which values per prompt are read."""

    noted: set[Curve] = field(default_factory=set)

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> Any:
        self.noted.add((policy, method, metric, n))
        return super().per_prompt(policy, method, metric, n)

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "list[NotedRun]":
        """The same runs, with one set of notes."""
        noted: set[Curve] = set()
        return [cls(run.folder, run.config, run.metrics, run.curves, noted) for run in runs]


def pack(runs: Sequence[Run], read: set[Curve], path: Path) -> None:
    """Write the records of `runs` to `path`. read: the points whose values per prompt are kept beside accuracies.

    Equal records give equal bytes with one version of pyarrow and of xz.
    """
    with tempfile.TemporaryDirectory() as place, store.atomically(path) as beside:
        for run in runs:
            _write(run, read, Path(place, run.folder.name))
        with tarfile.open(beside, "w:xz", preset=9) as archive:  # 9: repeated values are found over 64 MiB
            for file in sorted(Path(place).glob("*/*"), key=lambda file: (file.name, file.parent.name)):
                archive.add(file, file.relative_to(place).as_posix(), filter=_anonymous)


def run_folders(folder: Path) -> list[Path]:
    """The runs of a committed report, unpacked until the process ends. BenchError where its records can't be read."""
    path = folder / FILE
    try:
        status = path.stat()
        place = Path(_unpacked(path.absolute(), status.st_mtime_ns, status.st_size).name)
    except FileNotFoundError as error:
        raise BenchError(f"{path} is missing: the report is of its records.") from error
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise BenchError(f"{path} can't be unpacked ({str(error) or type(error).__name__}).") from error
    return sorted(child for child in place.iterdir() if child.is_dir())


def read_packed(folder: Path) -> list[Run]:
    return [read_run(run) for run in run_folders(folder)]


def environments(runs: Iterable[Run]) -> list[str]:
    """The versions and the machines that made the runs, in words."""
    return sorted({in_words(_environment(run)) or "not recorded" for run in runs})


def _environment(run: Run) -> dict[str, str]:
    if not (run.folder / ENVIRONMENT).is_file():
        return {}
    with intact(run.folder / ENVIRONMENT) as content:
        return mapping(as_json(content))


@functools.cache
def _unpacked(path: Path, _changed: int, _size: int) -> tempfile.TemporaryDirectory:
    place = tempfile.TemporaryDirectory(prefix="bench-records-")
    with tarfile.open(path, "r:xz") as archive:
        total = 0
        for member in archive:
            total += member.size
            if total > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
            archive.extract(member, place.name, filter="data")
    return place


def _write(run: Run, read: set[Curve], folder: Path) -> None:
    folder.mkdir()
    for name in record_files(run.folder):
        if UNREAD.fullmatch(name):
            continue
        with intact(run.folder / name) as content:
            (folder / name).write_bytes(content)
    config = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(re.sub(r"(?m)^(store|outputs): .*$", r"\1: \1", config))  # places, not settings
    (folder / METRICS).write_text(json.dumps(_rounded(json.loads((folder / METRICS).read_text())), indent=1))
    lineage = [{name: entry[name] for name in LINEAGE_SHAPE[0]} for entry in run.lineage]
    (folder / LINEAGE).write_text(json.dumps(_rounded(lineage)))
    _write_tables(folder, read)
    (folder / CHECKSUMS).write_text(checksums_of(folder, record_files(folder)))


def _write_tables(folder: Path, read: set[Curve]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in sorted(path.name for path in folder.glob("*.parquet")):
        table = pq.read_table(folder / name)
        if name == SAMPLES:
            table = table.schema.empty_table()
        if name == PER_PROMPT:
            names = list(zip(*(table.column(part).to_pylist() for part in POINT), strict=True))
            values = pa.array(coarse(table.column("value").to_numpy(), names))
            table = table.set_column(table.column_names.index("value"), "value", values)
            table = table.filter(pa.array([point[2] == "accuracy" or point in read for point in names], pa.bool_()))
        if name != SAMPLES:
            floats = [pa.float32() if pa.types.is_floating(column.type) else column.type for column in table.schema]
            table = table.cast(pa.schema(list(zip(table.column_names, floats, strict=True))))
        texts = [column.name for column in table.schema if pa.types.is_string(column.type)]
        pq.write_table(table, folder / name, compression="none", use_dictionary=texts)  # xz compresses better


def coarse(values: np.ndarray, points: Sequence[Any]) -> np.ndarray:
    """Values per prompt [rows] in steps of 2**-11 of their size, point by point. points [rows]: what each is of.

    A value takes along the rounding error of those before it, and the last one all that is left: so a mean over
    prompts, which `Run.verify` compares with curves.parquet, does not change.
    """
    rows: dict[Any, list[int]] = {}
    for row, point in enumerate(points):
        rows.setdefault(point, []).append(row)
    result = values.astype(np.float64)
    for of_point in rows.values():
        finite = [row for row in of_point if np.isfinite(result[row])]
        if len(np.unique(result[finite])) <= FEW:
            continue
        step = 2.0 ** (np.ceil(np.log2(np.abs(result[finite]).max())) - BITS)
        rounded = np.diff(np.round(np.cumsum(result[finite]) / step), prepend=0) * step
        rounded[-1] += result[finite].sum() - rounded.sum()
        result[finite] = rounded
    return result


def _rounded(content: Any) -> Any:
    """JSON with seven digits of each number that is not whole."""
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return float(f"{content:.7g}") if isinstance(content, float) else content


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the time, the owner and the permissions of the file."""
    member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode = 0, 0, 0, "", "", 0o644
    return member
