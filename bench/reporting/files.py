"""A figure as the files that a paper, a page and a reader of numbers need, each saying which records it shows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.reporting.exhibit import Figure
from bench.reporting.style import blank
from bench.store import atomically

FORMATS = ("png", "pdf", "svg", "csv")


@contextmanager
def drawn(figure: Figure) -> Iterator[Any]:
    """The matplotlib Figure, drawn and laid out for good: the same in every format."""
    with blank(figure.width, figure.height) as canvas:
        figure.draw(canvas)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
        yield canvas


def write_figure(figure: Figure, folder: Path) -> list[Path]:
    """NAME.png, .pdf, .svg and .csv in `folder`, each whole or not at all; equal records give equal bytes.

    Fonts are embedded: in the PDF as TrueType (type 42), in the SVG as outlines. Each file carries the figure's stamp,
    which `stamp_of` reads back. Returns the paths in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{figure.name}.{kind}" for kind in FORMATS}
    undated: dict[str, dict[str, Any]] = {
        "pdf": {"Title": figure.name, "Keywords": figure.stamp, "CreationDate": None},
        "svg": {"Title": figure.name, "Description": figure.stamp, "Date": None},
        "png": {"Title": figure.name, "Description": figure.stamp, "Software": None},
    }
    with drawn(figure) as canvas:
        for kind, metadata in undated.items():
            with atomically(paths[kind]) as beside:
                canvas.savefig(beside, format=kind, metadata=metadata)
    with atomically(paths["csv"]) as beside:
        beside.write_text(figure.as_csv)
    return list(paths.values())


def stamp_of(path: Path) -> str:
    """The stamp that a figure's PDF, SVG, PNG or CSV carries; BenchError where it has none or can't be read."""
    readers = {".pdf": _pdf, ".svg": _svg, ".png": _png, ".csv": _csv}
    try:
        found = readers[path.suffix](path)
    except (KeyError, OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise BenchError(f"{path} can't be read as a figure's {', '.join(FORMATS)}: {error}") from error
    if not found:
        raise BenchError(f"{path} carries no stamp: no report wrote it, or it was saved again since.")
    return found


def _pdf(path: Path) -> str:
    found = re.search(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", path.read_bytes())
    return re.sub(rb"\\(.)", rb"\1", found[1]).decode("latin-1") if found else ""


def _svg(path: Path) -> str:
    found = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(), re.DOTALL)
    return unescape(found[1]) if found else ""


def _png(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        return str(image.info.get("Description", ""))


def _csv(path: Path) -> str:
    with path.open() as file:
        first = file.readline()
    return first.removeprefix("# ").rstrip("\n") if first.startswith("# ") else ""
