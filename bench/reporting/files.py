"""The files of a report: its manifest, report.json, and those of figures and tables, each with its exhibit's stamp."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.reporting.exhibit import Figure, Table
from bench.reporting.style import blank
from bench.reporting.tables import inline, latex, markdown
from bench.store import atomically, write_durably
from bench.store.reading import matches, read_json

MANIFEST = "report.json"  # a folder that holds it is a report, not a run
PAGE = "index.html"
TEXTS = ("tables.md", "verdicts.md", "methods.md", "references.bib")
FOLDERS = ("figures", "tables")
SHAPE = {  # what is read of it: a type, [the shape of each item], {str: of each value} or {name: of that value}
    "runs": [{"folder": str}],
    "exhibits": {str: {"stamp": str, "files": [str]}},
    "files": {str: str},  # name -> SHA-256
}
FORMATS = ("png", "pdf", "svg", "csv")  # of a figure


@contextmanager
def drawn(figure: Figure) -> Iterator[Any]:
    """The matplotlib Figure with its final layout, which is the same in every format."""
    with blank(figure.width, figure.height, figure.sheet) as canvas:
        figure.draw(canvas)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
        yield canvas


def write_figure(figure: Figure, folder: Path) -> list[Path]:
    """Write NAME.png, .pdf, .svg and .csv; returns their paths in that order. Equal records give equal bytes.

    Each file is written whole or not at all. Fonts are embedded: as TrueType (type 42) in the PDF, as outlines in the
    SVG.
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
    write_durably(paths["csv"], figure.as_csv)
    return list(paths.values())


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write NAME.csv, .md and .tex; returns their paths in that order."""
    texts = {
        "csv": table.as_csv,
        "md": f"<!-- {table.stamp} -->\n\n{captioned(table)}\n",
        "tex": latex(table),
    }
    paths = {kind: folder / f"{table.name}.{kind}" for kind in texts}
    for kind, text in texts.items():
        write_durably(paths[kind], text)
    return list(paths.values())


def captioned(table: Table) -> str:
    """The table in Markdown, with its caption below."""
    return f"{markdown(table.texts)}\n\n*{inline(table.caption)}*"


def stamp_of(path: Path) -> str:
    """The stamp that an exhibit's file carries; BenchError where it has none or can't be read."""
    readers = {".pdf": _pdf, ".svg": _svg, ".png": _png, ".csv": _text, ".md": _text, ".tex": _text}
    try:
        stamp = readers[path.suffix](path)
    except (KeyError, OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise BenchError(f"{path} can't be read as an exhibit's {', '.join(readers)}: {error}") from error
    if not stamp:
        raise BenchError(f"{path} carries no stamp: no report wrote it, or it was saved again since.")
    return stamp


def _pdf(path: Path) -> str:
    match = re.search(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", path.read_bytes())
    return re.sub(rb"\\(.)", rb"\1", match[1]).decode("latin-1") if match else ""


def _svg(path: Path) -> str:
    match = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(), re.DOTALL)
    return unescape(match[1]) if match else ""


def _png(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        return str(image.info.get("Description", ""))


def _text(path: Path) -> str:
    """In the first line, which is a comment."""
    with path.open() as file:
        match = re.fullmatch(r"(?:# |% |<!-- )(.*?)(?: -->)?\n?", file.readline())
    return match[1] if match else ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the report in `folder`; BenchError where it is missing or damaged."""
    try:
        content = read_json(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} holds no report ({MANIFEST} is missing or damaged); build it first.") from error
    if not matches(content, SHAPE):
        raise BenchError(f"{folder} holds no report ({MANIFEST} does not say what a report is made of); build it anew.")
    return content


def earlier_files(folder: Path) -> list[str]:
    """The files that an earlier report in `folder` wrote, by its manifest; none where there is no report."""
    try:
        return [name for name in read_manifest(folder)["files"] if is_report_file(name)]
    except BenchError:
        return []


def is_report_file(name: str) -> bool:
    """Whether a report may write a file of this name, relative to its folder."""
    if name in (*TEXTS, PAGE):
        return True
    folder, _, file = name.partition("/")
    return folder in FOLDERS and file not in ("", ".", "..") and not set("/\\\0") & set(file)
