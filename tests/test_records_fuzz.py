"""Runs whose files were damaged in every way: read truly, or refused in one sentence; no traceback, no waiting.

BENCH_FUZZ=10000 python -m pytest tests/test_records_fuzz.py
"""

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import made_run

from bench.artifacts import content_hash
from bench.errors import BenchError
from bench.records import read as reading
from bench.records.read import Run, read_run
from bench.records.write import seal
from bench.reporting.build import ALL, _exhibits, _methods
from bench.reporting.console import headline, main_table
from bench.reporting.exhibit import from_records
from bench.reporting.exhibits import sentences
from bench.reporting.page.samples import sample_columns
from bench.store import DamagedArtifactError, check
from bench.tracking import mirror
from bench.tracking.__main__ import recorded

EXAMPLES = int(os.environ.get("BENCH_FUZZ", "40"))
SECONDS = 60  # for one example; most take a few milliseconds
FILES = (
    *("config.yaml", "metrics.json", "curves.parquet", "per_prompt.parquet", "samples.parquet", "diagnostics.parquet"),
    *("lineage.json", "chain.json", "code.json", "environment.json", "checksums.json", "times.json", "error.txt"),
)
DEEP = 100_000  # levels
ODD: list[Any] = [
    *(None, True, "", "text", "0.5", "nan", "-", "=1+1", "@x", "\x1b[31mred", "a\nb", "${oc.env:HOME}", "${", "\udcff"),
    *(
        0,
        -1,
        2**63,
        10**400,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        [],
        [0],
        {},
        {"_target_": "os.system"},
        {"a": {}},
    ),
]
Draw = Callable[[st.SearchStrategy], Any]
damaged = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 prompts with every file and its checksums."""
    run = made_run(tmp_path_factory.mktemp("fuzz") / "outputs", prompts=12, num_completions=2)
    (run.folder / "times.json").write_text('{"started": 1.0, "seconds": 2.0}')
    (run.folder / "error.txt").write_text("The disk was full.")
    seal(run.folder)
    run.folder.with_name("expected.txt").write_text(contents(run), errors="surrogatepass")
    report_on(run)
    return run.folder


@contextmanager
def in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"an example took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flip(path: Path, draw: Draw) -> None:
    content = bytearray(path.read_bytes())
    for place in draw(st.lists(st.integers(0, max(len(content) - 1, 0)), min_size=1, max_size=8)):
        if content:
            content[place] ^= draw(st.integers(1, 255))
    path.write_bytes(content)


def cut(path: Path, draw: Draw) -> None:
    os.truncate(path, draw(st.integers(0, path.stat().st_size)))


def overwrite(path: Path, draw: Draw) -> None:
    content = path.read_bytes()
    place, size = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
    path.write_bytes(content[:place] + draw(st.binary(max_size=60)) + content[place + size :])


def swap(path: Path, draw: Draw) -> None:
    others = sorted(other for other in path.parent.iterdir() if other.is_file())
    path.write_bytes(draw(st.sampled_from(others)).read_bytes())


def no_file(path: Path, draw: Draw) -> None:
    kind = draw(st.sampled_from(["missing", "folder", "pipe", "socket", "device", "loop", "huge"]))
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "part.parquet").write_bytes(b"")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # an address has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    elif kind in ("device", "loop"):
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**27)  # sparse


def deepen(path: Path, draw: Draw) -> None:
    levels = draw(st.sampled_from([60, 900, DEEP]))
    texts = ["[" * levels, "[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels, "- " * min(levels, 900)]
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
    )
    path.write_text(
        draw(st.sampled_from([*texts, bomb, "? [a, b]\n: c\n", "a: !!python/name:os.system\n", "{1: 2, a: b}"]))
    )


def edit(path: Path, draw: Draw) -> None:
    """Change, add or remove one value somewhere in a JSON or YAML file."""
    if path.suffix not in (".json", ".yaml"):
        change_table(path, draw)
        return
    try:
        content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (ValueError, RecursionError, yaml.YAMLError):  # damaged before
        return
    node = content
    while isinstance(node, dict | list) and node:
        place = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[place], dict | list) or not node[place] or draw(st.integers(0, 2)) == 0:
            break
        node = node[place]
    how, value = draw(st.sampled_from(["set", "set", "remove", "add"])), draw(st.sampled_from(ODD))
    if not isinstance(node, dict | list) or not node:
        content = value
    elif how == "set":
        node[place] = value
    elif how == "remove":
        del node[place]
    elif isinstance(node, dict):
        node[draw(st.sampled_from(["extra", "", "a/b", "\x1b", *map(str, node)]))] = value
    else:
        node.append(value)
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


def change_table(path: Path, draw: Draw) -> None:
    if path.suffix != ".parquet":
        return
    try:
        table = pq.read_table(path)
    except (ValueError, OSError):  # damaged before
        return
    place = draw(st.integers(0, table.num_columns - 1))
    name, column = table.column_names[place], table.column(place)
    row = draw(st.integers(0, max(table.num_rows - 1, 0)))
    values = column.to_pylist()
    how = draw(st.sampled_from(["drop", "rename", "empty", "less", "more", "null", "odd", "texts", "nest", "times"]))
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "rename":
        table = table.rename_columns([f"{one}{'s' if one == name else ''}" for one in table.column_names])
    elif how == "empty":
        table = table.slice(0, 0)
    elif how == "less":
        table = pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
    elif how == "more":
        table = pa.concat_tables([table, table.slice(row, 1)])
    elif how in ("null", "odd") and values:
        numbers = [0, -1, 7, 2**62] if pa.types.is_integer(column.type) else [float("nan"), float("inf"), -1e308, 0.123]
        other = draw(st.sampled_from(["", "x", "\x1b[2J"] if pa.types.is_string(column.type) else numbers))
        values[row] = None if how == "null" else other
        table = table.set_column(place, name, pa.array(values, column.type))
    elif how == "texts":
        table = table.set_column(place, name, pa.array([str(value) for value in values], pa.string()))
    elif how == "nest":
        table = table.set_column(place, name, pa.array([[value] for value in values]))
    else:
        table = table.set_column(place, name, pa.array(np.arange(len(values)).astype("datetime64[us]")))
    pq.write_table(table, path)


WAYS = (flip, flip, cut, overwrite, swap, no_file, deepen, edit, edit, edit, edit)


def report_on(run: Run) -> None:
    """What a report reads and computes of a run, without drawing."""
    with from_records("the report", [run]):
        assert all(exhibit.as_csv and exhibit.stamp for exhibit in _exhibits([run], (), ALL).values())
    assert sentences([run])
    assert _methods([run])
    with from_records("the report", [run]):
        sample_columns([run])
        assert main_table(run)
        assert headline(run)
        recorded(run.config.get("tracking"), run.folder / "config.yaml")


def contents(run: Run) -> str:
    """Everything that was read of a run, as text, so that NaN equals NaN."""
    numbers = {curve: run.per_prompt(*curve).tolist() for curve in run.curves}
    return str([run.config, run.metrics, run.curves, run.code, run.lineage, run.samples, numbers])


def read_everything(folder: Path, *, sealed: bool, expected: str) -> str:
    """Read and report; returns the sentence that refuses it, "" where the run reads as what it was or may have been."""
    assert reading.failure(folder) is None or isinstance(reading.failure(folder), str)
    assert not reading.seconds(folder) < 0
    assert isinstance(reading.changed(folder), str | None)
    try:
        run = read_run(folder)
        run.verify()
        mirror.read(folder)
        if contents(run) != expected:
            assert not sealed
            report_on(run)
    except BenchError as error:
        return str(error)
    return ""


@damaged
@given(data=st.data())
def test_a_damaged_run_is_read_truly_or_refused_in_one_sentence(whole: Path, data: st.DataObject):
    draw = data.draw
    sealed, expected = draw(st.booleans()), whole.with_name("expected.txt").read_text()
    with tempfile.TemporaryDirectory(dir=whole.parents[2]) as place:
        # under its own name an edited configuration is known by the run id
        folder = shutil.copytree(whole, Path(place, draw(st.sampled_from([whole.name, "a_copy"]))))
        if not sealed:
            (folder / "checksums.json").unlink()
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            path = folder / draw(st.sampled_from([name for name in FILES if (folder / name).is_file()]))
            draw(st.sampled_from(WAYS))(path, draw)
        with in_time():
            sentence = read_everything(folder, sealed=(folder / "checksums.json").exists(), expected=expected)
    assert "\n" not in sentence
    assert sentence.isprintable()


@damaged
@given(data=st.data())
def test_a_damaged_manifest_is_a_damaged_artifact(data: st.DataObject):
    content = {
        "stage": "generate",
        "key": "abc",
        "part": "",
        "settings": {"n": 2},
        "parents": {},
        "counts": {"tokens": 7},
        "seconds": 1.0,
        "created": 2.0,
        "files": {"text.txt": {"bytes": 2, "sha256": "fb8e20fc2e"}},
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "manifest.json")
        path.write_text(json.dumps(content))
        data.draw(st.sampled_from([flip, cut, no_file, deepen, edit]))(path, data.draw)
        if data.draw(st.booleans()) and path.is_file():  # forged: it agrees with its own checksum
            try:
                found = json.loads(path.read_text())
                path.write_text(json.dumps(found | {"hash": content_hash(found)}))
            except (ValueError, TypeError, RecursionError, UnicodeError):
                pass
        Path(place, "text.txt").write_text("hi")
        with in_time():
            try:
                found = check(Path(place))
            except DamagedArtifactError:
                return
        assert found["files"] == {}  # forged, and true of a folder without files: the checksum above is too short
