"""Sweeps in processes, on a two-node Ray cluster and through submitit: what dies costs what it was at, and no more."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import distributed
import forked
import pytest
import ray
import stub_jobs
from distributed import meanwhile, wait
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from ray.cluster_utils import Cluster
from sharing import places, replaced
from stub_jobs import StubJob, failed, notes, stubs
from submitit import SlurmJob
from submitit.core.core import Job
from submitit.core.utils import cloudpickle
from test_sweep import SMALL, listed, metrics

from bench.config.compose import CONF, LAUNCHER_PLUGINS, install_plugins
from bench.errors import BenchError
from bench.launching import backends, devices, launch
from bench.launching.backends import Processes, RayTasks, SlurmJobs
from bench.sweeps.cells import Cell, busy, state

for pickler in (ray.cloudpickle, cloudpickle):  # the workers of Ray and Slurm can't import what lies among the tests
    pickler.register_pickle_by_value(stub_jobs)

LARGER = ["task.train_prompts=48", "generation.shard_size=2"]  # a pool that takes a while: 24 units


# which GPUs


def environments(listed: str, **settings) -> list[str]:
    given = {"n_jobs": None, "gpus_per_cell": None, "cpu_workers": 3} | settings
    return [found.get("CUDA_VISIBLE_DEVICES", "-") for found in devices.shares(listed.split(), **given)]


@pytest.mark.parametrize(
    ("listed", "settings", "expected"),
    [
        ("", {}, ["-", "-", "-"]),
        ("", {"n_jobs": 2}, ["-", "-"]),
        ("0 1 2 3", {}, ["0", "1", "2", "3"]),
        ("0 1 2 3", {"n_jobs": 2}, ["0", "1"]),
        ("4 GPU-a 6", {"n_jobs": 2, "gpus_per_cell": 1}, ["4", "GPU-a"]),
        ("0 1 2 3 4", {"gpus_per_cell": 2}, ["0,1", "2,3"]),
        ("0 1", {"gpus_per_cell": 0.5}, ["0", "1", "0", "1"]),
        ("0 1", {"gpus_per_cell": 0.4, "n_jobs": 3}, ["0", "1", "0"]),
        ("0", {"gpus_per_cell": 0.1}, ["0"] * 10),
        ("0 1", {"gpus_per_cell": 0}, ["", "", ""]),
    ],
)
def test_each_worker_has_its_own_devices(listed, settings, expected):
    assert environments(listed, **settings) == expected


@pytest.mark.parametrize(
    ("listed", "settings"),
    [("", {"gpus_per_cell": 1}), ("0 1", {"n_jobs": 3}), ("0 1 2", {"gpus_per_cell": 2, "n_jobs": 2})],
)
def test_more_workers_than_devices_are_refused(listed, settings):
    with pytest.raises(BenchError, match=rf"gpus_per_cell=.*more than the {len(listed.split())} GPUs visible here"):
        environments(listed, **settings)


@pytest.mark.parametrize(
    ("value", "expected"), [("2,3", ["2", "3"]), ("", []), ("-1", []), ("0,-1,2", ["0"]), ("MIG-x, 1", ["MIG-x", "1"])]
)
def test_the_users_own_choice_of_devices_is_kept(value, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices.visible() == expected


def test_without_a_choice_the_driver_is_asked(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.visible() == []
    stub = tmp_path / "nvidia-smi"
    stub.write_text("#!/bin/sh\necho 'GPU 0: H (UUID: GPU-a)'\necho '  MIG 1g'\necho 'GPU 1: H (UUID: GPU-b)'\n")
    stub.chmod(0o755)
    assert devices.visible() == ["0", "1"]


# which settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "n_jobs=0 is not allowed: it must be a whole number of"),
        (["hydra/launcher=joblib", "hydra.launcher.gpus_per_cell=1.5"], "gpus_per_cell=1.5 is not allowed: .* whole"),
        (["hydra/launcher=joblib", "hydra.launcher.retries=-1"], "retries=-1 is not allowed"),
        (["hydra/launcher=ray", "hydra.launcher.address=somewhere"], "address=somewhere is not allowed: .* HOST:PORT"),
        (["hydra/launcher=ray", "hydra.launcher.cpus_per_cell=0"], "cpus_per_cell=0 is not allowed"),
        (["hydra/launcher=slurm", "hydra.launcher.signal=KILL"], "signal=KILL is not allowed: .* USR1, USR2"),
        (["hydra/launcher=slurm", "hydra.launcher.timeout_min=0"], "timeout_min=0 is not allowed"),
        (["hydra/launcher=slurm", "hydra.launcher.gpus_per_cell=0.5"], "gpus_per_cell=0.5 is not allowed"),
    ],
)
def test_what_can_not_be_is_refused_before_any_work(settings, sentence):
    install_plugins()
    with pytest.raises(BenchError, match=rf"hydra\.launcher\.{sentence}"):
        launch.check([*settings, "num_completions=2,4"], CONF)


@pytest.mark.parametrize(
    ("library", "settings", "sentence"),
    [
        ("ray", ["hydra/launcher=ray"], "hydra/launcher=ray needs Ray; install the extra `ray`"),
        ("submitit", ["hydra/launcher=slurm"], "hydra/launcher=slurm needs submitit; install the extra `slurm`"),
    ],
)
def test_a_missing_extra_is_named(library, settings, sentence, monkeypatch):
    install_plugins()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BenchError, match=sentence):
        launch.check(settings, CONF)


def test_no_slurm_here_is_said(tmp_path: Path, monkeypatch):
    install_plugins()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="no Slurm here"):
        launch.check(["hydra/launcher=slurm"], CONF)


def test_our_presets_stand_before_an_installed_plugins(monkeypatch):
    install_plugins()
    stored = ConfigStore.instance()
    presets = {path.stem for path in Path(CONF, "hydra", "launcher").glob("*.yaml")}
    assert presets == {"local", "joblib", "ray", "slurm"}
    for preset in presets:
        stored.store(group="hydra/launcher", name=preset, node={"_target_": "a.plugins.own", "ray": {"init": {}}})
    install_plugins()
    for preset in presets:
        with initialize_config_dir(CONF, version_base="1.3"):
            launcher = compose("config", [f"hydra/launcher={preset}"], return_hydra_config=True).hydra.launcher
        assert "ray" not in launcher
        assert launcher._target_.startswith("hydra" if preset == "local" else LAUNCHER_PLUGINS)


def test_one_cell_of_each_pool_starts_first(tmp_path: Path):
    grid = ["seed=0,1", "num_completions=2,4", "temperature=1.0"]
    cells = sorted(listed(tmp_path, *grid), key=lambda cell: cell.cfg.seed)
    with launch.prepared([(cell.label, cell.cfg) for cell in cells]) as prepared:
        seeds = [job.settings["seed"] for job in prepared]
        assert all(path.is_file() for job in prepared for path in job.needed)
    assert seeds == [0, 1, 0, 0, 0, 1, 1, 1]
    assert not list(tmp_path.rglob(".seen-*"))


# the contract of the three backends


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with distributed.ray_cluster() as started:
        yield distributed.two_nodes(started)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """sbatch and its like, first in PATH, and asked often; the folder in which they keep jobs."""
    for name in ("sbatch", "srun", "sacct", "scontrol", "scancel"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable} -IS\n{Path(__file__).with_name('fake_slurm.py').read_text()}")
        path.chmod(0o755)
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(SlurmJob.watcher, "_delay_s", 0.2)
    monkeypatch.setattr(Job, "_results_timeout_s", 0)
    monkeypatch.setattr(backends, "POLL", 0.05)
    yield tmp_path / "slurm"
    SlurmJob.watcher.clear()  # it remembers states by a job's number, which the next test's job has too


Run = Callable[..., None]


@pytest.fixture(params=["joblib", "ray", "slurm"])
def run(request, tmp_path: Path) -> Run:
    """Run jobs in at least two processes at once, on each of the three backends: run(jobs, retries=0)."""
    return runner(request, request.param, tmp_path)


def runner(request, name: str, folder: Path) -> Run:
    if name == "ray":
        made = partial(RayTasks, address=request.getfixturevalue("cluster").address)
    elif name == "slurm":
        request.getfixturevalue("fake_slurm")
        made = SlurmJobs
    else:
        made = partial(Processes, n_jobs=2)
    cfg = OmegaConf.create({"threads": 1, "outputs": str(folder), "name": "stubs"})
    return lambda cells, **settings: launch.run_all(cells, made(**settings), cfg)


def test_a_lost_process_or_an_exception_costs_its_own_cell_a_try_and_the_others_go_on(
    run: Run, desk: Path, capfd, monkeypatch
):
    monkeypatch.setenv("WANDB_NAME", "mine")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x,GPU-y")
    (desk / "deaths b").write_text("1")
    (desk / "deaths c").write_text("9")
    (desk / "raise e").write_text("")  # outside a run, which would record it
    (desk / "hold a").write_text("")  # it must outlive the deaths of the others
    with meanwhile(lambda: (wait(lambda: len(failed(desk)) == 2, "c or e lives"), (desk / "hold a").unlink())):
        run(stubs(desk, "a", "b", "c", "e"), retries=1)
    began, ended = notes(desk, "began"), notes(desk, "ended")
    assert sorted(label for label, *_ in began) == ["a", "b", "b", "c", "c", "e", "e"]
    assert sorted(label for label, *_ in ended) == ["a", "b"]
    assert {name for *_, name, _ in began} == {"mine"}  # the user's variables come along
    assert set(failed(desk)) == {"c", "e"}
    assert "2 of its processes were lost, more than hydra.launcher.retries=1 allows; the last: " in failed(desk)["c"]
    assert "ZeroDivisionError" in failed(desk)["e"]
    told = capfd.readouterr().err
    assert told.count("b: its process was lost (") == 1
    assert "c: FAILED: 2 of its processes were lost" in told
    # which GPUs a job sees: its worker's own, those that Ray gave it (none), or those of the Slurm job
    seen = {(label, seen) for label, *_, seen in began}
    if "SIGKILL(-9)" in told:
        assert seen == {("a", "GPU-x"), *((label, "GPU-y") for label in "bce")}
    elif "Slurm" in told:
        assert "b: its process was lost (job 100_1: failed, no result; log " in told
        assert {devices for _, devices in seen} == {"GPU-x,GPU-y"}
    else:
        assert {devices for _, devices in seen} == {"none"}


def test_a_node_that_does_not_see_the_store_is_named(run: Run, tmp_path: Path):
    (cell,) = listed(tmp_path, "num_completions=2", "selection=top_per_prompt")
    elsewhere = tmp_path / "elsewhere" / ".seen"
    with launch.prepared([(cell.label, cell.cfg)]) as prepared:
        assert len(prepared[0].needed) == 2
        hidden = [replace(job, needed=(*job.needed, elsewhere)) for job in prepared]
        with pytest.raises(BenchError, match=rf"node \S+ does not see {elsewhere}; a sweep on several nodes"):
            run(hidden, retries=2)
    assert not metrics(tmp_path)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_running_cells(run: Run, desk: Path):
    (desk / "hold a").write_text("")

    def interrupt() -> None:
        wait(lambda: notes(desk, "began"), "a has not begun")
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
        run(stubs(desk, "a"), retries=2)
    ((_, process, *_),) = notes(desk, "began")
    wait(lambda: not Path(f"/proc/{process}").exists(), "the worker still runs")


def test_an_interrupt_between_two_starts_ends_the_first(desk: Path):
    class Interrupted(launch.Backend):
        retries = 0
        ended = check = open = lambda self, *_: None

        def start(self, waiting, running) -> None:
            running["first"] = waiting.popleft()
            raise KeyboardInterrupt

        def close(self, handles: list[str]) -> None:
            assert handles == ["first"]
            (desk / "closed").write_text("")

    with pytest.raises(KeyboardInterrupt):
        launch.run_all(stubs(desk, "a", "b"), Interrupted(), OmegaConf.create({}))
    assert (desk / "closed").exists()


def test_an_interrupted_cell_is_marked(tmp_path: Path):
    (cell,) = listed(tmp_path, "num_completions=2", "selection=top_per_prompt")
    cell.folder.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), busy(cell.folder):
        raise KeyboardInterrupt
    assert state(cell).kind == "interrupted"


def test_joblib_a_worker_serves_one_cell_after_another(desk: Path):
    launch.run_all(stubs(desk, "a", "b", "c"), Processes(n_jobs=1), OmegaConf.create({"threads": 1}))
    assert len({process for _, process, *_ in notes(desk, "ended")}) == 1
    assert [label for label, *_ in notes(desk, "began")] == ["a", "b", "c"]


@pytest.mark.parametrize(("settings", "named"), [((2, None), "2 CPU"), ((1, 1), "1 CPU and 1 GPU")])
def test_ray_cells_that_no_node_has_room_for_are_refused(cluster: Cluster, settings, named):
    backend = RayTasks(address=cluster.address, cpus_per_cell=settings[0], gpus_per_cell=settings[1])
    with pytest.raises(BenchError, match=f"No node of the Ray cluster has {named} for a cell"):
        backend.check(OmegaConf.create({}))


# whole sweeps of real cells


def started(folder: Path, *settings: str, **given: Callable[[], None]) -> forked.Command:
    return forked.Command(["-m", *replaced([*SMALL, *places(folder)], *settings)], folder, **given)


def holders(cells: list[Cell]) -> dict[int, Cell]:
    """The processes that run a cell."""
    states = {cell: state(cell) for cell in cells}
    running = {cell: found.detail for cell, found in states.items() if found.kind == "running"}
    return {int(detail.split()[1]): cell for cell, detail in running.items() if detail.startswith("process ")}


def units(folder: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of change of every finished unit of a pool."""
    paths = folder.glob("store/generate/*/[0-9]*/manifest.json")  # what is being made has another name
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def is_whole(store: Path) -> bool:
    """Whether nothing was set aside as damaged, or left half made."""
    return not [*store.rglob(".damaged*"), *store.rglob(".making*")]


def begun(process: forked.Command, folder: Path, cells: list[Cell], *, count: int) -> dict[int, Cell]:
    """Wait until `count` cells run and some of a pool is drawn."""

    def there() -> bool:
        assert not process.ended(), process.wait()
        return len(units(folder)) >= 3 and len(holders(cells)) >= count

    wait(there, "no pool is begun")
    return holders(cells)


def test_joblib_a_sweep_survives_a_death_and_a_failure_and_again_runs_what_is_missing(tmp_path: Path):
    settings = [*LARGER, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "num_completions=4"]
    # nothing is correct after four steps of pretraining, so that all_correct keeps nothing to train on
    settings += ["selection=top_per_prompt,random_per_prompt,all_correct"]
    cells = listed(tmp_path, *settings)
    process = started(tmp_path, *settings)
    running = begun(process, tmp_path, cells, count=2)
    assert [state(cell).kind for cell in cells] == ["running", "running", "missing"]
    before = units(tmp_path)
    os.kill(min(running), signal.SIGKILL)
    ended = process.wait()
    assert ended.returncode == 1, ended.stderr
    assert "3 cells: 3 missing" in ended.stdout
    assert "2 done, 1 failed" in ended.stdout
    assert f"{running[min(running)].label}: its process was lost (SIGKILL(-9)); run again" in ended.stderr
    assert ended.stderr.count("tuned pass@1") == 2
    assert ended.stderr.count("selection=all_correct: FAILED") == 1
    assert [state(cell).kind for cell in cells] == ["done", "done", "failed"]
    assert before
    assert {path: units(tmp_path)[path] for path in before} == before
    assert is_whole(tmp_path / "store")

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    again = started(tmp_path, *settings).wait()
    assert again.stderr.count("done before") == 2
    assert again.stderr.count("selection=all_correct: FAILED") == 1
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}


# Ray


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def test_ray_two_nodes_run_cells_and_one_that_is_killed_costs_what_it_was_drawing(cluster: Cluster, tmp_path: Path):
    settings = [*LARGER, "hydra/launcher=ray", f"hydra.launcher.address={cluster.address}", "num_completions=4"]
    cells = listed(tmp_path, *settings)
    process = started(tmp_path, *settings)
    running = begun(process, tmp_path, cells, count=2)
    (leaving,) = cluster.worker_nodes
    assert {parent(holder) for holder in running} == {raylet(cluster.head_node), raylet(leaving)}
    (lost,) = (holder for holder in running if parent(holder) == raylet(leaving))
    before = units(tmp_path)
    cluster.remove_node(leaving, allow_graceful=False)
    with contextlib.suppress(ProcessLookupError):
        os.kill(lost, signal.SIGKILL)  # with a node go all of its processes; this has only lost its raylet
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr
    label = " ".join(sorted(running[lost].label.split()))
    assert f"{label}: its process was lost" in ended.stderr
    assert "2 done" in ended.stdout
    assert ended.stderr.count("tuned pass@1") == 2
    assert before
    assert {path: units(tmp_path)[path] for path in before} == before
    assert is_whole(tmp_path / "store")


# Slurm


def test_submitit_a_cell_that_is_preempted_and_then_killed_goes_on_where_it_was(tmp_path: Path):
    settings = [*LARGER, "hydra/launcher=slurm", "hydra.launcher.cluster=local", "num_completions=4"]
    settings += ["selection=top_per_prompt"]
    cells = listed(tmp_path, *settings)
    process = started(tmp_path, *settings, prepare=stub_jobs.impatient)
    (preempted,) = begun(process, tmp_path, cells, count=1)
    before = units(tmp_path)
    os.kill(preempted, signal.SIGTERM)  # as Slurm does first
    os.kill(preempted, signal.SIGUSR2)
    wait(lambda: holders(cells).keys() - {preempted}, "the preempted cell does not go on")
    (killed,) = holders(cells)
    os.kill(killed, signal.SIGKILL)
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr
    assert "1 done" in ended.stdout
    assert ended.stderr.count(f"{cells[0].label}: its process was lost") == 1
    logs = "".join(path.read_text() for path in tmp_path.glob("outputs/.multirun/local/*/*_log.*"))
    assert logs.count("Requeued job") == 1
    assert ended.stderr.count("tuned pass@1") == 1
    assert before
    assert {path: units(tmp_path)[path] for path in before} == before
    assert is_whole(tmp_path / "store")


def test_a_launcher_of_ones_own_is_found_on_the_search_path(tmp_path: Path):
    install_plugins()
    folder = tmp_path / "hydra" / "launcher"
    folder.mkdir(parents=True)
    text = Path(CONF, "hydra", "launcher", "joblib.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace("n_jobs: ", "n_jobs: 0 #"))
    with pytest.raises(BenchError, match=r"hydra\.launcher\.n_jobs=0 is not allowed"):
        launch.check([f"hydra.searchpath=[file://{tmp_path}]", "hydra/launcher=mine"], CONF)


def run_on_slurm(cells: list[StubJob], *settings: str) -> None:
    """Run jobs with the launcher that these settings make."""
    install_plugins()
    from hydra_plugins.bench_launchers import Slurm

    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("config", ["hydra/launcher=slurm", *settings], return_hydra_config=True)
    given = dict(OmegaConf.to_container(cfg.hydra.launcher, resolve=True))
    del given["_target_"]
    launch.run_all(cells, Slurm(**given), cfg)


def test_slurm_announces_preemption_by_the_signal_that_jobs_heed(tmp_path: Path):
    """In a process of its own: submitit reads the signal once, where it is first imported."""
    code = (
        "from bench.config.compose import CONF, install_plugins; from bench.launching import launch\n"
        "install_plugins()\n"
        "launch.check(['hydra/launcher=slurm', 'hydra.launcher.cluster=local', 'hydra.launcher.signal=USR1'], CONF)\n"
        "from submitit.slurm.slurm import SlurmJobEnvironment; print(SlurmJobEnvironment.USR_SIG)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "USR1"


def test_slurm_is_asked_for_what_was_set_and_a_preempted_job_is_requeued(
    fake_slurm: Path, desk: Path, tmp_path: Path, capfd
):
    sets = "partition=gpu account=us gpus_per_cell=2 cpus_per_cell=8 mem_gb=64 timeout_min=90 signal_delay_s=30"
    settings = [f"outputs={tmp_path}", *(f"hydra.launcher.{setting}" for setting in sets.split())]
    settings += ["hydra.launcher.commands=[module load cuda]", "+hydra.launcher.additional_parameters.nice=100"]
    for name in ("hold a", "hold b"):
        (desk / name).write_text("")
    (desk / "deaths c").write_text("1")

    def preempt() -> None:
        wait(lambda: {"a", "b"} <= {label for label, *_ in notes(desk, "began")}, "a and b have not begun")
        (process,) = (int(words[1]) for words in notes(desk, "began") if words[0] == "a")
        os.kill(process, signal.SIGUSR2)
        wait(lambda: [label for label, *_ in notes(desk, "began")].count("a") == 2, "a was not requeued")
        for name in ("hold a", "hold b"):
            (desk / name).unlink()

    with meanwhile(preempt):
        run_on_slurm(stubs(desk, "a", "b", "c"), *settings)
    assert sorted(label for label, *_ in notes(desk, "ended")) == ["a", "b", "c"]
    assert sorted(label for label, *_ in notes(desk, "began")) == ["a", "a", "b", "c", "c"]
    first, again = sorted(fake_slurm.glob("*.sh"))  # the array, and the job whose process was killed
    asked = {line.removeprefix("#SBATCH --") for line in first.read_text().splitlines() if line.startswith("#SBATCH")}
    wanted = "partition=gpu account=us gpus-per-node=2 cpus-per-task=8 mem=64GB time=90 signal=USR2@30 nice=100"
    assert {*wanted.split(), "requeue", "array=0-2%3", "job-name=bench-default"} <= asked
    assert "module load cuda" in first.read_text()
    assert "array" not in again.read_text()
    assert not failed(desk)
    told = capfd.readouterr().err
    assert "c: its process was lost (job 100_2: failed, no result" in told
    assert "a has ended" in told


def test_slurm_a_preempted_job_that_may_not_be_requeued_is_submitted_again_by_the_sweep(
    fake_slurm: Path, desk: Path, tmp_path: Path
):
    settings = [f"outputs={tmp_path}", "hydra.launcher.requeue=false", "hydra.launcher.retries=1"]
    (desk / "hold a").write_text("")

    def preempt() -> None:
        for tries in (1, 2):
            wait(lambda tries=tries: len(notes(desk, "began")) == tries, "a has not begun")
            os.kill(int(notes(desk, "began")[-1][1]), signal.SIGUSR2)

    with meanwhile(preempt):
        run_on_slurm(stubs(desk, "a"), *settings)
    assert "no-requeue" in (fake_slurm / "100.sh").read_text()
    assert "2 of its processes were lost" in failed(desk)["a"]
    assert "job 101: UncompletedJobError: Job not requeued because" in failed(desk)["a"]
