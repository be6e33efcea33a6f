"""The sandbox: honest programs pass, cheats don't, nothing outside is seen or harmed, and nothing is left behind.

The programs are in tests/sandbox_attacks.py. Every search is shown to find something where there is no isolation, and
every leftover to be seen while it lives, so that "nothing was found" means something.
"""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_attacks import CHEAT_CASES, CHEATS, MARK, SEARCH_CASES, SEARCHES, prepared, skip_where_it_may_not

from bench.errors import BenchError
from bench.sandbox import Job, Limits, NotPlainError, Sandbox, SandboxError, canonical, verdicts

ROOT = Path(__file__).resolve().parent.parent
LIMITS = Limits(cpu_seconds=1, wall_seconds=6, memory_megabytes=256)
HONEST = Job("def f(x):\n    return 2 * x", "f", CHEAT_CASES)
WAYS = ["namespaces", *(["bubblewrap"] if shutil.which("bwrap") else [])]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    skip_where_it_may_not(request.param)
    return request.param


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outside", numbered=True) / "canary"
    path.write_text("alive")
    path.chmod(0o666)
    return path


def names_of_processes() -> list[str]:
    """What the host's processes call themselves, seen from outside of any sandbox."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            found.append(path.read_text().strip())
        except OSError:  # gone meanwhile
            continue
    return found


def soon(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def outcomes(way: str, canary: Path) -> Iterator[dict[str, str]]:
    """Each cheat's outcome, and honest programs' among and after them, with what the host shows before and after."""
    names = [*CHEATS, "honest", "honest again"]
    jobs = [Job(prepared(CHEATS[name], canary=str(canary)), "f", CHEAT_CASES) for name in CHEATS] + [HONEST, HONEST]
    found = verdicts(jobs, limits=LIMITS, isolation=way, workers=6)
    yield dict(zip(names, found, strict=True))
    assert canary.read_text() == "alive"


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_does_not_pass(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] != "passed"


def test_honest_programs_pass_among_cheats(outcomes: dict[str, str]) -> None:
    assert outcomes["honest"] == outcomes["honest again"] == "passed"


def test_outcomes_say_how_a_program_failed(outcomes: dict[str, str]) -> None:
    for name, outcome in {
        "os._exit": "stopped_early",
        "sys.exit": "exception",
        "syntax": "exception",
        "right value of a subclass": "exception",
        "float for int": "wrong_output",
        "sleep": "time_limit",
        "endless loop": "time_limit",
    }.items():
        assert outcomes[name] == outcome, name


def run_search(name: str, way: str, canary: Path, port: int = 1) -> str:
    program = prepared(SEARCHES[name], canary=str(canary), port=port, tests=__file__)
    with Sandbox(LIMITS, isolation=way) as sandbox:
        return [sandbox.run(Job(program, "f", SEARCH_CASES)) for _ in range(2)][1]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_nothing(way: str, canary: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        assert run_search(name, way, canary, server.getsockname()[1]) == "passed"
        with pytest.raises(TimeoutError):
            server.accept()
    assert canary.read_text() == "alive"


def test_searches_find_what_is_not_isolated(canary: Path) -> None:
    assert run_search("files", "none", canary) == "wrong_output"
    program = f"import os\ndef f():\n    os.unlink({str(canary.with_name('other'))!r})\n    return []"
    canary.with_name("other").write_text("alive")
    with Sandbox(LIMITS, isolation="none") as sandbox:
        assert sandbox.run(Job(program, "f", SEARCH_CASES)) == "passed"
    assert not canary.with_name("other").exists()


def test_without_isolation_limits_and_the_network_still_hold(canary: Path) -> None:
    for name in ("sockets", "memory outside of limits", "raised limits", "environment", "new namespaces"):
        assert run_search(name, "none", canary) == "passed", name
    names = ("endless loop", "10 GiB", "fork bomb", "os._exit", "sleep", "int that is always equal")
    jobs = [Job(prepared(CHEATS[name], canary=str(canary)), "f", CHEAT_CASES) for name in names]
    assert "passed" not in verdicts(jobs, limits=LIMITS, isolation="none", workers=3)


def test_the_sandbox_has_namespaces_of_its_own(way: str) -> None:
    mark = prepared(MARK, canary="", marker="namespaced")
    program = f"import time\ndef f(x):\n    {mark}\n    time.sleep(2)\n    return 2 * x"
    found: dict[str, str] = {}

    def look() -> bool:
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                if path.read_text().strip() == "namespaced":
                    found.update(
                        {kind: os.readlink(path.parent / "ns" / kind) for kind in ("mnt", "net", "pid", "ipc")}
                    )
                    found["seccomp"] = (path.parent / "status").read_text().split("Seccomp:\t")[1][0]
                    found["capabilities"] = (path.parent / "status").read_text().split("CapPrm:\t")[1].split()[0]
            except OSError:
                continue
        return "capabilities" in found

    with Sandbox(LIMITS, isolation=way) as sandbox:
        thread = threading.Thread(target=lambda: sandbox.run(Job(program, "f", CHEAT_CASES)))
        thread.start()
        assert soon(look)
        thread.join()
    for kind in ("mnt", "net", "pid", "ipc"):
        assert found[kind] != os.readlink(f"/proc/self/ns/{kind}")
    assert found["seccomp"] == "2"
    assert int(found["capabilities"], 16) == 0


@pytest.mark.parametrize("name", [name for name in CHEATS if "daemon" in name])
def test_no_process_is_left_where_several_are_allowed(way: str, canary: Path, name: str) -> None:
    marker = f"left-{os.getpid()}"
    program = prepared(CHEATS[name], canary=str(canary), marker=marker)
    limits = Limits(cpu_seconds=1, wall_seconds=2, memory_megabytes=256, processes=8)
    with Sandbox(limits, isolation=way) as sandbox:
        assert sandbox.run(Job(program, "f", CHEAT_CASES)) != "passed"
        assert soon(lambda: marker not in names_of_processes())
        assert sandbox.run(HONEST) == "passed"


def test_a_fork_bomb_is_held_to_the_number_allowed(way: str, canary: Path) -> None:
    marker = f"bomb-{os.getpid()}"
    program = prepared("MARK()\n" + CHEATS["fork bomb"], canary=str(canary), marker=marker)
    limits = Limits(cpu_seconds=1, wall_seconds=2, memory_megabytes=256, processes=6)
    process = subprocess.Popen([sys.executable, "-c", DRIVER, way, program, json.dumps(vars(limits))], cwd=ROOT)
    most = 0
    while process.poll() is None:
        most = max(most, names_of_processes().count(marker))
    assert 2 <= most <= 6
    assert soon(lambda: marker not in names_of_processes())


DRIVER = """
import json, sys
from bench.sandbox import Job, Limits, Sandbox
with Sandbox(Limits(**json.loads(sys.argv[3])), isolation=sys.argv[1]) as sandbox:
    sandbox.run(Job(sys.argv[2], "f", [([3], 6), ([4], 8)]))
"""


@pytest.mark.parametrize("victim", ["the benchmark", "the sandbox"])
def test_all_is_gone_when_one_is_killed(way: str, victim: str) -> None:
    marker = f"orphan-{os.getpid()}"
    program = prepared("MARK()\nimport time\nwhile True: time.sleep(0.1)", canary="", marker=marker)
    limits = json.dumps(vars(Limits(wall_seconds=300)))
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, way, program, limits], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert soon(lambda: marker in names_of_processes())
    if victim == "the benchmark":
        process.kill()
        process.communicate()
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        assert "SandboxError" in process.communicate()[1]
    assert soon(lambda: marker not in names_of_processes())


def test_nothing_is_left_in_this_process_or_on_the_host(way: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def state() -> dict:
        return {
            "files": sorted(os.listdir("/proc/self/fd"))[:-1],
            "mounts": Path("/proc/self/mounts").read_text(),
            "shared memory": [Path(f"/proc/sysvipc/{kind}").read_text().count("\n") for kind in ("shm", "sem", "msg")],
            "temporary": os.listdir(tmp_path),
            "user": (os.getuid(), os.getgid(), os.getcwd(), signal.getsignal(signal.SIGALRM)),
        }

    verdicts([HONEST], limits=LIMITS, isolation=way)
    before = state()
    assert verdicts([HONEST] * 3, limits=LIMITS, isolation=way, workers=3) == ["passed"] * 3
    assert state() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are an ordinary user's already")
@pytest.mark.parametrize("choice", WAYS)
def test_an_ordinary_user_is_as_safe(choice: str, tmp_path: Path) -> None:
    interpreters = (os.path.realpath(sys.executable), "/usr/bin/python3.12", "/usr/bin/python3.11")
    folder = Path("/tmp") / f"sandbox-test-{os.getpid()}-{choice}"
    shutil.copytree(ROOT / "bench" / "sandbox", folder / "bench" / "sandbox")
    try:
        for name in ("errors.py", "__init__.py"):
            shutil.copy(ROOT / "bench" / name, folder / "bench" / name)
        shutil.copy(ROOT / "tests" / "sandbox_attacks.py", folder)
        (folder / "canary").write_text("alive")
        subprocess.run(["chmod", "-R", "a+rX,a+w", str(folder)], check=True)
        for interpreter in interpreters:
            try:
                found = subprocess.run(
                    [interpreter, str(folder / "sandbox_attacks.py"), str(folder), choice],
                    user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True,
                )  # fmt: skip
            except OSError:
                continue
            break
        else:
            pytest.skip("no interpreter that another user can run")
        if "No way to isolate" in found.stderr:
            pytest.skip(found.stderr.splitlines()[-1])
        outcomes = json.loads(found.stdout)
        assert {outcomes.pop(name) for name in SEARCHES} == {"passed"}
        assert outcomes
        assert "passed" not in outcomes.values()
        assert (folder / "canary").read_text() == "alive"
    finally:
        shutil.rmtree(folder)


def test_where_nothing_isolates_it_refuses_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Sandbox, configuration: dict) -> None:
        raise SandboxError("unshare: Operation not permitted")

    monkeypatch.setattr(Sandbox, "_start", fails)
    with pytest.raises(BenchError, match=r"No way .*namespaces: unshare: Operation not permitted.*isolation to none"):
        verdicts([HONEST], limits=LIMITS, isolation="auto")


def test_where_the_kernel_refuses_it_says_so() -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("takes root's privileges away with setpriv")
    found = subprocess.run(
        ["setpriv", "--bounding-set=-all", sys.executable, "-c", DRIVER, "namespaces", "", json.dumps(vars(LIMITS))],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert "No way to isolate untrusted programs works here (namespaces: " in found.stderr
    assert "Operation not permitted" in found.stderr


def test_other_platforms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BenchError, match="Linux alone"):
        verdicts([HONEST], limits=LIMITS, isolation="none")


def test_an_unknown_isolation_is_refused() -> None:
    with pytest.raises(BenchError, match="isolation=docker is not one of auto, bubblewrap, namespaces, none"):
        verdicts([HONEST], limits=LIMITS, isolation="docker")


def test_verdicts_keep_their_order(way: str) -> None:
    jobs = [Job(f"def f(x):\n    return {k} * x", "f", [([3], 6 + 3 * (i % 2))]) for i in range(12) for k in (2, 3)]
    found = [verdict == "passed" for verdict in verdicts(jobs, limits=LIMITS, isolation=way, workers=3)]
    assert found == [k == 2 + i % 2 for i in range(12) for k in (2, 3)]
    assert verdicts([], limits=LIMITS, isolation=way) == []


def test_each_call_has_its_own_input_and_a_program_its_own_memory(way: str) -> None:
    keeps = "seen = []\ndef f(xs):\n    xs.append(len(seen))\n    seen.append(xs)\n    return xs"
    with Sandbox(LIMITS, isolation=way) as sandbox:
        for _ in range(2):
            assert sandbox.run(Job(keeps, "f", [([[5]], [5, 0]), ([[5]], [5, 1])])) == "passed"


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -7, 10**5000, 1.5, -0.0, math.inf, "", "Ä\n\"'\\", "\ud800", [[1], [True]], {"b": [1.0], "a": {}}],
    ids=lambda value: ascii(value) if value != 10**5000 else "huge",
)
def test_plain_values_pass_where_they_are_equal(way: str, value: object) -> None:
    source = (
        f"def f():\n    from math import inf\n    return {value!r}" if value != 10**5000 else "f = lambda: 10**5000"
    )
    with Sandbox(LIMITS, isolation=way) as sandbox:
        assert sandbox.run(Job(source, "f", [([], value)])) == "passed"
        assert sandbox.run(Job(source, "f", [([], [value])])) != "passed"


ATOMS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 0.5])
PLAIN = st.recursive(
    ATOMS | st.text('a,]"\n', max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"', max_size=2), inner, max_size=2),
    max_leaves=5,
)


def same(x: object, y: object) -> bool:
    """Equal in value and type, all the way down; the reference for `canonical`."""
    if type(x) is not type(y):
        return False
    if isinstance(x, list) and isinstance(y, list):
        return len(x) == len(y) and all(map(same, x, y))
    if isinstance(x, dict) and isinstance(y, dict):
        return x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
    if isinstance(x, float) and isinstance(y, float):
        return x == y and math.copysign(1, x) == math.copysign(1, y)
    return x == y


@given(PLAIN, PLAIN)
def test_texts_are_equal_exactly_where_values_are(x: object, y: object) -> None:
    assert (canonical(x) == canonical(y)) == same(x, y)
    assert canonical(x) == canonical(json.loads(json.dumps(x)))
    assert "\n" not in canonical(x)


class Five(int):
    pass


@pytest.mark.parametrize("value", [math.nan, (1,), {1}, b"x", Five(5), [Five(5)], {1: 2}, {Five(5): 1}, object(), 1j])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(NotPlainError):
        canonical(value)


def test_tests_that_could_not_fail_are_refused(way: str) -> None:
    with pytest.raises(ValueError, match="without a case"):
        Job("", "f", [])
    with Sandbox(LIMITS, isolation=way) as sandbox, pytest.raises(ValueError, match=r"not JSON compliant"):
        sandbox.run(Job("", "f", [([math.nan], 1)]))
