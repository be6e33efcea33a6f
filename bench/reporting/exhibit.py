"""What a report shows: figures and tables, each with the rows behind it and the runs they come from."""

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
    """The part that figures and tables share."""

    name: str  # the stem of its files, e.g. "frontier"
    caption: str  # one or two sentences: what is shown, what the intervals are
    rows: Sequence[dict[str, Any]]  # the numbers behind it: one dict a row, the same keys in all; written as its CSV
    runs: Sequence[Run]

    @property
    def records(self) -> str:
        """A short hash of the numbers: an exhibit is stale when its file says another."""
        return records_of([list(self.rows[0]) if self.rows else [], *(_cells(row) for row in self.rows)])

    @property
    def stamp(self) -> str:
        """What a file of this exhibit carries: run ids, each the hash of its configuration, and the records' hash."""
        return f"runs {' '.join(run.folder.name for run in self.runs)}; records {self.records}"

    @property
    def as_csv(self) -> str:
        """The rows as CSV after a line with the stamp; floats in full, nothing where there is no value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([list(self.rows[0]) if self.rows else [], *(_cells(row) for row in self.rows)])
        return f"# {self.stamp}\n{text.getvalue()}"


@dataclass(frozen=True)
class Figure(Exhibit):
    draw: Callable[
        [Any], None
    ]  # draws on an empty matplotlib Figure of this size, in the style of bench.reporting.style
    width: float = COLUMN_WIDTH  # inches
    height: float = COLUMN_WIDTH * 0.8


@dataclass(frozen=True)
class Table(Exhibit):
    columns: dict[str, str]  # key of `rows` -> heading; in this order. Keys without a heading are in the CSV alone

    @property
    def shown_columns(self) -> list[str]:
        """The keys of the columns in which some row has a value."""
        return [key for key in self.columns if any(row[key] not in (None, "") for row in self.rows)]

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The headings, then every row as one reads it: a value with its interval where KEY_low and KEY_high are given.

        A key that begins with "p_" is a p-value. Columns in which no row has anything are left out.
        """
        body = [tuple(_shown(row, key) for key in self.columns) for row in self.rows]
        kept = [i for i in range(len(self.columns)) if any(row[i] for row in body)]
        return [tuple(row[i] for i in kept) for row in (tuple(self.columns.values()), *body)]


def records_of(cells: Sequence[Sequence[str]]) -> str:
    """The hash of an exhibit's numbers from its CSV: the header and every row, as text."""
    return content_hash([list(row) for row in cells])[:12]


def _cells(row: dict[str, Any]) -> list[str]:
    """As the csv module would write them: equal whether they come from records or from a file."""
    return [
        "" if value is None else repr(float(value)) if isinstance(value, float) else str(value)
        for value in row.values()
    ]


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
