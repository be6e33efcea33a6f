"""What W&B has been told of a run, remembered in its folder, so that the same is not told twice."""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.artifacts import content_hash
from bench.store import write_durably
from bench.tracking.mirror import Finished

RECORD = "tracking.json"


@dataclass(frozen=True)
class Logged:
    """The last attempt to log a run."""

    content: str  # a hash of what was logged
    mode: str  # online or offline
    path: str | None  # the folder that wandb wrote; None while the attempt lasts, or where it was killed
    url: str | None  # on the server
    start: int | None  # rows of history that the server had before this content's first; None where it wasn't asked

    def write(self, folder: Path) -> None:
        write_durably(folder / RECORD, json.dumps(asdict(self), indent=1))

    @property
    def complete(self) -> bool:
        return self.path is not None and Path(self.path).is_dir()


def earlier(folder: Path) -> Logged | None:
    """The last attempt to log the run in `folder`; a damaged record is no record."""
    try:
        return Logged(**json.loads((folder / RECORD).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[int]:
    """One process at a time logs a run: two sweeps that have a cell in common tell W&B once. Yields the locked file."""
    with (folder / f".{RECORD}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def files(folder: Path) -> list[Path]:
    """Every file that a run left."""
    named = [folder / name for name in ("config.yaml", "metrics.json", "lineage.json", "chain.json")]
    return [*named, *sorted(folder.glob("*.parquet")), *sorted(folder.glob("*.png"))]


def content(finished: Finished, place: dict) -> str:
    """A hash of what was measured and where it is to be logged, apart from what this process found ready.

    That differs each time and is no result.
    """
    metrics = {name: value for name, value in finished.metrics.items() if not name.startswith("saved/")}
    made = [
        [{name: value for name, value in entry.items() if name != "reused"} for entry in entries]
        for entries in (finished.lineage, finished.chain)
    ]
    rest = [path for path in files(finished.folder) if path.suffix != ".json"]
    return content_hash(place, metrics, made, [hashlib.sha256(path.read_bytes()).hexdigest() for path in rest])
