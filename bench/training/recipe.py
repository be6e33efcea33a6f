"""Training settings: those of every optimiser in one frozen value, and those of fine-tuning in another."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from bench.devices import device, resolve_dtype
from bench.errors import BenchError
from bench.training.lora import Lora

SCHEDULERS = ("constant", "linear", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")
SPEED_ONLY = ("micro_batch_size", "gradient_checkpointing", "packing", "checkpoint_every", "processes", "fsdp")
# settings that are younger than keys in users' stores: with these values they are left out of the key
SINCE = {"lora": None, "precision": "auto", "keep_every": None, "updates": None}


def num_updates(examples: float, settings: Mapping[str, Any]) -> int:
    """The updates of a training on so many examples, by its settings epochs, updates and batch_size."""
    if (updates := settings.get("updates")) is not None:
        return int(updates)
    return math.ceil(math.ceil(examples / settings["batch_size"]) * settings["epochs"])


def examples_read(examples: float, settings: Mapping[str, Any]) -> float:
    """The examples that such a training reads, each counted once per pass."""
    if not examples:
        return 0.0
    if (updates := settings.get("updates")) is None:
        return examples * settings.get("epochs", 1)
    passes, rest = divmod(updates, math.ceil(examples / settings["batch_size"]))
    return passes * examples + min(rest * settings["batch_size"], examples)


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW on float32 weights, with a learning rate that rises from 0 during the warm-up."""

    speed_only: ClassVar[tuple[str, ...]] = ()  # settings that do not change the result

    epochs: float | None  # None: `updates` say how long the training is
    updates: int | None = None  # made exactly; None: as many as the epochs take
    learning_rate: float
    batch_size: int  # examples per update
    micro_batch_size: int | None = None  # examples in memory at a time, a divisor of batch_size; None: all
    scheduler: str = "cosine"
    warmup: float  # share of the updates
    weight_decay: float
    max_grad_norm: float  # 0: no clipping
    gradient_checkpointing: bool = False
    precision: str = "auto"  # of computing
    lora: Lora | None = None
    keep_every: int | None = None  # updates
    processes: int = 1  # that share the training
    seed: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The training's own ones among the settings."""
        return cls(**{each.name: settings[each.name] for each in fields(cls) if each.name in settings})

    @property
    def at_once(self) -> int:
        """Examples in a process's memory at a time."""
        return self.micro_batch_size or self.batch_size // self.processes

    @property
    def accumulation(self) -> int:
        """The number of times that a process reads `at_once` examples for an update."""
        return self.batch_size // (self.at_once * self.processes)

    @property
    def in_bfloat16(self) -> bool:
        """Whether the model computes in bfloat16."""
        return resolve_dtype(self.precision) == "bfloat16"

    @property
    def key_settings(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        settings = {name: value for name, value in asdict(self).items() if name not in self.speed_only}
        return {name: value for name, value in settings.items() if name not in SINCE or value != SINCE[name]}

    def num_updates(self, examples: int) -> int:
        """The updates of a training on so many examples; the last one of an epoch may have fewer than a batch."""
        return num_updates(examples, asdict(self))

    def arguments(self, config: Any, examples: int, *, folder: Path, seed: int, **settings: Any) -> Any:
        """The `config` (TrainingArguments or a subclass of it) of a quiet training; settings: what else it is given."""
        on_gpu, updates = device() == "cuda", self.num_updates(examples)
        length = {"num_train_epochs": self.epochs} if self.updates is None else {"max_steps": self.updates}
        arguments = config(
            output_dir=str(folder),
            **length,
            learning_rate=self.learning_rate,
            per_device_train_batch_size=self.at_once,
            gradient_accumulation_steps=self.accumulation,
            lr_scheduler_type=self.scheduler,
            # the learning rate starts at 0: a lone update must not be part of the warm-up
            warmup_steps=min(math.ceil(self.warmup * updates), updates - 1),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            gradient_checkpointing=self.gradient_checkpointing,
            seed=seed,
            use_cpu=not on_gpu,
            bf16=self.in_bfloat16,
            dataloader_pin_memory=on_gpu,
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",
            **{"save_strategy": "no", **settings},
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # one of several visible GPUs trains: no DataParallel
        return arguments


@dataclass(frozen=True, kw_only=True)
class Recipe(Optimisation):
    """The settings of bench.training.sft.fine_tune, which says what each one means."""

    speed_only = SPEED_ONLY

    packing: bool | None = None
    checkpoint_every: int | None = None  # updates
    fsdp: bool = False

    def check(self) -> None:
        """Raise BenchError where the settings don't go together."""
        if self.scheduler not in SCHEDULERS:
            raise BenchError(f"training.scheduler={self.scheduler} is not known; it is one of {', '.join(SCHEDULERS)}.")
        if self.epochs is None and self.updates is None:
            raise BenchError(
                "training.epochs=null is not allowed with training.updates=null: set one of them, the length of the "
                "training."
            )
        if self.epochs is not None and self.updates is not None:
            raise BenchError(
                f"training.updates={self.updates} is not allowed with training.epochs={self.epochs}: for a training of "
                f"{self.updates} updates, set training.epochs=null too."
            )
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
                f"{self.micro_batch_size or 1} it must divide training.batch_size={self.batch_size}, so that all "
                "processes have equal parts of an update."
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
