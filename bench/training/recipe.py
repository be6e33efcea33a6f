"""How to fine-tune: every setting of bench.training.sft.fine_tune in one frozen value, and what of it makes the key."""

from dataclasses import asdict, dataclass
from typing import Any

from bench.training.lora import Lora

SPEED_ONLY = ("micro_batch_size", "gradient_checkpointing", "packing", "checkpoint_every", "processes", "fsdp")
SINCE = {
    "lora": None,
    "precision": "auto",
    "keep_every": None,
}  # settings that are younger than keys in users' stores: absent where as here


@dataclass(frozen=True)
class Recipe:
    """See fine_tune for what each setting means."""

    epochs: float
    learning_rate: float
    batch_size: int  # examples an update
    micro_batch_size: int | None
    scheduler: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool
    packing: bool
    precision: str
    lora: Lora | None
    keep_every: int | None  # updates
    checkpoint_every: int | None  # updates
    processes: int
    fsdp: bool
    seed: int

    @property
    def at_once(self) -> int:
        """Examples in a process's memory at a time."""
        return self.micro_batch_size or self.batch_size // self.processes

    @property
    def accumulation(self) -> int:
        """Times that each process reads so many for an update."""
        return self.batch_size // (self.at_once * self.processes)

    @property
    def in_bfloat16(self) -> bool:
        """Whether the model computes in bfloat16."""
        import torch

        return self.precision == "bfloat16" or (self.precision == "auto" and torch.cuda.is_available())

    @property
    def key_settings(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        settings = {name: value for name, value in asdict(self).items() if name not in SPEED_ONLY}
        return {name: value for name, value in settings.items() if name not in SINCE or value != SINCE[name]}
