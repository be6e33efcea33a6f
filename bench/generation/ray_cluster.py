"""Shards of prompts given to workers on a Ray cluster, and given again to others where a worker dies."""

import contextlib
import math
import os
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation.ray_worker import Worker
from bench.progress import bar, say
from bench.store import Address

WAIT = 30.0  # seconds without news after which the reader is told what is waited for, and the cluster looked at anew
LEAVE = 30.0  # seconds that workers get to put away their engines
KEEP = 60.0  # seconds that workers hold their CPUs and GPUs for the next pool
Kind = tuple[str | None, int, float]  # of workers: the connection to Ray, CPUs, GPUs


def connect(address: str | None, *, group: str = "generation") -> None:
    """Join or start a Ray, quietly, unless this process has one; Ray itself stops at exit what was started here.

    group: whose choice `ray` asks for it.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # its page on every lost worker, on standard output
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a Ray started here: its workers do what this process asks
    try:
        import ray
    except ImportError as error:
        raise BenchError(f"{group}=ray needs Ray; install the extra `ray` (or `launchers`).") from error
    import logging

    setting = f"{group.replace('/', '.')}.address"
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BenchError(
            f"{setting}={'null' if address is None else address} leads to no Ray cluster ({reason}); "
            f"start one with `ray start --head`, or set {setting}=local."
        ) from error


def draw_shards(
    missing: Sequence[tuple[Prompts, Address]],
    draw: Callable[..., Completions],
    policy: Policy,
    root: Path,
    *,
    num_cpus: int,
    num_gpus: float | None,
    retries: int,
) -> None:
    """Have each shard drawn by some worker: as many at once as the cluster holds, new ones where some have died.

    BenchError where no node can hold a worker, a worker objects or fails, or a shard has lost more than `retries`.
    """
    import ray
    from ray import exceptions

    lost = (
        exceptions.RayActorError,
        exceptions.ActorUnschedulableError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )
    if num_gpus is None:
        num_gpus = 1 if any("GPU" in resources for resources in nodes()) else 0
    asked = {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}
    remote: Any = ray.remote(
        num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
    )(Worker)

    kind = (_session(), num_cpus, num_gpus)
    kept = _resting.take(kind)

    queue = deque(range(len(missing)))
    deaths: Counter[int | None] = Counter()  # of workers at each shard; at None, of those that were starting
    busy: dict[Any, tuple[Any, int | None]] = {}  # what is waited for -> its worker and shard, None where it starts
    idle = list(kept)
    finished = False
    with _probe(root) as probe, bar("generate on Ray", total=float(len(missing)), unit="shards") as progress:
        needed = [path for path in (probe, policy.path) if path.exists()]
        try:
            while queue or any(shard is not None for _, shard in busy.values()):
                working = sum(shard is not None for _, shard in busy.values())
                capacity = sum(holds(resources, asked) for resources in nodes())
                if capacity == 0 and working == 0:
                    raise BenchError(
                        f"No node of the Ray cluster has {listed(asked)} for a worker; lower generation.num_cpus or "
                        "generation.num_gpus, or add a node."
                    )
                while len(busy) < min(len(queue) + working, capacity):
                    worker = idle.pop() if idle else remote.remote(num_cpus, num_gpus > 0)
                    sample = missing[queue[0] if queue else 0]
                    busy[worker.prepare.remote(draw, policy, root, needed, *sample)] = worker, None
                done, _ = ray.wait(list(busy), timeout=WAIT)
                if not done and working == 0:
                    say(f"waiting for the Ray cluster: no worker with {listed(asked)} has started yet")
                for task in done:
                    worker, shard = busy.pop(task)
                    try:
                        complaint = ray.get(task)
                    except lost as error:
                        ray.kill(worker)
                        deaths[shard] += 1
                        if deaths[shard] > retries + (len(kept) if shard is None else 0):
                            raise BenchError(_death(missing, shard, deaths[shard], error)) from error
                        if shard is not None:
                            say(f"warning: {_reason(error)}; {_named(missing[shard][0])} go to another worker of Ray's")
                            queue.append(shard)
                        continue
                    if complaint is not None:
                        ray.kill(worker)
                        raise BenchError(complaint)
                    if shard is not None:
                        progress.advance()
                    if queue:
                        shard = queue.popleft()
                        busy[worker.fill.remote(missing[shard][0])] = worker, shard
                    else:
                        idle.append(worker)
            finished = True
        finally:
            for worker, _ in busy.values():
                ray.kill(worker)
            if finished:
                _resting.put(kind, idle)
            else:
                _dismiss(idle)


class Resting:
    """Workers without work, which the next pool may have: starting one takes as long as importing torch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind: Kind | None = None
        self._workers: list[Any] = []
        self._timer: threading.Timer | None = None

    def take(self, kind: Kind | None) -> list[Any]:
        """The workers of this kind; others, all where it is None, are sent home."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            workers, self._workers = self._workers, []
            if kind == self._kind:
                return workers
            if self._kind is not None and self._kind[0] == _session():
                _dismiss(workers)
            return []

    def put(self, kind: Kind, workers: list[Any]) -> None:
        """Keep workers for KEEP seconds; their engines' memory is free when this returns."""
        import ray

        if workers:
            ray.wait([worker.rest.remote() for worker in workers], num_returns=len(workers), timeout=LEAVE)
        with self._lock:
            self._kind, self._workers = kind, workers
            self._timer = threading.Timer(KEEP, self.take, (None,))
            self._timer.daemon = True
            self._timer.start()


_resting = Resting()


def _session() -> str | None:
    """What tells this process's present connection to Ray from an earlier one, None where there is none."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def _dismiss(workers: Sequence[Any]) -> None:
    """Let workers end in order, so that what they started ends with them."""
    import ray

    if workers:
        ray.wait([worker.__ray_terminate__.remote() for worker in workers], num_returns=len(workers), timeout=LEAVE)
    for worker in workers:
        ray.kill(worker)


@contextlib.contextmanager
def _probe(root: Path) -> Iterator[Path]:
    """A file in the store by which another node can tell that it sees the same store."""
    path = root / ".locks" / f".seen-{uuid.uuid4().hex}"
    path.write_text("")
    try:
        yield path
    finally:
        path.unlink()


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def holds(resources: dict[str, float], asked: dict[str, float]) -> int:
    """How many workers a node has room for, whatever else runs there."""
    return min(math.floor(resources.get(name, 0) / amount) for name, amount in asked.items())


def listed(asked: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in asked.items())


def _reason(error: Exception) -> str:
    """The sentence in which Ray says why, beneath what it knows of the worker and above its advice."""
    return str(error).strip().splitlines()[-1].strip().partition(". ")[0].rstrip(".")


def _named(prompts: Prompts) -> str:
    return f"prompts {prompts.id[0]} to {prompts.id[-1]}"


def _death(missing: Sequence[tuple[Prompts, Address]], shard: int | None, times: int, error: Exception) -> str:
    if shard is None:
        return f"{times} of Ray's workers have died while they started. {_reason(error)}."
    return (
        f"The {_named(missing[shard][0])} have lost {times} of Ray's workers, more than generation.retries={times - 1} "
        f"allows. {_reason(error)}. What was drawn is kept; the same command goes on from there."
    )
