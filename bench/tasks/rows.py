"""Rows of a published data set by split: from the hub at a pinned revision, or from local files of the same format."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
WHOLE = "all"  # the split of rows that came without one


def from_path(path: str, *, splits: Mapping[str, str], folder: str | None = None) -> dict[str, list[Row]]:
    """Rows by split of a file or folder; one file alone comes without splits, as {"all": rows}.

    splits: what the data calls each of ours, e.g. {"train": "train_prefs"}. In a folder (or in its `folder`, where
    it has that) every file of a split counts, at any depth: train.jsonl, or train-00000-of-00002.parquet as on the hub.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {WHOLE: read(place)}
    if not place.is_dir():
        raise BenchError(f"task.path={path} does not exist; give a file ({', '.join(SUFFIXES)}) or a folder of them.")
    root = place / folder if folder and (place / folder).is_dir() else place
    files = sorted(file for file in root.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    found: dict[str, list[Row]] = {}
    for split, name in splits.items():
        of_split = [file for file in files if re.fullmatch(rf"{re.escape(name)}(-\d+-of-\d+)?", file.stem)]
        if of_split:
            found[split] = [row for file in of_split for row in read(file)]
    if not found:
        names = " or ".join(f"{name}.jsonl" for name in splits.values())
        raise BenchError(f"task.path={path} holds no rows: it needs files such as {names} ({', '.join(SUFFIXES)}).")
    return found


def read(file: Path) -> list[Row]:
    """The rows of one file. BenchError names the line that is no JSON object."""
    if file.suffix not in SUFFIXES:
        raise BenchError(f"{file} is not of a kind that can be read; give {', '.join(SUFFIXES)}.")
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    text = file.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    if file.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True)))
    if file.suffix == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise BenchError(f"{file} is no JSON: {error}.") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BenchError(f"{file} must be a JSON list of objects, one a row.")
        return rows
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BenchError(f"{file}, line {number} is no JSON: {error}.") from error
            if not isinstance(row, dict):
                raise BenchError(f"{file}, line {number} must be a JSON object, and is a {type(row).__name__}.")
            found.append(row)
    return found


def from_hub(repo: str, *, config: str | None, revision: str, splits: Mapping[str, str]) -> dict[str, list[Row]]:
    """Rows by split of a data set on the hub, or in the hub's cache. BenchError says what to do where there is none."""
    import datasets

    found = {}
    for split, name in splits.items():
        try:
            found[split] = list(datasets.load_dataset(repo, config, split=name, revision=revision))
        except (OSError, ValueError, RuntimeError) as error:
            raise BenchError(f"The data set {repo} ({_what_to_do(error, revision)}") from error
    return found


def _what_to_do(error: BaseException, revision: str) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    local = "or give its files as task.path=PATH"
    if "gated" in reason.lower():
        return f"gated) needs your consent: accept its terms on its page and log in with `hf auth login`, {local}."
    if "offline" in reason.lower() or isinstance(error, ConnectionError):
        return f"revision {revision}) is not in the cache, and the hub can't be reached: go online once, {local}."
    return (
        f"revision {revision}) can't be loaded: {reason[:200].rstrip('.')}. Check task.repo and task.revision, {local}."
    )
