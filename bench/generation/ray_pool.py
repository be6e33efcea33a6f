"""One pool on a Ray cluster: workers on any node draw its shards of prompts, each worker with its own engine.

A worker draws with another generation (conf/generation/ray.yaml: transformers; vLLM with
generation@generation.worker=vllm) into the store, which all nodes share. So the pool is the one that one process would
draw, and what is stored is not drawn again. A worker or node that dies costs the unit that it was drawing: the shard
goes on elsewhere.

    python -m bench generation=ray                                   a Ray of this machine's own
    python -m bench generation=ray generation.address=10.0.0.1:6379  a running cluster
"""

import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

from bench.artifacts import Completions, Policy, Prompts
from bench.config.rules import Count, Seed, Temperature, TopK, TopP, number, or_null, text, whole
from bench.errors import BenchError
from bench.generation.ray_cluster import connect, draw_shards
from bench.generation.ray_worker import found
from bench.store import Address, Store, Use, current

ADDRESS = text(r"auto|local|[^\s/]+:\d+", "auto, local or the HOST:PORT of a cluster")
PATIENCE = 60.0  # seconds after which a shared file system shows a new folder to every node


def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    worker: Callable[..., Completions],
    num_completions: Count,
    temperature: Temperature,
    top_p: TopP,
    top_k: TopK,
    seed: Seed,
    address: Annotated[str | None, or_null(ADDRESS)] = None,
    num_cpus: Count = 1,
    num_gpus: Annotated[float | None, or_null(number(0))] = None,
    retries: Annotated[int, whole(0)] = 2,
) -> Completions:
    """Return N completions per prompt [M, N]; the worker's shards that the store lacks are drawn on the cluster.

    worker: another generation, whose sampler the settings here replace; its shard_size is the prompts of one task.
    address: "local" starts a Ray on this machine, "auto" or HOST:PORT joins a running one; null joins the one that
    RAY_ADDRESS or `ray start` names, and else starts one, which lives until the process ends. num_cpus, num_gpus:
    per worker; num_gpus null is 1 where the cluster has any. retries: times that a shard whose worker died is given to
    another one. Ray is not started where nothing is missing. BenchError where Ray can't be reached, a node does not
    see the store, a shard has failed too often, or a worker's own draw fails.
    """
    draw = partial(
        worker, num_completions=num_completions, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    store = current()
    pool, uses, _ = found(store, draw, prompts, policy)
    if pool is None:
        stored, missing = _examine(store, draw, prompts, policy)
        connect(address)
        draw_shards(missing, draw, policy, store.root, num_cpus=num_cpus, num_gpus=num_gpus, retries=retries)
        pool, uses = _collect(store, draw, prompts, policy)
        for use in uses:
            use.reused = _place(use) in stored  # what this run's workers drew is no saving
    store.uses.extend(uses)
    return pool


def _examine(
    store: Store, draw: Callable[..., Completions], prompts: Prompts, policy: Policy
) -> tuple[set[tuple[str, ...]], list[tuple[Prompts, Address]]]:
    """Return the places of the stored units, and the shards that lack some, each with the first that it lacks."""
    size = inspect.signature(draw).parameters["shard_size"].default
    stored, lacking = set(), []
    for start in range(0, len(prompts), size):
        shard = prompts[start : start + size]
        _, uses, missing = found(store, draw, shard, policy)
        stored |= {_place(use) for use in uses}
        if missing is not None:
            lacking.append((shard, missing))
    return stored, lacking


def _collect(
    store: Store, draw: Callable[..., Completions], prompts: Prompts, policy: Policy
) -> tuple[Completions, list[Use]]:
    """Return the whole pool, as soon as this machine sees all that the workers wrote."""
    deadline = time.monotonic() + PATIENCE
    while True:
        pool, uses, _ = found(store, draw, prompts, policy)
        if pool is not None:
            return pool, uses
        if time.monotonic() > deadline:
            raise BenchError(
                f"Ray's workers have drawn the pool, but this machine does not see all of it in store={store.root} "
                f"after {PATIENCE:.0f} seconds; the store must lie on a file system that all nodes share."
            )
        time.sleep(1)


def _place(use: Use) -> tuple[str, ...]:
    return use.stage, use.key, use.part
