"""Tables as lists of columns, and tables as Markdown and LaTeX (booktabs)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.errors import printable
from bench.records.read import Estimate, Run
from bench.reporting.contrasts import Contrast
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.words import over_what


@dataclass(frozen=True)
class Column:
    """One column of a table whose items are groups, or anything with a `group`."""

    key: str  # in the rows and the CSV
    heading: str | None  # None: the column is in the CSV alone
    read: Callable[[Any], Any]  # item -> value; an Estimate or None where `interval`
    interval: bool = False  # the CSV has KEY_low and KEY_high too


def table(
    name: str, caption: str, items: Sequence[Any], columns: Sequence[Column], runs: Sequence[Run] | None = None
) -> Table | None:
    """One row per item, or None without items. runs: those that it shows, where they are not the items' own.

    "{over}" in the caption stands for what the intervals of the items' groups hold for.
    """
    if not items:
        return None
    rows = []
    for item in items:
        row: dict[str, Any] = {}
        for column in columns:
            value = column.read(item)
            row |= spread(column.key, value) if column.interval else {column.key: value}
        rows.append(row)
    groups = [_group(item) for item in items] if runs is None or "{over}" in caption else []
    said = caption.replace("{over}", over_what(groups)) if groups else caption
    headings = {column.key: column.heading for column in columns if column.heading}
    owners = [(getattr(item, "group", item), getattr(item, "arm", "")) for item in items]
    behind = [(group.runs, arm) for group, arm in owners if isinstance(group, Group)]
    return Table(name, said, rows, all_runs(groups) if runs is None else runs, headings, behind)


def interval(key: str, heading: str | None, read: Callable[[Any], Estimate | float | None]) -> Column:
    return Column(key, heading, read, interval=True)


def measured(key: str, heading: str | None, policy: str, method: str, metric: str, n: int = 1) -> Column:
    """A mean over test prompts, and over seeds where there are several."""
    return interval(key, heading, lambda item: _group(item).mean(policy, method, metric, n))


def contrasted(find: Callable[[Any], Contrast | None], **shown: tuple[str, str | None]) -> list[Column]:
    """The key and heading of each attribute to show of the contrast that `find` gives for an item."""

    def read(item: Any, name: str) -> Any:
        return getattr(compared, "scoped" if name == "verdict" else name) if (compared := find(item)) else None

    return [Column(*labels, partial(read, name=name), name == "difference") for name, labels in shown.items()]


def counted(prefix: str, headings: Mapping[str, str]) -> list[Column]:
    """A column per number of metrics.json, PREFIX and the key: the mean over seeds."""

    def read(item: Any, name: str) -> float | None:
        return seeds_mean(_group(item), name)

    return [Column(key, heading, partial(read, name=f"{prefix}{key}")) for key, heading in headings.items()]


def settings_columns(groups: Sequence[Group], names: Sequence[str] | None = None) -> list[Column]:
    """The settings that set groups apart, or those in `names`."""

    def read(item: Any, name: str) -> str:
        return _group(item).settings[name]

    chosen = [*groups[0].settings] if names is None and groups else names or ()
    return [Column(f"config.{name}", name, partial(read, name=name)) for name in chosen]


GREEDY = measured("greedy", "greedy", "tuned", "greedy", "accuracy")
PASS = measured("pass", "pass@1", "tuned", "pass", "accuracy")
KL = measured("kl", "KL", "tuned", "policy", "kl")
SEEDS = Column("seeds", None, lambda item: len(_group(item).runs))
PROMPTS = Column("prompts", None, lambda item: _group(item).runs[0].metrics["test/prompts"])


def _group(item: Any) -> Group:
    return item if isinstance(item, Group) else item.group


def spread(key: str, found: Estimate | float | None) -> dict[str, float | None]:
    """A value and its interval as the cells of a row; a bare number has no interval."""
    ends = (found.value, found.low, found.high) if isinstance(found, Estimate) else (found, None, None)
    numbers = [None if end is None else float(end) for end in ends]
    return dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))


def all_runs(groups: Sequence[Group]) -> list[Run]:
    return list({id(run): run for group in groups for run in group.runs}.values())


def seeds_mean(group: Group, name: str) -> float | None:
    """The mean of a metric over the group's seeds; None where one of them did not record it."""
    values = [value for run in group.runs if (value := run.metrics.get(name)) is not None]
    return float(np.mean([float(value) for value in values])) if len(values) == len(group.runs) else None


SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \\textquotedbl is not in every font
}
NARROW = 50  # characters: up to this width a table fits one of two columns
LATEX = r"""% {stamp}
% \usepackage{{booktabs,graphicx}}
\begin{{{environment}}}[t]
\centering\footnotesize
\caption{{{caption}}}
\label{{tab:{name}}}
\smallskip
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
\begin{{tabular}}{{@{{}}{kinds}@{{}}}}
\toprule
{rows}
\bottomrule
\end{{tabular}}}}
\end{{{environment}}}
"""  # shrunk to the line where it is wider


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Aligned Markdown; the first row is the header."""
    rows = [tuple(inline(cell).replace("|", "\\|") for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def inline(text: str) -> str:
    """Text on one line of Markdown, with what would be code, a tag, a link or an entity there as it is."""
    return re.sub(r"[\\`]|<(?=[A-Za-z/!?])|(?<=\])\(|&(?=#?\w+;)", r"\\\g<0>", " ".join(printable(text).split()))


def latex(table: Table) -> str:
    r"""A table environment for \input, with \usepackage{booktabs,graphicx}; its first line is the stamp."""
    header, *body = table.texts
    kinds = "".join("r" if _is_numeric([row[i] for row in body]) else "l" for i in range(len(header)))
    characters = sum(2 + max(len(row[i]) for row in (header, *body)) for i in range(len(header)))
    return LATEX.format(
        environment="table" if characters <= NARROW else "table*",
        stamp=table.stamp,
        caption=escaped(table.caption),
        name=table.name,
        kinds=kinds,
        rows="\n".join([_line(header), r"\midrule", *map(_line, body)]),
    )


def escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped, so that names and settings appear as they are."""
    plain = "".join(SPECIAL.get(character, character) for character in " ".join(printable(text).split()))
    return re.sub(r"(?<![\w.])-(?=[.\d]| )", "$-$", plain)  # minus signs; hyphens stay


def _line(cells: Sequence[str]) -> str:
    line = " & ".join(escaped(cell) for cell in cells) + r" \\"
    return "{}" + line if line.startswith("[") else line  # after \\ a bracket would be read as a length


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(not cell or cell.lstrip("-<")[:1] in tuple(".0123456789") for cell in cells)
