"""The one exception that users read: a sentence saying what is wrong, where, and what is allowed."""

import errno
import os

FULL = os.strerror(errno.ENOSPC)


class BenchError(ValueError):
    """A mistake in the input or the surroundings; the command line prints its sentence and exits with status 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error; libraries wrap the system's own in theirs, some keep only its words."""
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    return any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)) or FULL in str(cause)
        for cause in causes
        if cause is not None
    )


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether a GPU had too little memory; torch is not imported for it."""
    causes = (error, error.__cause__, error.__context__)
    return any(type(cause).__name__ == "OutOfMemoryError" and "torch" in type(cause).__module__ for cause in causes)
