"""The suite's commands in processes of their own, without the seconds that imports take.

Each is the fork of a process that has imported what an experiment needs, and can be killed like any other.
"""

import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preloaded"])


class Command:
    """A started command: `python -m bench ARGUMENTS`, in the folder `cwd`.

    prepare: a function of a module, called in the process before the command.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, prepare: Callable[[], None] | None = None):
        self.arguments = list(arguments)
        self.streams = [Path(tempfile.mkstemp(dir=_scratch().name, suffix=name)[1]) for name in (".out", ".err")]
        self.process = FORKS.Process(target=_call, args=(self.arguments, cwd, dict(os.environ), self.streams, prepare))
        self.process.start()
        self.pid = self.process.pid
        self.kill = self.process.kill

    def ended(self) -> bool:
        return self.process.exitcode is not None

    def wait(self, timeout: float = 600) -> subprocess.CompletedProcess:
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.kill()
            raise TimeoutError(" ".join(self.arguments))
        out, err = (path.read_text() for path in self.streams)
        return subprocess.CompletedProcess(self.arguments, code, out, err)


def run(arguments: Sequence[str], cwd: Path, **given: Callable[[], None]) -> subprocess.CompletedProcess:
    return Command(arguments, cwd, **given).wait()


def call(function: Callable[..., object], *given: object) -> int:
    """Call a function of a module in such a process; return the process's exit status, -9 where it was killed."""
    process = FORKS.Process(target=function, args=given)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    """A folder for what the commands print, which goes when the tests have ended."""
    return tempfile.TemporaryDirectory()


def _call(arguments: list[str], cwd: Path, environment: dict, streams: list[Path], prepare: Callable | None) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    if prepare is not None:
        prepare()
    from bench.__main__ import main

    sys.argv = ["bench", *arguments]
    main()
