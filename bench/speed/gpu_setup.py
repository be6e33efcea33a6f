"""What every part of `python -m bench.speed gpu` gets: sizes, a deadline, the model; and rates as rows of tables."""

import csv
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.devices import resolve_dtype
from bench.models import loading
from bench.speed.measure import Cost, repetitions
from bench.speed.random_llama import random_policy
from bench.speed.sampling_ways import SamplingWork, draw, open_engine
from bench.tasks.word_problems import WordProblems

GIB, SAMPLES = 2**30, 4
Row = dict[str, Any]


class NotRunError(Exception):
    """A part can't run here; the message says why."""


@dataclass(frozen=True)
class Sizes:
    """How much each part does."""

    layers: int  # of the random Llama
    hidden: int
    vocabulary: int
    rows: tuple[int, ...]  # completions drawn at once
    new_tokens: int
    sides: tuple[int, ...]  # of the square matrices
    batch: int  # examples per update
    updates: int
    texts: int
    turns: int  # at most


ON_GPU = Sizes(24, 1024, 49_152, (256, 1024), 128, (4096, 8192), 64, 24, 4_000, 5)
ON_CPU = Sizes(1, 64, 500, (8,), 6, (64,), 4, 2, 16, 2)


@dataclass(frozen=True)
class Setup:
    """What a part gets. The deadline is of time.monotonic()."""

    scratch: Path
    out: Path  # the report's folder; it has the tables of parts that ended
    sizes: Sizes
    deadline: float
    model: str | None = None  # the folder of the model that is measured; None: a random Llama
    smollm2: str | None = None
    gsm8k: str | None = None

    def policy(self) -> Policy:
        """The model that is measured, made when it is first asked for."""
        if self.model is not None:
            return loading.folder(self.model)
        place, making = self.scratch / "policy", self.scratch / "making"
        if not place.exists():
            shutil.rmtree(making, ignore_errors=True)
            random_policy(making, self.sizes.layers, self.sizes.hidden, self.sizes.vocabulary)
            making.rename(place)
        return loading.folder(place)

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def turns(self) -> Iterator[int]:
        return repetitions(self.sizes.turns, self.deadline)

    def work(self, rows: int) -> SamplingWork:
        task = WordProblems(train_prompts=max(600, rows))
        return SamplingWork(task.prompts("train")[: max(1, rows // SAMPLES)], SAMPLES, 1.0, 1.0, self.sizes.new_tokens)

    def pool(self) -> tuple[Prompts, Completions]:
        """As many completions as the first size of generation has."""
        work = self.work(self.sizes.rows[0])
        return work.prompts, draw(open_engine(self.policy(), resolve_dtype()), work, 0)

    def matmul_rate(self) -> float:
        """FLOP/s, as measured before; NaN where it was not."""
        file = self.out / "tables" / "matmul.csv"
        lines = file.read_text().splitlines() if file.is_file() else []
        return 1e12 * max((float(row["TFLOP/s"]) for row in csv.DictReader(lines)), default=float("nan"))


def with_share(row: Row, per_token: float) -> Row:
    """per_token: seconds of a token's products at the card's rate."""
    return {**row, "share of matmul rate": per_token * row["tokens/s"]}


def rates(name: str, amount: float, costs: Sequence[Cost]) -> Row:
    return range_of(name, [amount / max(cost.wall, 1e-9) for cost in costs])


def range_of(name: str, values: Any) -> Row:
    low, middle, high = np.quantile(values, (0, 0.5, 1)).tolist()
    return {name: middle, "lowest": low, "highest": high}
