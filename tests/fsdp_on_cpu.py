"""FSDP2 on processes without a GPU, which torch can do and accelerate leaves out of its list: to try our use of it."""

from typing import Any

from bench.training import sft

fit = sft._fit  # before a test puts `shard_and_fit` in its place


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
