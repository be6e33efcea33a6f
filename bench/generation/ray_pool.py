"""One pool on a Ray cluster: workers on any node draw its shards of prompts, each worker with its own engine.

A worker draws with another generation (conf/generation/ray.yaml: transformers; vLLM with
generation@generation.worker=vllm) into the store, which all nodes share. So the pool is the one that one process would
draw, and what is stored is not drawn again. A worker or node that dies costs the unit that it was drawing: the shard
goes on elsewhere.

    python -m bench generation=ray                                   a Ray of this machine's own
    python -m bench generation=ray generation.address=10.0.0.1:6379  a running cluster
"""

import inspect
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from bench.artifacts import Completions, Policy, Prompts
from bench.config.rules import Retries, Samples, Seed, Temperature, TopK, TopP, Workers, number, or_null
from bench.devices import release_memory
from bench.errors import BenchError
from bench.generation.pool import sharing
from bench.generation.ray_cluster import ADDRESS, connect, draw_shards, probes
from bench.store import Address, Finder, MissingError, Store, Use, current, using

PATIENCE = 60.0  # seconds after which a shared file system shows a new folder to every node
Draw = Callable[[Prompts, Policy], Completions]


def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    worker: Callable[..., Completions],
    num_completions: Samples,
    temperature: Temperature,
    top_p: TopP,
    top_k: TopK,
    seed: Seed,
    address: Annotated[str | None, or_null(ADDRESS)] = None,
    num_cpus: Workers = 1,
    num_gpus: Annotated[float | None, or_null(number(0, most=1_024))] = None,
    retries: Retries = 2,
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
    if isinstance(store, Finder):  # it only looks, and Ray's workers would write
        return draw(prompts, policy)
    pool, uses, _ = _find(store, draw, prompts, policy)
    if pool is None:
        stored, missing = _examine(store, draw, prompts, policy)
        connect(address)
        with probes(store.root / ".locks") as (probe,):
            order = (draw, policy, store.root, [path for path in (probe, policy.path) if path.exists()])
            draw_shards(Worker, order, missing, num_cpus=num_cpus, num_gpus=num_gpus, retries=retries)
        pool, uses = _collect(store, draw, prompts, policy)
        for use in uses:
            use.reused = (use.stage, use.unit) in stored  # what this run's workers drew is no saving
    store.uses.extend(uses)
    return pool


def _examine(
    store: Store, draw: Draw, prompts: Prompts, policy: Policy
) -> tuple[set[tuple[str, str]], list[tuple[Prompts, Address]]]:
    """Return the places of the stored units, and the shards that lack some, each with the first that it lacks."""
    size = inspect.signature(draw).parameters["shard_size"].default
    stored, lacking = set(), []
    for start in range(0, len(prompts), size):
        shard = prompts[start : start + size]
        _, uses, missing = _find(store, draw, shard, policy)
        stored |= {(use.stage, use.unit) for use in uses}
        if missing is not None:
            lacking.append((shard, missing))
    return stored, lacking


def _collect(store: Store, draw: Draw, prompts: Prompts, policy: Policy) -> tuple[Completions, list[Use]]:
    """Return the whole pool, as soon as this machine sees all that the workers wrote."""
    deadline = time.monotonic() + PATIENCE
    while True:
        pool, uses, _ = _find(store, draw, prompts, policy)
        if pool is not None:
            return pool, uses
        if time.monotonic() > deadline:
            raise BenchError(
                f"Ray's workers have drawn the pool, but this machine does not see all of it in store={store.root} "
                f"after {PATIENCE:.0f} seconds; the store must lie on a file system that all nodes share."
            )
        time.sleep(1)


def _find(
    store: Store, draw: Draw, prompts: Prompts, policy: Policy
) -> tuple[Completions | None, list[Use], Address | None]:
    """Return what is stored and draw nothing: the pool, or None and the first missing unit; the units before it."""
    with using(Finder(store.root)) as finder:
        try:
            return draw(prompts, policy), finder.uses, None
        except MissingError as missing:
            return None, finder.uses, missing.address


class Worker:
    """One process on some node: it draws shard after shard of a pool with one engine, then those of the next pool."""

    def __init__(self, num_cpus: int, gpus: bool) -> None:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before torch is imported
            os.environ[variable] = str(num_cpus)
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a worker that asked for none
        self.engines: list[Any] = []

    def fill(
        self, draw: Draw, policy: Policy, root: Path, needed: Sequence[Path], shard: Prompts, expected: Address
    ) -> str | None:
        """Draw what the store at `root` lacks of `shard`; return a complaint where that is impossible, else None.

        needed: paths that this node must see. expected: the first unit of `shard` that the driver misses.
        """
        unseen = next((path for path in needed if not path.exists()), None)
        if unseen is not None:
            return (
                f"Ray's node {os.uname().nodename} does not see {unseen}; generation=ray needs the store and the "
                "policy under the same path on every node, on a file system that they share."
            )
        try:
            _, _, missing = _find(Store(root), draw, shard, policy)
            if missing is not None and missing.key != expected.key:
                return _difference(missing.settings, expected.settings)
            with using(Store(root)), sharing(self.engines):
                draw(shard, policy)
        except BenchError as error:
            return str(error)
        return None

    def rest(self) -> None:
        """Free the engine's memory; what an engine keeps a process for, as vLLM's does, stays."""
        self.engines.clear()
        release_memory()


def _difference(here: dict[str, Any], there: dict[str, Any]) -> str:
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    differing = ", ".join(f"{name} {there.get(name)} and {here.get(name)}" for name in names)
    return (
        f"Ray's workers would draw another pool than this machine ({differing or 'other versions of the suite'}); "
        "give the setting one value, e.g. generation.worker.dtype."
    )
