"""report.json: what a report was made from and which files it wrote. Anyone may have edited it since."""

import json
from pathlib import Path
from typing import Any

from bench.errors import BenchError

MANIFEST = "report.json"  # a folder that holds it is a report, not a run
PAGE = "index.html"
TEXTS = ("tables.md", "verdicts.md", "methods.md", "references.bib")
FOLDERS = ("figures", "tables")
SHAPE = {  # what is read of it: a type, [the shape of each item], {str: of each value} or {name: of that value}
    "runs": [{"folder": str}],
    "exhibits": {str: {"stamp": str, "files": [str]}},
    "files": {str: str},  # name -> SHA-256
}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the report in `folder`; BenchError where it is missing or damaged."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} holds no report ({MANIFEST} is missing or damaged); build it first.") from error
    if not _matches(content, SHAPE):
        raise BenchError(f"{folder} holds no report ({MANIFEST} does not say what a report is made of); build it anew.")
    return content


def earlier_files(folder: Path) -> list[str]:
    """The files that an earlier report in `folder` wrote, by its manifest; none where there is no report."""
    try:
        return [name for name in read_manifest(folder)["files"] if is_report_file(name)]
    except BenchError:
        return []


def is_report_file(name: str) -> bool:
    """Whether a report may write a file of this name, relative to its folder."""
    if name in (*TEXTS, PAGE):
        return True
    folder, _, file = name.partition("/")
    return folder in FOLDERS and file not in ("", ".", "..") and not set("/\\\0") & set(file)


def _matches(content: Any, shape: Any) -> bool:
    if isinstance(shape, type):
        return isinstance(content, shape)
    if isinstance(shape, list):
        return isinstance(content, list) and all(_matches(item, shape[0]) for item in content)
    if not isinstance(content, dict):
        return False
    if str in shape:
        return all(_matches(value, shape[str]) for value in content.values())
    return all(_matches(content.get(name), part) for name, part in shape.items())
