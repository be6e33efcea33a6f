"""A report as a folder: figures, tables, one page, a methods paragraph, and a manifest that says what it was made from.

Equal records give equal bytes. `check` says what of a report is stale, changed or missing.
"""

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.artifacts import content_hash
from bench.errors import BenchError
from bench.reporting.collect import Run, read_run
from bench.reporting.exhibit import Exhibit, Table, records_of
from bench.reporting.figures import figures
from bench.reporting.files import stamp_of, write_figure
from bench.reporting.methods import methods, references
from bench.reporting.page import write_page
from bench.reporting.sources import MANIFEST
from bench.reporting.tables import latex, markdown, tables
from bench.reporting.verdicts import verdicts
from bench.store import write_durably

PAGE = "index.html"


def build(runs: Sequence[Run], folder: Path, *, title: str, notes: Sequence[str] = ()) -> Path:
    """Write everything that these runs' records hold into `folder`; returns the page.

    What an earlier report left there and this one does not make is removed; other files are left alone.
    """
    drawn, made, sentences = figures(runs), tables(runs), [*verdicts(runs), *notes]
    earlier = _manifest(folder) if (folder / MANIFEST).is_file() else {"files": {}}
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    exhibits: dict[str, dict[str, Any]] = {}
    vector: dict[str, Path] = {}
    for figure in drawn:
        paths = write_figure(figure, folder / "figures")
        (vector[figure.name],) = [path for path in paths if path.suffix == ".svg"]
        exhibits[f"figures/{figure.name}"] = _described(figure, paths, folder)
    written_tables = {table.name: _write_table(table, folder / "tables") for table in made}
    for table in made:
        exhibits[f"tables/{table.name}"] = _described(table, written_tables[table.name], folder)
    text = methods(runs)
    cited = references(text)
    others = {
        "tables.md": "\n\n".join(_section(table) for table in made) + "\n",
        "verdicts.md": "".join(f"- {sentence}\n" for sentence in sentences),
        "methods.md": text,
        "references.bib": cited,
    }
    for name, content in others.items():
        write_durably(folder / name, content)
    page = write_page(
        folder / PAGE,
        title=title,
        verdicts=sentences,
        figures=drawn,
        figure_files=vector,
        tables=made,
        table_files=written_tables,
        methods=text,
        references=cited,
        runs=runs,
    )
    written = sorted({*others, PAGE, *(name for one in exhibits.values() for name in one["files"])})
    manifest = {
        "title": title,
        "runs": [
            {"id": run.folder.name, "folder": _seen_from(folder, run.folder), "code": run.metrics.get("code")}
            for run in runs
        ],
        "notes": list(notes),
        "words": _words(runs),
        "exhibits": exhibits,
        "files": {name: _sha256(folder / name) for name in written},
    }
    for name in set(earlier["files"]) - set(written):
        (folder / name).unlink(missing_ok=True)
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return page


def check(folder: Path, runs: Sequence[Run] | None = None) -> list[str]:
    """What is wrong with the report in `folder`, a line each; nothing where it is whole and up to date.

    Every file must be there as it was written, and every figure and table must carry the stamp of the CSV beside it.
    runs: what the report should be of; without them, those that it names, where their folders are still there. Their
    records are read anew, and an exhibit that they would make differently is stale. A report whose records are all
    elsewhere is checked by its own files alone.
    """
    try:
        manifest = _manifest(folder)
    except BenchError as error:
        return [str(error)]
    problems = [*_of_files(folder, manifest), *_of_stamps(folder, manifest)]
    if runs is None:
        runs, missing = _named(folder, manifest)
        problems += missing
    if runs:
        problems += _of_records(manifest, runs)
    return problems


def records_found(folder: Path) -> bool:
    """Whether any of the runs that a report names is still there to compare it with."""
    return any((folder / run["folder"]).is_dir() for run in _manifest(folder)["runs"])


def _of_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    problems = []
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            problems.append(f"{folder / name} is missing")
        elif _sha256(folder / name) != expected:
            problems.append(f"{folder / name} was changed since the report was made")
    return problems


def _of_stamps(folder: Path, manifest: dict[str, Any]) -> list[str]:
    problems = []
    for exhibit in manifest["exhibits"].values():
        for path in (folder / name for name in exhibit["files"] if (folder / name).is_file()):
            carried = _stamp_in(path)
            if carried != exhibit["stamp"]:
                problems.append(f"{path} carries another stamp than its report ({carried or 'none'})")
            elif path.suffix == ".csv" and not carried.endswith(f"records {_records_in(path)}"):
                problems.append(f"{path} holds other numbers than its stamp says")
    return problems


def _of_records(manifest: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    made: list[tuple[str, Exhibit]] = [
        *((f"figures/{figure.name}", figure) for figure in figures(runs)),
        *((f"tables/{table.name}", table) for table in tables(runs)),
    ]
    now = {name: exhibit.stamp for name, exhibit in made}
    then = {name: exhibit["stamp"] for name, exhibit in manifest["exhibits"].items()}
    stale = [name for name in now if name in then and now[name] != then[name]]
    problems = [f"{name} is stale: its records or runs have changed" for name in stale]
    problems += [f"{name} is not in the report, though its records are there" for name in now if name not in then]
    problems += [f"{name} can't be made any more: its data is missing" for name in then if name not in now]
    if manifest["words"] != _words(runs):
        problems.append(f"{PAGE} is stale: the verdicts, the methods or the samples that it shows have changed")
    return problems


def _words(runs: Sequence[Run]) -> str:
    """A hash of what a report shows beside its figures and tables: sentences and samples."""
    samples = [run.folder / "samples.parquet" for run in runs]
    return content_hash(verdicts(runs), methods(runs), [_sha256(path) if path.is_file() else "" for path in samples])


def _named(folder: Path, manifest: dict[str, Any]) -> tuple[list[Run], list[str]]:
    """The runs that a report names, and what of them is missing; neither where none is there."""
    folders = [folder / run["folder"] for run in manifest["runs"]]
    there = [one for one in folders if (one / "metrics.json").is_file()]
    if not any(one.is_dir() for one in folders):
        return [], []
    missing = [f"{one} is missing: the report is of its records" for one in folders if one not in there]
    return [read_run(os.path.normpath(one)) for one in there] if not missing else [], missing


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} holds no report ({MANIFEST} is missing or damaged); build it first.") from error


def _described(exhibit: Exhibit, paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    return {"stamp": exhibit.stamp, "files": sorted(path.relative_to(folder).as_posix() for path in paths)}


def _write_table(table: Table, folder: Path) -> list[Path]:
    texts = {".csv": table.as_csv, ".md": f"<!-- {table.stamp} -->\n\n{_section(table)}\n", ".tex": latex(table)}
    for suffix, text in texts.items():
        write_durably(folder / f"{table.name}{suffix}", text)
    return [folder / f"{table.name}{suffix}" for suffix in texts]


def _section(table: Table) -> str:
    return f"{markdown(table.texts)}\n\n*{table.caption}*"


def _stamp_in(path: Path) -> str:
    """What a file of an exhibit carries; empty where it carries none."""
    if path.suffix in (".csv", ".md", ".tex"):
        first = path.read_text().split("\n", 1)[0]
        return first.removeprefix("<!-- ").removesuffix(" -->").lstrip("#% ")
    return stamp_of(path)


def _records_in(path: Path) -> str:
    with path.open(newline="") as file:
        next(file)  # the stamp
        return records_of(list(csv.reader(file)))


def _seen_from(folder: Path, run: Path) -> str:
    return Path(os.path.relpath(run.absolute(), folder.absolute())).as_posix()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
