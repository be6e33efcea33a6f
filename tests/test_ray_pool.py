"""A pool drawn on a two-node Ray cluster: the one drawn here, and what dies costs its unfinished units only."""

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import distributed
import numpy as np
import pytest
import ray
from distributed import meanwhile, wait
from ray.cluster_utils import Cluster
from sharing import composed

from bench.artifacts import Completions, Policy, Prompts
from bench.config import checks
from bench.errors import BenchError
from bench.generation import pool, ray_cluster, ray_pool, transformers_engine, vllm_engine
from bench.models.sampler import Sampler
from bench.seeds import generator
from bench.store import Finder, MissingError, Store, unique, using

for module in (sys.modules[__name__], distributed):  # the workers can't import a test
    ray.cloudpickle.register_pickle_by_value(module)

POLICY = Policy(Path("/"), "stub")
SAMPLER = {"num_completions": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}
SHARDS, BLOCKS = 4, (0, 2)  # of 2 prompts, and the first of 2 samples
UNITS = {(f"p{2 * shard}", block) for shard in range(SHARDS) for block in BLOCKS}


class StubEngine:
    """Draws noise; leaves notes of what it does in `desk`, and stops at the units that are held there."""

    def __init__(self, desk: Path) -> None:
        self.desk = desk
        note(desk, "opened", "engine-0")

    def sample(self, prompts, samples, sampler, *, max_new_tokens, seed, progress):
        unit = f"{prompts.id[0]}-{samples.start}"
        note(self.desk, "begun", unit)
        if (self.desk / f"fail-{unit}").exists():
            raise BenchError("The stub has nothing to say.")
        if (self.desk / f"break-{unit}").exists():
            raise ZeroDivisionError("a bug")
        wait(lambda: not (self.desk / f"hold-{unit}").exists(), f"{unit} is still held")
        note(self.desk, "drawn", unit)
        shape = (len(prompts), len(samples))
        cells = [generator(seed, "stub", str(name), sample) for name in prompts.id for sample in samples]
        token_ids = np.empty(shape, object)
        token_ids.ravel()[:] = [cell.integers(0, 99, 5).astype(np.int32) for cell in cells]
        text = np.array([" ".join(map(str, ids)) for ids in token_ids.ravel()], object).reshape(shape)
        logprob = np.full(shape, -5.0)
        completions = Completions(text, token_ids, np.full(shape, "stop"), logprob, logprob, key="")
        return completions, {"generated_tokens": 5 * text.size}


def note(desk: Path, kind: str, unit: str) -> None:
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "none"
    (desk / f"{kind} {unit} {node} {os.getpid()} {uuid.uuid4().hex}").write_text("")


def notes(desk: Path, kind: str) -> list[tuple[tuple[str, int], str, int]]:
    """(unit, node, process) of each note of a kind."""
    found = [path.name.split() for path in desk.glob(f"{kind} *")]
    return [((unit.split("-")[0], int(unit.split("-")[-1])), node, int(process)) for _, unit, node, process, _ in found]


def stub(
    prompts, policy, *, desk, num_completions, temperature, top_p, top_k, seed, shard_size=2, driver=0
) -> Completions:
    return pool.draw(
        prompts,
        policy,
        partial(StubEngine, desk),
        Sampler(temperature, top_p, top_k),
        engine="stub",
        version=1,
        samples=range(num_completions),
        max_new_tokens=5,
        seed=seed,
        dtype="float32" if driver in (0, os.getpid()) else "bfloat16",
        block_size=2,
        shard_size=shard_size,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with distributed.ray_cluster() as started:
        yield started


@pytest.fixture
def two_nodes(cluster: Cluster) -> Cluster:
    return distributed.two_nodes(cluster)


@pytest.fixture
def prompts() -> Prompts:
    names = [f"p{i}" for i in range(2 * SHARDS)]
    return Prompts(np.array(names), tuple(({"role": "user", "content": name},) for name in names), np.array(names))


def hold(desk: Path, *units: tuple[str, int]) -> list[Path]:
    held = [desk / f"hold-{name}-{block}" for name, block in units]
    for path in held:
        path.write_text("")
    return held


def release(held: list[Path]) -> None:
    for path in held:
        path.unlink()


def files(store: Store) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of change and content of every finished unit's completions."""
    paths = sorted(store.root.glob("generate/*/[0-9]*/completions.parquet"))  # what is being made has another name
    return {
        str(path.relative_to(store.root)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in paths
    }


def contents(store: Store) -> dict[str, bytes]:
    return {path: content for path, (_, _, content) in files(store).items()}


def drawn_here(tmp_path: Path, draw: Callable[[], Completions]) -> tuple[Store, Completions]:
    with using(Store(tmp_path / "here")) as store:
        return store, draw()


def test_two_nodes_draw_the_very_pool_that_one_process_draws(two_nodes, store, desk, prompts, tmp_path):
    held = hold(desk, *((f"p{2 * shard}", 0) for shard in range(SHARDS)))

    def let_go() -> None:
        try:
            wait(lambda: len({node for _, node, _ in notes(desk, "begun")}) == 2, "one node draws alone")
        finally:
            release(held)

    with meanwhile(let_go):
        drawn = ray_pool.generate(
            prompts, POLICY, worker=partial(stub, desk=desk), address=two_nodes.address, **SAMPLER
        )
    assert Counter(unit for unit, _, _ in notes(desk, "drawn")) == dict.fromkeys(UNITS, 1)
    assert {node for _, node, _ in notes(desk, "drawn")} == {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert len(notes(desk, "opened")) == len({process for _, _, process in notes(desk, "drawn")}) == 2
    elsewhere = tmp_path / "desk here"
    elsewhere.mkdir()
    local, expected = drawn_here(tmp_path, lambda: stub(prompts, POLICY, desk=elsewhere, **SAMPLER))
    assert contents(store) == contents(local)
    assert len(contents(store)) == len(UNITS)
    assert drawn.key == expected.key
    assert np.asarray(drawn.text).tolist() == np.asarray(expected.text).tolist()


def test_the_real_engine_draws_the_same_bytes(two_nodes, store, random_policy, few_prompts, tmp_path):
    worker = partial(transformers_engine.generate, max_new_tokens=6, dtype="float32", block_size=2)
    settings = SAMPLER | {"temperature": 0.8, "top_p": 0.9, "seed": 3}
    drawn = ray_pool.generate(few_prompts, random_policy, worker=worker, address=two_nodes.address, **settings)
    local, expected = drawn_here(tmp_path, lambda: worker(few_prompts, random_policy, **settings))
    assert contents(store) == contents(local)
    assert len(contents(store)) == 2
    assert drawn.key == expected.key


@pytest.mark.vllm
def test_vllm_draws_the_same_in_a_worker_of_ray(two_nodes, store, random_policy, few_prompts, tmp_path):
    worker = partial(vllm_engine.generate, max_new_tokens=6, kv_cache_gib=0.25)
    drawn = ray_pool.generate(few_prompts, random_policy, worker=worker, address=two_nodes.address, **SAMPLER)
    _, expected = drawn_here(tmp_path, lambda: worker(few_prompts, random_policy, **SAMPLER))
    assert drawn.key == expected.key
    assert np.asarray(drawn.text).tolist() == np.asarray(expected.text).tolist()
    np.testing.assert_allclose(drawn.logprob, expected.logprob, rtol=1e-5)


def test_what_is_in_the_store_is_neither_drawn_again_nor_counted_as_drawn(two_nodes, store, desk, prompts, monkeypatch):
    worker = partial(stub, desk=desk)
    settings = SAMPLER | {"num_completions": 2}
    stub(prompts[:4], POLICY, desk=desk, **settings)  # p0 and p2: half of their units
    before, earlier = files(store), unique(store.uses)
    assert len(before) == 2
    with using(Store(store.root)) as later:
        ray_pool.generate(prompts, POLICY, worker=worker, address=two_nodes.address, **SAMPLER)
    assert {path: content for path, content in files(store).items() if path in before} == before
    assert Counter(unit for unit, _, _ in notes(desk, "drawn")) == dict.fromkeys(UNITS, 1)
    reused = {(use.key, use.part) for use in later.uses if use.reused}
    assert reused == {(use.key, use.part) for use in earlier}
    assert len(unique(later.uses)) == len(later.uses) == len(UNITS)
    assert sum(use.counts["generated_tokens"] for use in later.uses) == 5 * 4 * len(prompts)

    monkeypatch.setattr(ray_pool, "connect", lambda address: pytest.fail("Ray was asked for a pool that is there"))
    with using(Store(store.root)) as last:
        ray_pool.generate(prompts, POLICY, worker=worker, address=two_nodes.address, **SAMPLER)
    assert [use.reused for use in last.uses] == [True] * len(UNITS)


def test_a_look_at_what_is_stored_draws_nothing(prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "connect", lambda address: pytest.fail("Ray was asked for a pool"))
    with using(Finder(tmp_path)), pytest.raises(MissingError):
        ray_pool.generate(prompts, POLICY, worker=partial(stub, desk=tmp_path), **SAMPLER)


def test_a_damaged_unit_is_drawn_again(two_nodes, store, desk, prompts):
    generate = partial(ray_pool.generate, worker=partial(stub, desk=desk), address=two_nodes.address, **SAMPLER)
    generate(prompts[:4], POLICY)
    before = contents(store)
    damaged = next(store.root.glob("generate/*/00001/completions.parquet"))
    damaged.write_bytes(b"half of it")
    generate(prompts[:4], POLICY)
    assert {path: contents(store)[path] for path in before} == before
    assert len(notes(desk, "drawn")) == 4 + 1


def test_a_killed_worker_costs_the_unit_that_it_was_at(two_nodes, store, desk, prompts):
    held = hold(desk, ("p2", 2))
    finished = {}

    def kill() -> None:
        try:
            wait(lambda: any(unit == ("p2", 2) for unit, _, _ in notes(desk, "begun")), "p2 is not begun")
            finished.update(
                {path: seen for path, seen in files(store).items() if path.endswith("00000/completions.parquet")}
            )
            (process,) = (process for unit, _, process in notes(desk, "begun") if unit == ("p2", 2))
            os.kill(process, signal.SIGKILL)
        finally:
            release(held)

    with meanwhile(kill):
        ray_pool.generate(prompts, POLICY, worker=partial(stub, desk=desk), address=two_nodes.address, **SAMPLER)
    assert Counter(unit for unit, _, _ in notes(desk, "begun")) == dict.fromkeys(UNITS, 1) | {("p2", 2): 2}
    assert Counter(unit for unit, _, _ in notes(desk, "drawn")) == dict.fromkeys(UNITS, 1)
    assert finished
    assert {path: files(store)[path] for path in finished} == finished
    assert len(files(store)) == len(UNITS)
    assert not any(use.reused for use in store.uses)


def test_a_shard_that_kills_its_workers_is_given_up(two_nodes, store, desk, prompts):
    hold(desk, ("p4", 2))
    stop = threading.Event()

    def kill() -> None:
        seen: set[int] = set()
        while not stop.is_set():
            for process in {process for unit, _, process in notes(desk, "begun") if unit == ("p4", 2)} - seen:
                os.kill(process, signal.SIGKILL)
                seen.add(process)
            time.sleep(0.02)

    with meanwhile(kill):
        try:
            with pytest.raises(
                BenchError, match=r"prompts p4 to p5 have lost 2 of Ray's workers.*generation.retries=1"
            ):
                ray_pool.generate(
                    prompts, POLICY, worker=partial(stub, desk=desk), address=two_nodes.address, retries=1, **SAMPLER
                )
        finally:
            stop.set()
    counted = Counter(unit for unit, _, _ in notes(desk, "begun"))
    assert counted["p4", 2] == 2
    assert ("p4", 0) in {unit for unit, _, _ in notes(desk, "drawn")}


def test_what_a_worker_says_is_what_the_user_reads(two_nodes, store, desk, prompts):
    generate = partial(ray_pool.generate, prompts, POLICY, worker=partial(stub, desk=desk), **SAMPLER)
    (desk / "fail-p6-0").write_text("")
    with pytest.raises(BenchError) as said:
        generate(address=two_nodes.address)
    assert str(said.value) == "The stub has nothing to say."
    (desk / "fail-p6-0").unlink()
    (desk / "break-p6-0").write_text("")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        generate(address=two_nodes.address)
    (desk / "break-p6-0").unlink()
    assert generate(address=two_nodes.address).shape == (2 * SHARDS, 4)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a path that another process does not see")
def test_a_node_that_sees_neither_store_nor_policy_is_named(two_nodes, desk, prompts, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(folder, 987)
    mine = Path("/proc/self/fd/987")  # a worker has no such file open
    try:
        generate = partial(ray_pool.generate, worker=partial(stub, desk=desk), address=two_nodes.address, **SAMPLER)
        with (
            using(Store(mine / "store")),
            pytest.raises(BenchError, match=r"node \S+ does not see /proc/self/fd/987/store"),
        ):
            generate(prompts, POLICY)
        with (
            using(Store(tmp_path / "seen")),
            pytest.raises(BenchError, match=r"node \S+ does not see /proc/self/fd/987;"),
        ):
            generate(prompts, Policy(mine, "stub"))
    finally:
        os.close(folder)
        os.close(987)
    assert not notes(desk, "begun")


def test_workers_that_would_draw_another_pool_are_refused_before_they_draw(two_nodes, store, desk, prompts):
    worker = partial(stub, desk=desk, driver=os.getpid())
    with pytest.raises(BenchError, match=r"another pool than this machine \(dtype float32 and bfloat16\)"):
        ray_pool.generate(prompts, POLICY, worker=worker, address=two_nodes.address, **SAMPLER)
    assert not notes(desk, "begun")


def test_a_worker_that_no_node_can_hold_is_refused(two_nodes, store, desk, prompts):
    generate = partial(ray_pool.generate, prompts, POLICY, worker=partial(stub, desk=desk), **SAMPLER)
    with pytest.raises(BenchError, match=r"No node of the Ray cluster has 2 CPU for a worker"):
        generate(address=two_nodes.address, num_cpus=2)
    with pytest.raises(BenchError, match=r"No node of the Ray cluster has 1 CPU and 1 GPU for a worker"):
        generate(address=two_nodes.address, num_gpus=1)


def test_an_address_where_no_ray_is_is_named(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(BenchError, match=r"generation.address=127.0.0.1:1 leads to no Ray cluster"):
        ray_cluster.connect("127.0.0.1:1")


def test_workers_stay_for_the_next_pool_but_not_their_engines(two_nodes, store, desk, prompts):
    generate = partial(ray_pool.generate, worker=partial(stub, desk=desk), address=two_nodes.address, **SAMPLER)
    generate(prompts[:2], POLICY)
    ((_, _, first),) = notes(desk, "opened")
    generate(prompts[2:4], Policy(Path("/"), "tuned"))
    assert [process for _, _, process in notes(desk, "opened")] == [first, first]
    ray_cluster._resting.take(None)  # what happens when no other pool is asked for in time
    wait(lambda: gone(first), "the worker is still there")
    generate(prompts[4:6], POLICY)
    assert len({process for _, _, process in notes(desk, "opened")}) == 2


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_removed_node_costs_the_unit_that_it_was_at(two_nodes, store, desk, prompts):
    """The other node's worker has already finished when the node goes: it is the one that must go on."""
    two_shards = prompts[:4]
    last = {"p0": hold(desk, ("p0", 2)), "p2": hold(desk, ("p2", 2))}
    (leaving,) = two_nodes.worker_nodes
    finished, lost = {}, []

    def remove() -> None:
        try:
            wait(lambda: sum(unit[1] == 2 for unit, _, _ in notes(desk, "begun")) == 2, "a shard is not half drawn")
            lost.extend(seen for seen in notes(desk, "begun") if seen[1] == leaving.node_id and seen[0][1] == 2)
            ((name, _), _, process) = lost[0]
            release(last.pop("p0" if name == "p2" else "p2"))
            wait(lambda: len(files(store)) == 3, "the other shard is not drawn")
            finished.update(files(store))
            two_nodes.remove_node(leaving, allow_graceful=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)  # with a node go all of its processes; this has only lost its raylet
        finally:
            for held in last.values():
                release(held)

    with meanwhile(remove):
        drawn = ray_pool.generate(
            two_shards, POLICY, worker=partial(stub, desk=desk), address=two_nodes.address, **SAMPLER
        )
    units = {unit for unit in UNITS if unit[0] in ("p0", "p2")}
    assert len(lost) == 1
    assert Counter(unit for unit, _, _ in notes(desk, "begun")) == dict.fromkeys(units, 1) | {lost[0][0]: 2}
    assert {path: files(store)[path] for path in finished} == finished
    assert len(files(store)) == 4
    assert drawn.shape == (4, 4)


def test_any_generation_is_a_worker_and_repeats_the_sampler_of_the_run():
    on_ray = partial(composed, "generation=ray")
    cfg = on_ray("generation@generation.worker=vllm", "temperature=0.7", "generation.top_k=5")
    checks.check(cfg)
    assert cfg.generation.worker._target_ == "bench.generation.vllm_engine.generate"
    assert (cfg.generation.temperature, cfg.generation.worker.temperature) == (0.7, 0.7)
    assert cfg.generation.top_k == 5
    assert on_ray("generation.worker.top_k=5").generation.top_k == 5
    with pytest.raises(BenchError, match=r"generation.worker.temperature=0.5 is not allowed.*set temperature instead"):
        checks.check(on_ray("generation.worker.temperature=0.5"))
    with pytest.raises(BenchError, match=r"generation.worker.shard_size=0 is not allowed"):
        checks.check(on_ray("generation.worker.shard_size=0"))
    with pytest.raises(
        BenchError, match=r"generation.address=ray is not allowed: it must be auto, local or the HOST:PORT"
    ):
        checks.check(on_ray("generation.address=ray"))
