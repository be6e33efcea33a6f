"""report.json: what a report was made from and what it wrote; read back as something that anyone may have edited."""

import json
from pathlib import Path
from typing import Any

from bench.errors import BenchError

MANIFEST = "report.json"  # a folder that holds it is a report, not a run
PAGE = "index.html"
WORDS = ("tables.md", "verdicts.md", "methods.md", "references.bib")
FOLDERS = ("figures", "tables")


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the report in `folder` says of itself; BenchError where that is no report's manifest."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} holds no report ({MANIFEST} is missing or damaged); build it first.") from error
    if not _is_manifest(content):
        raise BenchError(f"{folder} holds no report ({MANIFEST} does not say what a report is made of); build it anew.")
    return content


def made_earlier(folder: Path) -> list[str]:
    """The files that the report in `folder` wrote, by its manifest; none where there is no report."""
    try:
        return [name for name in read_manifest(folder)["files"] if is_of_report(name)]
    except BenchError:
        return []


def is_of_report(name: str) -> bool:
    """Whether a report may have written a file of this name, relative to its folder."""
    if name in (*WORDS, PAGE):
        return True
    folder, _, file = name.partition("/")
    return folder in FOLDERS and file not in ("", ".", "..") and not set("/\\\0") & set(file)


def _is_manifest(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    runs, exhibits, files = content.get("runs"), content.get("exhibits"), content.get("files")
    return (
        isinstance(runs, list)
        and all(isinstance(run, dict) and isinstance(run.get("folder"), str) for run in runs)
        and isinstance(exhibits, dict)
        and all(_is_exhibit(exhibit) for exhibit in exhibits.values())
        and isinstance(files, dict)
        and all(isinstance(digest, str) for digest in files.values())
    )


def _is_exhibit(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("stamp"), str)
        and isinstance(content.get("files"), list)
        and all(isinstance(name, str) for name in content["files"])
    )
