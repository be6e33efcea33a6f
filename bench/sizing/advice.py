"""What to change where a stage does not fit a machine: the least of the usual changes with which it does."""

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from bench.sizing.machines import GIB, Machine
from bench.sizing.stages import SizeEstimate, Told, estimate
from bench.sweeps.cells import Cell

LORA = {"r": 16, "target_modules": "all-linear", "four_bit": False}  # as in conf/training/lora.yaml
CHECKPOINTING = ("training.gradient_checkpointing=true", {"training.gradient_checkpointing": True})
ONE = ("training.micro_batch_size=1", {"training.micro_batch_size": 1})
ADAPTER = ("training=lora", {"training.lora": LORA})
FOUR_BITS = ("training.lora.four_bit=true", {"training.lora": {**LORA, "four_bit": True}})
LESS = ("generation.gpu_memory_utilization=0.3", {"generation.gpu_memory_utilization": 0.3})
SHARED = (
    "training.processes=8 training.fsdp=true on 8 of them",
    {"training.processes": 8, "training.fsdp": True},
)
HALF = ("evaluation.kl_dtype=bfloat16", {"evaluation.kl_dtype": "bfloat16"})
FEWER = ("generation.batch_tokens=8192", {"generation.batch_tokens": 8_192})
Change = tuple[str, dict[str, Any]]
# each way is tried in turn, all of its changes together
TRAINING: tuple[tuple[Change, ...], ...] = (
    (CHECKPOINTING,),
    (CHECKPOINTING, ONE),
    (CHECKPOINTING, ONE, LESS),
    (ADAPTER, CHECKPOINTING),
    (ADAPTER, CHECKPOINTING, ONE, LESS),
    (ADAPTER, FOUR_BITS, CHECKPOINTING, ONE, LESS),
    (SHARED, CHECKPOINTING, ONE),
)
READING: tuple[tuple[Change, ...], ...] = ((HALF,), (LESS,), (HALF, LESS), (FEWER,))


def advice(cells: Sequence[Cell], machine: Machine, told: Told, found: SizeEstimate) -> list[str]:
    """A sentence for each stage that does not fit; none where all do."""
    return [
        _of_stage(cells, machine, told, stage.name, stage.bytes)
        for stage in found.stages
        if stage.bytes > machine.memory
    ]


def _of_stage(cells: Sequence[Cell], machine: Machine, told: Told, stage: str, needed: float) -> str:
    first = OmegaConf.create(OmegaConf.to_container(cells[0].cfg, resolve=True))
    for way in TRAINING if stage in ("fine-tuning", "pretraining") else READING:
        news = [change for change in way if _is_new(first, change)]
        if not news:
            continue
        cfg: Any = copy.deepcopy(first)
        for _, settings in news:
            for key, value in settings.items():
                OmegaConf.update(cfg, key, value, merge=False)
        after = {one.name: one.bytes for one in estimate([Cell("", cfg, ())], machine, told).stages}
        if after.get(stage, needed) <= machine.memory:
            names = " ".join(name for name, _ in news)
            return f"{stage} would take {after[stage] / GIB:.1f} GiB with {names}"
    return f"{stage} needs a machine of {needed / GIB:.0f} GiB, or a smaller model: none of the usual changes is enough"


def _is_new(cfg: Any, change: Change) -> bool:
    """Whether the configuration has such settings, with other values."""
    found = []
    for key, value in change[1].items():
        group, _, name = key.rpartition(".")
        found.append(name in cfg[group] and cfg[group][name] != value)
    return all(found)
