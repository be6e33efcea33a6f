"""Rows of local files: JSON lines, JSON, Parquet or CSV, each as it is or packed by gzip.

What can't be read is refused in one sentence, with the file and, where there is one, the line.
"""

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

from bench.errors import BenchError, first_line

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
PACKED = ".gz"


def kind(file: Path) -> str:
    """Return the one of SUFFIXES by which the file is read; "" where there is none."""
    name = file.name.lower().removesuffix(PACKED)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem(file: Path) -> str:
    """Return the name without what says the kind: train of train.jsonl.gz."""
    packed = len(PACKED) if file.name.lower().endswith(PACKED) else 0
    return file.name[: len(file.name) - packed - len(kind(file))]


def read(file: Path) -> list[Row]:
    """Return the rows of one file. BenchError where it, or one of its rows, can't be read."""
    if not kind(file):
        raise BenchError(f"{file} is of a kind that can't be read; give {', '.join(SUFFIXES)}, or one of them as .gz.")
    if not file.is_file():
        raise BenchError(f"{file} is no file.")
    try:
        content = file.read_bytes()
        if file.name.lower().endswith(PACKED):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BenchError(f"{file} can't be read: {reason.rstrip('.')}.") from error
    if not content.strip():
        return []
    if kind(file) == ".parquet":
        return _parquet(file, content)
    return {".csv": _csv, ".json": _json, ".jsonl": _json_lines}[kind(file)](file, _text(file, content))


def _text(file: Path, content: bytes) -> str:
    """The content as UTF-8, with or without a byte order mark."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BenchError(
            f"{file}, line {line} is not UTF-8, but UTF-16, Latin-1 or no text: save the file as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BenchError(f"{file}, line {line} has a null character: save the file as UTF-8 text.")
    return text


def _parquet(file: Path, content: bytes) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BenchError(f"{file} is not a whole Parquet file: {first_line(error).rstrip('.')}.") from error
    _refuse_twice(table.column_names, str(file))
    return rows


def _csv(file: Path, content: str) -> list[Row]:
    before = csv.field_size_limit(
        max(len(content), 1)
    )  # a field may be as long as the file; the limit is the process's
    try:
        lines = csv.reader(io.StringIO(content, newline=""), strict=True)  # rows end at \n and \r, at nothing else
        header = next(lines, [])
        _refuse_twice(header, str(file))
        rows = []
        for cells in lines:
            if cells and len(cells) != len(header):
                raise BenchError(
                    f"{file}: the row that ends in line {lines.line_num} has {len(cells)} fields, and the header has "
                    f"{len(header)}."
                )
            if cells:  # not an empty line
                rows.append(dict(zip(header, cells, strict=True)))
        return rows
    except csv.Error as error:
        raise BenchError(f"{file}, line {lines.line_num} is not CSV: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _json(file: Path, content: str) -> list[Row]:
    rows = _parsed(content, str(file))
    if not isinstance(rows, list):
        raise BenchError(f"{file} must be a JSON list of objects, one per row.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BenchError(f"{file} must be a JSON list of objects, and its row {number} is a {type(row).__name__}.")
    return rows


def _json_lines(file: Path, content: str) -> list[Row]:
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            row = _parsed(line, f"{file}, line {number}")
            if not isinstance(row, dict):
                raise BenchError(f"{file}, line {number} must be a JSON object, and is a {type(row).__name__}.")
            rows.append(row)
    return rows


def _parsed(content: str, where: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> Row:
        _refuse_twice([name for name, _ in pairs], where)
        return dict(pairs)

    try:
        return json.loads(content, object_pairs_hook=once)
    except RecursionError as error:
        raise BenchError(f"{where} is nested too deeply.") from error
    except BenchError:
        raise
    except ValueError as error:
        raise BenchError(f"{where} is not JSON: {first_line(error).rstrip('.')}.") from error


def _refuse_twice(names: list[str], where: str) -> None:
    """BenchError where two fields share a name: one would hide the other."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BenchError(f"{where} has the field {twice!r} twice; give each field a name of its own.")
