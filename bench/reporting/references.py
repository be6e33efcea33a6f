"""What the template of a committed report's README can refer to: its tables, differences, metrics and the runs.

    {% set three = dict(procedure="rounds") %}                      a name for some settings
    {{ cell("main", "tuned", three) }}                              0.672 [0.606, 0.737]
    {{ cell("temperatures", "accuracy", three, arm="tuned", temperature=0) | value }}    0.762
    {{ difference(three, one, of="greedy") | signed }}              +0.066 [0.007, 0.125]
    {{ metric("selection/kept", one) | count }}                     728
    {{ over_seeds("selection/kept", one) }}                         701 to 745
    {{ report("default").cell("main", "kl", arm="tuned") }}             of another committed report, by its folder
    {{ report("one", "two").difference(ours, theirs) }}                of several: a difference between their runs
    {{ cell("data", "coverage", n=8) | percent }}                   of data.csv, where there are no runs
    {% for row in rows("main") %}{{ row.tuned }}{% endfor %}        every row of a table

A cell is a number with its interval. Filters choose how it is written. `difference` stands in place of arithmetic,
and {{ degrees() }} says how many degrees of freedom the intervals of the differences above it have.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import BenchError, did_you_mean
from bench.evaluation.measures import AT, AT_BEST
from bench.records.packed import FILE, read_packed
from bench.records.read import Run, as_number, short
from bench.reporting.arrange import SHORT
from bench.reporting.contrasts import SAMPLED, Sides, contrasts, shared_seeds
from bench.reporting.exhibit import Exhibit, Figure, Table, from_csv
from bench.reporting.exhibits import Part, made, parts
from bench.reporting.figure_settings import FigureSettings
from bench.reporting.groups import Group, grouped, in_order
from bench.reporting.tables import seeds_mean

OF = {"sampled": SAMPLED, "greedy": ("greedy", "accuracy", 1), "kl": ("policy", "kl", 1)}
OF |= {"best temperature": (AT_BEST, "accuracy", 1)}
AT_T = re.compile(rf"{AT}[\d.]+")
AT_N = re.compile(r"(pass|majority|weighted_majority|best_of_n|pessimism_of_n@[\d.]+)@(\d+)")


@dataclass(frozen=True)
class Number:
    """A number with its interval, and how it is written; a filter changes one of these."""

    value: float
    low: float | None = None
    high: float | None = None
    verdict: str = ""  # of a difference
    digits: int | None = None  # None: three below 1, two above
    unit: float = 1.0
    percent: bool = False
    plus: bool = False
    shown: str = "both"

    def __str__(self) -> str:
        ends = [] if self.low is None or self.high is None or not self.low < self.high else [self.low, self.high]
        value = ("+" if self.plus and self.value > 0 else "") + self._written(self.value)
        interval = f"[{', '.join(map(self._written, ends))}]" if ends else ""
        if self.shown == "interval" and not interval:
            raise BenchError(f"{value} has no interval")
        text = {"both": f"{value} {interval}".strip(), "value": value, "interval": interval}[self.shown]
        return f"{text} %" if self.percent else text

    def _written(self, number: float) -> str:
        number /= self.unit
        if self.digits is not None:
            return f"{round(number, self.digits) + 0.0:,.{self.digits}f}"
        return f"{number:,.0f}" if abs(number) >= 1000 else short(number)


FILTERS = {
    "value": lambda number: replace(number, shown="value"),
    "interval": lambda number: replace(number, shown="interval"),
    "digits": lambda number, digits: replace(number, digits=digits),
    "count": lambda number: replace(number, digits=0),
    "percent": lambda number: replace(number, unit=0.01, percent=True, digits=number.digits or 0),
    "per": lambda number, unit: replace(number, unit=unit),
    "signed": lambda number: replace(number, plus=True),
    "scientific": lambda number: f"{number.value:.0e}",
    "verdict": lambda number: number.verdict,
}


class Row(dict[str, Any]):
    """The row of a table: column -> Number or text. A column is named as in the CSV or by its heading."""

    def __init__(self, table: Exhibit, row: Mapping[str, Any]) -> None:
        super().__init__({key: _cell(row, key) for key in row})
        self.table = table

    def __missing__(self, name: str) -> Any:
        headings = self.table.columns if isinstance(self.table, Table) else {}
        return self[_named(name, self, headings, f"{self.table.name} has no column {name}")]


@dataclass
class Book:
    """The tables and figures of some runs, each made when a template first refers to it; without runs, of CSV files."""

    runs: Sequence[Run]
    own: Sequence[Part] = ()
    wanted: FigureSettings = field(default_factory=FigureSettings)
    folder: Path = Path()  # of CSV files, where there are no runs
    made: dict[Any, list[Any]] = field(default_factory=dict)
    freedom: set[float] = field(default_factory=set)  # of the differences that were asked for

    @classmethod
    def of(cls, *folders: Path) -> "Book":
        """Of committed reports: the records of all, or the CSV files in the one's folder."""
        runs = [run for folder in folders if (folder / FILE).is_file() for run in read_packed(folder)]
        return cls(in_order(runs), folder=folders[0])

    def __post_init__(self) -> None:
        self.groups = grouped(self.runs)  # one code, the same prompts

    def exhibit(self, name: str) -> Exhibit:
        """A table, else a figure, by its name; "figures/NAME" where both have it."""
        if not self.runs:
            return (self.made.get(name) or self.made.setdefault(name, [from_csv(self.folder / f"{name}.csv")]))[0]
        place, _, last = name.rpartition("/")
        kinds = ("figures",) if place == "figures" else ("tables", "figures")
        known = []
        for kind in kinds:
            functions = [*parts(kind), *self.own]
            for function in sorted(functions, key=lambda part: not getattr(part, "__name__", "").startswith(last)):
                for exhibit in self._of(kind, function):
                    known.append(exhibit.name)
                    if exhibit.name == last:
                        return exhibit
        raise BenchError(f"{name} is no table or figure of these runs; they have {_listed(known, last)}")

    def _of(self, kind: Any, function: Part) -> list[Any]:
        if (kind, function) not in self.made:
            types: Any = Table if kind == "tables" else Figure
            self.made[kind, function] = list(made(kind, types, self.groups, self.own, self.wanted.axes, only=function))
        return self.made[kind, function]

    def rows(self, table: str, *settings: Mapping[str, Any], **more: Any) -> list[Row]:
        """The rows of a table that have these settings; all rows without settings."""
        exhibit = self.exhibit(table)
        rows = [Row(exhibit, row) for row in exhibit.rows]
        return _having(rows, _merged(settings, more), f"{table} has no row with")

    def cell(self, table: str, column: str, *settings: Mapping[str, Any], **more: Any) -> Any:
        """The cell of the one row that has these settings."""
        if len(rows := self.rows(table, *settings, **more)) != 1:
            apart = [key for key in rows[0] if len({str(row[key]) for row in rows}) > 1]
            texts = [key for key in apart if not isinstance(rows[0][key], Number) or "config." in key] or apart
            differ = "; ".join(f"{key}: {_listed([row[key] for row in rows])}" for key in texts[:3])
            raise BenchError(f"{table} has {len(rows)} rows with these settings; they differ in {differ}")
        if (found := rows[0][column]) == "":
            raise BenchError(f"{table} has nothing in column {column} of this row")
        return found

    def difference(self, ours: Mapping[str, Any], theirs: Mapping[str, Any], of: str = "sampled") -> Number:
        """Ours less theirs, paired by seed and prompt, with its interval and the verdict of this one comparison.

        Its variance between seeds is pooled over a family (`contrasts`): the same two policies in every configuration,
        where both sides are of one; else every configuration against theirs.
        A side has settings, and may name a `policy` (tuned, base, control, round_1) and its own `of`.
        """
        sides = [dict(ours), dict(theirs)]
        points = [(side.pop("policy", "tuned"), *_point(side.pop("of", of))) for side in sides]
        groups = [self._group(side or sides[0]) for side in sides]
        if lacking := [point for group, point in zip(groups, points, strict=True) if not _has(group, point)]:
            raise BenchError(f"the runs have no values of {' '.join(map(str, lacking[0]))}")
        family: dict[str, Sides] = {}
        seeds = shared_seeds(dict(enumerate(groups)))[0][0].seeds
        if not seeds:
            raise BenchError(f"{groups[0].label} and {groups[1].label} share no seed")
        others = [(group, group if groups[0] is groups[1] else groups[1]) for group in self.groups]
        for pair in [tuple(groups), *others]:
            kept, _ = shared_seeds(dict(enumerate(pair)))
            if kept[0].seeds == seeds and all(map(_has, pair, points)):
                name = f"{pair[0].label} {points[0]} - {pair[1].label} {points[1]}"
                family.setdefault(name, (kept[0].per_prompt(*points[0]), kept[1].per_prompt(*points[1])))
        found = next(iter(contrasts(family).values()))
        if found.freedom is not None and not math.isnan(found.freedom):  # NaN: nothing varies
            self.freedom.add(found.freedom)
        return Number(found.difference.value, found.difference.low, found.difference.high, verdict=found.verdict)

    def degrees(self) -> str:
        """The degrees of freedom of the intervals of all differences so far: the least and the most."""
        if not self.freedom:
            raise BenchError("no difference above has degrees of freedom: there is none, or of one seed")
        return " to ".join(dict.fromkeys(f"{end:.0f}" for end in (min(self.freedom), max(self.freedom))))

    def metric(self, name: str, *settings: Mapping[str, Any], **more: Any) -> Number:
        """A number of metrics.json, its mean over seeds. Without settings, it has to be the same in all groups."""
        groups = self._groups(_merged(settings, more))
        if not groups:
            raise BenchError(f'there are no runs here to have {name}; report("NAME").metric(...) reads a report')
        means = {seeds_mean(group, name) for group in groups}
        if means == {None}:
            raise BenchError(f"metrics.json has no {name}{did_you_mean(name, groups[0].runs[0].metrics) or '.'}")
        if len(means) > 1:
            raise BenchError(f"{name} differs among {_listed([group.label for group in groups])}; say of which")
        mean = means.pop() or 0.0
        return Number(mean, digits=0 if mean.is_integer() else None)

    def over_seeds(self, name: str, *settings: Mapping[str, Any], **more: Any) -> str:
        """The least and the most of a number of metrics.json among the seeds of one configuration."""
        group = self._group(_merged(settings, more))
        self.metric(name, group.settings)  # which says what is wrong with the name
        values = sorted(float(run.metrics[name]) for run in group.runs)
        ends = [str(Number(value, digits=0 if value.is_integer() else None)) for value in (values[0], values[-1])]
        return " to ".join(dict.fromkeys(ends))

    def _group(self, settings: Mapping[str, Any]) -> Group:
        groups = self._groups(settings)
        if len(groups) == 1:
            return groups[0]
        raise BenchError(f"{_spelt(settings)} is not one configuration but {_listed([g.label for g in groups])}")

    def _groups(self, settings: Mapping[str, Any]) -> list[Group]:
        found = _having([group.settings for group in self.groups], settings, "no runs have")
        return [group for group in self.groups if group.settings in found]


def _cell(row: Mapping[str, Any], key: str) -> Any:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else value
    return Number(value, row.get(f"{key}_low"), row.get(f"{key}_high"), digits=0 if isinstance(value, int) else None)


def _having(rows: Sequence[Any], settings: Mapping[str, Any], nothing: str) -> list[Any]:
    """The rows with these settings: those with the very value, else those of which it is a part, as grpo is."""
    for name, value in settings.items():
        key = _named(name, rows[0] if rows else {}, {}, f"{nothing} {name}")
        exact = [row for row in rows if _same(row[key], value)]
        words = set(re.split("[ =]", str(value)))
        found = exact or [row for row in rows if words <= set(re.split("[ =]", str(row[key])))]
        if not found:
            raise BenchError(
                f"{nothing} {_spelt(settings)}; {key} is {_listed([row[key] for row in rows], str(value))}"
            )
        rows = found
    return list(rows)


def _same(cell: Any, value: Any) -> bool:
    number = cell.value if isinstance(cell, Number) else as_number(str(cell))
    return str(cell) == str(value) or (number is not None and number == as_number(str(value)))


def _named(name: str, known: Mapping[str, Any], headings: Mapping[str, str], nothing: str) -> str:
    """The key that a name means: itself, the last part of a setting's name, its short form or the heading."""
    full = {short: long for long, short in SHORT.items()}.get(name, name)
    near = [key for key in known if name in (key, headings.get(key)) or full in (key, key.rsplit(".", 1)[-1])]
    exact = [key for key in (name, name.removeprefix("config.")) if key in known]
    keys = exact[:1] or near
    if len(keys) != 1:
        columns = [key for key in known if not key.endswith(("_low", "_high"))]
        raise BenchError(f"{nothing}; there is {_listed(keys or columns, name)}")
    return keys[0]


def _has(group: Group, point: tuple[str, str, str, int]) -> bool:
    return all(point in run._per_prompt for run in group.runs)


def _point(of: str) -> tuple[str, str, int]:
    if at := AT_N.fullmatch(of):
        return at[1], "accuracy", int(at[2])
    if AT_T.fullmatch(of):
        return of, "accuracy", 1
    if of not in OF:
        allowed = [*OF, f"{AT}T", "pass@K", "majority@K", "weighted_majority@K", "best_of_n@N", "pessimism_of_n@BETA@N"]
        raise BenchError(f"of={of!r} is not allowed: it must be one of {_listed(allowed, of)}")
    return OF[of]


def _merged(settings: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for part in (*settings, more) for name, value in part.items()}


def _spelt(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _listed(values: Iterable[Any], name: str = "") -> str:
    texts = list(dict.fromkeys(map(str, values)))
    return ", ".join([*texts[:24], *["..."][: len(texts) > 24]]) + (did_you_mean(name, texts) if name else "")
