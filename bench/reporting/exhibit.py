"""What a report shows: figures and tables, each with the rows behind it and the runs they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.artifacts import content_hash
from bench.reporting.collect import Run
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
        return content_hash([[(name, _exact(value)) for name, value in row.items()] for row in self.rows])[:12]

    @property
    def stamp(self) -> str:
        """What a file of this exhibit carries: run ids, each the hash of its configuration, and the records' hash."""
        return f"runs {' '.join(run.folder.name for run in self.runs)}; records {self.records}"


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


def _exact(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
