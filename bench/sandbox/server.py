"""The server of a sandbox: a small process that confines itself to an empty file system and runs each job in a fork.

bench.sandbox.Sandbox starts it as `python -I -S server.py CONFIGURATION` with an empty environment. It imports only the
standard library. Its standard input is a socket: a job comes as two files (the job to read, a pipe for the program's
output), and the answer goes back as JSON. The server never sees what a program is expected to return.

A job is three processes deep: a fork that makes namespaces; their process 1, which keeps the time, and whose end is the
end of every process in them; and the program. Each dies with its parent.
"""

import contextlib
import ctypes
import fcntl
import glob
import importlib
import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import exchange
import forms
import inside
import tested

del sys.path[0]

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, NOEXEC, REMOUNT, READ_ONLY, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 32, 1, 4096, 16384, 1 << 18
DETACH = 2  # of umount2
MOUNT_SETATTR, PIVOT_ROOT = 442, {"x86_64": 155, "aarch64": 41}
TIMED_OUT = 124
NAME = "sandbox"  # of the host, as programs see it
FILES = 1024  # in the temporary folder of a job
FIRST_USER = 1 << 30  # as root, programs run under ids from here on, which no account has
# Imported here once, instead of in every program; decimal and hashlib load shared libraries.
COMMON = "array bisect collections copy dataclasses datetime decimal fractions functools hashlib heapq itertools math"
COMMON += " operator random re statistics string typing"

libc = inside.libc
Begin = Callable[[int, int, int], NoReturn]  # of a job: (job, output, report) files


def main() -> None:
    configuration = json.loads(sys.argv[1])
    way, limits, root = configuration["isolation"], configuration["limits"], os.geteuid() == 0
    # other processes that count against the limit: in a user namespace, the server's and the job's; without any, all
    limits["processes_beside"] = {"bubblewrap": 0 if root else 1, "namespaces": 0 if root else 3, "none": 1 << 20}[way]
    configuration["user"] = FIRST_USER + os.getpid() if root and way != "none" else None
    control = socket.socket(fileno=os.dup(0))
    _die_with_parent()
    for module in COMMON.split():
        importlib.import_module(module)
    try:
        ways = {"bubblewrap": _bubblewrap, "namespaces": _namespaces, "none": _no_isolation}
        begin = ways[way](configuration)
    except OSError as error:
        control.send(json.dumps({"ready": False, "message": str(error)}).encode())
        return
    control.send(json.dumps({"ready": True}).encode())
    while True:
        message, files, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        control.send(json.dumps(_job(begin, *files)).encode())


def _job(begin: Begin, job: int, output: int) -> dict[str, Any]:
    """Run one job to its end; return whether its program started and whether it reached its time limit."""
    read_report, report = os.pipe()
    process = os.fork()
    if process == 0:
        _guarded(lambda: begin(job, output, report), report)
    for file in (job, output, report):
        os.close(file)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.set_blocking(read_report, False)
    try:
        message = os.read(read_report, 4096)
    except BlockingIOError:
        message = b"no report"
    os.close(read_report)
    killed = code in (128 + signal.SIGKILL, 128 + signal.SIGXCPU)
    return {
        "started": message.endswith(inside.STARTED),
        "timed_out": code == TIMED_OUT or killed,
        "message": message.decode(errors="replace"),
    }


def _guarded(work: Callable[[], NoReturn], report: int) -> NoReturn:
    """Do the work of a forked process, which must never return into the code that it was forked from."""
    try:
        work()
    except BaseException as error:
        os.write(report, f"{type(error).__name__}: {error}"[:500].encode())
    finally:
        os._exit(inside.COULD_NOT_START)


def _supervised(program: Callable[[], NoReturn], configuration: dict[str, Any], report: int) -> int:
    """Fork `program` into a session and process group of its own; return its exit code, or TIMED_OUT once killed."""

    def time_is_up(*_: Any) -> None:
        raise TimeoutError

    child = os.fork()
    if child == 0:
        os.setsid()
        _guarded(program, report)
    signal.signal(signal.SIGALRM, time_is_up)
    signal.setitimer(signal.ITIMER_REAL, configuration["limits"]["wall_seconds"])
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except TimeoutError:
        code = TIMED_OUT
        os.kill(child, signal.SIGKILL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return 128 - code if code < 0 else code


def _confined(configuration: dict[str, Any], job: int, output: int, report: int) -> int:
    """Run the job in a child of this process; return its exit code."""
    return _supervised(lambda: inside.confined(job, output, report, configuration), configuration, report)


def _namespaces(configuration: dict[str, Any]) -> Begin:
    """Move this process into a file system of the standard library, without network; each job gets the rest anew."""
    root, user, group = os.geteuid() == 0, os.getuid(), os.getgid()
    inside.checked(libc.unshare(NEWNS | NEWNET | NEWIPC | NEWUTS | (0 if root else NEWUSER)), "unshare")
    if not root:
        for file, content in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
            with open(f"/proc/self/{file}", "w") as opened:
                opened.write(content)
    inside.checked(libc.sethostname(NAME.encode(), len(NAME)), "sethostname")
    _move_into_jail()

    def begin(job: int, output: int, report: int) -> NoReturn:
        _die_with_parent()
        inside.checked(libc.unshare(NEWPID | NEWNS), "unshare")
        first = os.fork()
        if first == 0:
            _guarded(lambda: as_first_process(job, output, report), report)
        os.close(output)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))

    def as_first_process(job: int, output: int, report: int) -> NoReturn:
        _die_with_parent()
        # the program can't look into this process
        inside.checked(libc.prctl(inside.PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
        size = f"size={configuration['limits']['disk_megabytes']}m,nr_inodes={FILES},mode=1777"
        _mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, size)
        os.chdir("/tmp")
        os._exit(_confined(configuration, job, output, report))  # which ends every process of its namespace

    return begin


def _move_into_jail() -> None:
    """Make the root read-only with /tmp, a mount point, and the folders that an interpreter reads, and nothing else."""
    folders, hidden = runtime_folders(), package_folders()
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, "mode=755")
    os.chdir("/tmp")
    os.mkdir("old")
    inside.checked(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old"), "pivot_root")
    os.chdir("/")
    os.mkdir("tmp")
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        _mount("/old" + folder, folder, None, BIND | RECURSIVE)
        attributes = (ctypes.c_uint64 * 4)(READ_ONLY | NOSUID | NODEV, 0, 0, 0)
        inside.checked(
            libc.syscall(MOUNT_SETATTR, -100, folder.encode(), 0x8000, attributes, ctypes.sizeof(attributes)),
            f"mount_setattr of {folder}",
        )
    for folder in hidden:
        _mount("tmpfs", folder, "tmpfs", NOSUID | NODEV | READ_ONLY, "mode=755,size=4k")
    inside.checked(libc.umount2(b"/old", DETACH), "umount2")
    os.rmdir("old")
    _mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NOSUID | NODEV)


def _bubblewrap(configuration: dict[str, Any]) -> Begin:
    """Let bubblewrap make the namespaces and the file system of each job, and start an interpreter there."""
    limits, root = configuration["limits"], os.geteuid() == 0
    command = [configuration["bubblewrap"], "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--hostname", NAME]
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user"]
    interpreter = os.path.realpath(sys.executable)
    loaders = glob.glob("/lib64/ld-*.so*") + glob.glob("/lib/ld-*.so*")
    readable = [*runtime_folders(), *loaders, interpreter]
    for folder in sorted({str(parent) for path in readable for parent in pathlib.PurePath(path).parents}):
        command += ["--perms", "0755", "--dir", folder]  # with its default mode the program's user may lack access
    for path in readable:
        command += ["--ro-bind", path, path]
    for folder in package_folders():
        command += ["--tmpfs", folder]
    for module in inside, tested, exchange, forms:
        command += ["--ro-bind", str(module.__file__), f"/sandbox/{module.__name__}.py"]
    command += ["--perms", "1777", "--size", str(limits["disk_megabytes"] * inside.MEGABYTE), "--tmpfs", "/tmp"]
    command += ["--chdir", "/tmp", "--remount-ro", "/"]
    command += ["--", interpreter, "-I", "-S", "/sandbox/inside.py", json.dumps(configuration)]

    def begin(job: int, output: int, report: int) -> NoReturn:
        _die_with_parent()

        def program() -> NoReturn:
            _die_with_parent()
            files = [fcntl.fcntl(file, fcntl.F_DUPFD, 10) for file in (output, report, job)]
            for file, place in zip(files, (inside.OUTPUT, inside.REPORT, inside.JOB), strict=True):
                os.dup2(file, place)
            os.dup2(1, 0)
            os.dup2(report, 2)  # bubblewrap's own complaints
            os.closerange(inside.JOB + 1, 4096)
            os.execve(command[0], command, {})

        os._exit(_supervised(program, configuration, report))

    return begin


def _no_isolation(configuration: dict[str, Any]) -> Begin:
    """Set only limits and the filter of system calls, in a temporary folder: a program can harm this user's files."""

    def begin(job: int, output: int, report: int) -> NoReturn:
        _die_with_parent()
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        code = _confined(configuration, job, output, report)
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(code)

    return begin


def runtime_folders() -> list[str]:
    """Return the folders of the standard library and of the shared libraries that are loaded now."""
    with open("/proc/self/maps") as maps:
        mapped = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    folders = {sysconfig.get_path("stdlib"), *(os.path.dirname(path) for path in mapped if path.startswith("/"))}
    return sorted(folder for folder in folders if not any(folder.startswith(other + "/") for other in folders))


def package_folders() -> list[str]:
    """Return the folders of installed packages within the standard library; they are hidden from programs."""
    found = [os.path.join(sysconfig.get_path("stdlib"), name) for name in ("site-packages", "dist-packages")]
    return [folder for folder in found if os.path.isdir(folder)]


def _die_with_parent() -> None:
    inside.checked(libc.prctl(inside.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    *texts, data = (None if text is None else text.encode() for text in (source, target, kind, options))
    inside.checked(libc.mount(*texts, ctypes.c_ulong(flags), data), f"mount of {target}")


if __name__ == "__main__":
    main()
