"""The products of a training on its way: checkpoints to continue from, and policies to judge.

    python -m bench training.checkpoint_every=100     updates between two checkpoints
    python -m bench training.keep_every=10            updates between two policies that are kept

Both lie beside the folder in which the training is made, because a new try empties that folder. Policies are handed
over into it at the end, and judged on validation prompts (see bench.evaluation.heldout).
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.artifacts import Policy
from bench.models import loading
from bench.store.files import flush, write_durably

MEASURED = "measured.json"  # written last: a checkpoint that has it is whole
KEPT = "after-{}-updates"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, with the measures up to it."""

    folder: Path
    log: list[dict[str, float]]  # of every update before it
    tokens: int  # that went through the model before it


def beside(scratch: Path) -> Path:
    """The folder for what outlives a kill of the training that is made in `scratch`."""
    return scratch.with_name(f"{scratch.name}.checkpoints")


def folder(scratch: Path, *, sharded: bool) -> Path:
    """The folder of the checkpoints; sharded weights have their own, as a training of whole weights can't load them."""
    return beside(scratch) / "sharded" if sharded else beside(scratch)


def seal(checkpoint: Path, log: list[dict[str, float]], tokens: int) -> None:
    """Mark the checkpoint as whole, once it is on the disk, with the measures of every update before it."""
    for path in checkpoint.rglob("*"):
        flush(path)
    write_durably(checkpoint / MEASURED, json.dumps({"log": log, "tokens": tokens}))


def last(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint; those that a kill cut short are removed."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    whole = [path for path in newest_first if (path / MEASURED).is_file()]
    for path in set(newest_first) - set(whole):
        shutil.rmtree(path)
    return Checkpoint(whole[0], **json.loads((whole[0] / MEASURED).read_text())) if whole else None


def kept(policy: Policy) -> dict[int, Policy]:
    """Updates -> the policy after so many updates, in order; `policy` itself, the last, is not among them."""
    folders = {int(path.name.split("-")[1]): path for path in policy.path.glob(KEPT.format("*"))}
    return {
        updates: replace(loading.folder(path), trust_remote_code=policy.trust_remote_code)
        for updates, path in sorted(folders.items())
    }


def is_kept(scratch: Path, updates: int) -> bool:
    """Whether a training that is made in `scratch` has kept that policy, in this try or one that was killed."""
    return (beside(scratch) / KEPT.format(updates)).is_dir()


def keep(scratch: Path, updates: int, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `scratch`. The folder is there whole and on the disk, or not at all."""
    folder = beside(scratch) / KEPT.format(updates)
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(unfinished)
    for path in unfinished.rglob("*"):
        flush(path)
    unfinished.rename(folder)
    flush(folder.parent)


def hand_over(scratch: Path) -> None:
    """Link the kept policies beside `scratch` into it. They stay beside it too, for a new try."""
    for folder in beside(scratch).glob(KEPT.format("*")):
        shutil.copytree(folder, scratch / folder.name, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Give the file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
