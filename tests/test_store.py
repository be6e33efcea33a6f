"""The store: made once, verified, atomic, locked; and its command line."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.artifacts import Policy, content_hash
from bench.errors import BenchError
from bench.progress import relayed
from bench.store import MANIFEST, Address, Store, atomically, check, files, lineage, stage, using, walk, write_durably
from bench.store import __main__ as store_command
from bench.store.reading import checksums_of


def read(folder: Path) -> str:
    return (folder / "text.txt").read_text()


@stage(version=1, load=read, speed_only=("batch_size",))
def shout(policy: Policy, *, word: str, times: int = 2, batch_size: int = 1, out: Path) -> dict[str, float]:
    (out / "text.txt").write_text(word.upper() * times)
    return {"letters": len(word) * times}


POLICY = Policy(Path("nowhere"), "abc")


def only(store: Store) -> Path:
    (manifest,) = store.root.glob(f"shout/*/{MANIFEST}")
    return manifest.parent


def test_made_once_and_told_apart_by_settings_and_parents(store: Store):
    assert shout(POLICY, word="a") == shout(POLICY, word="a", times=2, batch_size=7) == "AA"
    assert [use.reused for use in store.uses] == [False, True]
    assert shout(POLICY, word="a", times=3) == "AAA"
    assert shout(Policy(Path("elsewhere"), "abc"), word="a") == "AA"  # same content, another place
    shout(Policy(Path("nowhere"), "abd"), word="a")
    assert [use.reused for use in store.uses[2:]] == [False, True, False]


def test_manifest_says_how_it_was_made(store: Store):
    shout(POLICY, word="ab")
    manifest = check(only(store))
    assert manifest["settings"] == {"word": "ab", "times": 2}
    assert manifest["parents"] == {"policy": "abc"}
    assert manifest["counts"] == {"letters": 4}
    assert manifest["key"] == only(store).name == "82a61596d1beb087f8c2"  # stores of earlier versions are found again
    assert manifest["files"]["text.txt"]["bytes"] == 4


def test_lineage_names_each_artifact_once_and_whether_it_was_made(store: Store):
    for word in ("a", "b", "a"):
        shout(POLICY, word=word)
    entries = lineage(store.uses)
    assert [entry["settings"]["word"] for entry in entries] == ["a", "b"]
    assert not any(entry["reused"] for entry in entries)


def change_seconds(manifest: Path) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 9999.0}))


DAMAGE = {  # of the artifact's file, or of its manifest
    "truncated": ("text.txt", lambda file: os.truncate(file, 3)),
    "changed": ("text.txt", lambda file: file.write_text("HELLOHELLA")),
    "missing": ("text.txt", Path.unlink),
    "another cost": (MANIFEST, change_seconds),
    "no manifest": (MANIFEST, Path.unlink),
    "half a manifest": (MANIFEST, lambda file: file.write_text('{"files"')),
    "empty manifest": (MANIFEST, lambda file: file.write_text("")),
    "a list": (MANIFEST, lambda file: file.write_text("[]")),
    "too little": (MANIFEST, lambda file: file.write_text('{"files": {}}')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_is_set_aside_and_made_again(store: Store, capsys, damage):
    shout(POLICY, word="hello")
    folder = only(store)
    name, spoil = DAMAGE[damage]
    spoil(folder / name)
    assert command(store, "list").returncode == 0
    assert shout(POLICY, word="hello") == "HELLOHELLO"
    assert not store.uses[-1].reused
    assert capsys.readouterr().err.count("warning") == 1
    assert len(list(folder.parent.glob(".damaged-*"))) == 1
    assert shout(POLICY, word="hello") == "HELLOHELLO"
    assert store.uses[-1].reused


def test_a_file_that_a_disk_no_longer_gives_is_damaged_and_the_others_are_verified(store: Store, monkeypatch, capsys):
    for word in ("a", "b"):
        shout(POLICY, word=word)
    bad, read_file = min(store.root.glob("shout/*")) / "text.txt", files.sha256

    def sha256(path: Path) -> str:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read_file(path)

    monkeypatch.setattr(files, "sha256", sha256)
    assert store_command.verify(store.root) == 1
    said = capsys.readouterr().out
    assert f"damaged: {bad} can't be read (Input/output error)" in said
    assert "1 of 2 artifacts match" in said


def test_a_failing_stage_leaves_nothing(store: Store):
    @stage(version=1, load=read)
    def fail(policy: Policy, *, out: Path) -> dict[str, float]:
        (out / "text.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail(POLICY)
    assert [path for path in store.root.rglob("*") if path.is_file() and ".locks" not in path.parts] == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(store: Store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=r"disk of store=.* is full while making shout"):
        shout(POLICY, word="a")
    monkeypatch.undo()
    assert list(store.root.glob("shout/*")) == []
    assert shout(POLICY, word="a") == "AA"


def test_a_disk_without_room_for_a_locks_holder_is_named(full_disk: Path):
    with using(Store(full_disk / "store")):
        with (full_disk / "rest").open("wb", buffering=0) as rest:
            rest.write(bytes(2**20))  # as much as there is room for
        with pytest.raises(BenchError, match=r"disk of store=.* is full while making shout"):
            shout(POLICY, word="a")
        (full_disk / "rest").unlink()
        assert shout(POLICY, word="a") == "AA"


def test_a_full_disk_is_recognised_by_a_librarys_message(store: Store):
    @stage(version=1, load=read)
    def fill(policy: Policy, *, out: Path) -> dict[str, float]:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(BenchError, match=r"disk of store=.* is full while making fill"):
        fill(POLICY)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "file.txt"
    write_durably(path, "old")

    def fail() -> None:
        with atomically(path) as beside:
            beside.write_text("ne")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fail()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file.txt", "old")]


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"store=.*file.* can't be written"):
        Store(tmp_path / "file" / "store")


def test_a_setting_that_cannot_be_hashed_is_refused(store: Store):
    with pytest.raises(TypeError):
        shout(POLICY, word=object())


def slow(policy: Policy, *, log: str, seconds: float, out: Path) -> dict[str, float]:
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    (out / "text.txt").write_text("done")
    return {}


def ask(root: Path, log: Path, seconds: float = 1.5) -> None:
    with using(Store(root)):
        assert stage(version=1, load=read)(slow)(POLICY, log=str(log), seconds=seconds) == "done"


def asking(folder: Path, seconds: float = 1.5) -> multiprocessing.Process:
    """A process that has begun to ask for the slow artifact."""
    arguments = (folder / "store", folder / "log", seconds)
    process = multiprocessing.get_context("fork").Process(target=ask, args=arguments)
    process.start()
    return process


def making(folder: Path, seconds: float = 1.5) -> multiprocessing.Process:
    """A process that holds the lock and is making the slow artifact."""
    process = asking(folder, seconds)
    while not (folder / "log").exists():
        time.sleep(0.01)
    return process


def test_processes_that_want_one_artifact_make_it_once(tmp_path: Path):
    processes = [asking(tmp_path) for _ in range(4)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len((tmp_path / "log").read_text().split()) == 1


def test_kill_of_the_holder_passes_the_lock_on(tmp_path: Path):
    first, second = making(tmp_path), asking(tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    first.join(30)
    second.join(30)
    assert second.exitcode == 0
    assert len((tmp_path / "log").read_text().split()) == 2
    assert not list((tmp_path / "store").glob("slow/.making*"))


def test_a_long_wait_for_another_process_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.store.PATIENCE", 0.05)
    first = making(tmp_path)
    said: list[str] = []
    with relayed(said.append):
        ask(tmp_path / "store", tmp_path / "log")
        ask(tmp_path / "store", tmp_path / "log")  # it is there
    first.join(30)
    assert [line.split(", which")[0] for line in said] == [f"waiting for process {first.pid} on {socket.gethostname()}"]


IN_ONE_STORE = """
import sys
from pathlib import Path
from bench.store import Address, Store, using, write_durably
root, own = Path(sys.argv[1]), sys.argv[2]
for turn in range(60):
    with using(Store(root)) as store:
        write_durably(root.parent / "shared.txt", "whole " * 99)
        address = Address("made", 1, {"turn": turn}, {})
        store.make(address, lambda out: (out / own).write_text(own) and {}, Path)
"""


@pytest.mark.parametrize("alone", ["unshare --pid --fork --mount-proc", "unshare --pid --fork --uts"])
def test_process_ids_that_repeat_in_containers_do_not_collide(tmp_path: Path, alone: str):
    """Three processes with the id 1, each in a namespace of its own as in a container, share a store and its locks."""
    if subprocess.run([*alone.split(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no namespaces of process ids")
    line = [*alone.split(), sys.executable, "-c", IN_ONE_STORE, str(tmp_path / "store")]
    started = [subprocess.Popen([*line, str(i)], stderr=subprocess.PIPE, text=True) for i in range(3)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in started] == [("", 0)] * 3
    assert (tmp_path / "shared.txt").read_text() == "whole " * 99
    made = sorted(tmp_path.glob("store/made/*"))
    assert len(made) == 60  # each once, by one process
    assert all(len(list(folder.iterdir())) == 2 for folder in made)
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith((".shared", ".probe", ".making"))]


def test_temporary_names_differ_though_process_ids_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / ("x" * 250)  # as long as a name may be, nearly
    with atomically(path) as first, atomically(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b\x1b " + "c" * 250)
    write_durably(tmp_path / "y", "z")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["x" * 250, "y"]


def command(store: Store, *arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "bench.store", *arguments, "--store", str(store.root)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_command_lists_verifies_and_prunes(tmp_path: Path):
    pool = Address("pool", 1, {}, {}, part="0-1")
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="keep")
        store.make(pool, lambda out: (out / "x").write_text("x") and {}, lambda _: None)
        outputs = finished_run(store, tmp_path)
        shout(POLICY, word="drop")

    listed = command(store, "list").stdout
    assert listed.count("shout") == 2
    assert listed.count("pool") == 1
    assert "3 of 3" in command(store, "verify").stdout

    dry = command(store, "prune", "--outputs", str(outputs))
    assert dry.stdout.count("would delete shout/") == 1
    assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 3
    command(store, "prune", "--outputs", str(outputs), "--delete")
    assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 2
    with using(store):
        assert shout(POLICY, word="keep") == "KEEPKEEP"
    assert store.uses[-1].reused

    (store.root / next(store.root.glob("pool/*/0-1/x"))).write_text("y")
    verified = command(store, "verify")
    assert verified.returncode == 1
    assert "1 of 2" in verified.stdout


def finished_run(store: Store, folder: Path) -> Path:
    """An outputs folder with one run, of all that the store was asked for so far."""
    run = folder / "outputs" / "run"
    run.mkdir(parents=True)
    (run / "lineage.json").write_text(json.dumps(lineage(store.uses)))
    return run.parent


def test_prune_waits_for_no_run_and_takes_nothing_from_one(tmp_path: Path):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="keep")
        outputs = finished_run(store, tmp_path)
        shout(POLICY, word="new")
        refused = command(store, "prune", "--outputs", str(outputs), "--delete")
        assert refused.returncode == 1
        assert f"a run is using store={tmp_path}" in refused.stderr
        assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 2
    assert command(store, "prune", "--outputs", str(outputs), "--delete").returncode == 0
    assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 1


def test_prune_removes_what_a_killed_process_was_making(tmp_path: Path):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="keep")
        outputs = finished_run(store, tmp_path)
    process = making(tmp_path, 600.0)  # it is killed long before
    assert "would delete" not in command(store, "prune", "--outputs", str(outputs)).stdout  # it is being made
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert len(list(store.root.glob("slow/.making-*"))) == 1
    assert command(store, "prune", "--outputs", str(outputs), "--delete").stdout.count("deleted slow/.making-") == 1
    assert not list(store.root.glob("slow/.making-*"))


def test_prune_keeps_what_runs_behind_links_need_and_asks_about_unfinished_ones(tmp_path: Path):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="keep")
        outputs = finished_run(store, tmp_path)
        shout(POLICY, word="far")
        far = finished_run(store, tmp_path / "far")
        shout(POLICY, word="of a killed run")
    (outputs / "far").symlink_to(far)
    (far / "back").symlink_to(outputs)  # a ring
    options = ("--outputs", str(outputs))
    assert "1 artifacts" in command(store, "prune", *options).stdout

    (outputs / "killed").mkdir()
    (outputs / "killed" / "running.lock").write_text("")
    assert f"{outputs / 'killed'} did not finish" in command(store, "prune", *options).stdout
    refused = command(store, "prune", "--delete", *options)
    assert refused.returncode == 1
    assert "or give --unfinished" in refused.stderr
    assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 3
    assert command(store, "prune", "--delete", "--unfinished", *options).returncode == 0
    assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 2


def test_prune_without_runs_deletes_nothing(tmp_path: Path):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="a")
    refused = command(store, "prune", "--outputs", str(tmp_path / "none"), "--delete")
    assert refused.returncode == 1
    assert "would delete everything" in refused.stderr
    assert len(list(store.root.glob(f"*/**/{MANIFEST}"))) == 1


def test_artifacts_are_found_while_others_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is renamed between the listing of its parent and its own is no error."""
    for name in ("made", ".making-later", ".damaged-once", "renamed"):
        (tmp_path / "stage" / name).mkdir(parents=True)
        (tmp_path / "stage" / name / "manifest.json").write_text("{}")
    listing = os.scandir

    def renaming(path: str):
        if str(path).endswith("renamed"):
            raise FileNotFoundError(path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", renaming)
    found = {folder.name: whole for folder, whole in walk(tmp_path)}
    assert found == {"made": True, ".making-later": False, ".damaged-once": False}


def main_of_store(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the command says at its end, in this process."""
    monkeypatch.setattr(sys, "argv", ["bench.store", *arguments])
    try:
        store_command.main()
    except SystemExit as stopped:
        return str(stopped.code)
    return ""


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "deep", "forged"])
def test_what_is_no_manifest_is_a_damaged_artifact(kind: str, tmp_path: Path, monkeypatch, capsys):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="a")
    path = only(store) / MANIFEST
    content = json.loads(path.read_text())
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "deep":
        path.write_text("[" * 100_000)
    else:  # it agrees with its own checksum
        forged = {name: value for name, value in content.items() if name != "hash"} | {"created": "now", "files": []}
        path.write_text(json.dumps(forged | {"hash": content_hash(forged)}))
    (only_folder,) = (tmp_path / "store" / "shout").iterdir()
    os.mkfifo(only_folder / "pipe")
    for action in ("list", "verify"):
        main_of_store(monkeypatch, action, f"store={tmp_path / 'store'}")
    printed = capsys.readouterr().out
    assert ("damaged: the manifest of" in printed) == (kind != "folder")
    with using(Store(tmp_path / "store")):
        assert shout(POLICY, word="a") == "AA"


@pytest.mark.parametrize("content", ["[{", "[" * 100_000, "{}", '[{"stage": 1}]', None, "edited"])
def test_prune_deletes_nothing_where_a_lineage_can_not_be_read(content: str | None, tmp_path: Path, monkeypatch):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="keep")
        outputs = finished_run(store, tmp_path)
    (path,) = outputs.glob("**/lineage.json")
    if content == "edited":  # which may have lost the names of artifacts that the run needs
        (path.parent / "checksums.json").write_text(checksums_of(path.parent, ["lineage.json"]))
        path.write_text(path.read_text() + " ")
    else:
        path.unlink()
        path.write_text(content) if content is not None else os.mkfifo(path)
    said = main_of_store(monkeypatch, "prune", "--delete", f"store={tmp_path / 'store'}", f"outputs={outputs}")
    assert said.startswith(f"error: {path} ")
    assert only(store).is_dir()


def test_prune_removes_what_killed_runs_left(tmp_path: Path, monkeypatch, capsys):
    with using(Store(tmp_path / "store")) as store:
        outputs = finished_run(store, tmp_path) if shout(POLICY, word="keep") else tmp_path
    killed = outputs / "killed" / "run"
    killed.mkdir(parents=True)
    (killed / "running.lock").write_text("process 1")
    left = killed / ".curves.parquet.4711"
    left.write_text("half")
    arguments = ("prune", f"store={tmp_path / 'store'}", f"outputs={outputs}")
    with (killed / "running.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        main_of_store(monkeypatch, *arguments, "--delete")
        assert left.exists()
    main_of_store(monkeypatch, *arguments)
    assert f"would delete {left}" in capsys.readouterr().out
    main_of_store(monkeypatch, *arguments, "--delete", "--unfinished")
    assert not left.exists()


def test_a_store_that_can_only_be_read_is_listed_verified_and_searched(tmp_path: Path, monkeypatch, capsys):
    with using(Store(tmp_path / "store")) as store:
        shout(POLICY, word="keep")
        outputs = finished_run(store, tmp_path)
        shout(POLICY, word="drop")
    (store.root / "shout" / ".making-gone").mkdir()
    manifest = next(store.root.glob(f"shout/*/{MANIFEST}"))
    content = json.loads(manifest.read_text())
    later = {name: value for name, value in content.items() if name != "hash"} | {"created": time.time() + 3600}
    manifest.write_text(json.dumps(later | {"hash": content_hash(later)}))
    allowed = Path.open

    def reading_only(path: Path, mode: str = "r", **others: object) -> object:
        if mode != "r":
            raise PermissionError(13, os.strerror(13), str(path))
        return allowed(path, mode, **others)

    monkeypatch.setattr(Path, "open", reading_only)
    for action in ("list", "verify", "prune"):
        assert main_of_store(monkeypatch, action, f"store={store.root}", f"outputs={outputs}") in ("", "0")
    printed = capsys.readouterr().out
    assert printed.count("would delete") == 2
    assert " 0 s " in printed  # the clock was set back
    assert "-3" not in printed
    said = main_of_store(monkeypatch, "prune", "--delete", f"store={store.root}", f"outputs={outputs}")
    assert said == f"error: store={store.root} can't be written (Permission denied), so nothing can be deleted from it."
