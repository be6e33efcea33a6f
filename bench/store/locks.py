"""Whether a process holds a lock, told without writing: the files may be another user's."""

import fcntl
from pathlib import Path
from typing import TextIO

BUSY = "running.lock"  # in a run's folder: locked by the process that runs it; its content names that process


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
    except FileNotFoundError:
        raise
    except OSError:
        return path.open(errors="replace")
