"""The files of a report: its manifest, report.json, and those of figures and tables, each with its exhibit's stamp."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.records.packed import FILE as RECORDS
from bench.reporting.exhibit import Figure, Table
from bench.reporting.style import blank, lay_out
from bench.reporting.tables import inline, latex, markdown
from bench.store import atomically, write_durably
from bench.store.reading import matches, read_json, sha256

MANIFEST = "report.json"  # a folder that holds it is a report, not a run
PAGE = "index.html"
TEMPLATE = "README.md.j2"  # a folder that holds it is a committed report; see bench.reporting.published
TEXTS = ("tables.md", "verdicts.md", "methods.md", "references.bib")
FOLDERS = ("figures", "tables")
OF_PAGE = (".csv", ".png", ".pdf")
SHAPE = {  # what is read of it: a type, [the shape of each item], {str: of each value} or {name: of that value}
    "runs": [{"folder": str}],
    "exhibits": {str: {"stamp": str, "files": [str]}},
    "files": {str: str},  # name -> SHA-256
}
FORMATS = ("png", "pdf", "svg", "csv")  # of a figure


@contextmanager
def drawn(figure: Figure) -> Iterator[Any]:
    """The matplotlib Figure with its final layout, which is the same in every format."""
    from matplotlib import rcParams

    with blank(figure.width, figure.height, figure.sheet) as canvas:
        figure.draw(canvas)
        lay_out(canvas)
        rcParams.update({"figure.autolayout": False, "figure.constrained_layout.use": False})
        canvas.set_layout_engine()  # none at all, with which saving would draw everything twice
        yield canvas


def write_figure(figure: Figure, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write NAME.png, .pdf, .svg and .csv, each whole or not at all; returns their paths in that order.

    Equal records give equal bytes. Fonts are embedded: as TrueType (type 42) in the PDF, as outlines in the SVG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{figure.name}.{kind}" for kind in formats}
    told = {"pdf": ("Keywords", "CreationDate"), "svg": ("Description", "Date"), "png": ("Description", "Software")}
    with drawn(figure) as canvas:
        for kind, (about, dated) in ((kind, names) for kind, names in told.items() if kind in paths):
            with atomically(paths[kind]) as beside:
                canvas.savefig(beside, format=kind, metadata={"Title": figure.name, about: figure.stamp, dated: None})
    if "csv" in paths:
        write_durably(paths["csv"], figure.as_csv)
    return list(paths.values())


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write NAME.csv, .md and .tex; returns their paths in that order."""
    texts = {"csv": table.as_csv, "md": f"<!-- {table.stamp} -->\n\n{captioned(table)}\n", "tex": latex(table)}
    paths = {kind: folder / f"{table.name}.{kind}" for kind in texts}
    for kind, text in texts.items():
        write_durably(paths[kind], text)
    return list(paths.values())


def captioned(table: Table) -> str:
    """The table in Markdown, with its caption below."""
    return f"{markdown(table.texts)}\n\n*{inline(table.caption)}*"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the report in `folder`; BenchError where it is missing or damaged."""
    try:
        content = read_json(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} holds no report ({MANIFEST} is missing or damaged); build it first.") from error
    if not matches(content, SHAPE):
        raise BenchError(f"{folder} holds no report ({MANIFEST} does not say what a report is made of); build it anew.")
    return content


def write_manifest(folder: Path, content: Mapping[str, Any], written: Iterable[str]) -> None:
    """Write report.json, with the checksums of `written`; of an earlier report's files, the others are removed."""
    names = sorted(written)
    try:
        earlier = {name for name in read_manifest(folder)["files"] if is_report_file(name)}
    except BenchError:  # there is no report
        earlier = set()
    for name in earlier.difference(names):
        if not (folder / name).is_dir():
            (folder / name).unlink(missing_ok=True)
    manifest = {**content, "files": {name: sha256(folder / name) for name in names}}
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def is_published(folder: Path) -> bool:
    return (folder / TEMPLATE).is_file()


def of_page(folder: Path) -> list[Path]:
    """The data and figures beside the README of a folder without records."""
    return sorted(path for path in folder.iterdir() if path.suffix in OF_PAGE and path.is_file())


def is_page_file(name: str) -> bool:
    """Whether a name is that of a file which a page without records has beside it; no report ever deletes one."""
    return Path(name).suffix in OF_PAGE and not set("/\\\0") & set(name)


def is_report_file(name: str) -> bool:
    """Whether a report may write a file of this name, relative to its folder."""
    if name in (*TEXTS, PAGE, RECORDS):
        return True
    folder, _, file = name.partition("/")
    return folder in FOLDERS and file not in ("", ".", "..") and not set("/\\\0") & set(file)


def changed_files(folder: Path, manifest: Mapping[str, Any], may: Callable[[str], bool] = is_report_file) -> list[str]:
    """A line for each file of a report that is missing or is not as it was written. may: whether it may have a name."""
    problems = []
    for name, expected in manifest["files"].items():
        try:
            if not may(name):
                problems.append(f"{folder / MANIFEST} names {name}, which no report writes")
            elif not (folder / name).is_file():
                problems.append(f"{folder / name} is missing")
            elif sha256(folder / name) != expected:
                problems.append(f"{folder / name} was changed since the report was made")
        except OSError as error:
            problems.append(f"{folder / name} can't be read ({error.strerror})")
    return problems
