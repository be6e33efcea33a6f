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

Draw = Callable[[Prompts, Policy], Completions]


def found(
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
            _, _, missing = found(Store(root), draw, shard, policy)
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
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _difference(here: dict[str, Any], there: dict[str, Any]) -> str:
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    differing = ", ".join(f"{name} {there.get(name)} and {here.get(name)}" for name in names)
    return (
        f"Ray's workers would draw another pool than this machine ({differing or 'other versions of the suite'}); "
        "give the setting one value, e.g. generation.worker.dtype."
    )
