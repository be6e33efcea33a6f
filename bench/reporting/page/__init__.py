"""A report as one HTML file that loads nothing: verdicts, figures, tables, methods, runs, and a browser of samples."""

import base64
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.errors import BenchError
from bench.records.read import Run, as_number
from bench.reporting.exhibit import Exhibit, Figure, Table
from bench.reporting.groups import NOT_COMPARED, distinctions
from bench.reporting.page.samples import sample_columns
from bench.reporting.words import ARMS
from bench.store import atomically

ASSETS = Path(__file__).parent
PHONE = 340  # CSS pixels that a small phone shows side by side; a wider drawing scrolls there
FRAME = 26  # CSS pixels around a drawing, left and right together
Cell = tuple[str, str | None]  # text, sort value
FORMATS = {".pdf": "PDF", ".svg": "SVG", ".png": "PNG", ".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX"}
DRAWING = {"svg", "g", "defs", "symbol", "use", "clipPath", "mask", "pattern", "marker", "image", "text", "tspan"} | {
    *("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "linearGradient", "radialGradient", "stop")
}
DESCRIBING = {"metadata", "style", "title", "desc"}  # the page has its own caption and style
MATPLOTLIB_STYLE = "stroke-linejoin:round;stroke-linecap:butt"  # its style sheet's one rule, which would reach the page
PIXELS_PER_POINT = 96 / 72
ENLARGED = 1.45  # figures have the size of a column on paper, and screens are read from a greater distance


def write_page(
    path: Path,
    *,
    title: str,
    verdicts: Sequence[str],
    exhibits: Mapping[str, Exhibit],
    files: Mapping[str, Sequence[Path]],
    methods: str,
    references: str,
    runs: Sequence[Run],
) -> Path:
    """Write the page to `path` and return it. BenchError where samples or an SVG can't be read.

    exhibits, files: figures and tables by place in the report, e.g. "figures/frontier", and the files of each; a
    figure's SVG is among them. methods, references: text to copy, Markdown and BibTeX.
    """
    style, script = ((ASSETS / name).read_text() for name in ("page.css", "page.js"))
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    # this very style and this script, and nothing else; drawings may style themselves and hold images
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes[1]}'; style-src-elem 'sha256-{hashes[0]}'; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    apart = distinctions([run.config for run in runs])
    samples = sample_columns(runs)
    configs = [{name: value for name, value in run.config.items() if name not in NOT_COMPARED} for run in runs]
    places = {id(run): position for position, run in enumerate(runs)} if samples["text"] else {}
    shown = {name: _shown(name, exhibit, files[name], path.parent, places) for name, exhibit in exhibits.items()}
    environment = Environment(  # it escapes every value that is not marked as safe: the style, the script, the drawings
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["counted"] = lambda count, noun: f"{count:,} {noun}{'' if count == 1 else 's'}"
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    page = environment.get_template("page.html").render(
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        title=title,
        verdicts=verdicts,
        figures=[shown[name] for name, exhibit in exhibits.items() if isinstance(exhibit, Figure)],
        tables=[shown[name] for name, exhibit in exhibits.items() if isinstance(exhibit, Table)],
        methods=methods,
        references=references,
        runs=len(runs),
        seeds=sorted({run.config["seed"] for run in runs}),
        codes=sorted({str(run.metrics.get("code")) for run in runs}),
        differ=bool(apart[0]),
        grid=_runs_grid(runs, apart, places),
        settings=yaml.safe_dump(_shared(configs), sort_keys=False, allow_unicode=True),
        samples=samples,
    )
    with atomically(path) as beside:
        beside.write_text(f"{page}\n", encoding="utf-8", newline="\n")
    return path


def _shown(
    name: str, exhibit: Exhibit, files: Sequence[Path], folder: Path, places: Mapping[int, int]
) -> dict[str, Any]:
    """What the template needs of a figure or table. Drawings refer to ids, which hold letters, digits and hyphens."""
    ident = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    addresses = [quote(Path(os.path.relpath(file, folder)).as_posix()) for file in files]
    formats = [FORMATS[file.suffix] for file in files]
    shown = {"exhibit": exhibit, "id": ident, "files": list(zip(formats, addresses, strict=True))}
    if isinstance(exhibit, Table):
        headings, *texts = exhibit.texts
        values = [[_sort_value(row[key]) for key in exhibit.shown_columns] for row in exhibit.rows]
        rows = [list(zip(*row, strict=True)) for row in zip(texts, values, strict=True)]
        return shown | {"grid": _grid(headings, rows, [_link(*behind, places) for behind in exhibit.behind])}
    (svg,) = (path for path in files if path.suffix == ".svg")
    drawing, width = inline_svg(svg, name=ident, described_by=f"{ident}-caption")
    return shown | {"drawing": Markup(drawing), "width": f"{width * ENLARGED + FRAME:.0f}", "scrolls": width > PHONE}


def _link(runs: Sequence[Run], policy: str, places: Mapping[int, int]) -> dict[str, str] | None:
    """The filters of the browser of samples that show the completions of a row: positions of runs, and a policy."""
    positions = sorted({places[id(run)] for run in runs if id(run) in places})
    return {"runs": ",".join(map(str, positions)), "policy": ARMS.get(policy, policy)} if positions else None


def _runs_grid(runs: Sequence[Run], apart: Sequence[dict[str, str]], places: Mapping[int, int]) -> dict[str, Any]:
    """One row per run: its id, its seed, and what sets it apart."""
    rows: list[list[Cell]] = []
    for run, settings in zip(runs, apart, strict=True):
        seed = str(run.config["seed"])
        rows.append([(run.folder.name, None), (seed, seed)])
        for text in settings.values():
            rows[-1].append((text, _sort_value(text if (number := as_number(text)) is None else number)))
    return _grid(["run", "seed", *apart[0]], rows, [_link([run], "", places) for run in runs])


def _grid(
    headings: Sequence[str], rows: Sequence[Sequence[Cell]], links: Sequence[dict[str, str] | None]
) -> dict[str, Any]:
    """A table, with headings (text, whether all cells sort as numbers). links: per row, where rows have completions."""
    numeric = [all(row[column][1] is not None for row in rows) for column in range(len(headings))]
    first = [next((column for column, (text, _) in enumerate(row) if text), 0) for row in rows]  # this cell is the link
    at = [
        link and {**link, "column": str(column)}
        for link, column in zip(links or [None] * len(rows), first, strict=True)
    ]
    return {"headings": list(zip(headings, numeric, strict=True)), "rows": list(zip(rows, at, strict=True))}


def _sort_value(value: Any) -> str | None:
    """The number that a cell is sorted by; "" where it has none, None where it is sorted by its text."""
    if isinstance(value, bool | str):
        return None
    if value is None or math.isnan(value):
        return ""
    return repr(float(value)).replace("inf", "Infinity")  # as JavaScript reads it


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that are equal in all runs."""
    shared: dict[str, Any] = {}
    for name, value in configs[0].items():
        values: list[Any] = [config.get(name) for config in configs]
        if all(isinstance(other, dict) for other in values):
            if inner := _shared(values):
                shared[name] = inner
        elif all(name in config for config in configs) and all(other == value for other in values):
            shared[name] = value
    return shared


def inline_svg(path: Path, *, name: str, described_by: str) -> tuple[str, float]:
    """The drawing as an `<svg role="img">` whose ids begin with `name`, and its width on paper in CSS pixels.

    described_by: the id of the element that describes it. BenchError where the file is not a plain drawing.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
        _simplify(root, name)
        width, _ = (float(size) for size in root.get("viewBox", "").split()[2:])
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise BenchError(f"{path} can't be put on a page ({error}); build the report again.") from error
    root.attrib.pop("height", None)
    root.set("width", f"{width * PIXELS_PER_POINT * ENLARGED:.0f}")
    root.set("style", f"{MATPLOTLIB_STYLE};min-width:{width * PIXELS_PER_POINT:.0f}px")  # readable
    root.set("role", "img")
    root.set("aria-labelledby", described_by)
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode"), width * PIXELS_PER_POINT


def _simplify(node: ElementTree.Element, name: str) -> None:
    """Drop namespaces, descriptions and handlers; prefix ids. ValueError where an element is no part of a drawing."""
    node.tag = _local(node.tag)
    if node.tag not in DRAWING:
        raise ValueError(f"<{node.tag}> is no part of a drawing")
    attributes = {_local(key): value for key, value in node.attrib.items()}
    node.attrib.clear()
    for key, value in attributes.items():
        if key.startswith("on") or key in ("space", "version"):
            continue
        if key == "href":
            if not value.startswith(("#", "data:image/png;base64,")):
                raise ValueError(f"it refers to {value}")
            value = f"#{name}-{value[1:]}" if value.startswith("#") else value
        elif key == "id":
            value = f"{name}-{value}"
        node.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for child in list(node):
        if _local(child.tag) in DESCRIBING:
            node.remove(child)
        else:
            _simplify(child, name)


def _local(tag: str) -> str:
    return tag.rsplit("}", 1)[-1]
