"""A Ray cluster, and shards of prompts given to workers on it, and to other workers where one dies."""

import contextlib
import logging
import math
import os
import threading
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.artifacts import Prompts
from bench.config.rules import text
from bench.errors import BenchError
from bench.progress import bar, say
from bench.store import Address

ADDRESS = text(r"auto|local|[^\s/]+:\d+", "auto, local or the HOST:PORT of a cluster")
WAIT = 30.0  # seconds without news after which the reader is told why, and the cluster looked at anew
LEAVE = 30.0  # seconds that workers get to put away their engines
KEEP = 60.0  # seconds that idle workers hold their CPUs and GPUs for the next pool
Kind = tuple[str | None, dict[str, float]]  # of workers: the connection to Ray, their resources
Shard = tuple[Prompts, Address]  # the first unit of its prompts that is missing


def connect(address: str | None, *, group: str = "generation") -> None:
    """Join or start a Ray, quietly, unless this process has one; Ray itself stops at exit what was started here.

    group: the configuration group that chose Ray, for messages.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # its page on every lost worker, on standard output
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a Ray started here: its workers do this process's work
    try:
        import ray
    except ImportError as error:
        raise BenchError(f"{group}=ray needs Ray; install the extra `ray` (or `launchers`).") from error
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        setting, reason = f"{group.replace('/', '.')}.address", str(error).strip().splitlines()[0]
        raise BenchError(
            f"{setting}={'null' if address is None else address} leads to no Ray cluster ({reason}); "
            f"start one with `ray start --head`, or set {setting}=local."
        ) from error


def requested(num_cpus: int, num_gpus: float | None) -> dict[str, float]:
    """Return the resources of one worker, by Ray's names. num_gpus: None is 1 where the cluster has any GPU."""
    if num_gpus is None:
        num_gpus = 1 if any("GPU" in node for node in _nodes()) else 0
    return {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}


def room(resources: dict[str, float]) -> int:
    """Return how many workers with these resources the living nodes hold, whatever else runs there."""
    return sum(min(math.floor(node.get(name, 0) / resources[name]) for name in resources) for node in _nodes())


def listed(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


def no_room(resources: dict[str, float], user: str, settings: str) -> BenchError:
    return BenchError(
        f"No node of the Ray cluster has {listed(resources)} for a {user}; lower {settings}, or add a node."
    )


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def draw_shards(
    worker_class: type,
    order: Sequence[Any],
    missing: Sequence[Shard],
    *,
    num_cpus: int,
    num_gpus: float | None,
    retries: int,
) -> None:
    """Have each shard drawn by some worker: as many at once as the cluster holds, new ones where some have died.

    Workers are worker_class(num_cpus, whether it has GPUs). worker.fill(*order, *shard) draws a shard and returns a
    complaint where that is impossible; worker.rest() frees memory. BenchError where no node can hold a worker, a worker
    complains, or a shard has lost more than `retries` workers.
    """
    # Our own loop over ray.wait, in which only a worker that has started gets a shard. With Ray's max_restarts, the
    # worker of a lost node would keep its shard while it waits for room, which idle workers hold. Its ActorPool gives
    # shards to workers that have no room yet, too, and does not tell which shard a dead worker had.
    import ray
    from ray.exceptions import RayError, RayTaskError

    resources = requested(num_cpus, num_gpus)
    cpus, gpus = resources["CPU"], resources.get("GPU", 0)
    new: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(worker_class)
    kind = (_session(), resources)
    kept = _resting.take(kind)

    idle, queue = list(kept), deque(range(len(missing)))
    deaths: Counter[int | None] = Counter()  # of workers, by shard; at None, of those that were starting
    busy: dict[Any, tuple[Any, int | None]] = {}  # task -> its worker and shard, None where the worker starts
    with bar("generate on Ray", total=float(len(missing)), unit="shards") as progress:
        try:
            while (drawing := sum(shard is not None for _, shard in busy.values())) or queue:
                capacity = room(resources)
                if capacity == 0 and drawing == 0:
                    raise no_room(resources, "worker", "generation.num_cpus or generation.num_gpus")
                while len(busy) < min(len(queue) + drawing, capacity):
                    worker = idle.pop() if idle else new.remote(num_cpus, gpus > 0)
                    busy[worker.__ray_ready__.remote()] = worker, None
                done, _ = ray.wait(list(busy), timeout=WAIT)
                if not done and drawing == 0:
                    say(f"waiting for the Ray cluster: no worker with {listed(resources)} has started yet")
                for task in done:
                    worker, shard = busy.pop(task)
                    try:
                        complaint = ray.get(task)
                    except RayTaskError:  # a fault in its work, not its death
                        raise
                    except RayError as error:
                        ray.kill(worker)
                        deaths[shard] += 1
                        allowed = retries + (len(kept) if shard is None else 0)  # some may have died since
                        _tell_death(missing, shard, error, deaths=deaths[shard], allowed=allowed)
                        queue.extend([] if shard is None else [shard])
                        continue
                    idle.append(worker)
                    if shard is not None and complaint is not None:
                        raise BenchError(complaint)
                    progress.advance(shard is not None)
                    if queue:
                        shard = queue.popleft()
                        busy[idle.pop().fill.remote(*order, *missing[shard])] = worker, shard
        except BaseException:
            _dismiss(idle)
            raise
        finally:
            for worker, _ in busy.values():
                ray.kill(worker)
        _resting.put(kind, idle)


def _tell_death(missing: Sequence[Shard], shard: int | None, error: Exception, *, deaths: int, allowed: int) -> None:
    """Say that a worker has died at a shard (None: as it started); BenchError where more have than are allowed."""
    # Ray says why in a sentence beneath what it knows of the worker and above its advice
    reason = str(error).strip().splitlines()[-1].strip().partition(". ")[0].rstrip(".")
    if shard is None:
        if deaths > allowed:
            raise BenchError(f"{deaths} of Ray's workers have died while they started. {reason}.") from error
        return
    prompts = missing[shard][0]
    named = f"prompts {prompts.id[0]} to {prompts.id[-1]}"
    if deaths > allowed:
        raise BenchError(
            f"The {named} have lost {deaths} of Ray's workers, more than generation.retries={allowed} allows. "
            f"{reason}. What was drawn is kept; the same command goes on from there."
        ) from error
    say(f"warning: {reason}; {named} go to another worker of Ray's")


class Resting:
    """Workers without work, which the next pool may have: starting one takes as long as importing torch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind: Kind | None = None
        self._workers: list[Any] = []
        self._timer: threading.Timer | None = None

    def take(self, kind: Kind | None) -> list[Any]:
        """Return the workers of this kind; dismiss those of another kind, and all where `kind` is None."""
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
        _await(worker.rest.remote() for worker in workers)
        with self._lock:
            self._kind, self._workers = kind, workers
            self._timer = threading.Timer(KEEP, self.take, (None,))
            self._timer.daemon = True
            self._timer.start()


_resting = Resting()


def _session() -> str | None:
    """Return what tells this process's present connection to Ray from an earlier one, None where there is none."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def _dismiss(workers: Sequence[Any]) -> None:
    """Let workers end in order, so that what they started ends with them."""
    import ray

    _await(worker.__ray_terminate__.remote() for worker in workers)
    for worker in workers:
        ray.kill(worker)


def _await(tasks: Iterator[Any]) -> None:
    import ray

    if waited := list(tasks):
        ray.wait(waited, num_returns=len(waited), timeout=LEAVE)


@contextlib.contextmanager
def probes(*folders: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a new file in each folder, by which a process on another node tells that it sees the same folder."""
    paths = tuple(folder / f".seen-{uuid.uuid4().hex}" for folder in folders)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
