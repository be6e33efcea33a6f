"""What every part of `python -m bench.speed gpu` gets, and the folder of its rows: tables, a page and a figure."""

import csv
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.devices import resolve_dtype
from bench.errors import BenchError, printable
from bench.models import loading
from bench.reporting.style import blank
from bench.speed.generation import SamplingWork, draw, open_engine, prompts_of
from bench.speed.measure import Cost, repetitions, write_csv
from bench.speed.random_llama import random_policy

GIB, SAMPLES = 2**30, 4
SHARE = "share of matmul rate"
WORDS = 20  # of a reason on the page
FIGURE = "figure.png"
Row = dict[str, Any]
T = TypeVar("T")


class NotRunError(Exception):
    """A part can't run here; the message says why."""


class Sizes(NamedTuple):
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

    def in_time(self, items: Iterable[T]) -> Iterator[T]:
        """The items up to the first whose work ends after the deadline."""
        for item in items:
            yield item
            if time.monotonic() > self.deadline:
                return

    def turns(self) -> Iterator[int]:
        return repetitions(self.sizes.turns, self.deadline)

    def work(self, rows: int) -> SamplingWork:
        return SamplingWork(prompts_of(rows, SAMPLES), SAMPLES, self.sizes.new_tokens)

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
    return {**row, SHARE: per_token * row["tokens/s"]}


def rates(name: str, amount: float, costs: Sequence[Cost]) -> Row:
    return range_of(name, [amount / max(cost.wall, 1e-9) for cost in costs])


def range_of(name: str, values: Any) -> Row:
    low, middle, high = np.quantile(values, (0, 0.5, 1)).tolist()
    return {name: middle, "lowest": low, "highest": high}


class PartOutcome(NamedTuple):
    part: str
    state: str  # done, failed, stopped or not run
    seconds: float
    rows: int
    reason: str


@dataclass
class Report:
    """What is known so far; every addition is written at once."""

    folder: Path
    command: str
    tables: dict[str, list[Row]] = field(default_factory=dict)
    outcomes: list[PartOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        """BenchError where the folder holds something else."""
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / "parts.csv").is_file():
            raise BenchError(
                f"--folder {self.folder} holds other files: give a new folder, or one of an earlier report."
            )
        (self.folder / "tables").mkdir(parents=True, exist_ok=True)
        for file in [*self.folder.glob("tables/*.csv"), *self.folder.glob("gsm8k_smollm2.*"), self.folder / FIGURE]:
            file.unlink(missing_ok=True)
        self._write()

    def add(self, part: str, row: Row) -> None:
        rows = self.tables.setdefault(part, [])
        rows.append(row)
        write_csv(self.folder / "tables" / f"{part}.csv", rows)

    def end(self, outcome: PartOutcome) -> None:
        self.outcomes.append(outcome)
        self._write()

    def _write(self) -> None:
        rows = [outcome._asdict() for outcome in self.outcomes]
        write_csv(self.folder / "parts.csv", rows or [dict.fromkeys(PartOutcome._fields, "")])
        (self.folder / "README.md").write_text(self.page())

    def page(self) -> str:
        parts = [
            "# One card, measured",
            f"    {self.command}",
            "Rates are medians over repetitions, beside the lowest and the highest. The ways of a table took turns. "
            "Memory of generation, scoring and KL is what torch allocates beyond the loaded model.",
            _markdown([outcome._asdict() | {"reason": _short(outcome.reason)} for outcome in self.outcomes]),
        ]
        if (self.folder / FIGURE).is_file():
            parts.append(f"![Rates, shares of the rate of matrix products, and estimates]({FIGURE})")
        for part, rows in self.tables.items():
            parts += [f"## {part}", _markdown(rows)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def draw(self) -> None:
        """The figure, from the tables; a panel per subject that has numbers."""
        drawn = [panel for panel in self._panels() if panel[-1]]
        if not drawn:
            return
        heights = [len(bars) + 2 for *_, bars in drawn]
        with blank(6.75, 0.3 * len(drawn) + 0.2 * sum(heights)) as canvas:
            panels = canvas.subplots(len(drawn), squeeze=False, height_ratios=heights)
            for panel, (title, xlabel, bars) in zip(panels.flat, drawn, strict=True):
                names, values = zip(*bars, strict=True)
                shown = panel.barh(range(len(bars)), values, color="#0072B2", height=0.6)
                panel.bar_label(shown, [_shown(value) for value in values], padding=2)
                panel.set(title=title, xlabel=xlabel, yticks=range(len(bars)), yticklabels=names)
                panel.margins(x=0.12)
                panel.invert_yaxis()
            canvas.savefig(self.folder / FIGURE, dpi=160, metadata={"Software": None})
        self._write()

    def _panels(self) -> list[tuple[str, str, list[tuple[str, float]]]]:
        def bars(part: str, value: str, *names: str) -> list[tuple[str, float]]:
            rows = [row for row in self.tables.get(part, []) if _is_number(row.get(value))]
            return [(" ".join([part, *(f"{row[name]}" for name in names)]), float(row[value])) for row in rows]

        drawing = [bar for part in ("generation", "vllm") for bar in bars(part, "tokens/s", "rows", "way")]
        shares = [*bars("scoring", SHARE, "way"), *bars("kl", SHARE, "format")]
        sft = [(f"sft{', packed' if row['packing'] else ''}", row[SHARE]) for row in self.tables.get("sft", [])]
        estimates = [
            (f"{row['stage']}, {measure}", row[f"estimated_{measure}"] / row[measure])
            for row in self.tables.get("estimates", [])
            for measure in ("seconds", "GiB")
            if row[measure]
        ]
        return [
            ("Generation", "tokens per second", [bar for bar in drawing if "floor" not in bar[0]]),
            ("Use of the card", SHARE, [bar for bar in [*shares, *sft] if _is_number(bar[1])]),
            ("Estimates of bench.size", "estimated ÷ measured", estimates),
        ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _markdown(rows: list[Row]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_shown(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value)).replace("|", "/").replace("\n", " ")
    if not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _short(reason: str) -> str:
    words = reason.split()
    return " ".join(words[:WORDS]) + (" ..." if len(words) > WORDS else "")
