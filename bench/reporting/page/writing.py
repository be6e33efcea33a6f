"""The page of a report: what was found in words, then what it rests on, down to the completions."""

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import yaml

from bench.records.read import Run
from bench.reporting.exhibit import Exhibit, Figure, Table
from bench.reporting.groups import PLACES, distinctions
from bench.reporting.page.samples import sample_columns, script_json
from bench.reporting.page.svg import ENLARGED, inline_svg
from bench.store import atomically

ASSETS = Path(__file__).parent
PHONE = 340  # CSS pixels beside each other on a small phone: a wider drawing scrolls there
FRAME = 26  # CSS pixels that surround a drawing, left and right together
TABLE_FORMATS = {".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX"}
FORMATS = {".pdf": "PDF", ".svg": "SVG", ".png": "PNG", ".csv": "CSV"}  # of a figure's files, beside its SVG


def write_page(
    path: Path,
    *,
    title: str,
    verdicts: Sequence[str],
    figures: Sequence[Figure],
    figure_files: Mapping[str, Path],
    tables: Sequence[Table],
    table_files: Mapping[str, Sequence[Path]],
    methods: str,
    references: str,
    runs: Sequence[Run],
) -> Path:
    """One HTML file at `path` that loads nothing; figure_files: a figure's name -> its SVG, other formats beside it.

    table_files: a table's name -> its files. methods, references: what is to be pasted, Markdown and BibTeX.

    Equal arguments and records give equal bytes. BenchError where samples or an SVG can't be read.
    """
    style, script = ((ASSETS / name).read_text() for name in ("page.css", "page.js"))
    samples = sample_columns(runs)
    page = Template((ASSETS / "page.html").read_text()).substitute(
        policy=_content_policy(style, script),
        title=escape(title),
        summary=escape(_summary(runs)),
        style=style,
        verdicts=_verdicts(verdicts),
        figures=_figures(figures, figure_files, path.parent),
        tables="\n".join(_exhibited(table, table_files[table.name], path.parent) for table in tables)
        or "<p>No table can be made of these runs.</p>",
        methods=_methods(methods, references),
        runs=_runs(runs),
        samples_note=_samples_note(samples),
        data=script_json(samples),
        script=script,
    )
    with atomically(path) as beside:
        beside.write_text(page, encoding="utf-8", newline="\n")
    return path


def _content_policy(style: str, script: str) -> str:
    """Nothing but this very style and script; drawings may style themselves and hold images."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src-elem '{_hash(style)}'; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _summary(runs: Sequence[Run]) -> str:
    seeds = sorted({run.config["seed"] for run in runs})
    code = sorted({str(run.metrics.get("code")) for run in runs})
    numbered = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    return f"{_count(len(runs), 'run')}, {numbered}; code {' and '.join(code)}"


def _verdicts(sentences: Sequence[str]) -> str:
    if not sentences:
        return "<p>These runs compare nothing.</p>"
    return f'<ul class="verdicts">{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul>'


def _figures(figures: Sequence[Figure], files: Mapping[str, Path], folder: Path) -> str:
    if not figures:
        return "<p>No figure can be drawn from these runs.</p>"
    return f'<div class="figures">{"".join(_figure(figure, files[figure.name], folder) for figure in figures)}</div>'


def _figure(figure: Figure, svg: Path, folder: Path) -> str:
    ident = f"figure-{_ident(figure.name)}"
    files = {label: svg.with_suffix(suffix) for suffix, label in FORMATS.items()}
    links = "".join(
        f'<a href="{_relative(file, folder)}" aria-label="{label} of {escape(figure.name)}">{label}</a>'
        for label, file in files.items()
        if file.is_file()
    )
    drawing, width = inline_svg(svg, name=ident, described_by=f"{ident}-caption")
    scrolls = f' role="region" tabindex="0" aria-labelledby="{ident}-caption"' if width > PHONE else ""
    return (
        f'<figure id="{ident}" style="width:{width * ENLARGED + FRAME:.0f}px">'
        f'<div class="drawing"{scrolls}>{drawing}</div>'
        f'<figcaption id="{ident}-caption">{escape(figure.caption)}</figcaption>'
        f'<p class="files">{links}</p>{_provenance(figure)}</figure>\n'
    )


def _exhibited(table: Table, files: Sequence[Path], folder: Path) -> str:
    ident = f"table-{_ident(table.name)}"
    headings, *rows = table.texts
    keys = [key for key in table.columns if any(row[key] not in (None, "") for row in table.rows)]
    values = [[_sort_value(row[key]) for key in keys] for row in table.rows]
    links = "".join(
        f'<a href="{_relative(file, folder)}" aria-label="{TABLE_FORMATS[file.suffix]} of {escape(table.name)}">'
        f"{TABLE_FORMATS[file.suffix]}</a>"
        for file in files
    )
    return (
        f'<div class="table" id="{ident}"><p class="caption" id="{ident}-caption">{escape(table.caption)}</p>'
        f"{_table(headings, rows, values, described_by=f'{ident}-caption')}"
        f'<p class="files">{links}</p>{_provenance(table)}</div>'
    )


def _methods(text: str, references: str) -> str:
    """To be copied as it is: Markdown with citations, and the BibTeX of what it cites."""
    return (
        f'<pre class="prose" tabindex="0" aria-label="Methods, Markdown">{escape(text)}</pre>'
        f'<details><summary>BibTeX</summary><pre tabindex="0" aria-label="BibTeX">{escape(references)}</pre></details>'
    )


def _runs(runs: Sequence[Run]) -> str:
    """What sets the runs apart, one row each, and what they share."""
    apart = distinctions([run.config for run in runs])
    headings = ["run", "seed", *apart[0]]
    rows = [
        [run.folder.name, str(run.config["seed"]), *settings.values()]
        for run, settings in zip(runs, apart, strict=True)
    ]
    values = [[None, row[1], *(_sort_value(_parsed(text)) for text in row[2:])] for row in rows]
    alike = _shared([_without_places(run.config) for run in runs])
    shared = yaml.safe_dump(alike, sort_keys=False, allow_unicode=True)
    caption = (
        "The runs, and the settings in which they differ."
        if apart[0]
        else "The runs: they differ in no setting but the seed."
    )
    if len(runs) == 1:
        caption = "The run."
    return (
        f'<div class="table"><p class="caption" id="runs-caption">{escape(caption)}</p>'
        f"{_table(headings, rows, values, described_by='runs-caption')}"
        f"<details><summary>{'Settings' if len(runs) == 1 else 'Settings that all share'}</summary>"
        f'<pre tabindex="0">{escape(shared)}</pre></details></div>'
    )


def _samples_note(samples: Mapping[str, list]) -> str:
    if not samples["text"]:
        return "<p>These runs kept no samples.</p>"
    return (
        f'<p class="muted">{_count(len(samples["text"]), "completion")}: all of each run\'s first training prompts, '
        "with what they were selected for, and each policy's greedy ones of its first held-out prompts. With the "
        "list in focus, the arrow keys, Page Up, Page Down, Home and End choose one.</p>"
    )


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], values: Sequence[Sequence[str | None]], *, described_by: str
) -> str:
    """values: what each cell is sorted by, as a number; None: by its text."""
    numeric = [all(row[column] is not None for row in values) for column in range(len(headings))]
    kinds = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(heading)}</th>' for heading, kind in zip(headings, kinds, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(map(_cell, row, row_values, kinds))}</tr>\n"
        for row, row_values in zip(rows, values, strict=True)
    )
    return (
        f'<div class="scroll" role="region" aria-labelledby="{described_by}" tabindex="0">'
        f'<table aria-labelledby="{described_by}"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
    )


def _cell(text: str, value: str | None, kind: str) -> str:
    sorted_by = "" if value is None else f' data-value="{value}"'
    return f"<td{kind}{sorted_by}>{escape(text)}</td>"


def _sort_value(value: Any) -> str | None:
    """A number as text, nothing where there is none, None where a cell is sorted by its text."""
    if isinstance(value, bool | str):
        return None
    if value is None or math.isnan(value):
        return ""
    return repr(float(value)).replace("inf", "Infinity")  # as JavaScript reads it


def _parsed(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _provenance(exhibit: Exhibit) -> str:
    return f"<details><summary>From which records</summary><p>{escape(exhibit.stamp)}</p></details>"


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that are alike in all of them."""
    shared: dict[str, Any] = {}
    for name, value in configs[0].items():
        if not all(name in config for config in configs):
            continue
        values = [config[name] for config in configs]
        if all(isinstance(other, dict) for other in values):
            if inner := _shared(values):
                shared[name] = inner
        elif all(other == value for other in values):
            shared[name] = value
    return shared


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in PLACES}


def _relative(file: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(file, folder)).as_posix())


def _ident(name: str) -> str:
    """Letters, digits and hyphens of a name: what an id, and a reference to it in a drawing, can hold."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
