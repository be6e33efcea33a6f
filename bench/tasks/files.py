"""Rows of local files (JSON lines, JSON, Parquet or CSV, each as it is or packed by gzip), and what a field holds.

What can't be read is refused in one sentence, with the file and, where there is one, the line.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.artifacts import Message
from bench.errors import BenchError, first_line

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
PACKED = ".gz"
# the names that data sets give the three roles
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model"), "assistant"),
}
CHATS = ("messages", "conversations", "conversation")  # the names that data sets give a chat


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
    refuse_twice(table.column_names, str(file))
    return rows


@contextmanager
def long_cells(most: int) -> Iterator[None]:
    """Let Python's csv read cells of so many characters; the limit is the process's."""
    before = csv.field_size_limit(most)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(file: Path, content: str) -> list[Row]:
    lines = csv.reader(io.StringIO(content, newline=""), strict=True)  # rows end at \n and \r, at nothing else
    rows = []
    try:
        with long_cells(len(content)):
            header = next(lines, [])
            refuse_twice(header, str(file))
            for cells in filter(None, lines):  # not an empty line
                if len(cells) != len(header):
                    raise BenchError(
                        f"{file}: the row that ends in line {lines.line_num} has {len(cells)} fields, and the header "
                        f"has {len(header)}."
                    )
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise BenchError(f"{file}, line {lines.line_num} is not CSV: {error}.") from error
    return rows


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
        refuse_twice([name for name, _ in pairs], where)
        return dict(pairs)

    try:
        return json.loads(content, object_pairs_hook=once)
    except RecursionError as error:
        raise BenchError(f"{where} is nested too deeply.") from error
    except BenchError:
        raise
    except ValueError as error:
        raise BenchError(f"{where} is not JSON: {first_line(error).rstrip('.')}.") from error


def refuse_twice(names: list[str], where: str) -> None:
    """Raise BenchError where two fields share a name: one would hide the other."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BenchError(f"{where} has the field {twice!r} twice; give each field a name of its own.")


class UnreadableError(BenchError):
    """Why a row makes no prompt, as a clause about it. Such a row is counted and left out."""


def is_missing(value: object) -> bool:
    """Return whether a value is null or NaN."""
    return value is None or (isinstance(value, float) and value != value)


def is_text(value: object) -> bool:
    """Return whether a value is a string that shows something and can be written as UTF-8."""
    return _can_be_written(value) and any(letter.isprintable() and letter != " " for letter in str(value))


def _can_be_written(value: object) -> bool:
    """Whether a value is a string without half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def text_of(value: object, name: str) -> str:
    """Return a value that is a text. UnreadableError where it is not."""
    if is_text(value):
        return str(value)
    kind = "null" if is_missing(value) else f"a {type(value).__name__}"
    raise UnreadableError(
        f"its field {name!r} {'shows nothing' if isinstance(value, str) else f'is {kind}, and no text'}"
    )


def plain(value: object) -> str:
    """Return an answer as text; "" where it is missing, or no text and no number."""
    if is_missing(value) or not isinstance(value, str | int | float):
        return ""
    text = str(value).strip()
    return text if is_text(text) else ""


def chat_of(value: object) -> tuple[Message, ...] | None:
    """Return the chat that a value is; None where it is none.

    A chat is a list of {"role", "content"} or {"from", "value"}, alone, under the name of a chat, or as JSON. A content
    may be a list of parts that are text.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict):
        value = next((value[name] for name in CHATS if name in value), [value])
    if not isinstance(value, list) or not value:
        return None
    turns = tuple(message for turn in value if (message := _turn(turn)) is not None)
    return turns if len(turns) == len(value) else None


def _turn(turn: Any) -> Message | None:
    """One message of a chat, by our names; None where it is none."""
    if not isinstance(turn, dict):
        return None
    role = turn.get("role") or turn.get("from")
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(role, str) or role.lower() not in ROLES or not _can_be_written(content):
        return None
    return {"role": ROLES[role.lower()], "content": str(content)}


def to_answer(messages: Sequence[Message] | None) -> tuple[Message, ...]:
    """Return a chat that a policy can answer. UnreadableError where it is none."""
    if not messages or messages[-1]["role"] == "assistant" or not is_text(messages[-1]["content"]):
        raise UnreadableError(
            "it has no chat that a policy could answer: its messages must be a list of "
            '{"role": "system" | "user" | "assistant", "content": TEXT} that does not end with the assistant'
        )
    return tuple(messages)


def question_of(messages: Sequence[Message]) -> str:
    """Return the text of a chat without what others share, its system message."""
    own = [turn for turn in messages if turn["role"] != "system"] or messages
    return "\n".join(turn["content"] for turn in own)
