"""Progress: bars with a live throughput on a terminal; elsewhere lines as each stage begins, goes on and ends."""

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.errors import printable

EVERY = 25.0  # seconds between two lines where there is no terminal


@dataclass
class Bar:
    """Work that goes on: a bar on a terminal, a part of the lines elsewhere."""

    label: str = ""
    total: float | None = None
    unit: str = ""
    display: Any = None
    task: Any = None
    stage: str = ""  # that began inside it and ends with it
    done: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        if self.display is not None:
            self.display.advance(self.task, amount)

    def __str__(self) -> str:
        seconds = max(time.perf_counter() - self.start, 1e-9)
        if not self.unit:
            return f"{self.label}: {duration(seconds)} so far"
        rate = self.done / seconds
        words = f"{self.label}: {self.done:,.0f}"
        words += f" of {self.total:,.0f} {self.unit}" if self.total is not None else f" {self.unit}"
        words += f", {rate:,.{0 if rate >= 10 else 2}f} {self.unit}/s"
        left = self.total is not None and rate > 0 and duration((self.total - self.done) / rate)
        return f"{words}, about {left} left" if left else words


_display: Any = None  # rich allows one live display per process; nested bars share it
_listener: Callable[[str], None] | None = None
_telling: str | None = None  # what lines begin with; None: no lines are wanted
_open: list[Bar] = []  # outermost first


@contextlib.contextmanager
def bar(label: str, total: float | None, unit: str) -> Iterator[Bar]:
    """Show a bar of `total` units (None: unknown) while inside; bars opened inside appear below it."""
    global _display
    if _listener is not None or not sys.stderr.isatty():
        with counted(Bar(label.strip(), total, unit)) as opened:
            yield opened
        return
    outermost = _display is None
    if outermost:
        _display = _start_display()
    task = _display.add_task(label, total=total, unit=unit)
    try:
        yield Bar(display=_display, task=task)
    finally:
        _display.remove_task(task)
        if outermost:
            _display.stop()
            _display = None


@contextlib.contextmanager
def counted(work: Bar) -> Iterator[Bar]:
    """Count work inside for the lines, without a bar on a terminal."""
    _open.append(work)
    try:
        yield work
    finally:
        _open.remove(work)
    if work.stage and work.unit:
        _tell(f"{work.stage} ends: {work.done:,.0f} {work.unit} in {duration(time.perf_counter() - work.start)}")
    elif work.stage:
        _tell(f"{work.stage} ends after {duration(time.perf_counter() - work.start)}")


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Around the making of an artifact: say that its stage begins, and ends. The bar around its pieces ends with it."""
    if _telling is None or any(work.stage == name for work in _open):
        yield
        return
    around = [*itertools.takewhile(lambda work: not work.stage, reversed(_open))]
    if around:
        around[-1].stage = name
        total = around[-1].total
        _tell(f"{name} begins" + (f": {total:,.0f} {around[-1].unit}" if total is not None else ""))
        yield
    else:
        _tell(f"{name} begins")
        with counted(Bar(name, stage=name)):
            yield


@contextlib.contextmanager
def told(who: str = "") -> Iterator[None]:
    """Where there is no terminal, say inside what begins and ends, and every EVERY seconds what goes on.

    who: what lines begin with, e.g. "cell 3 of 16: ".
    """
    global _telling
    if sys.stderr.isatty() or _telling is not None:
        yield
        return
    start, ended = time.perf_counter(), threading.Event()

    def go_on() -> None:
        while not ended.wait(EVERY):
            _tell("; ".join(map(str, [*_open])) or f"{duration(time.perf_counter() - start)} so far")

    _telling = who
    teller = threading.Thread(target=go_on, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        _telling = None


def tell(line: str) -> None:
    """Print a line where there is no terminal to show progress, inside `told`."""
    if _telling is not None:
        _tell(line)


def _tell(line: str) -> None:
    if _listener is not None:  # which keeps lines for the end: these are of the moment
        print(f"{_telling}{line}", file=sys.stderr, flush=True)
    else:
        say(f"{_telling}{line}")


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Throughput(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else ""
            return Text(speed, style="cyan")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        Throughput(),
        TimeRemainingColumn(),
    )
    display = Progress(*columns, console=Console(stderr=True), transient=True)
    display.start()
    return display
