"""What a report shows: figures and tables with the rows behind them, and the functions that make them from runs."""

import csv
import io
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from bench.artifacts import content_hash
from bench.errors import BenchError, first_line, printable
from bench.records.read import Estimate, Run, as_number, short
from bench.reporting.groups import Group
from bench.reporting.style import COLUMN_WIDTH, PAPER


@dataclass(frozen=True)
class Exhibit:
    """The part that figures and tables share."""

    name: str  # the stem of its files, e.g. "frontier"
    caption: str  # one or two sentences: what is shown, what the intervals are
    rows: Sequence[dict[str, Any]]  # the numbers behind it, one dict per row with the same keys; written as its CSV
    runs: Sequence[Run]

    @property
    def records(self) -> str:
        """A short hash of the numbers. An exhibit is stale when its file carries another hash."""
        return records_of(self._cells)

    @property
    def stamp(self) -> str:
        """The text that every file of this exhibit carries: the run ids and the hash of the numbers."""
        names = " ".join(quote(run.folder.name, safe=" ") for run in self.runs)  # nothing that ends a comment
        return f"runs {names}; records {self.records}"

    @property
    def as_csv(self) -> str:
        """The rows as CSV after a line with the stamp. Floats are written in full; a missing value is empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells)
        return f"# {self.stamp}\n{text.getvalue()}"

    @property
    def _cells(self) -> list[list[str]]:
        """Header and rows as the csv module writes them, so that records and files give equal text."""
        header = [_written(name) for name in self.rows[0]] if self.rows else []
        return [header, *([_written(value) for value in row.values()] for row in self.rows)]


@dataclass(frozen=True)
class Figure(Exhibit):
    draw: Callable[..., Any]  # (canvas, rows, labels) draws on an empty matplotlib Figure; see bench.reporting.plots
    width: float = COLUMN_WIDTH  # inches
    height: float = COLUMN_WIDTH * 0.8
    sheet: Path = PAPER  # the style
    axes: Mapping[str, str] = field(default_factory=dict)  # x, y -> what stands there, for axes that can be chosen
    spare: Sequence[dict[str, Any]] = ()  # rows of curves that are drawn only where a user names them


@dataclass(frozen=True)
class Table(Exhibit):
    columns: dict[str, str]  # key of `rows` -> heading, in this order; keys without a heading are in the CSV alone
    behind: Sequence[tuple[Sequence[Run], str]] = ()  # per row: its runs, and its policy or ""; empty where unknown

    @property
    def shown_columns(self) -> list[str]:
        """The keys of the columns in which some row has a value other than NaN."""
        return [key for key in self.columns if any(_shown(row, key) for row in self.rows)]

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The headings and every row as text. A value with KEY_low and KEY_high is followed by its interval.

        A key that begins with "p_" is a p-value. Columns that are empty in all rows are left out.
        """
        keys = self.shown_columns
        headings = tuple(self.columns[key] for key in keys)
        return [headings, *(tuple(_shown(row, key) for key in keys) for row in self.rows)]


def from_csv(path: Path) -> Table:
    """The rows of a CSV file with a header, their numbers as numbers; for reference, not to be shown."""
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise BenchError(f"{path} can't be read ({error.strerror}); without runs, a table is such a file.") from error
    rows = [{name: _read(text or "") for name, text in line.items()} for line in lines]
    return Table(path.stem, "", rows, [], columns={})


@contextmanager
def from_records(what: str, runs: Sequence[Run]) -> Iterator[None]:
    """Turn what is raised inside into a BenchError: records are checked, but not for every way of being wrong."""
    try:
        yield
    except (BenchError, OSError):
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        folders = ", ".join(str(run.folder) for run in runs[:3]) + (", ..." if len(runs) > 3 else "")
        reason = f"{type(error).__name__} in {Path(where.filename).name}, line {where.lineno}: {first_line(error)}"
        raise BenchError(
            f"{what} can't be made from the records of {folders} ({reason}); run the experiment again to rewrite them."
        ) from error


Kind = Literal["figures", "tables", "sentences", "of_one_run", "methods", "methods_after"]
Show = TypeVar("Show", bound=Callable[[Sequence[Group]], Any])


def shows(kind: Kind, order: float) -> Callable[[Show], Show]:
    """Mark a function of a module in bench/reporting/exhibits as a part of every report, in its place among its kind.

    The function takes groups of runs (`bench.reporting.groups.grouped`) and decides from their records alone whether
    it applies. It returns one exhibit or sentence, a list of them, or None.
    of_one_run: figures in a run's own folder. methods, methods_after: sentences of the methods paragraph on how the
    training completions were drawn, and on what followed the fine-tuning.
    """

    def mark(function: Show) -> Show:
        vars(function).setdefault("shows", {})[kind] = order
        return function

    return mark


def records_of(cells: Sequence[Sequence[str]]) -> str:
    """The hash of an exhibit's header and rows, as text: to nine digits, since processors differ in the last ones."""
    numbers = [[as_number(cell) for cell in row] for row in cells]
    return content_hash(
        [
            [cell if number is None else f"{number:.9g}" for cell, number in zip(row, found, strict=True)]
            for row, found in zip(cells, numbers, strict=True)
        ]
    )[:12]


def _written(value: Any) -> str:
    """The text of a cell. A spreadsheet would run one that begins like a formula: it gets an apostrophe in front."""
    if value is None or isinstance(value, float):
        return "" if value is None else repr(float(value))
    text = printable(str(value).replace("\r\n", "\n").replace("\r", "\n"))  # the csv module does not quote \r
    formula = text.lstrip()[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") and text.strip() and as_number(text) is None
    return f"'{text}" if formula or text[:1] in ("\t", "\n") else text


def _read(text: str) -> str | float:
    number = as_number(text)
    return text if number is None else int(text) if text.isdecimal() else number


def _shown(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if value is None or isinstance(value, str):
        return value or ""
    if math.isnan(value):  # undefined
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if row.get(f"{key}_low") is not None:
        return str(Estimate(value, row[f"{key}_low"], row[f"{key}_high"]))
    if key.startswith("p_"):
        return "<0.001" if value < 0.0005 else short(value)
    return f"{value:.2e}" if abs(value) >= 1e7 else f"{value:,.0f}" if abs(value) >= 1000 else short(value)
