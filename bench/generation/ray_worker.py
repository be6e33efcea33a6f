"""What runs on Ray's nodes: a process with an engine, which draws shards of prompts into the shared store."""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation.pool import sharing
from bench.store import Address, Finder, MissingError, Store, Use, using


def found(
    store: Store, draw: Callable[..., Completions], prompts: Prompts, policy: Policy
) -> tuple[Completions | None, list[Use], Address | None]:
    """The pool, or None and what is missing first; and the units that were there until then. Nothing is drawn."""
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
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all in sight of a worker that asked for none
        self.engines: list[Any] = []

    def prepare(
        self,
        draw: Callable[..., Completions],
        policy: Policy,
        root: Path,
        needed: Sequence[Path],
        shard: Prompts,
        expected: Address,
    ) -> str | None:
        """Turn to a pool in the store at `root`; says why not, where this node lacks a path or would draw another pool.

        expected: the first unit of `shard` that the driver misses.
        """
        self.draw, self.policy, self.root = draw, policy, root
        unseen = next((path for path in needed if not path.exists()), None)
        if unseen is not None:
            return (
                f"Ray's node {os.uname().nodename} does not see {unseen}; generation=ray needs the store and the "
                "policy under the same path on every node, on a file system that they share."
            )
        try:
            _, _, missing = found(Store(root), draw, shard, policy)
        except BenchError as error:
            return str(error)
        if missing is None or missing.key == expected.key:
            return None
        here, there = missing.settings, expected.settings
        names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
        differing = ", ".join(f"{name} {there.get(name)} and {here.get(name)}" for name in names)
        return (
            f"Ray's workers would draw another pool than this machine ({differing or 'other versions of the suite'}); "
            "give the setting one value, e.g. generation.worker.dtype."
        )

    def fill(self, shard: Prompts) -> str | None:
        """Draw what is missing of `shard`; says what made it impossible, if anything did."""
        try:
            with using(Store(self.root)), sharing(self.engines):
                self.draw(shard, self.policy)
        except BenchError as error:
            return str(error)
        return None

    def rest(self) -> None:
        """Give back the engine's memory; what an engine keeps a process for, as vLLM's does, stays."""
        self.engines.clear()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
