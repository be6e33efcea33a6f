"""Errors that users read as one sentence: the mistake, its place, and what is allowed. And the parser of commands."""

import argparse
import difflib
import errno
import glob
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

QUOTED = 300  # characters of words that others wrote, e.g. a server
FULL = os.strerror(errno.ENOSPC)


class BenchError(ValueError):
    """A mistake in the input or the environment. The command line prints its message and exits with status 1.

    A message may quote a file, a server or a folder's name: control characters in it are shown, never sent.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)).replace("\n", r"\n").replace("\t", r"\t"))


class CommandLine(argparse.ArgumentParser):
    """The parser of one command, which ends in one sentence where an option or a choice is wrong.

    docstring: "COMMAND: its purpose.", and below it what --help shows under the options: examples and notes.
    """

    def __init__(self, docstring: str, formatter: Any = argparse.RawDescriptionHelpFormatter) -> None:
        first, _, notes = docstring.partition("\n")
        command, _, purpose = first.partition(": ")
        super().__init__(
            command,
            description=purpose[:1].upper() + purpose[1:],
            epilog=notes.strip("\n"),
            formatter_class=formatter,
            allow_abbrev=False,
        )

    def take_words(self, purpose: str, metavar: str = "setting=value") -> None:
        """Take settings or folders as `words`, and -m, which changes nothing: a sweep is named as it was started.

        Where metavar begins with FOLDER, a pattern that the shell left as it is stands for the folders that it finds.
        """
        self.folders = metavar.startswith("FOLDER")
        self.add_argument("words", metavar=metavar, nargs="*", help=purpose)
        self.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        for word in words:
            if word.startswith("-") and word.partition("=")[0] not in self._option_string_actions:
                self.error(f"unrecognized arguments: {word}")  # before its value is taken for something else
        if getattr(self, "folders", False):
            found = {word: [word] if "=" in word else expanded(word) for word in words}
            words = [path for word in words for path in found[word] or self.error(f"{word} finds no folder")]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        near = ""
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            near = did_you_mean(unknown[1].partition("=")[0], self._option_string_actions)
            message = f"{unknown[1]} is no option of {self.prog}"
        elif wrong := re.match(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            choices = wrong[3].replace("'", "").split(", ")
            near = did_you_mean(wrong[2], choices)
            message = f"{wrong[1]}={wrong[2]} is not allowed: it must be one of {', '.join(choices)}"
        sys.exit(f"error: {printable(message)}{near or '; --help lists the options.'}")


def expanded(pattern: str) -> list[str]:
    """The paths that a pattern such as outputs/default/* finds, in order; a word that is no pattern as it is."""
    return [pattern] if os.path.exists(pattern) or not glob.has_magic(pattern) else sorted(glob.glob(pattern))


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question that follows a misspelt name: "; did you mean A or B?", nearest first; "" where no name is near.

    cutoff: the least similarity, from 0 to 1, of difflib. Names that are clearly farther than the nearest are left out.
    """
    scores = {
        other: difflib.SequenceMatcher(None, other, name).ratio()
        for other in difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=cutoff)
    }
    near = [other for other, score in scores.items() if score > max(scores.values()) - 0.1]
    return f"; did you mean {' or '.join(near)}?" if near else ""


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
    """The first line of an error's message, or the error's name where it has none; of pydantic's, its first fault."""
    if fault := re.match(r"\d+ validation errors? for \S+\s+(.+?) \[type=", str(error), re.DOTALL):
        return " ".join(fault[1].split())
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
    """The full disk, as NAME=PATH, and the setting that moves its files: `setting`, or TMPDIR."""
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
