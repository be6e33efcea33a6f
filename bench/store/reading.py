"""Read files that anyone may have changed: regular files of bounded size and depth, as data; and their checksums.

`intact` gives one file of a run as it was recorded; what is wrong with it is a BenchError of one sentence.

checksums.json, which a run writes beside its records, has the SHA-256 of each: {"files": {name: digest}, "hash": ...}.
It tells damage and edits by accident from what was recorded; it is no signature, since anyone can write it anew.
"""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from bench.artifacts import content_hash
from bench.errors import BenchError

CHECKSUMS = "checksums.json"
MOST_BYTES = {"json": 2**26, "yaml": 2**20}  # a reader of YAML takes seconds per MiB
DEEPEST = 50  # levels of nesting; what is written here has fewer than ten
LARGEST = 10**100  # of a whole number: a float holds it
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


def opened(path: Path) -> BufferedReader:
    """Open a regular file. OSError for a folder, a pipe, a socket or a device: reading those may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: float = math.inf) -> bytes:
    """The content of a regular file. ValueError where it has more bytes than `most`."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return file.read()


def read_json(path: Path) -> Any:
    """The content of a JSON file. OSError or ValueError where it can't be read."""
    return as_json(read_bytes(path, MOST_BYTES["json"]))


def as_json(content: bytes) -> Any:
    return _plain(lambda: json.loads(content))


def as_yaml(content: bytes) -> Any:
    """Settings as OmegaConf reads them, but plain: nothing in them is resolved, and aliases (`*name`) are refused."""
    if len(content) > MOST_BYTES["yaml"]:
        raise ValueError(f"it has more than {MOST_BYTES['yaml']:,} bytes")

    class Loader(get_yaml_loader()):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them stand for billions of values
                raise ValueError("it has an alias")
            return super().compose_node(parent, index)

    return _plain(lambda: yaml.load(content, Loader))


def _plain(parse: Any) -> Any:
    """What `parse` returns: mappings by text, lists, texts, numbers. ValueError for anything else, and for nesting."""
    try:
        content = parse()
    except (RecursionError, yaml.YAMLError) as error:
        raise ValueError("it is nested too deep" if isinstance(error, RecursionError) else str(error)) from error
    level = [content]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, dict) and not all(isinstance(name, str) for name in value):
                raise ValueError("a name in it is no text")
            for text in value if isinstance(value, dict) else [value] if isinstance(value, str) else ():
                text.encode()  # ValueError for half a character, which nothing can write
            if isinstance(value, int) and not -LARGEST <= value < LARGEST:
                raise ValueError("a number in it is too large")
            if not (value is None or isinstance(value, dict | list | str | int | float)):
                raise ValueError(f"it holds a {type(value).__name__}")
        nested = [
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        ]
        level = [value for values in nested for value in values]
        if not level:
            return content
    raise ValueError("it is nested too deep")


def matches(content: Any, shape: Any) -> bool:
    """Whether content has a shape: a type or types, [the shape of each item], {str: of each value} or {name: of it}."""
    if isinstance(shape, list):
        return isinstance(content, list) and all(matches(item, shape[0]) for item in content)
    if not isinstance(shape, dict):
        return isinstance(content, shape) and not (isinstance(content, bool) and shape is not bool)
    if not isinstance(content, dict):
        return False
    if str in shape:
        return all(matches(value, shape[str]) for value in content.values())
    return all(name in content and matches(content[name], part) for name, part in shape.items())


def checksums_of(folder: Path, names: Iterable[str]) -> str:
    """The content of checksums.json for these files of the folder."""
    files = {name: sha256(folder / name) for name in sorted(names)}
    return json.dumps({"files": files, "hash": content_hash(files)}, indent=1)


def checksums(folder: Path) -> dict[str, str] | None:
    """Name -> SHA-256 of the files in a folder; None without checksums.json. ValueError where that is damaged."""
    try:
        content = read_json(folder / CHECKSUMS)
    except FileNotFoundError:
        if not os.path.lexists(folder / CHECKSUMS):
            return None
        raise ValueError(f"{folder / CHECKSUMS} links to nothing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / CHECKSUMS} can't be read ({' '.join(str(error).split())})") from error
    whole = matches(content, {"files": {str: str}, "hash": str}) and content["hash"] == content_hash(content["files"])
    if not whole or any(set("/\0") & set(name) for name in content["files"]):
        raise ValueError(f"{folder / CHECKSUMS} was changed since the run")
    return content["files"]


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
    """A clause on the run's missing and changed files; None for none, or without checksums. names: its records."""
    try:
        files = checksums(folder)
        names = [] if files is None else [*files, *names]
        changed = {name: _difference(folder / name, (files or {}).get(name)) for name in names}
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
