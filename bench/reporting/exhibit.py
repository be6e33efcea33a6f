"""Figures and tables of a report, each with the rows behind it and the runs that the rows come from."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.artifacts import content_hash
from bench.records.read import Estimate, Run, short
from bench.reporting.style import COLUMN_WIDTH


@dataclass(frozen=True)
class Exhibit:
    """What figures and tables share."""

    name: str  # the stem of its files, e.g. "frontier"
    caption: str  # one or two sentences: what is shown, what the intervals are
    rows: Sequence[dict[str, Any]]  # the numbers behind it, all rows with the same keys; written as its CSV
    runs: Sequence[Run]

    @property
    def records(self) -> str:
        """A short hash of the numbers; a file with another hash is stale."""
        return records_of(self._cells)

    @property
    def stamp(self) -> str:
        """The text that every file of this exhibit carries: the run ids and the hash of the records."""
        return f"runs {' '.join(run.folder.name for run in self.runs)}; records {self.records}"

    @property
    def as_csv(self) -> str:
        """The rows as CSV after a line with the stamp: floats in full, an empty cell where there is no value."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells)
        return f"# {self.stamp}\n{text.getvalue()}"

    @property
    def _cells(self) -> list[list[str]]:
        """The header and every row, as the csv module writes them and reads them back."""
        return [
            list(self.rows[0]) if self.rows else [],
            *([_cell(value) for value in row.values()] for row in self.rows),
        ]


@dataclass(frozen=True)
class Figure(Exhibit):
    draw: Callable[[Any], None]  # on an empty matplotlib Figure of this size, in the style of bench.reporting.style
    width: float = COLUMN_WIDTH  # inches
    height: float = COLUMN_WIDTH * 0.8


@dataclass(frozen=True)
class Table(Exhibit):
    columns: dict[str, str]  # key of `rows` -> heading, in this order; keys without a heading are in the CSV alone

    @property
    def shown_columns(self) -> list[str]:
        """The keys of the columns in which some row has a value."""
        return [key for key in self.columns if any(row[key] not in (None, "") for row in self.rows)]

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The headings, then every row as text: a value with its interval where KEY_low and KEY_high are given.

        A key that begins with "p_" is a p-value. A column without a value is left out.
        """
        keys = self.shown_columns
        body = [tuple(_shown(row, key) for key in keys) for row in self.rows]
        return [tuple(self.columns[key] for key in keys), *body]


def records_of(cells: Sequence[Sequence[str]]) -> str:
    """The hash of an exhibit's numbers: the cells of its CSV, header included."""
    return content_hash([list(row) for row in cells])[:12]


def _cell(value: Any) -> str:
    return "" if value is None else repr(float(value)) if isinstance(value, float) else str(value)


def _shown(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if row.get(f"{key}_low") is not None:
        return str(Estimate(value, row[f"{key}_low"], row[f"{key}_high"]))
    if key.startswith("p_"):
        return "<.001" if value < 0.0005 else short(value)
    return f"{value:.2e}" if abs(value) >= 1e7 else f"{value:,.0f}" if abs(value) >= 1000 else short(value)
