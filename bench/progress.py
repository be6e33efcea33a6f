"""Progress of a run: its stages (calls of bench.procedures.parts), with bars on a terminal and lines elsewhere."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import printable

EVERY = 25.0  # seconds between two lines where there is no terminal
TICK = 5.0  # seconds between two rows for whoever follows a run
AXIS = "progress/seconds"  # of a row: the time that the run has taken, in all its attempts
Row = dict[str, float]


@dataclass
class Bar:
    """Work that goes on: a bar on a terminal, a part of the lines elsewhere."""

    label: str = ""
    total: float | None = None
    unit: str = ""
    display: Any = None
    task: Any = None
    done: float = 0.0
    start: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0  # that it took, once it has ended

    def advance(self, amount: float = 1, *, found: bool = False) -> None:
        """found: the store had it; it leaves the total, so that rate and time left are those of the rest."""
        self.done += 0 if found else amount
        if found and self.total is not None:
            self.total -= amount
        if self.display is not None:
            self.display.update(self.task, completed=self.done, total=self.total)

    @property
    def rate(self) -> float:
        return self.done / max(self.seconds or time.perf_counter() - self.start, 1e-9)

    def __str__(self) -> str:
        if not self.unit:
            return f"{self.label}: {duration(time.perf_counter() - self.start)} so far"
        words = f"{self.label.strip()}: {self.done:,.0f}"
        words += f" of {self.total:,.0f} {self.unit}" if self.total is not None else f" {self.unit}"
        words += f", {per_second(self.rate, self.unit)}"
        left = self.total is not None and self.rate > 0 and duration((self.total - self.done) / self.rate)
        return f"{words}, about {left} left" if left else words


@dataclass
class RunStage(Bar):
    """A stage that goes on; its label is what its lines begin with."""

    number: int = 0  # from 1, as planned; 0: not planned
    made: int = 0  # artifacts
    reused: int = 0  # artifacts that the store had
    beside: int = 0  # artifacts that the second process of the run made
    bars: list[Bar] = field(default_factory=list)  # that have ended in it

    def outcome(self) -> str:
        """How it ended, in words."""
        total = self.made + self.beside + self.reused
        elsewhere = {"the second process made": self.beside, "the store had": self.reused}
        shares = [f"{who} {count} of {total} artifacts" for who, count in elsewhere.items() if count]
        if len(shares) == 1 and not self.made:
            return "was in the store" if self.reused else "was made by the second process"
        words = f"took {duration(self.seconds)}"
        outer = [bar for bar in self.bars if bar.label == bar.label.strip()]
        if len({(bar.label, bar.unit) for bar in outer}) == 1:  # works of several kinds have no common rate
            done, unit = sum(bar.done for bar in outer), outer[0].unit
            words += f": {done:,.0f} {unit}, {per_second(done / max(self.seconds, 1e-9), unit)}"
        return "; ".join([words, *shares])


@dataclass
class Course:
    """A run that goes on."""

    who: str = ""  # what its lines begin with, e.g. "cell 3 of 16: "
    stages: Sequence[str] = ()  # planned, in order
    behind: int = 0  # planned stages that have ended or were left out
    follow: Callable[[Row], None] | None = None  # is given where the run is
    before: float = 0.0  # seconds of earlier attempts
    rehearse: Callable[[str], None] | None = None  # is given the names of stages, which nobody sees
    start: float = field(default_factory=time.perf_counter)
    lock: threading.Lock = field(default_factory=threading.Lock)  # two threads tell rows

    def tell_row(self, now: RunStage | None, bars: Sequence[Bar], measures: Row | None = None) -> None:
        """Tell who follows the run where it is, the units per second of these bars, and measures; nothing where it only
        reads."""
        with self.lock:
            if self.follow is not None and now is not None and now.made:
                seconds = round(self.before + time.perf_counter() - self.start, 1)
                row = {AXIS: seconds, "progress/stage": now.number, "progress/stages_done": self.behind}
                row |= {f"progress/{bar.label.strip()}/{bar.unit}_per_second": bar.rate for bar in bars if bar.done}
                self.follow(row | {"progress/stages": len(self.stages)} | (measures or {}))


_display: Any = None  # rich allows one live display per process; nested bars share it
_listener: Callable[[str], None] | None = None
_course: Course | None = None
_stage: RunStage | None = None
_open: list[Bar] = []  # outermost first


def bar(label: str, total: float | None, unit: str) -> contextlib.AbstractContextManager[Bar]:
    """Show a bar of `total` units (None: unknown) while inside; bars opened inside appear below it."""
    return counted(Bar(label, total, unit), shown="  " * (_stage is not None) + label)


@contextlib.contextmanager
def counted(work: Bar, *, shown: str = "") -> Iterator[Bar]:
    """Count work inside for the lines. shown: the text before its bar on a terminal; empty: it has none."""
    global _display
    outermost = _display is None
    if shown and _listener is None and not (_course and _course.rehearse) and sys.stderr.isatty():
        work.display = _display = _display or _start_display()
        work.task = _display.add_task(shown, total=work.total, unit=work.unit)
    _open.append(work)
    try:
        yield work
    finally:
        _open.remove(work)
        work.seconds = time.perf_counter() - work.start
        if _stage is not None and work.unit and work.done:
            _stage.bars.append(work)
        if work.display is not None:
            _display.remove_task(work.task)
            work.display = None
            if outermost:
                _display.stop()
                _display = None


@contextlib.contextmanager
def stage(kind: str, *of: str) -> Iterator[None]:
    """A stage of the run, e.g. "fine-tune" of "tuned"; a stage inside another one is a part of it."""
    global _stage
    if _stage is not None:
        yield
        return
    name = f"{kind} ({', '.join(filter(None, of))})" if any(of) else kind
    course = _course or Course()
    number = course.stages.index(name, course.behind) + 1 if name in course.stages[course.behind :] else 0
    _stage = RunStage(f"stage {number} of {len(course.stages)}: {name}" if number else name, number=number)
    try:
        if course.rehearse is not None:
            course.rehearse(name)
        with counted(_stage, shown=course.who + _stage.label if _course else ""):
            yield
        course.behind = max(course.behind, number)
        course.tell_row(_stage, _stage.bars)
        if course.rehearse is None:
            (say if _course and not course.who and sys.stderr.isatty() else tell)(f"{_stage.label} {_stage.outcome()}")
    finally:
        _stage = None


@contextlib.contextmanager
def making(kind: str) -> Iterator[None]:
    """Around the making of an artifact. kind: its stage in the store, for work outside the stages of a run."""
    if _stage is None:
        with stage(kind), making(kind):
            yield
        return
    _stage.made += 1
    if _stage.made == 1:
        tell(f"{_stage.label} begins")
    yield


def found(*, beside: bool = False) -> None:
    """Count an artifact that the store has. beside: the second process of the run has made it."""
    if _stage is not None:
        _stage.beside += beside
        _stage.reused += not beside


def measured(measures: Row) -> None:
    """Tell who follows the run the measures of what goes on, by their names."""
    if _course is not None:
        _course.tell_row(_stage, [*_open], measures)


@contextlib.contextmanager
def told(who: str = "", *, rehearse: Callable[[str], None] | None = None) -> Iterator[Course]:
    """Around a run: where there is no terminal, say how stages begin and end, and what goes on.

    who: what lines begin with. rehearse: is given the name of each stage instead, and nothing is shown.
    """
    global _course
    before = _course
    if before is not None and rehearse is None:
        yield before
        return
    _course = course = Course(who, rehearse=rehearse)
    ended, said = threading.Event(), course.start

    def go_on() -> None:
        nonlocal said
        while not ended.wait(min(TICK, EVERY)):
            course.tell_row(_stage, [*_open])
            if time.perf_counter() - said >= EVERY:
                said = time.perf_counter()
                outside = "writing records and figures" if 0 < course.behind == len(course.stages) else "preparing"
                tell("; ".join(map(str, [*_open])) or f"{outside}, {duration(said - course.start)} since the start")

    teller = threading.Thread(target=go_on, daemon=True)
    teller.start()
    try:
        yield course
    finally:
        ended.set()
        teller.join()
        _course = before


def tell(line: str) -> None:
    """Print a line inside `told` where there is no terminal to show progress."""
    if _course is not None and _course.rehearse is None and not sys.stderr.isatty():
        now = functools.partial(print, file=sys.stderr, flush=True)  # a listener keeps lines for the end
        (now if _listener else say)(f"{_course.who}{line}")


def duration(seconds: float) -> str:
    """Seconds in readable units, off by 5 % at most."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if (whole := round(seconds)) < 600:
        return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{seconds / 3600:.1f} h"


def per_second(rate: float, unit: str) -> str:
    return f"{rate:,.{0 if rate >= 10 else 2}f} {unit}/s"


@contextlib.contextmanager
def relayed(listener: Callable[[str], None]) -> Iterator[None]:
    """Send lines to `listener` and hide bars while inside, for one of several processes that share a terminal."""
    global _listener
    _listener, before = listener, _listener
    try:
        yield
    finally:
        _listener = before


def say(line: str) -> None:
    """Print one line to standard error, so that standard output holds results only."""
    line = printable(line)
    if _listener is not None:
        _listener(line)
    elif _display is not None:
        _display.console.print(line, markup=False, highlight=False)
    else:
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_after(seconds: float, line: str) -> Iterator[None]:
    """`say` the line where the body takes longer than `seconds`."""
    timer = threading.Timer(seconds, say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _start_display() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    left, so_far = TimeRemainingColumn(), TimeElapsedColumn()

    class Numbers(ProgressColumn):
        """Share, rate and time left of work; of a stage, the time so far."""

        def render(self, task: Any) -> Text:
            share = f"{task.percentage:.0f} %  " if task.total else ""
            rate = f"{per_second(task.speed, task.fields['unit'])}  " if task.speed else ""
            return Text(share + rate, style="cyan") + (left if task.fields["unit"] else so_far).render(task)

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), Numbers())
    display = Progress(*columns, console=Console(stderr=True), transient=True)
    display.start()
    return display
