"""What tests of several processes share: waiting for them, acting beside them, and a two-node Ray cluster."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.cluster_utils import Cluster

DEADLINE = 300.0  # seconds until a test gives up
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def wait(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition is true; TimeoutError, which says `what`, after DEADLINE."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


@contextlib.contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Run `act` in a thread of its own; what it raises is raised at the end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        yield
        future.result()


@contextlib.contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A Ray cluster of one node with one CPU, to which `two_nodes` adds another."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_worker_niceness", "0")  # else the workers starve where other things run
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def two_nodes(cluster: Cluster) -> Cluster:
    """The cluster, with one CPU on each of two nodes."""
    if not cluster.worker_nodes:
        cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    return cluster
