"""Checkpoints of a training that was killed: the last whole one, and what had been measured by then."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.store.files import flush, write_durably

MEASURED = "measured.json"  # written last: a checkpoint that has it is whole


@dataclass(frozen=True)
class Whole:
    folder: Path
    log: list[dict[str, float]]  # of every update before it
    tokens: int  # that were seen by then


def beside(scratch: Path) -> Path:
    """Where what outlives a kill lies while a training is made: beside its folder, which a new try empties."""
    return scratch.with_name(f"{scratch.name}.checkpoints")


def folder(scratch: Path, *, sharded: bool) -> Path:
    """Where its checkpoints lie; those of shares of the weights apart, as whole weights can't go on from them."""
    return beside(scratch) / "sharded" if sharded else beside(scratch)


def seal(checkpoint: Path, log: list[dict[str, float]], tokens: int) -> None:
    """Say that the checkpoint is whole, once it is on the disk, with the numbers of every update before it."""
    for path in checkpoint.rglob("*"):
        flush(path)
    write_durably(checkpoint / MEASURED, json.dumps({"log": log, "tokens": tokens}))


def last(folder: Path) -> Whole | None:
    """The last whole checkpoint and what was measured by then; those that a kill cut short are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    whole = [path for path in found if (path / MEASURED).is_file()]
    for path in set(found) - set(whole):
        shutil.rmtree(path)
    return Whole(whole[0], **json.loads((whole[0] / MEASURED).read_text())) if whole else None
