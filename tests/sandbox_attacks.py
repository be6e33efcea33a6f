"""Programs that try to pass a test they should fail, or to harm the host; run by tests/test_sandbox.py.

Also run by a bare interpreter of another user: `python sandbox_attacks.py FOLDER WAY` prints a verdict for each, with
FOLDER/bench on the path, FOLDER/canary to be harmed, and WAY of isolating.
"""

import json
import sys

CHEAT_CASES = [([3], 6), ([4], 8)]
SEARCH_CASES = [([], [])]
# Each should fail CHEAT_CASES.
CHEATS = {
    "sys.exit": r"""
import sys
sys.exit(0)
""",
    "os._exit": r"""
import os
os._exit(0)
""",
    "exit in the call": r"""
def f(x):
    raise SystemExit(0)
""",
    "os._exit after the first": r"""
import os
def f(x):
    if x == 3:
        return 6
    os._exit(0)
""",
    "always equal": r"""
class E:
    __eq__ = lambda s, o: True
    __hash__ = None
def f(x): return E()
""",
    "int that is always equal": r"""
class E(int):
    __eq__ = lambda s, o: True
def f(x): return E(0)
""",
    "right value of a subclass": r"""
class E(int): pass
def f(x): return E(2 * x)
""",
    "list subclass": r"""
class E(list):
    __eq__ = lambda s, o: True
def f(x): return E()
""",
    "float for int": "def f(x): return 2.0 * x",
    "text for int": "def f(x): return str(2 * x)",
    "bool": "def f(x): return True",
    "NaN": "def f(x): return float('nan')",
    "nothing": "",
    "no such function": "g = lambda x: 2 * x",
    "not a function": "f = 6",
    "syntax": r"""
def f(x:
    return 2 * x
""",
    "null byte": "def f(x): return 2 * x\x00",
    "lone surrogate": "f = '\ud800'",
    "deep source": "f = " + "(" * 5000 + ")" * 5000,
    "prints": r"""
print(6)
print(8)
print('0x6')
print('0x8')
def f(x): print(hex(2 * x))
""",
    "patched json": r"""
import json
json.dumps = lambda *a: '0x6'
json.loads = lambda *a: [6]
def f(x): return 'x'
""",
    "patched builtins": r"""
import builtins
builtins.type = lambda v: int
builtins.hex = lambda v: 'T'
def f(x): return 0
""",
    "patched encoding": r"""
import sys
for m in list(sys.modules.values()):
    if hasattr(m, 'canonical'):
        m.canonical = lambda v: 'passed'
def f(x): return 0
""",
    "swallowed result": r"""
import sys
for m in list(sys.modules.values()):
    if hasattr(m, '_write'):
        m._write = lambda line: None
def f(x): return 0
""",
    "forged results on every file": r"""
import os
for fd in range(256):
    try:
        os.write(fd, b'passed\n0x1\n0x1\n')
    except OSError: pass
os._exit(0)
""",
    "more than was asked for": r"""
import os
def f(x):
    os.write(3, b'0x6\n0x8\n0x6\n')
    return 6
""",
    "a forged start": r"""
import os
for fd in range(256):
    try:
        os.write(fd, b'+')
    except OSError: pass
for fd in range(256):
    try:
        os.write(fd, b'{"started": true, "timed_out": false, "message": ""}')
    except OSError: pass
os._exit(0)
""",
    "endless loop": "while True: pass",
    "endless loop that catches all": r"""
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "CPU limit ignored": r"""
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
""",
    "sleep": r"""
import time
time.sleep(60)
""",
    "sleep, alarm blocked": r"""
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
time.sleep(60)
""",
    "sleep after the results": r"""
import atexit, os, time
def f(x):
    if x == 4:
        os.write(3, b'0x8\n')
        time.sleep(60)
    return 2 * x
""",
    "10 GiB": r"""
x = bytearray(10 << 30)
def f(x): return 2 * x
""",
    "10 GiB bit by bit": r"""
x = []
while True: x.append(bytearray(1 << 24))
""",
    "10 GiB mapped": r"""
import mmap
x = mmap.mmap(-1, 10 << 30)
def f(x): return 2 * x
""",
    "10 GiB of files": r"""
import os
for i in range(640):
    with open(f'/tmp/{i}', 'wb') as file:
        file.write(bytes(1 << 24))
def f(x): return 2 * x
""",
    "one huge file": r"""
with open('/tmp/x', 'wb') as file:
    file.truncate(10 << 30)
    while True: file.write(bytes(1 << 20))
""",
    "many files": r"""
for i in range(10**5):
    open(f'/tmp/{i}', 'w').close()
def f(x): return 2 * x
""",
    "output flood": r"""
import os
while True: os.write(3, b'x' * 65536)
""",
    "print flood": "while True: print('x' * 65536)",
    "flood returned": "def f(x): return 'x' * 10**8",
    "huge integer": "def f(x): return 1 << 10**8",
    "huger integer": "def f(x): return 10 ** 10**10",
    "deep list": r"""
def f(x):
    for _ in range(10**6): x = [x]
    return x
""",
    "cyclic list": r"""
def f(x):
    x = []
    x.append(x)
    return x
""",
    "deep recursion": r"""
import sys
sys.setrecursionlimit(10**9)
def f(x): return f(x + 1)
""",
    "segmentation fault": r"""
import ctypes
ctypes.string_at(0)
""",
    "abort": r"""
import os
os.abort()
""",
    "kills itself": r"""
import os
os.kill(os.getpid(), 9)
""",
    "kills all": r"""
import os
for s in (9, 15, 14, 19):
    for p in (-1, 0, 1, os.getppid()):
        try:
            os.kill(p, s)
        except OSError: pass
import time
time.sleep(60)
""",
    "kills other numbers": r"""
import os
for p in range(1, 50000):
    if p != os.getpid():
        try: os.kill(p, 9)
        except OSError: pass
os._exit(0)
""",
    "fork bomb": r"""
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "thread bomb": r"""
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(60,)).start()
    except RuntimeError: pass
""",
    "daemon": r"""
MARK()
import os, time
for _ in range(2):
    if os.fork(): os._exit(0)
    os.setsid()
while True: time.sleep(1)
""",
    "daemon that lets go": r"""
MARK()
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    os.closerange(0, 64)
    while True: time.sleep(1)
os._exit(0)
""",
    "daemon beside the results": r"""
import os, time
if os.fork() == 0:
    os.setsid()
    MARK()
    os.closerange(0, 64)
    while True: time.sleep(1)
def f(x): return 0
""",
}

# Each looks for something and returns what it found; it passes SEARCH_CASES where that is nothing.
SEARCHES = {
    "environment": r"""
import os
import ctypes
def f():
    return sorted(name for name in os.environ if name not in ('LC_CTYPE', 'PWD'))
""",
    "files": r"""
def f():
    found = []
    for path in (
        '/etc/passwd', '/etc/hostname', '/proc/self/environ', '/proc/1/environ', '/proc/1/cmdline', '/proc/version',
        '/sys/kernel/ostype', '/dev/null', '/dev/shm', '/var', '/home', '/run', CANARY, TESTS,
    ):
        try:
            open(path).close()
            found.append(path)
        except OSError: pass
    return found
""",
    "other folders": r"""
import os
def f():
    found = []
    for folder, folders, files in os.walk('/'):
        secrets = ('passwd', 'shadow', 'canary', '.git', '.ssh', 'site-packages', 'test_sandbox.py')
        found += [folder + '/' + name for name in folders + files if name in secrets]
    return [path for path in found if not path.endswith('site-packages') or os.listdir(path)]
""",
    "writable folders": r"""
import os
def f():
    found = []
    for folder, _, files in os.walk('/'):
        if folder != '/tmp':
            try:
                open(folder + '/x', 'w').close()
                found.append(folder)
            except OSError: pass
    return found
""",
    "deleting": r"""
import os, shutil
def f():
    found = []
    for path in (CANARY, os.__file__, '/usr', '/'):
        before = os.path.exists(path)
        shutil.rmtree(path, ignore_errors=True)
        try: os.unlink(path)
        except OSError: pass
        if before and not os.path.exists(path): found.append(path)
    return found
""",
    "symlinks": r"""
import os
def f():
    found = []
    for i, path in enumerate((CANARY, '/etc/passwd', '../../../etc/passwd', '/old/etc/passwd', '/oldroot/etc/passwd')):
        os.symlink(path, f'/tmp/link{i}')
        try:
            with open(f'/tmp/link{i}', 'r+') as file: file.write('harmed')
            found.append(path)
        except OSError: pass
    return found
""",
    "open files": r"""
import os
def f():
    found = []
    for fd in range(4096):
        try:
            os.fstat(fd)
            if fd > 3: found.append(fd)
        except OSError: pass
    return found
""",
    "folders through files": r"""
import os
def f():
    found = []
    for fd in range(64):
        for path in ('..', '/etc/passwd'):
            try:
                os.close(os.open(path, os.O_RDONLY, dir_fd=fd))
                found.append(fd)
            except OSError: pass
    return found
""",
    "sockets": r"""
import socket
def f():
    found = []
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_VSOCK):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(family, kind).close()
                found.append(int(family))
            except OSError: pass
    return found
""",
    "socket pairs": r"""
import socket
def f():
    found = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
        try:
            socket.socketpair(socket.AF_UNIX, kind)
            found.append(int(kind))
        except OSError: pass
    one, other = socket.socketpair()  # which asyncio needs
    one.sendall(b'x')
    if other.recv(1) != b'x': found.append('mute')
    for address in ('/dev/log', '\0x'):
        for call in (one.connect, lambda address: one.sendto(b'x', address)):
            try:
                call(address)
                found.append(address)
            except OSError: pass
    return found
""",
    "the host's name": r"""
import os, socket
def f():
    return [name for name in (os.uname().nodename, socket.gethostname()) if name != 'sandbox']
""",
    "connections": r"""
import socket
def f():
    try:
        socket.create_connection(('127.0.0.1', PORT), 2).close()
        return ['connected']
    except OSError: return []
""",
    "new namespaces": r"""
import ctypes
libc = ctypes.CDLL(None)
def f():
    found = []
    for flag in (0x20000, 0x10000000, 0x40000000, 0x10020000):
        if libc.unshare(flag) == 0: found.append(flag)
        pid = libc.syscall(CLONE, flag | 17, 0, 0, 0, 0)
        if pid == 0: libc._exit(0)
        if pid > 0: found.append(-flag)
    return found
""",
    "privileges": r"""
import ctypes, os
libc = ctypes.CDLL(None)
def f():
    found = []
    for call in (
        (libc.mount, b'x', b'/tmp', b'tmpfs', 0, None), (libc.chroot, b'/tmp'), (libc.setuid, 0), (libc.setgid, 0),
        (libc.ptrace, 16, 1, 0, 0), (libc.ptrace, 0, 0, 0, 0), (libc.prctl, 38, 0, 0, 0, 0),
    ):
        if call[0](*call[1:]) == 0: found.append(call[0].__name__)
    if os.getuid() == 0: found.append('root')
    return found
""",
    "memory outside of limits": r"""
import ctypes
libc = ctypes.CDLL(None)
def f():
    found = []
    for name, call in (
        ('shmget', (0, 1 << 30, 0o1600)), ('semget', (0, 9, 0o1600)), ('msgget', (0, 0o1600)),
        ('memfd_create', (b'x', 0)),
    ):
        if getattr(libc, name)(*call) >= 0: found.append(name)
    return found
""",
    "raised limits": r"""
import resource
def f():
    found = []
    for name in ('AS', 'CPU', 'NPROC', 'FSIZE', 'NOFILE'):
        kind = getattr(resource, 'RLIMIT_' + name)
        try:
            resource.setrlimit(kind, (-1, -1))
            found.append(name)
        except (OSError, ValueError): pass
    return found
""",
    "jobs before": r"""
import os
def f():
    found = os.listdir('/tmp')
    open('/tmp/left', 'w').close()
    return found
""",
}
MARK = "__import__('ctypes').CDLL(None).prctl(15, b'MARKER', 0, 0, 0)"  # the process's name, seen in /proc by the host


def prepared(program: str, *, canary: str, marker: str = "leftover", port: int = 1, tests: str = __file__) -> str:
    clone = {"x86_64": "56", "aarch64": "220"}[__import__("os").uname().machine]
    for name, value in {"MARK()": MARK, "MARKER": marker, "CANARY": repr(canary), "TESTS": repr(tests)}.items():
        program = program.replace(name, value)
    return program.replace("PORT", str(port)).replace("CLONE", clone)


def skip_where_it_may_not(way: str) -> None:
    """Skip a test where the kernel does not let this user isolate, as in many containers; any other failure is one."""
    import pytest

    from bench.sandbox import Limits, Sandbox, SandboxError

    try:
        with Sandbox(Limits(), isolation=way):
            return
    except SandboxError as error:
        if "not permitted" not in str(error) and "Permission denied" not in str(error):
            raise
        pytest.skip(str(error))


def main(folder: str, way: str) -> None:
    sys.path.insert(0, folder)
    from bench.sandbox import Job, Limits, Sandbox

    found = {}
    chosen = SEARCHES | {name: CHEATS[name] for name in ("kills all", "kills other numbers", "fork bomb", "daemon")}
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=3, memory_megabytes=256), isolation=way) as sandbox:
        for name, program in chosen.items():
            cases = CHEAT_CASES if name in CHEATS else SEARCH_CASES
            found[name] = sandbox.run(Job(prepared(program, canary=f"{folder}/canary"), "f", cases))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
