"""One file of a run as it was recorded: regular, with its checksum, and of the expected shape; else one sentence."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.store.reading import CHECKSUMS, as_json, checksums, matches, read_bytes, sha256

LINEAGE = "lineage.json"
LINEAGE_SHAPE: list[Any] = [
    {
        **dict.fromkeys(("stage", "key", "part"), str),
        "settings": dict,
        "counts": {str: int | float},
        "seconds": int | float,
    }
]
MOST_ROWS = 10_000_000  # of a table; a few bytes of a damaged file can claim any number
KINDS = {"text": "texts", "whole": "whole numbers", "number": "numbers"}  # of a table's columns


@contextmanager
def intact(path: Path) -> Iterator[bytes]:
    """Give the content of a file; turn what goes wrong in reading it into a BenchError that names the file."""
    try:
        content = read_bytes(path)
        recorded = (checksums(path.parent) or {}).get(path.name)
        if recorded is not None and recorded != hashlib.sha256(content).hexdigest():
            raise unreadable(path, "was changed since the run")
        yield content
    except BenchError:
        raise
    except FileNotFoundError as error:
        raise unreadable(path, "is not found") from error
    except Exception as error:  # damaged content makes parsers raise anything
        failed = isinstance(error, OSError) and error.strerror
        reason = f"can't be read ({failed})" if failed else f"is damaged ({' '.join(str(error).split())[:300]})"
        raise unreadable(path, reason) from error


def unreadable(path: Path, reason: str) -> BenchError:
    return BenchError(f"{path} {reason}; run the experiment again to rewrite it.")


def damage(folder: Path, names: list[str]) -> str | None:
    """Name the missing and changed files of a run, in a clause; None where there are none.

    names: the records that are in the folder. Runs from before checksums.json are taken as they are.
    """
    try:
        files = checksums(folder)
        changed = (
            {} if files is None else {name: _difference(folder / name, files.get(name)) for name in {*files, *names}}
        )
    except (OSError, ValueError) as error:
        return str(error)
    found = [f"{folder / name} {what}" for name, what in sorted(changed.items()) if what]
    return " and ".join(found) or None


def _difference(path: Path, expected: str | None) -> str:
    """What is wrong with a file; empty where nothing is. A figure may be deleted."""
    if expected is None:
        return f"is not in {CHECKSUMS}, so it was added since the run"
    if not path.exists():
        return "is missing" if path.suffix in (".json", ".yaml", ".parquet") else ""
    try:
        return "" if sha256(path) == expected else "was changed since the run"
    except OSError as error:
        return f"can't be read ({error.strerror})"


class Named(dict[str, Any]):
    """Recorded values by name, in a file; BenchError, not KeyError, where one is missing."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        super().__init__(
            {
                name: Named(value, path, f"{prefix}{name}.") if isinstance(value, dict) else value
                for name, value in values.items()
            }
        )
        self.path, self.prefix = path, prefix

    def __missing__(self, name: str) -> Any:
        raise BenchError(
            f"{self.path}: the records lack {f'{self.prefix}{name}'!r}; run the experiment again to rewrite them."
        )


def mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise ValueError("it should hold names and values")
    return content


def table(content: bytes, kinds: Mapping[str, str] | None = None, columns: list[str] | None = None) -> Any:
    """A Parquet file as a pyarrow table. kinds: column -> one of KINDS; ValueError where one is missing or other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it has more than {MOST_ROWS:,} rows")
        read = file.read(columns, use_threads=False)
    read.validate(full=True)
    if missing := [name for name in kinds or () if name not in read.column_names]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name, kind in (kinds or {}).items():
        column = read.column(name)
        if not _is(kind, column.type) or (kind != "number" and column.null_count):
            raise ValueError(f"{name} should hold {KINDS[kind]}")
    return read


def _is(kind: str, stored: Any) -> bool:
    from pyarrow import types

    if kind == "text":
        return types.is_string(stored.value_type if types.is_dictionary(stored) else stored)
    return types.is_integer(stored) or (kind == "number" and (types.is_floating(stored) or types.is_null(stored)))


def read_lineage(folder: Path) -> list[dict[str, Any]]:
    """A run's lineage.json: every ancestor artifact. BenchError where it is missing or damaged."""
    with intact(folder / LINEAGE) as content:
        entries = as_json(content)
        if not matches(entries, LINEAGE_SHAPE):
            raise ValueError(f"it should list artifacts with their {', '.join(sorted(LINEAGE_SHAPE[0]))}")
    return entries
