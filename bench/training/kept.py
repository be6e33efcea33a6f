"""Policies along a training: those after every so many updates, whole ones, each in a folder within the last one's.

    python -m bench training.keep_every=10

They are judged on validation prompts (bench.evaluation.along_training).
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.artifacts import Policy
from bench.models import loading
from bench.store.files import flush
from bench.training import checkpoints

NAME = "after-{}-updates"


def kept(policy: Policy) -> dict[int, Policy]:
    """Updates -> the policy after so many, in their order; the last is `policy` itself, and not among them."""
    found = {int(path.name.split("-")[1]): path for path in policy.path.glob(NAME.format("*"))}
    return {
        updates: replace(loading.folder(path), trust_remote_code=policy.trust_remote_code)
        for updates, path in sorted(found.items())
    }


def is_kept(scratch: Path, updates: int) -> bool:
    """Whether a training that is made in `scratch`, in this try or one that was killed, has kept that policy."""
    return _meanwhile(scratch, updates).is_dir()


def keep(scratch: Path, updates: int, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `scratch`: whole, and on the disk, or not there at all."""
    folder = _meanwhile(scratch, updates)
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(unfinished)
    for path in unfinished.rglob("*"):
        flush(path)
    unfinished.rename(folder)
    flush(folder.parent)


def hand_over(scratch: Path) -> None:
    """Put what was kept beside `scratch` into it. It stays beside, too: a new try empties `scratch`."""
    for folder in checkpoints.beside(scratch).glob(NAME.format("*")):
        shutil.copytree(folder, scratch / folder.name, copy_function=_link)


def _meanwhile(scratch: Path, updates: int) -> Path:
    return checkpoints.beside(scratch) / NAME.format(updates)


def _link(source: str, target: str) -> None:
    """The same file under a second name; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
