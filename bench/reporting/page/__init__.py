"""A report as one HTML file that loads nothing: verdicts, figures, tables, methods, runs, and a browser of samples."""

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.records.read import Run, as_number
from bench.reporting.exhibit import Exhibit, Figure, Table
from bench.reporting.groups import NOT_COMPARED, distinctions
from bench.reporting.page.samples import sample_columns
from bench.reporting.page.svg import ENLARGED, inline_svg
from bench.reporting.words import ARMS
from bench.store import atomically

ASSETS = Path(__file__).parent
PHONE = 340  # CSS pixels that a small phone shows side by side; a wider drawing scrolls there
FRAME = 26  # CSS pixels around a drawing, left and right together
FORMATS = {".pdf": "PDF", ".svg": "SVG", ".png": "PNG", ".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX"}


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
    figure's SVG is among them.
    methods, references: text to copy, Markdown and BibTeX.

    Equal arguments and records give equal bytes.
    """
    style, script = ((ASSETS / name).read_text() for name in ("page.css", "page.js"))
    apart = distinctions([run.config for run in runs])
    samples = sample_columns(runs)
    places = {id(run): position for position, run in enumerate(runs)} if samples["text"] else {}
    shown = {name: _shown(name, exhibit, files[name], path.parent, places) for name, exhibit in exhibits.items()}
    page = _template().render(
        policy=_content_policy(style, script),
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
        settings=_shared_settings(runs),
        samples=samples,
    )
    with atomically(path) as beside:
        beside.write_text(f"{page}\n", encoding="utf-8", newline="\n")
    return path


def _template() -> Any:
    """page.html. It escapes every value that is not marked as safe here (the style, the script, the drawings)."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["counted"] = lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}"
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html")


def _content_policy(style: str, script: str) -> str:
    """Allow this very style and this script, and nothing else; drawings may style themselves and hold images."""
    style_hash, script_hash = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)
    )
    return (
        f"default-src 'none'; script-src {script_hash}; style-src-elem {style_hash}; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _shown(
    name: str, exhibit: Exhibit, files: Sequence[Path], folder: Path, places: Mapping[int, int]
) -> dict[str, Any]:
    """What the template needs of a figure or table. Drawings refer to ids, which hold letters, digits and hyphens."""
    ident = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    addresses = [quote(Path(os.path.relpath(file, folder)).as_posix()) for file in files]
    formats = [FORMATS[file.suffix] for file in files]
    shown = {"exhibit": exhibit, "id": ident, "files": list(zip(formats, addresses, strict=True))}
    if isinstance(exhibit, Table):
        headings, *rows = exhibit.texts
        values = [[_sort_value(row[key]) for key in exhibit.shown_columns] for row in exhibit.rows]
        links = [_link(runs, policy, places) for runs, policy in exhibit.behind]
        return shown | {"grid": _grid(headings, rows, values, links)}
    (svg,) = (path for path in files if path.suffix == ".svg")
    drawing, width = inline_svg(svg, name=ident, described_by=f"{ident}-caption")
    return shown | {"drawing": Markup(drawing), "width": f"{width * ENLARGED + FRAME:.0f}", "scrolls": width > PHONE}


def _link(runs: Sequence[Run], policy: str, places: Mapping[int, int]) -> dict[str, str] | None:
    """The filters of the browser of samples that show the completions of a row: positions of runs, and a policy."""
    positions = sorted({places[id(run)] for run in runs if id(run) in places})
    return {"runs": ",".join(map(str, positions)), "policy": ARMS.get(policy, policy)} if positions else None


def _runs_grid(runs: Sequence[Run], apart: Sequence[dict[str, str]], places: Mapping[int, int]) -> dict[str, Any]:
    """One row per run: its id, its seed, and what sets it apart."""
    rows = [
        [run.folder.name, str(run.config["seed"]), *settings.values()]
        for run, settings in zip(runs, apart, strict=True)
    ]
    values = []
    for row in rows:
        numbers = map(as_number, row[2:])
        values.append([None, row[1], *(None if number is None else _sort_value(number) for number in numbers)])
    return _grid(["run", "seed", *apart[0]], rows, values, [_link([run], "", places) for run in runs])


def _grid(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    values: Sequence[Sequence[str | None]],
    links: Sequence[dict[str, str] | None],
) -> dict[str, Any]:
    """A table of cells (text, sort value), with headings (text, whether all cells of the column sort as numbers).

    links: per row, the filters that show its completions; empty where rows have none.
    """
    numeric = [all(row[column] is not None for row in values) for column in range(len(headings))]
    cells = [list(zip(texts, numbers, strict=True)) for texts, numbers in zip(rows, values, strict=True)]
    first = [next((column for column, text in enumerate(texts) if text), 0) for texts in rows]  # this cell is the link
    at = [
        link and {**link, "column": str(column)}
        for link, column in zip(links or [None] * len(rows), first, strict=True)
    ]
    return {"headings": list(zip(headings, numeric, strict=True)), "rows": list(zip(cells, at, strict=True))}


def _sort_value(value: Any) -> str | None:
    """The number that a cell is sorted by; "" where it has none, None where it is sorted by its text."""
    if isinstance(value, bool | str):
        return None
    if value is None or math.isnan(value):
        return ""
    return repr(float(value)).replace("inf", "Infinity")  # as JavaScript reads it


def _shared_settings(runs: Sequence[Run]) -> str:
    """The settings that are equal in all runs, as YAML."""
    configs = [{name: value for name, value in run.config.items() if name not in NOT_COMPARED} for run in runs]
    return yaml.safe_dump(_shared(configs), sort_keys=False, allow_unicode=True)


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for name, value in configs[0].items():
        values: list[Any] = [config.get(name) for config in configs]
        if all(isinstance(other, dict) for other in values):
            if inner := _shared(values):
                shared[name] = inner
        elif all(name in config for config in configs) and all(other == value for other in values):
            shared[name] = value
    return shared
