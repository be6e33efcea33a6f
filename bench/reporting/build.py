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
from bench.records.read import Run, read_run
from bench.reporting.exhibit import Exhibit, Table, records_of
from bench.reporting.exhibits import figures, tables
from bench.reporting.exhibits import sentences as verdicts
from bench.reporting.files import stamp_of, write_figure
from bench.reporting.manifest import FOLDERS, MANIFEST, PAGE, is_of_report, made_earlier, read_manifest
from bench.reporting.methods import methods, references
from bench.reporting.page import write_page
from bench.reporting.tables import latex, markdown
from bench.store import write_durably


def build(runs: Sequence[Run], folder: Path, *, title: str, notes: Sequence[str] = ()) -> Path:
    """Write everything that these runs' records hold into `folder`; returns the page.

    What an earlier report left there and this one does not make is removed; other files are left alone. BenchError
    where `folder` is that of a run, or can't be written.
    """
    _read_ahead(runs)
    _prepare(folder)
    drawn, made, sentences = figures(runs), tables(runs), [*verdicts(runs), *notes]
    earlier = made_earlier(folder)
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
    for name in set(earlier) - set(written):
        if not (folder / name).is_dir():
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
    problems = []
    try:
        manifest = read_manifest(folder)
        problems += [*_of_files(folder, manifest), *_of_stamps(folder, manifest)]
        if runs is None:
            runs, missing = _named(folder, manifest)
            problems += missing
        if runs:
            problems += _of_records(manifest, runs)
    except BenchError as error:  # no report, or records that can't be read: other reports are checked all the same
        problems.append(str(error))
    return problems


def records_elsewhere(folder: Path) -> bool:
    """Whether none of the runs that a report names is there to compare it with."""
    try:
        return not any((folder / run["folder"]).is_dir() for run in read_manifest(folder)["runs"])
    except BenchError:
        return False


def _read_ahead(runs: Sequence[Run]) -> None:
    """BenchError where a record is damaged that figures, tables or the page will need: now, not minutes later."""
    for run in runs:
        for read in ("prompt_ids", "lineage", "samples"):
            getattr(run, read)


def _prepare(folder: Path) -> None:
    for name in ("config.yaml", "metrics.json"):
        if (folder / name).exists():
            raise BenchError(
                f"folder={folder} is not allowed: it holds a run's {name}; give the report another folder."
            )
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"folder={folder} can't be written ({error.strerror}); give another: folder=PATH.") from error


def _of_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    problems = []
    for name, expected in manifest["files"].items():
        try:
            if not is_of_report(name):
                problems.append(f"{folder / MANIFEST} names {name}, which no report writes")
            elif not (folder / name).is_file():
                problems.append(f"{folder / name} is missing")
            elif _sha256(folder / name) != expected:
                problems.append(f"{folder / name} was changed since the report was made")
        except OSError as error:
            problems.append(f"{folder / name} can't be read ({error.strerror})")
    return problems


def _of_stamps(folder: Path, manifest: dict[str, Any]) -> list[str]:
    problems = []
    for exhibit in manifest["exhibits"].values():
        for path in (folder / name for name in exhibit["files"] if is_of_report(name) and (folder / name).is_file()):
            try:
                carried = _stamp_in(path)
                if carried != exhibit["stamp"]:
                    problems.append(f"{path} carries another stamp than its report ({carried or 'none'})")
                elif path.suffix == ".csv" and not carried.endswith(f"records {_records_in(path)}"):
                    problems.append(f"{path} holds other numbers than its stamp says")
            except (BenchError, OSError, ValueError, csv.Error) as error:
                said = str(error) if isinstance(error, BenchError) else f"{path} can't be read ({error})"
                problems.append(said)
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
    if manifest.get("words") != _words(runs):
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
