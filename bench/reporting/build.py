"""A report as a folder: figures, tables, one page, a methods paragraph, and a manifest. Equal records, equal bytes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.artifacts import content_hash
from bench.errors import BenchError
from bench.records.read import CONFIG, METRICS, SAMPLES, Run, is_finished, read_run
from bench.reporting import files
from bench.reporting.exhibit import Exhibit, Figure, Table, from_records
from bench.reporting.exhibits import Part, figures, tables
from bench.reporting.exhibits import sentences as verdicts
from bench.reporting.figure_settings import FigureSettings, settings_of
from bench.reporting.files import write_figure, write_table
from bench.reporting.methods import methods, references
from bench.reporting.page import write_page
from bench.reporting.tables import inline
from bench.store import write_durably
from bench.store.reading import sha256

ALL = FigureSettings()


def build(
    runs: Sequence[Run],
    folder: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    own: Sequence[Part] = (),
    wanted: FigureSettings = ALL,
) -> Path:
    """Write everything that the records of these runs hold into `folder`; returns the page.

    BenchError where `folder` is a run's, or can't be written. own: exhibits beside bench's
    (`bench.reporting.exhibits.from_configs`). wanted: which figures, and how.
    """
    for run in runs:  # a damaged record that will be needed is found now, not minutes later
        run.verify()
    _prepare(folder)
    exhibits, found, text = _exhibits(runs, own, wanted), verdicts(runs, own), _methods(runs)
    captioned = [files.captioned(exhibit) for exhibit in exhibits.values() if isinstance(exhibit, Table)]
    texts = {
        "tables.md": "\n\n".join(captioned) + "\n",
        "verdicts.md": "".join(f"- {inline(sentence)}\n" for sentence in [*found, *notes]),
        "methods.md": text,
        "references.bib": references(text),
    }
    paths: dict[str, list[Path]] = {}
    for name, exhibit in exhibits.items():
        write: Any = write_figure if isinstance(exhibit, Figure) else write_table
        with from_records(exhibit.name, exhibit.runs):
            paths[name] = write(exhibit, (folder / name).parent)
    for name, content in texts.items():
        write_durably(folder / name, content)
    with from_records(files.PAGE, runs):
        page = write_page(
            folder / files.PAGE,
            title=title,
            verdicts=[*found, *notes],
            exhibits=exhibits,
            files=paths,
            methods=text,
            references=texts["references.bib"],
            runs=runs,
        )
    described = {
        name: {"stamp": exhibit.stamp, "files": sorted(path.relative_to(folder).as_posix() for path in paths[name])}
        for name, exhibit in exhibits.items()
    }
    manifest = {
        "title": title,
        "runs": [
            {
                "id": run.folder.name,
                "folder": Path(os.path.relpath(run.folder.absolute(), folder.absolute())).as_posix(),
                "code": run.metrics.get("code"),
            }
            for run in runs
        ],
        "notes": list(notes),
        "words": _words(runs, found, text),
        "exhibits": described,
        **({} if wanted == ALL else {"wanted": wanted.settings}),
    }
    written = [*texts, files.PAGE, *(file for exhibit in described.values() for file in exhibit["files"])]
    files.write_manifest(folder, manifest, written)
    return page


def check(folder: Path, runs: Sequence[Run] | None = None, *, own: Sequence[Part] = ()) -> list[str]:
    """What is wrong with the report in `folder`, one line each: files that changed, exhibits that would be made anew.

    runs: what the report should show; by default the runs that it names, where their folders are still there. A report
    whose records are all elsewhere is checked by its own files alone.
    """
    problems: list[str] = []
    with _noted(problems):  # no report, or records that can't be read: other reports are checked all the same
        manifest = files.read_manifest(folder)
        problems += files.changed_files(folder, manifest)
        if runs is None:
            folders = [] if records_elsewhere(folder) else [folder / run["folder"] for run in manifest["runs"]]
            problems += [f"{run} is missing: the report is of its records" for run in folders if not is_finished(run)]
            known = []
            for run_folder in filter(is_finished, folders):
                with _noted(problems):
                    known.append(read_run(os.path.normpath(run_folder)))
            runs = known if len(known) == len(folders) else []
        for run in runs:  # its numbers disagree, or a record is damaged
            with _noted(problems):
                run.verify()
        if runs:
            problems += _stale_parts(manifest, runs, own)
    return list(dict.fromkeys(problems))


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        problems.append(str(error))


def records_elsewhere(folder: Path) -> bool:
    """Whether the report names runs of which no folder is there."""
    try:
        return not any((folder / run["folder"]).is_dir() for run in files.read_manifest(folder)["runs"])
    except BenchError:
        return False


def _prepare(folder: Path) -> None:
    for name in (CONFIG, METRICS):
        if (folder / name).exists():
            raise BenchError(
                f"folder={folder} is not allowed: it holds a run's {name}; give the report another folder."
            )
    try:
        for name in files.FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"folder={folder} can't be written ({error.strerror}); give another: folder=PATH.") from error


def _exhibits(runs: Sequence[Run], own: Sequence[Part], wanted: FigureSettings) -> dict[str, Exhibit]:
    """Every figure and table of these runs, by its place in the report, e.g. "figures/frontier"."""
    return {f"figures/{figure.name}": figure for figure in wanted.of(figures(runs, own, wanted.axes))} | {
        f"tables/{table.name}": table for table in tables(runs, own)
    }


def _methods(runs: Sequence[Run]) -> str:
    with from_records("methods.md", runs):
        return methods(runs)


def _stale_parts(manifest: Mapping[str, Any], runs: Sequence[Run], own: Sequence[Part]) -> list[str]:
    wanted = settings_of(manifest.get("wanted", {}))
    now = {name: exhibit.stamp for name, exhibit in _exhibits(runs, own, wanted).items()}
    then = {name: exhibit["stamp"] for name, exhibit in manifest["exhibits"].items()}
    stale = [name for name in now if name in then and now[name] != then[name]]
    problems = [f"{name} is stale: its records or runs have changed" for name in stale]
    problems += [f"{name} is not in the report, though its records are there" for name in now if name not in then]
    problems += [f"{name} can't be made any more: its data is missing" for name in then if name not in now]
    if manifest.get("words") != _words(runs, verdicts(runs, own), _methods(runs)):
        problems.append(f"{files.PAGE} is stale: the verdicts, the methods or the samples that it shows have changed")
    return problems


def _words(runs: Sequence[Run], sentences: Sequence[str], text: str) -> str:
    """A hash of what a report shows beside its exhibits: verdicts, methods and samples."""
    samples = [run.folder / SAMPLES for run in runs]
    return content_hash(sentences, text, [sha256(path) if path.is_file() else "" for path in samples])
