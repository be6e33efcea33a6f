"""Store artifacts by content: made once, atomically, under a lock, verified when read, resumable after any kill.

An artifact is a folder store/<stage>/<key>[/<part>] with its files and a manifest. The key is a hash of the stage, its
version, its settings and the content keys of its parents. Settings that change only the speed are not part of it.
"""

import contextlib
import contextvars
import fcntl
import functools
import inspect
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from bench import progress
from bench.artifacts import content_hash
from bench.errors import BenchError, full_disk, is_disk_full
from bench.progress import said_after, say
from bench.store import files
from bench.store.files import MANIFEST, DamagedArtifactError, atomically, check, walk, write_durably

__all__ = ["MANIFEST", "Address", "DamagedArtifactError", "Finder", "MissingError", "Store", "Use", "atomically"]
__all__ += ["check", "current", "in_use", "lineage", "lock_file", "stage", "unique", "using", "walk", "write_durably"]

SHIPPED = Path(__file__).with_name("shipped")  # artifacts that come with the package, in folders as a store has them
PATIENCE = 5.0  # seconds that a process waits for another one before it says so
T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """The inputs of an artifact: enough to find it, and to record in its manifest how it was made."""

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
    """One artifact that a run used. A run's uses are its lineage, from which its costs are computed."""

    stage: str
    key: str
    part: str
    settings: dict[str, Any]
    parents: dict[str, str]
    counts: dict[str, float]  # e.g. generated_tokens, flops
    seconds: float  # wall-clock time of making it, now or earlier
    reused: bool
    shipped: bool = False  # made by the suite's authors, and part of the package

    @property
    def folder(self) -> Path:
        return Path(self.stage, self.key, self.part)

    @property
    def unit(self) -> str:
        """key/part, as `Completions.stored_as` names it."""
        return f"{self.key}/{self.part}"


def unique(uses: Sequence[Use]) -> list[Use]:
    """Return the first use of each artifact."""
    first: dict[tuple[str, str, str], Use] = {}
    for use in uses:
        first.setdefault((use.stage, use.key, use.part), use)
    return list(first.values())


def lineage(uses: Sequence[Use]) -> list[dict[str, Any]]:
    """Return the entries of lineage.json: every artifact behind a run, once."""
    return [asdict(use) for use in unique(uses)]


@dataclass
class Store:
    """A folder of artifacts, and the record of their use."""

    root: Path
    uses: list[Use] = field(default_factory=list)
    shipped: Path | None = SHIPPED  # artifacts that are taken from here, not made
    before_making: Callable[[], None] = lambda: None  # called before each artifact is made
    made_beside: Callable[[], Collection[Path]] = lambda: ()  # folders of those that a second process of the run made

    def __post_init__(self) -> None:
        self.root = Path(self.root).absolute()
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            probe = self.root / ".locks" / f".probe-{files.unique_name()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise BenchError(
                f"store={self.root} can't be written ({error.strerror}); give a writable folder: store=PATH."
            ) from error

    def make(self, address: Address, build: Callable[[Path], dict[str, float]], load: Callable[[Path], T]) -> T:
        """Return the loaded artifact; where it is missing or damaged, first make it with `build(folder) -> counts`."""
        folder = self.root / address.folder
        manifest, _ = files.examine(folder)
        reused = manifest is not None
        if manifest is None:
            with self._lock(address):
                manifest, damage = files.examine(folder)
                reused = manifest is not None
                if manifest is None:
                    if damage is not None:
                        aside = folder.with_name(f".damaged-{folder.name}-{files.unique_name()}")
                        folder.rename(aside)
                        say(f"warning: {damage}; set aside as {aside.relative_to(self.root)} and made again")
                    manifest = self._build(address, folder, build)
        shipped = manifest.get("shipped", False)
        if reused or shipped:
            progress.found(beside=reused and address.folder in self.made_beside())
        names = ("stage", "key", "part", "settings", "parents", "counts", "seconds")
        self.uses.append(Use(**{name: manifest[name] for name in names}, reused=reused or shipped, shipped=shipped))
        return load(folder)

    def scratch(self, address: Address) -> Path:
        """Return the folder in which the artifact is made before it is moved into place."""
        folder = self.root / address.folder
        return folder.with_name(f".making-{folder.name}")

    def _build(self, address: Address, folder: Path, build: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
        scratch = self.scratch(address)
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process: under the lock no other one uses it
            scratch.mkdir(parents=True)
            manifest = files.take(self.shipped / address.folder, scratch) if self.shipped else None
            if manifest is None:
                self.before_making()
                start = time.perf_counter()
                with progress.making(address.stage):
                    counts = build(scratch)
                names = ("stage", "version", "key", "part", "settings", "parents")
                origin = {name: getattr(address, name) for name in names}
                manifest = files.seal(scratch, origin, counts, time.perf_counter() - start)
            scratch.rename(folder)
            files.flush(folder.parent)
        except BaseException as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if is_disk_full(error):
                place, setting = full_disk(error, "store", self.root)
                raise BenchError(
                    f"The disk of {place} is full while making {address.stage}; free some space, or give another place "
                    f"({setting}=PATH), and run the same command: finished artifacts are kept."
                ) from error
            raise
        return manifest

    @contextlib.contextmanager
    def _lock(self, address: Address) -> Iterator[None]:
        """Hold a lock while an artifact is made; the kernel releases it when the process ends, however it ends."""
        with lock_file(self.root, address.folder).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                with said_after(PATIENCE, f"waiting for {file.read() or 'a process'}, which makes {address.folder}"):
                    fcntl.flock(file, fcntl.LOCK_EX)
            files.claim(file)
            yield


class MissingError(LookupError):
    """An artifact that a Finder did not find, or found damaged."""

    def __init__(self, address: Address) -> None:
        super().__init__(str(address.folder))
        self.address = address


class Finder(Store):
    """A store that only reads: it raises MissingError for an artifact that is missing or damaged, and not shipped."""

    def make(self, address: Address, build: Callable[[Path], dict[str, float]], load: Callable[[Path], T]) -> T:
        try:
            return super().make(address, build, load)
        except MissingError:
            if self.shipped is None or files.examine(self.shipped / address.folder)[0] is None:
                raise
            return load(self.shipped / address.folder)

    def _lock(self, address: Address) -> NoReturn:  # taken where an artifact has to be made
        raise MissingError(address)


_current: contextvars.ContextVar[Store | None] = contextvars.ContextVar("store", default=None)


@contextlib.contextmanager
def using(store: Store) -> Iterator[Store]:
    """Make stages that are called inside keep their artifacts in `store`, and prevent pruning it meanwhile."""
    token = _current.set(store)
    try:
        with in_use(store.root).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield store
    finally:
        _current.reset(token)


def in_use(root: Path) -> Path:
    """Return the file on which every run holds a shared lock, and pruning an exclusive one."""
    return root / ".locks" / ".in-use"


def lock_file(root: Path, artifact: Path) -> Path:
    """Return the file to lock while the artifact at root / artifact is made."""
    return root / ".locks" / "-".join(artifact.parts)


def current() -> Store:
    """Return the store of the innermost `using`."""
    store = _current.get()
    if store is None:
        raise RuntimeError("a stage was called outside `with bench.store.using(Store(path)):`")
    return store


def stage(
    *, version: int, load: Callable[[Path], T], speed_only: Sequence[str] = (), later: Sequence[str] = ()
) -> Callable[..., Callable[..., T]]:
    """Turn a function `f(*parents, out, **settings) -> counts` into a stage, whose result is kept in the store.

    Positional parameters are parent artifacts and keyword-only ones are settings. The function writes its files into
    the folder `out` and returns its counts, e.g. {"generated_tokens": ...}. Callers pass no `out` and get
    `load(folder)`. The function's name, the version, the settings and the parents' keys make up the artifact's key.

    version: raise it when the same settings get a new meaning. speed_only: settings that are not part of the key,
    because they do not change the result. later: settings added after the first artifacts were made; one at its default
    is left out of the key, so that older artifacts are still found.
    """

    def decorate(build: Callable[..., dict[str, float]]) -> Callable[..., T]:
        signature = inspect.signature(build)
        parents = [name for name, value in signature.parameters.items() if value.kind != inspect.Parameter.KEYWORD_ONLY]

        @functools.wraps(build)
        def call(*artifacts: Any, **settings: Any) -> T:
            bound = signature.bind(*artifacts, **settings, out=None)
            bound.apply_defaults()
            given = dict(bound.arguments)
            unchanged = {name for name in later if given[name] == signature.parameters[name].default}
            no_settings = {*parents, *speed_only, *unchanged, "out"}
            address = Address(
                stage=build.__name__,
                version=version,
                settings={name: value for name, value in given.items() if name not in no_settings},
                parents={name: given[name].key for name in parents},
            )
            return current().make(address, lambda out: build(*artifacts, **settings, out=out), load)

        return call

    return decorate
