"""Progress bars with a live throughput on a terminal, none elsewhere; and one line per finished stage."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.errors import printable


@dataclass
class Bar:
    """A running bar; `advance` does nothing where there is no terminal."""

    display: Any = None
    task: Any = None

    def advance(self, amount: float = 1) -> None:
        if self.display is not None:
            self.display.advance(self.task, amount)


_display: Any = None  # rich allows one live display per process; nested bars share it
_listener: Callable[[str], None] | None = None


@contextlib.contextmanager
def bar(label: str, total: float | None, unit: str) -> Iterator[Bar]:
    """Show a bar of `total` units (None: unknown) while inside; bars opened inside appear below it."""
    global _display
    if _listener is not None or not sys.stderr.isatty():
        yield Bar()
        return
    outermost = _display is None
    if outermost:
        _display = _start_display()
    task = _display.add_task(label, total=total, unit=unit)
    try:
        yield Bar(_display, task)
    finally:
        _display.remove_task(task)
        if outermost:
            _display.stop()
            _display = None


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
    import threading

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
