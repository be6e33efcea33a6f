"""python -m bench.store: list, verify or prune stored artifacts.

store=PATH and outputs=PATH mean the same as --store PATH and --outputs PATH.

examples:
  python -m bench.store                              stage, key, size, age and seconds of every artifact
  python -m bench.store verify store=/data/store     recompute every checksum; status 1 if any differs
  python -m bench.store prune                        print what no run in outputs/ refers to
  python -m bench.store prune --delete               delete it
  python -m bench.store prune --delete --unfinished  delete what runs made that were killed or failed, too
"""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError, CommandLine
from bench.store import DamagedArtifactError, check, in_use, lock_file, walk
from bench.store.files import BUSY, FAILURE, holder, unfinished
from bench.store.reading import LINEAGE, read_lineage


def main() -> None:
    parser = CommandLine(__doc__)
    parser.add_argument(
        "action", nargs="?", default="list", choices=["list", "verify", "prune"], help="what to do (default: list)"
    )
    folders = {"store": "the folder of artifacts", "outputs": "prune keeps what runs in this folder use"}
    for name, purpose in folders.items():
        parser.add_argument(f"--{name}", metavar="PATH", type=Path, default=name, help=f"{purpose} (default: {name})")
    parser.add_argument("--delete", action="store_true", help="prune deletes instead of only printing")
    parser.add_argument(
        "--unfinished", action="store_true", help="prune --delete deletes what unfinished runs made for their next try"
    )
    words = sys.argv[1:]  # store=PATH, the form that runs take, is --store=PATH
    options = parser.parse_args([f"--{word}" if word.startswith(("store=", "outputs=")) else word for word in words])
    if not (options.store / ".locks").is_dir():
        sys.exit(f"error: store={options.store} is not a store; give the folder that your runs name store=.")
    if options.action == "list":
        list_artifacts(options.store)
    elif options.action == "verify":
        sys.exit(verify(options.store))
    else:
        try:
            prune(options.store, options.outputs, delete=options.delete, also_unfinished=options.unfinished)
        except BenchError as error:  # a lineage that can't be read names artifacts that are needed
            sys.exit(f"error: {error}")


def artifacts(store: Path) -> dict[Path, list[Path]]:
    """Return artifact folder store/<stage>/<key> -> the folders in it that have a manifest, one per block of a pool."""
    pieces: dict[Path, list[Path]] = {}
    for folder, whole in walk(store):
        if whole:
            pieces.setdefault(store.joinpath(*folder.relative_to(store).parts[:2]), []).append(folder)
    return pieces


def list_artifacts(store: Path) -> None:
    """Print the stage, key, pieces, size, age and seconds of making of every artifact."""
    total = 0
    print(f"{'stage':<20} {'key':<22} {'pieces':>6} {'size':>10} {'age':>8} {'made in':>9}")
    for folder, pieces in artifacts(store).items():
        size = _size(folder)
        total += size
        try:
            manifests = [check(piece, hash_limit=0) for piece in pieces]
        except DamagedArtifactError as error:
            print(f"{folder.parent.name:<20} {folder.name:<22} damaged: {error}")
            continue
        age = max(0.0, time.time() - max(manifest["created"] for manifest in manifests))
        seconds = sum(manifest["seconds"] for manifest in manifests)
        name = f"{folder.parent.name:<20} {folder.name:<22}"
        print(f"{name} {len(pieces):>6} {_bytes(size):>10} {_age(age):>8} {seconds:>7.1f} s")
    left = left_overs(store)
    print(f"{_bytes(total)} in total" + (f"; prune finds {len(left)} left-overs" if left else ""))


def verify(store: Path) -> int:
    """Recompute every checksum; return the exit status, 1 where an artifact is damaged."""
    pieces = [piece for group in artifacts(store).values() for piece in group]
    damaged = 0
    for piece in pieces:
        try:
            check(piece)
        except DamagedArtifactError as error:
            damaged += 1
            print(f"damaged: {error}; the next run that needs it makes it again")
    print(f"{len(pieces) - damaged} of {len(pieces)} artifacts match their checksums")
    return min(damaged, 1)


def left_overs(store: Path) -> list[Path]:
    """Return the folders set aside as damaged, and those that a killed process was making: none holds their lock."""

    def is_made(path: Path) -> bool:
        artifact = path.with_name(path.name.removeprefix(".making-")).relative_to(store)
        return not path.name.startswith(".damaged-") and bool(holder(lock_file(store, artifact)))

    return [path for path, whole in walk(store) if not whole and not is_made(path)]


def prune(store: Path, outputs: Path, *, delete: bool, also_unfinished: bool) -> None:
    """Print, and with `delete` remove, left-overs and artifacts that no run under `outputs` names; not during a run.

    A run that was killed or failed names none yet, so where there is one, `delete` needs `also_unfinished`.
    """
    tried = [folder for folder, names in _folders(outputs) if {BUSY, FAILURE} & names and LINEAGE not in names]
    if tried and not also_unfinished:
        one = f"{tried[0]} did not finish" if len(tried) == 1 else f"{len(tried)} runs did not finish, as {tried[0]}"
        said = f"{one}, and what was made for it is not known; finish it, or delete its folder"
        if delete:
            sys.exit(f"error: {said}, or give --unfinished.")
        print(f"{said}, or what it needs may be listed here")
    with contextlib.ExitStack() as stack:
        if delete:
            try:
                file = stack.enter_context(in_use(store).open("a"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(f"error: a run is using store={store}; prune it when the run has ended.")
            except OSError as error:
                sys.exit(
                    f"error: store={store} can't be written ({error.strerror}), so nothing can be deleted from it."
                )
        _prune(store, outputs, delete=delete)


def _prune(store: Path, outputs: Path, *, delete: bool) -> None:
    wanted = set()
    for folder, names in _folders(outputs):
        if LINEAGE in names:
            wanted |= {Path(entry["stage"], entry["key"], entry["part"]) for entry in read_lineage(folder)}
    if not wanted:
        sys.exit(
            f"error: no run under outputs={outputs}; pruning would delete everything. Give the folder of your runs."
        )
    stored = [folder for folder, whole in walk(store) if whole]
    unwanted = [*left_overs(store), *(folder for folder in stored if folder.relative_to(store) not in wanted)]
    runs = sorted(folder for folder, names in _folders(outputs) if {"config.yaml", BUSY} & names)
    left = [path for run in runs if not holder(run / BUSY) for path in unfinished(run)]  # by runs that were killed
    freed = 0
    for piece in [*unwanted, *left]:
        size = _size(piece)
        freed += size
        place = piece.relative_to(store) if piece.is_relative_to(store) else piece
        print(f"{'deleted' if delete else 'would delete'} {place} ({_bytes(size)})")
        if delete:
            shutil.rmtree(piece) if piece.is_dir() else piece.unlink()
    print(f"{len(unwanted)} artifacts, {_bytes(freed)}" + ("" if delete or not unwanted else "; --delete removes them"))


def _folders(outputs: Path) -> Iterator[tuple[Path, set[str]]]:
    """Each folder under `outputs` and the names of its files; folders behind links too, once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(outputs, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield Path(place), set(names)


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(seconds: float) -> str:
    for limit, unit in ((60, "s"), (60, "min"), (24, "h")):
        if seconds < limit:
            return f"{seconds:.0f} {unit}"
        seconds /= limit
    return f"{seconds:.0f} d"


if __name__ == "__main__":
    main()
