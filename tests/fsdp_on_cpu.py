"""What tests put in the place of `sft._fit`, to be called in each of the processes that share a training.

FSDP2 on processes without a GPU: torch can do it and accelerate leaves it out of its list. And a first process that is
killed in the middle.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from bench.training import checkpoints, sft

_fit = sft._fit  # before a test puts another in its place
LAST_SEALED = 3  # updates, of a training that is killed


def fit(*given: Any) -> dict[str, float]:
    before = given[3]
    return {**_fit(*given), "went_on_after": 0.0 if before is None else float(len(before.log))}


def shard_and_fit(*given: Any) -> dict[str, float]:
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    start = AcceleratorState.__init__

    def begin(self, *args: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
        start(self, *args, fsdp_plugin=fsdp_plugin, **settings)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = begin
    sharded = []
    train = sft.train

    def watched(model: Any, *rest: Any, **settings: Any) -> Any:
        trained = train(model, *rest, **settings)
        sharded.append(all(type(weight).__name__ == "DTensor" for weight in model.parameters()))
        return trained

    sft.train = watched
    return {**fit(*given), "sharded": float(sharded == [True])}


def fit_and_die(*given: Any) -> dict[str, float]:
    _kill_at_the_next_seal()
    return fit(*given)


def shard_and_die(*given: Any) -> dict[str, float]:
    _kill_at_the_next_seal()
    return shard_and_fit(*given)


def sleep(folder: Path) -> None:
    """For ever, after leaving a file named after this process."""
    (folder / f"pid.{os.getpid()}").touch()
    time.sleep(600)


def _kill_at_the_next_seal() -> None:
    seal = checkpoints.seal

    def die_while_writing(checkpoint: Any, log: list, tokens: int) -> None:
        if len(log) > LAST_SEALED:
            os.kill(os.getpid(), signal.SIGKILL)
        seal(checkpoint, log, tokens)

    checkpoints.seal = die_while_writing
