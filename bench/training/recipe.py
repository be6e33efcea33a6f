"""How to fine-tune: every setting of bench.training.sft.fine_tune in one frozen value, and what of it makes the key."""

from dataclasses import asdict, dataclass
from typing import Any

from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.training.lora import Lora

SCHEDULERS = ("constant", "linear", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")
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

    def check(self) -> None:
        """Raise BenchError where no training could be as this says."""
        if self.scheduler not in SCHEDULERS:
            raise BenchError(f"training.scheduler={self.scheduler} is not known; it is one of {', '.join(SCHEDULERS)}.")
        if not 0 <= self.warmup < 1:
            raise BenchError(
                f"training.warmup={self.warmup} is not allowed: it must be a share of the updates, 0 to below 1."
            )
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise BenchError(
                f"training.micro_batch_size={self.micro_batch_size} is not allowed: it must divide "
                f"training.batch_size={self.batch_size}, or be null for the whole batch at once."
            )
        if self.batch_size % ((self.micro_batch_size or 1) * self.processes):
            raise BenchError(
                f"training.processes={self.processes} is not allowed: times training.micro_batch_size="
                f"{self.micro_batch_size or 1} it must divide training.batch_size={self.batch_size}, so that each "
                "process has as much of an update."
            )
        if self.fsdp and self.processes == 1:
            raise BenchError(
                "training.fsdp=true needs training.processes of 2 or more, among which to share the weights."
            )
        if self.fsdp and self.lora is not None and self.lora.four_bit:
            raise BenchError(
                "training.fsdp=true is not allowed with training.lora.four_bit=true: each process holds all 4-bit "
                "weights; set one of the two to false."
            )

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
        return resolve_dtype(self.precision) == "bfloat16"

    @property
    def key_settings(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        settings = {name: value for name, value in asdict(self).items() if name not in SPEED_ONLY}
        return {name: value for name, value in settings.items() if name not in SINCE or value != SINCE[name]}
