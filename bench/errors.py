"""The exception whose message users read: one sentence that says what is wrong, where, and what is allowed."""

import errno
import os
import shutil
import unicodedata
from pathlib import Path

QUOTED = 300  # characters of words that others wrote, e.g. a server
FULL = os.strerror(errno.ENOSPC)


class BenchError(ValueError):
    """A mistake in the input or the environment. The command line prints its message and exits with status 1.

    A message may quote a file, a server or a folder's name: control characters in it are shown, never sent.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)).replace("\n", r"\n").replace("\t", r"\t"))


def printable(text: str) -> str:
    r"""Text with characters that command a terminal, or that it can't show, written as \x1b and \u202e are here."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def quoted(words: object) -> str:
    """Return words that others wrote as one short line of a message, which a BenchError makes printable."""
    line = " ".join(str(words)[: 4 * QUOTED].split())
    return line if len(line) <= QUOTED else f"{line[:QUOTED]} ..."


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk caused the error. Libraries wrap the system's error; some keep only its words."""
    return any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)) or FULL in str(cause)
        for cause in _causes(error)
    )


def full_disk(error: BaseException, setting: str, folder: Path) -> tuple[str, str]:
    """Which disk is full, as NAME=PATH, and the setting that moves what lies there: `setting`, or TMPDIR."""
    temporary = Path(os.environ.get("TMPDIR") or "/tmp").absolute()
    named = [Path(str(cause.filename)) for cause in _causes(error) if isinstance(cause, OSError) and cause.filename]
    inside = [path.is_relative_to(temporary) and not path.is_relative_to(folder.absolute()) for path in named]
    if not named and temporary.is_dir() and folder.is_dir():
        inside = [shutil.disk_usage(temporary).free < shutil.disk_usage(folder).free / 100]
    return (f"TMPDIR={temporary}", "TMPDIR") if any(inside) else (f"{setting}={folder}", setting)


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether a GPU had too little memory, told without importing torch."""
    return any(
        type(cause).__name__ == "OutOfMemoryError" and "torch" in type(cause).__module__ for cause in _causes(error)
    )


def _causes(error: BaseException) -> list[BaseException]:
    return [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
