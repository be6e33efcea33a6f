"""The rows of files in the formats that hold completions, one by one; what is no row comes with its reason."""

import contextlib
import csv
import functools
import gzip
import importlib
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from bench.errors import BenchError, first_line, quoted
from bench.pools import logs
from bench.pools.logs import Row
from bench.tasks.files import long_cells, refuse_twice

DATASET = "dataset"  # a folder that Hugging Face's datasets saved
FORMATS = ("jsonl", "json", "csv", "parquet", "lm-eval", "inspect")
LONGEST = 2**26  # bytes of a line
LARGEST = 2**31  # bytes of a file that is read as a whole
BATCH = 2048  # rows of a Parquet file at a time
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".eval": "inspect",
}


class Numbered(NamedTuple):
    """A row and its number in the file from 1, or the reason why there is none."""

    number: int
    row: Row | None
    reason: str = ""


def noun(kind: str) -> str:
    """What is numbered in files of this kind."""
    return {"inspect": "sample", "json": "row", "parquet": "row", DATASET: "row"}.get(kind, "line")


def kind_of(file: Path, said: str | None) -> str:
    """The one of FORMATS in which a file is read: as the user says, else by its name. BenchError for neither."""
    if (file / "state.json").is_file():
        return DATASET
    if said is not None:
        return said
    name = file.name.lower().removesuffix(".gz")
    kind = next((kind for suffix, kind in KINDS.items() if name.endswith(suffix)), None)
    if kind is None:
        raise BenchError(
            f"{file} is of no known format by its name: name it {', '.join(KINDS)} (or one of the first four as .gz), "
            f"or say format=NAME, one of {', '.join(FORMATS)}."
        )
    return kind


def rows(file: Path, kind: str, *, choices: logs.Choices) -> Iterator[Numbered]:
    """Every row of a file. BenchError, in a sentence, where the file as a whole can't be read."""
    if kind == DATASET:
        yield from _numbered(_dataset(file))
        return
    if not file.is_file():
        raise BenchError(f"{file} is {'a folder' if file.is_dir() else 'not there'}: give files of completions.")
    with _explained(file):
        if kind == "parquet":
            yield from _numbered(_parquet(file))
        elif kind == "csv":
            yield from _csv(file)
        elif kind == "inspect":
            yield from _numbered(logs.inspect_rows(file))
        elif kind == "json":
            yield from _json(file)
        else:
            yield from _of_lm_eval(_json_lines(file), choices, said=kind == "lm-eval")


def _numbered(rows: Iterable[Row]) -> Iterator[Numbered]:
    return itertools.starmap(Numbered, enumerate(rows, 1))


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """BenchError where a file is damaged or is not what its name says."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BenchError(f"{file} is not UTF-8, but UTF-16, Latin-1 or no text: save it as UTF-8.") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BenchError(f"{file} can't be read: {quoted(reason).rstrip('.')}.") from error


def _opened(file: Path) -> IO[bytes]:
    """The file, unpacked where its first bytes are gzip's, whatever its name."""
    raw = file.open("rb")
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.open(raw) if packed else raw  # type: ignore[return-value]


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with _opened(file) as opened:
        number = 0
        while line := opened.readline(LONGEST):
            number += 1
            if len(line) == LONGEST:
                raise BenchError(
                    f"{file}, line {number} is longer than {LONGEST // 2**20} MiB: this is no list of rows."
                )
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _json_lines(file: Path) -> Iterator[Numbered]:
    for number, line in _lines(file):
        if line.strip():
            yield _row(number, line)


def _row(place: int, text: bytes) -> Numbered:
    try:
        content = parsed(text)
    except ValueError as error:
        return Numbered(place, None, str(error))
    if not isinstance(content, dict):
        return Numbered(place, None, f"is {a_kind(content)}, not a JSON object")
    return Numbered(place, content)


def parsed(text: bytes) -> Any:
    """The content of a JSON text. ValueError, as a clause, where it is none."""
    try:
        if (fast := _fast()) is not None:
            with contextlib.suppress(ValueError):  # NaN, which Python's own writer makes, or no JSON
                return fast(text)
        content = json.loads(text.decode())  # of bytes it would read UTF-16 too
        json.dumps(content, ensure_ascii=False).encode()  # half a character can't be written again
        return content
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    except ValueError as error:
        raise ValueError("is not JSON") from error


@functools.cache
def _fast() -> Any:
    """The parser of orjson, which takes a fifth of the time, where it is installed."""
    try:
        return importlib.import_module("orjson").loads
    except ImportError:
        return None


def a_kind(value: Any) -> str:
    """A value's type in words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _json(file: Path) -> Iterator[Numbered]:
    """A list of rows, or an Inspect log."""
    with _opened(file) as opened:
        text = opened.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise BenchError(
            f"{file} has more than {LARGEST // 2**30} GiB: save it as JSON lines, which are read one by one."
        )
    if not text.strip():
        return
    try:
        content = parsed(text.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise BenchError(f"{file} {error}.") from error
    if isinstance(content, dict) and "eval" in content:
        content = logs.of_inspect(file, content)
    if not isinstance(content, list):
        raise BenchError(
            f"{file} is {a_kind(content)}: a JSON list of objects, one per row, or an Inspect log is expected."
        )
    for number, row in enumerate(content, 1):
        reason = "" if isinstance(row, dict) else f"is {a_kind(row)}, not an object"
        yield Numbered(number, None if reason else row, reason)


def _of_lm_eval(lines: Iterator[Numbered], choices: logs.Choices, *, said: bool) -> Iterator[Numbered]:
    """Rows of lm-eval's logged samples under this suite's names; others as they are."""
    is_log: bool | None = True if said else None
    for numbered in lines:
        if is_log is None and numbered.row is not None:
            is_log = logs.is_lm_eval(numbered.row)
        if not is_log or numbered.row is None:
            yield numbered
            continue
        try:
            row = logs.of_lm_eval(numbered.row, choices)
        except BenchError:
            raise
        except ValueError as reason:
            yield Numbered(numbered.number, None, str(reason))
            continue
        if row is not None:
            yield Numbered(numbered.number, row)


def _csv(file: Path) -> Iterator[Numbered]:
    with long_cells(LONGEST):
        lines = csv.reader(_texts(file), strict=True)
        try:
            header = next(lines, [])
        except csv.Error as error:
            raise BenchError(f"{file}, line 1 is not CSV: {error}.") from error
        refuse_twice(header, str(file))
        while True:
            start = lines.line_num + 1
            try:
                cells = next(lines, None)
            except csv.Error as error:
                if "end of data" in str(error) or "field limit" in str(error):
                    raise BenchError(f"{file}, line {start}: the row opens a quote that nothing closes.") from error
                began = f" (the row began at line {start})" * (start < lines.line_num)
                yield Numbered(lines.line_num, None, f"is not CSV: {error}{began}")
                continue
            if cells is None:
                return
            place = lines.line_num
            if cells and len(cells) != len(header):
                yield Numbered(place, None, f"has {len(cells)} cells where the header has {len(header)}")
            elif cells:
                yield Numbered(place, dict(zip(header, cells, strict=True)))


def _texts(file: Path) -> Iterator[str]:
    for number, line in _lines(file):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise BenchError(
                f"{file}, line {number} is not UTF-8, but UTF-16, Latin-1 or no text: save it as UTF-8."
            ) from error
        if "\0" in text:
            raise BenchError(f"{file}, line {number} has a null character: this is no text.")
        yield text


def files_of(folder: Path) -> list[Path]:
    """The files of a saved data set, without the caches beside them. BenchError where it names none."""
    try:
        files = json.loads((folder / "state.json").read_bytes())["_data_files"]
        return [folder / Path(file["filename"]).name for file in files]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BenchError(f"{folder} is no saved data set: its state.json must name its files.") from error


def _dataset(folder: Path) -> Iterator[Row]:
    import pyarrow as pa

    for file in files_of(folder):
        try:
            with pa.OSFile(str(file)) as opened, pa.ipc.open_stream(opened) as batches:
                for batch in batches:
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BenchError(f"{file} is damaged: {quoted(first_line(error)).rstrip('.')}.") from error


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, memory_map=False) as opened:
            refuse_twice(opened.schema_arrow.names, str(file))
            for batch in opened.iter_batches(BATCH, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, BenchError):
            raise
        raise BenchError(f"{file} is not a whole Parquet file: {quoted(first_line(error)).rstrip('.')}.") from error
