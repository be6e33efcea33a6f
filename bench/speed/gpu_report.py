"""The folder of `python -m bench.speed gpu`: a table per part, the states of all parts, a page and a figure."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError, printable
from bench.speed.measure import write_csv

WORDS = 20  # of a reason on the page
FIGURE = "figure.png"
Row = dict[str, Any]


@dataclass(frozen=True)
class PartOutcome:
    """How a part ended."""

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
        rows = [asdict(outcome) for outcome in self.outcomes]
        write_csv(self.folder / "parts.csv", rows or [dict.fromkeys(PartOutcome.__annotations__, "")])
        (self.folder / "README.md").write_text(self.page())

    def page(self) -> str:
        parts = [
            "# One card, measured",
            f"    {self.command}",
            "Rates are medians over repetitions, beside the lowest and the highest. The ways of a table took turns. "
            "Memory of generation, scoring and KL is what torch allocates beyond the loaded model.",
            _markdown([{**asdict(outcome), "reason": _short(outcome.reason)} for outcome in self.outcomes]),
        ]
        if (self.folder / FIGURE).is_file():
            parts.append(f"![Rates, shares of the rate of matrix products, and estimates]({FIGURE})")
        for part, rows in self.tables.items():
            parts += [f"## {part}", _markdown(rows)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def draw(self) -> None:
        """The figure, from the tables; a panel per subject that has numbers."""
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        from bench.reporting.style import PAPER

        drawn = [[title, xlabel, bars] for title, xlabel, bars in self._panels() if bars]
        if not drawn:
            return
        with pyplot.style.context(PAPER):
            size = (6.75, 0.7 * len(drawn) + 0.2 * sum(len(bars) for *_, bars in drawn))
            heights = [len(bars) + 2 for *_, bars in drawn]
            figure, panels = pyplot.subplots(
                len(drawn), figsize=size, layout="constrained", squeeze=False, height_ratios=heights
            )
            for panel, (title, xlabel, bars) in zip(panels.flat, drawn, strict=True):
                names, values = zip(*bars, strict=True)
                shown = panel.barh(range(len(bars)), values, color="#0072B2", height=0.6)
                panel.bar_label(shown, [_shown(value) for value in values], padding=2)
                panel.set(title=title, xlabel=xlabel, yticks=range(len(bars)), yticklabels=names)
                panel.margins(x=0.12)
                panel.invert_yaxis()
            figure.savefig(self.folder / FIGURE, dpi=160, metadata={"Software": None})
            pyplot.close(figure)
        self._write()

    def _panels(self) -> list[tuple[str, str, list[tuple[str, float]]]]:
        def bars(part: str, value: str, *names: str) -> list[tuple[str, float]]:
            rows = [row for row in self.tables.get(part, []) if _is_number(row.get(value))]
            return [(" ".join([part, *(f"{row[name]}" for name in names)]), float(row[value])) for row in rows]

        drawing = [*bars("generation", "tokens/s", "rows", "way"), *bars("vllm", "tokens/s", "rows", "way")]
        shares = [bar for part, name in (("scoring", "way"), ("kl", "format")) for bar in bars(part, SHARE, name)]
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


SHARE = "share of matmul rate"


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
