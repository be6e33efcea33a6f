"""An artifact's files on disk: written whole or not at all, described by a manifest, checked against it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.artifacts import content_hash

MANIFEST = "manifest.json"
HASH_ON_READ = 256 * 2**20  # bytes: larger files are checked by size when read, in full by `bench.store verify`


class DamagedArtifactError(Exception):
    """Files that do not match their manifest; the store sets them aside and makes them again."""


def check(folder: Path, *, hash_limit: float = float("inf")) -> dict[str, Any]:
    """The manifest of an artifact whose files match it; DamagedArtifactError names the first that does not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        intact = manifest["hash"] == content_hash({name: manifest[name] for name in manifest if name != "hash"})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedArtifactError(f"the manifest of {folder} can't be read") from error
    if not intact:
        raise DamagedArtifactError(f"the manifest of {folder} does not match its own checksum")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            raise DamagedArtifactError(f"{path} is missing or truncated")
        if expected["bytes"] <= hash_limit and _sha256(path) != expected["sha256"]:
            raise DamagedArtifactError(f"{path} does not match its checksum")
    return manifest


def walk(store: Path) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is an artifact) of each artifact under `store` and of each folder set aside or being made.

    Others may be writing meanwhile: a folder that is gone by the time it is read is no artifact any more.
    """
    for root, folders, files in os.walk(store):
        here = Path(root)
        if here != store:
            yield from ((here / name, False) for name in folders if name.startswith((".damaged-", ".making-")))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if MANIFEST in files:
            yield here, True


def examined(folder: Path) -> tuple[dict[str, Any] | None, DamagedArtifactError | None]:
    """The manifest of an intact artifact, or what is wrong with it, or neither where there is none."""
    if not folder.is_dir():
        return None, None
    try:
        return check(folder, hash_limit=HASH_ON_READ), None
    except DamagedArtifactError as damage:
        return None, damage


def describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place, flushed to disk, when all went well and else is removed.

    A reader sees the old file or the new, never half of it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        flush(beside)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_durably(path: Path, text: str) -> None:
    with atomically(path) as beside:
        beside.write_text(text)


def checksum(folder: Path, name: str) -> str:
    """The first digits of a file's hash, as the artifact's manifest has it."""
    return json.loads((folder / MANIFEST).read_text())["files"][name]["sha256"][:20]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
