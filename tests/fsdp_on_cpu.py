"""What tests put in the place of `sft._fit`, to be called in each of the processes that share a training.

FSDP2 on processes without a GPU: torch can do it and accelerate leaves it out of its list. And a first process that is
killed in the middle. And what puts forks in the place of the processes that torch.distributed.run starts.
"""

import multiprocessing.connection
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.training import checkpoints, processes, sft

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


def _kill_at_the_next_seal() -> None:
    seal = checkpoints.seal

    def die_while_writing(checkpoint: Any, log: list, tokens: int) -> None:
        if len(log) > LAST_SEALED:
            os.kill(os.getpid(), signal.SIGKILL)
        seal(checkpoint, log, tokens)

    checkpoints.seal = die_while_writing


def run_in_forks(command: Sequence[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess:
    """What torch.distributed.run does with this command, without the seconds that its processes' imports take."""
    from forked import FORKS
    from torch.distributed import TCPStore

    (count,) = (word.partition("=")[2] for word in command if word.startswith("--nproc_per_node="))
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(meeting.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    started = [
        FORKS.Process(target=_take_part, args=({**env, **shared, "RANK": rank, "LOCAL_RANK": rank}, Path(command[-1])))
        for rank in map(str, range(int(count)))
    ]
    for process in started:
        process.start()
    while (running := [process for process in started if process.exitcode is None]) and not _status(started):
        multiprocessing.connection.wait([process.sentinel for process in running])
    for process in running:
        process.kill()
        process.join()
    return subprocess.CompletedProcess(command, _status(started), "", "")


def _status(started: Sequence[Any]) -> int:
    """Of the first process that failed; 0 where none has."""
    return next((process.exitcode for process in started if process.exitcode), 0)


def _take_part(environment: dict[str, str], folder: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    processes.main(folder)
