"""Run untrusted programs without network and with limits: they see only a temporary folder, and leave no process.

    with Sandbox(Limits(), isolation="auto") as sandbox:
        sandbox.run(Job("def f(xs):\\n    return xs[::-1]", "f", [([[1, 2]], [2, 1])]))     # "passed"

Cases: the expected values never enter the sandbox. A program gets its inputs and writes what it returns as text. That
text is compared outside, byte for byte, with the text of the expected values (bench.sandbox.inside.canonical).
Tests: they run in a process of their own beside the program's. The program gets their calls and gives data back
(bench.sandbox.exchange); it holds neither their source nor the way out. In both, nothing that a program does can
redefine equality, types or output, or give the verdict.

This file is outside; server.py isolates; inside.py confines a job and runs cases, tested.py tests, over
exchange.py and forms.py.
"""

import json
import os
import queue
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.sandbox.inside import MACHINES, TESTED, NotPlainError, canonical

ISOLATION = ("auto", "bubblewrap", "namespaces", "none")
SERVER = Path(__file__).with_name("server.py")
ATTEMPTS = 3  # to start a program, because the host may be short of processes or memory for a moment
GRACE = 30.0  # seconds beyond the wall limit until the sandbox counts as failed
Case = tuple[list[Any], Any]  # arguments, and what must come back
# only "passed" is certain: a failing program can choose how its failure looks
VERDICTS = PASSED, *FAILED = ("passed", "wrong_output", "exception", "time_limit", "stopped_early")


@dataclass(frozen=True)
class Limits:
    """The resources of one program. Memory and CPU time are limits of each of its processes."""

    cpu_seconds: int = 2
    wall_seconds: float = 10.0
    memory_megabytes: int = 512  # of address space, the interpreter's own 50 included
    disk_megabytes: int = 16
    processes: int = 1  # threads count


@dataclass(frozen=True)
class Job:
    """Python source, its function to call, and at least one case, or tests, that it must pass.

    cases: arguments, and what must come back, as plain data, see `canonical`. tests: Python source that passes where it
    raises nothing and executes an assertion (bench.tasks.program_tests). before: imports and helpers that the program
    may use. own: source that runs before the tests, whose names the program can't replace.
    """

    program: str
    entry: str
    cases: Sequence[Case] = ()
    tests: str = ""
    before: str = ""
    own: str = ""

    def __post_init__(self) -> None:
        if not self.cases and not self.tests:
            raise ValueError("tests without a case would let every program pass; give at least one")


class SandboxError(BenchError):
    """The sandbox itself failed: nothing is known about the program."""


class Sandbox:
    """A sandbox for one program at a time. It opens on entry. SandboxError where it can't isolate."""

    def __init__(self, limits: Limits, *, isolation: str = "auto") -> None:
        self.limits = limits
        self.isolation = isolation
        self._control: socket.socket
        self._open = ExitStack()  # the server and the socket to it

    def __enter__(self) -> "Sandbox":
        """Start it with the first way of isolating that works here; a program that must pass proves it."""
        if self.isolation not in ISOLATION:
            raise BenchError(f"isolation={self.isolation} is not one of {', '.join(ISOLATION)}.")
        if sys.platform != "linux" or os.uname().machine not in MACHINES:
            raise SandboxError(
                f"Untrusted programs are run on Linux alone ({' or '.join(MACHINES)}), and this is {sys.platform} on "
                f"{os.uname().machine}: score them on a Linux machine or in a container."
            )
        bubblewrap = shutil.which("bwrap")
        ways = (["bubblewrap"] * bool(bubblewrap) + ["namespaces"]) if self.isolation == "auto" else [self.isolation]
        reasons = []
        for way in ways:
            try:
                self._start({"isolation": way, "bubblewrap": bubblewrap or "bwrap"})
                proof = Job("def f(x):\n    return [x, x]", "f", [([1], [1, 1])])
                if self.run(proof) == PASSED:
                    return self
                reasons.append(f"{way}: a program that is right failed; memory_megabytes or cpu_seconds may be too low")
            except SandboxError as error:
                reasons.append(f"{way}: {error}")
            self._open.close()
        raise SandboxError(
            f"No way to isolate untrusted programs works here ({'; '.join(reasons)}). Install bubblewrap, allow user "
            "namespaces, or, where every completion may be trusted with your files and processes, set isolation to "
            "none."
        )

    def _start(self, configuration: dict[str, Any]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._open.enter_context(self._control).settimeout(self.limits.wall_seconds + GRACE)
        configuration |= {"limits": asdict(self.limits)}
        with theirs:
            server = subprocess.Popen(
                [os.path.realpath(sys.executable), "-I", "-S", str(SERVER), json.dumps(configuration)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # so that an interrupt from the keyboard reaches only us
            )
        self._open.enter_context(server)
        self._open.callback(server.kill)  # all that it started dies with it
        answer = self._receive()
        if not answer["ready"]:
            raise SandboxError(answer["message"])

    def run(self, job: Job) -> str:
        """Return one of VERDICTS. SandboxError where the program can't start, ValueError for other than plain data."""
        if job.tests:
            expected = b"passed\n"
            content = TESTED + json.dumps({name: text for name, text in vars(job).items() if name != "cases"}).encode()
        else:
            expected = "".join(f"{canonical(value)}\n" for _, value in job.cases).encode()
            inputs = [json.dumps(arguments, allow_nan=False) for arguments, _ in job.cases]
            content = json.dumps({"program": job.program, "entry": job.entry, "inputs": inputs}).encode()
        message = ""
        for attempt in range(ATTEMPTS):
            time.sleep(0.2 * attempt)
            received, answer = self._run(content, len(expected) + 32 * bool(job.tests) + 1)
            if answer["started"]:
                return "time_limit" if answer["timed_out"] else _verdict(received, expected)
            message = answer["message"]
        raise SandboxError(f"A program could not be started in the sandbox ({message or 'no reason given'}).")

    def _run(self, content: bytes, enough: int) -> tuple[bytes, dict[str, Any]]:
        """What the program wrote, up to about `enough` bytes, and the server's answer."""
        output, theirs = os.pipe()
        # a program that goes on writing then gets a broken pipe
        with open(os.memfd_create("job"), "wb") as job, open(output, "rb"):
            try:
                try:
                    job.write(content)
                    job.flush()
                    socket.send_fds(self._control, [b"1"], [job.fileno(), theirs])
                finally:
                    os.close(theirs)
                received = _read(output, enough, time.monotonic() + self.limits.wall_seconds + GRACE)
            except OSError as error:
                raise SandboxError(f"the sandbox is gone ({error.strerror})") from error
        return received, self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            answer = self._control.recv(1 << 16)
        except OSError as error:
            raise SandboxError(f"the sandbox does not answer ({error})") from error
        if not answer:
            raise SandboxError("the sandbox ended unexpectedly")
        return json.loads(answer)

    def __exit__(self, *_: object) -> None:
        self._open.close()


def verdicts(jobs: Sequence[Job], *, limits: Limits, isolation: str, workers: int = 1) -> list[str]:
    """Return one of VERDICTS for every job, in order; `workers` sandboxes run side by side."""
    if not jobs:
        return []
    with ExitStack() as stack:
        free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for _ in range(min(workers, len(jobs))):
            free.put(stack.enter_context(Sandbox(limits, isolation=isolation)))

        def run(job: Job) -> str:
            sandbox = free.get()
            try:
                return sandbox.run(job)
            finally:
                free.put(sandbox)

        with ThreadPoolExecutor(free.qsize()) as pool:
            return list(pool.map(run, jobs))


def _read(pipe: int, enough: int, deadline: float) -> bytes:
    """Everything up to the pipe's end, or its first `enough` bytes and a little more."""
    received = bytearray()
    while len(received) < enough:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise SandboxError("a program outlived its time limit")
        part = os.read(pipe, 1 << 16)
        if not part:
            break
        received += part
    return bytes(received)


def _verdict(received: bytes, expected: bytes) -> str:
    if received == expected:
        return PASSED
    if received.decode("latin-1").strip() in FAILED:  # of tests
        return received.decode().strip()
    written, wanted = received.split(b"\n"), expected.split(b"\n")
    differs = next((line for line, right in zip(written, wanted, strict=False) if line != right), b"")
    if differs.startswith(b"!"):
        return "exception"
    return "stopped_early" if expected.startswith(received) else "wrong_output"


__all__ = ["ISOLATION", "PASSED", "VERDICTS", "Case", "Job", "Limits", "NotPlainError", "Sandbox", "SandboxError"]
__all__ += ["canonical", "verdicts"]
