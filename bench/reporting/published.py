"""A committed report: its README from a template, the records that it is made from, and the figures that it shows.

A folder that holds README.md.j2 is one. Everything else of a report is made from its records:

    python -m bench.report sweep=NAME folder=reports/NAME   from new runs: records, README and figures
    python -m bench.report reports/NAME                     README and figures from its records, e.g. after an edit
    python -m bench.report reports/NAME folder=PATH         the whole report, with all tables and formats
    python -m bench.report --check reports/NAME             is it what its records give?

A folder without records may hold README.md.j2 too. It refers to committed reports inside the folder, by
{{ report("NAME").cell(...) }}, or to CSV files there: `python -m bench.report reports` renders it. Its report.json has
the checksums of the CSV files and figures beside it, and the environments that environment.csv names.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.errors import BenchError, did_you_mean, first_line, quoted
from bench.records import packed
from bench.records.environment import OF_TABLES, read_noted
from bench.records.read import Run
from bench.reporting import files
from bench.reporting.exhibit import Figure, from_records
from bench.reporting.exhibits import Part, figures, sentences, tables
from bench.reporting.figure_settings import FigureSettings, read
from bench.reporting.files import TEMPLATE, write_figure
from bench.reporting.groups import in_order
from bench.reporting.references import FILTERS, Book
from bench.reporting.words import wrapped
from bench.store import write_durably

README = "README.md"
SETTINGS = "figures.yaml"  # of the figures, where the folder holds it
SHOWN = re.compile(r"\]\(figures/([^/)]+)\.png\)")
FORMATS = ("png", "pdf")


def publish(
    runs: Sequence[Run], folder: Path, *, title: str, notes: Sequence[str] = (), own: Sequence[Part] = ()
) -> Path:
    """Write README.md, the figures that it shows, report.json and, of runs from elsewhere, the records.

    Returns the README. BenchError where the template refers to what is not there; README.md is then as it was.
    """
    if not (folder / packed.FILE).is_file() or runs[0].folder not in packed.run_folders(folder):
        for run in runs:
            run.verify()
        noting = packed.NotedRun.of(runs)  # the values per prompt that a whole report reads
        for make in (figures, tables, sentences):
            make(noting, own)
        packed.pack(runs, noting[0].noted, folder / packed.FILE)
        runs = in_order(packed.read_packed(folder))
    elif (folder / files.MANIFEST).is_file():
        notes = files.read_manifest(folder).get("notes", notes)  # on what was left out when the records were packed
    text, shown, wanted = _rendered(runs, folder, own)
    paths: dict[str, list[str]] = {}
    for figure in wanted.of(shown):
        with from_records(figure.name, runs):
            made = write_figure(figure, folder / "figures", FORMATS)
        paths[figure.name] = sorted(path.relative_to(folder).as_posix() for path in made)
    manifest = {
        "title": title,
        "notes": list(notes),
        "environment": packed.environments(runs),
        "runs": [
            {"id": run.folder.name, "folder": f"{packed.FILE}/{run.folder.name}", "code": run.metrics.get("code")}
            for run in runs
        ],
        "exhibits": {
            f"figures/{figure.name}": {"stamp": figure.stamp, "files": paths[figure.name]} for figure in shown
        },
    }
    write_durably(folder / README, text)
    files.write_manifest(folder, manifest, [packed.FILE, *(name for names in paths.values() for name in names)])
    for place in (folder / name for name in files.FOLDERS):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
    return folder / README


def is_page(folder: Path) -> bool:
    """Whether the folder holds the template of a README, and no runs of its own."""
    if not files.is_published(folder) or (folder / packed.FILE).is_file():
        return False
    try:
        return not files.read_manifest(folder)["runs"]
    except BenchError:  # missing, or damaged
        return True


def publish_page(folder: Path) -> Path:
    """Write the README of a folder without records, and report.json where it holds files; return the README."""
    write_durably(folder / README, render(folder / TEMPLATE, Book.of(folder)))
    (folder / files.MANIFEST).unlink(missing_ok=True)
    if own := [path.name for path in files.of_page(folder)]:
        manifest = {"runs": [], "exhibits": {}, "environment": _environments(folder)}
        files.write_manifest(folder, manifest, own)
    return folder / README


def _environments(folder: Path) -> list[str]:
    """Those that made the tables of a folder without records."""
    names = [path.name for path in files.of_page(folder) if path.suffix == ".csv" and path.name != OF_TABLES]
    return sorted({read_noted(folder).get(name, "not recorded") for name in names})


def check(folder: Path, own: Sequence[Part] = ()) -> list[str]:
    """What is wrong with a committed report, one line each: it is rendered anew from its records and compared.

    Figures are not drawn: their files have to be as they were written, from numbers that the records still give.
    """
    problems: list[str] = []
    try:
        if is_page(folder):
            data = files.of_page(folder)
            if data or (folder / files.MANIFEST).is_file():
                manifest = files.read_manifest(folder)
                problems += files.changed_files(folder, manifest, may=files.is_page_file)
                problems += [
                    f"{path} is not in {files.MANIFEST}" for path in data if path.name not in manifest["files"]
                ]
                if manifest.get("environment") != _environments(folder):
                    problems.append(f"{folder / files.MANIFEST} names other environments than {OF_TABLES}")
            return problems + _other_lines(folder / README, render(folder / TEMPLATE, Book.of(folder)))
        manifest = files.read_manifest(folder)
        problems += files.changed_files(folder, manifest)
        runs = in_order(packed.read_packed(folder))
        for run in runs:
            run.verify()
        text, shown, _ = _rendered(runs, folder, own)
    except BenchError as error:  # other reports are checked all the same
        return [*problems, str(error)]
    problems += _other_lines(folder / README, text)
    if manifest.get("environment") != packed.environments(runs):
        problems.append(f"{folder / files.MANIFEST} names another environment than the records of the runs")
    then = {name: exhibit["stamp"] for name, exhibit in manifest["exhibits"].items()}
    now = {f"figures/{figure.name}": figure.stamp for figure in shown}
    problems += [
        f"{folder / name} is stale: its records give other numbers" for name in now if then.get(name) != now[name]
    ]
    return problems


def render(template: Path, book: Book) -> str:
    """The text of a template. BenchError, with the line, where it refers to what is not there."""
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    language = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    language.filters = dict(FILTERS)  # Jinja's own would take a number from its interval
    language.globals = {
        "dict": dict,
        "report": functools.cache(lambda *names: Book.of(*(template.parent / name for name in names))),
        **{name: getattr(book, name) for name in ("rows", "cell", "difference", "degrees", "metric", "over_seeds")},
        "runs": len(book.runs),
        "seeds": len({run.config["seed"] for run in book.runs}),
        "environment": "; or ".join(packed.environments(book.runs) or _environments(template.parent)),
    }
    try:
        return wrapped(language.get_template(template.name).render())
    except Exception as error:  # whatever the template asks for: a text as a number, a division by 0
        line, trace = getattr(error, "lineno", None), error.__traceback__
        while trace and not line:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(template) else None
            trace = trace.tb_next
        reason = first_line(error)
        if "unsupported operand" in reason:
            reason = "references can't be added or subtracted; difference(OURS, THEIRS) has the interval too"
        near = re.match(r"'(\w+)' is undefined|No filter named '(\w+)'", reason)
        hint = did_you_mean(near[1] or near[2], [*language.globals, *FILTERS]) if near else ""
        raise BenchError(f"{template}, line {line}: {reason.rstrip('.')}{hint or '.'}".replace("?.", "?")) from error


def _rendered(runs: Sequence[Run], folder: Path, own: Sequence[Part]) -> tuple[str, list[Figure], FigureSettings]:
    """The text of the README, the figures that it shows, and how they are wanted."""
    wanted = read([f"figures={folder / SETTINGS}"] if (folder / SETTINGS).is_file() else [])
    book = Book(runs, own, wanted)
    text = render(folder / TEMPLATE, book)
    shown = [book.exhibit(f"figures/{name}") for name in dict.fromkeys(SHOWN.findall(text))]
    others = {name: settings for name, settings in wanted.own.items() if name in [figure.name for figure in shown]}
    return text, [figure for figure in shown if isinstance(figure, Figure)], replace(wanted, only=None, own=others)


def _other_lines(path: Path, text: str) -> list[str]:
    """A line where the README is not what its template and records give: the first difference, with its place."""
    if not path.is_file():
        return [f"{path} is missing"]
    pairs = itertools.zip_longest(path.read_text().splitlines(), text.splitlines(), fillvalue="")
    for line, (written, expected) in enumerate(pairs, 1):
        if written != expected:
            start = next((i for i, (a, b) in enumerate(zip(written, expected, strict=False)) if a != b), 0)
            there, here = (quoted(side[max(0, start - 20) : start + 40]) for side in (written, expected))
            return [f"{path}, line {line}, says {there!r}, where the template and the records give {here!r}"]
    return []
