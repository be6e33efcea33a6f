"""Inside the sandbox: give up every privilege, run an untrusted program on its inputs, and write what it returns.

This file imports only the standard library, because a bare interpreter runs it. What it writes is not a verdict: the
expected values are compared outside, byte for byte, with the text that `canonical` makes of plain data.

    python -I -S inside.py      started so by bubblewrap; otherwise bench/sandbox/server.py calls `confined`

A job has cases, or tests: then bench/sandbox/tested.py runs them in a process of their own.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import sys
import types
from typing import Any, NoReturn

OUTPUT, REPORT, JOB = 3, 4, 5  # file descriptors in here; 0, 1 and 2 are /dev/null
NAMES = ("program", "solution")  # of the program, for tests that import it
TESTED = b"T"  # begins a job with tests
STARTED = b"+"  # reported once every privilege is gone
COULD_NOT_START = 70
MEGABYTE = 1 << 20
OPEN_FILES = 64

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 4, 22, 38, 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN, MASK = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54  # classic BPF instructions
X32 = 0x40000000  # the second numbering of x86_64's system calls
NEW_NAMESPACES = 0x7E020080  # clone's flags that make any of them
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(AUDIT_ARCH)
FORKS = {"x86_64": (56, 57, 58, 112, 109), "aarch64": (220, 157, 154)}  # clone, fork, vfork; setsid, setpgid
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
CLONE3 = 435
libc = ctypes.CDLL(None, use_errno=True)
# System calls that a tested function never needs: name, number on x86_64, number on aarch64.
FORBIDDEN = """
# the network
socket 41 198, io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427
# memory that no limit counts, and key rings that outlive a process
shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180, memfd_create 319 279, memfd_secret 447 447
add_key 248 217, request_key 249 218, keyctl 250 219
# mounts and namespaces
pivot_root 155 41, chroot 161 51, mount 165 40, umount2 166 39, open_tree 428 428, move_mount 429 429
fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, unshare 272 97
setns 308 268, open_by_handle_at 304 265
# other processes and their memory
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, pidfd_send_signal 424 424
pidfd_open 434 434, pidfd_getfd 438 438
# rarely audited corners of the kernel
syslog 103 116, personality 135 92, perf_event_open 298 241, bpf 321 280, userfaultfd 323 282
"""


class NotPlainError(ValueError):
    """A value that is not None, bool, int, float, str, or a list or dict (with str keys) of such, exactly."""


def canonical(value: Any) -> str:
    """Return one line of text, equal for two values if and only if all their parts are equal in value and type.

    1, 1.0 and True differ, and so do 0.0 and -0.0. NotPlainError for subclasses, tuples and NaN.
    """
    kind = type(value)
    if value is None or kind is bool:
        return str(value)
    if kind is int:
        return hex(value)  # linear in its length, and without the limit on decimal digits
    if kind is float and value == value:
        return "f" + value.hex()
    if kind is str:
        return json.dumps(value)  # ASCII, line breaks escaped
    if kind is list:
        return "[" + ",".join(map(canonical, value)) + "]"
    if kind is dict and all(type(key) is str for key in value):
        return "{" + ",".join(f"{json.dumps(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    raise NotPlainError(f"a {kind.__name__} is not plain data: None, bool, int, float, str, lists and dicts of them")


def confined(job: int, output: int, report: int, configuration: dict[str, Any]) -> NoReturn:
    """Run the job in this process, and end the process. A failure before the program starts goes to `report`.

    A job with tests takes two processes: this one runs the tests, and a fork made before the job is read the program.
    """
    program, line, limits = 0, None, configuration["limits"]
    try:
        _keep_only(output, report, job)
        report = REPORT
        if os.pread(JOB, 1, 0) == TESTED:
            limits = limits | {"processes_beside": limits["processes_beside"] + 1}
            line, theirs = socket.socketpair()
        _set_limits(limits)
        _drop_privileges(configuration["user"])
        if line is not None:
            checked(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")  # neither looks into the other
            program = os.fork()
            if program == 0:
                _serve_program(theirs.fileno(), limits)
            theirs.close()
            if line.recv(1) != STARTED:
                raise OSError("the process of the program did not start")
        os.lseek(JOB, 0, os.SEEK_SET)
        with open(JOB, "rb") as file:
            content = file.read()
        _filter_system_calls(limits["processes"])
        task = json.loads(content.removeprefix(TESTED))
        os.write(REPORT, STARTED)
        os.close(REPORT)
    except BaseException as error:
        os.write(report, f"{type(error).__name__}: {error}"[:500].encode())
        os._exit(COULD_NOT_START)
    try:
        if line is None:
            _run(task["program"], task["entry"], task["inputs"])
        else:
            import tested

            _write(tested.judge(task, line.fileno(), program))
    finally:  # also where the pipe is broken, because its reader stopped reading
        if program:
            os.kill(program, signal.SIGKILL)
        os._exit(0)


def _serve_program(line: int, limits: dict[str, Any]) -> NoReturn:
    """Keep `line` as the only open file, give up what the parent has still to give up, and run the program."""
    try:
        checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        _keep_only(line)
        _filter_system_calls(limits["processes"])
        os.write(OUTPUT, STARTED)
        import tested

        sys.argv = [""]
        tested.serve_program(OUTPUT)
    finally:
        os._exit(0)


def _run(program: str, entry: str, inputs: list[str]) -> None:
    """Write a line for every input: the canonical text of the result, or ! and the name of the exception."""
    sys.argv = [""]
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(program, "program", "exec", dont_inherit=True), module.__dict__)
        function = getattr(module, entry)
    except BaseException as error:
        _write(f"!{type(error).__name__}")
        return
    for arguments in inputs:  # parsed one by one, so that a program can change only its own input
        try:
            line = canonical(function(*json.loads(arguments)))
        except BaseException as error:
            line = f"!{type(error).__name__}"
        _write(line)


def _write(line: str) -> None:
    data = memoryview(line.encode() + b"\n")
    while data:
        data = data[os.write(OUTPUT, data) :]


def _keep_only(*files: int) -> None:
    """Keep /dev/null (inherited as 1) as 0, 1 and 2, then these files from OUTPUT on, and no other open file."""
    files = tuple(fcntl.fcntl(file, fcntl.F_DUPFD, JOB + 1) for file in files)  # out of the way
    os.dup2(1, 0)
    os.dup2(1, 2)
    for place, file in enumerate(files, start=OUTPUT):
        os.dup2(file, place)
    os.closerange(OUTPUT + len(files), resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _set_limits(limits: dict[str, Any]) -> None:
    for name, most in {
        "CPU": limits["cpu_seconds"],
        "AS": limits["memory_megabytes"] * MEGABYTE,
        "FSIZE": limits["disk_megabytes"] * MEGABYTE,
        "NOFILE": OPEN_FILES,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "NPROC": limits["processes"] + limits["processes_beside"],
    }.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        allowed = resource.getrlimit(kind)[1]
        most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (most, most))


def _drop_privileges(user: int | None) -> None:
    """Become `user` (given where we are root), without capabilities and without a way to get any."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    checked(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _filter_system_calls(processes: int) -> None:
    """Refuse FORBIDDEN with EPERM, and new processes where only one is allowed; kill at another machine's calls."""
    machine = platform.machine()
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, AUDIT_ARCH[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    steps += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]

    def refuse(number: int, reason: int) -> list[tuple[int, int, int, int]]:
        return [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | reason)]

    for line in FORBIDDEN.strip().splitlines():
        for call in () if line.startswith("#") else line.split(","):
            steps += refuse(int(call.split()[1 + MACHINES.index(machine)]), errno.EPERM)
    steps += refuse(CLONE3, errno.ENOSYS)  # its flags can't be read here; C libraries fall back to clone
    # a pair of streams, which asyncio needs, can reach nobody else: its domain must be AF_UNIX, its kind SOCK_STREAM
    steps += [(EQUAL, 0, 6, SOCKETPAIR[machine]), (LOAD, 0, 0, 16), (EQUAL, 0, 3, socket.AF_UNIX), (LOAD, 0, 0, 24)]
    steps += [(MASK, 0, 0, 0xF), (EQUAL, 1, 0, socket.SOCK_STREAM), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    steps += [(LOAD, 0, 0, 0)]
    if processes == 1:
        for number in FORKS[machine]:
            steps += refuse(number, errno.EAGAIN)
    steps += [(EQUAL, 0, 3, FORKS[machine][0]), (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, NEW_NAMESPACES)]
    steps += [(RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)]

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(Instruction)))

    instructions = (Instruction * len(steps))(*(Instruction(*step) for step in steps))
    program = Program(len(steps), instructions)
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")


def checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import tested  # noqa: F401 - before the path is gone again

    del sys.path[0]
    confined(JOB, OUTPUT, REPORT, json.loads(sys.argv[1]))
