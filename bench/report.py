"""python -m bench.report: figures, tables and one page from the records of finished runs; nothing is run.

python -m bench.report outputs/default/*                  runs, side by side where there are several
python -m bench.report sweep=NAME [setting=value ...]     the cells of a sweep, given as it was started
python -m bench.report source=wandb project=NAME [entity=NAME] [group=NAME]
python -m bench.report ... folder=PATH                    write there instead of outputs/<name>/report
python -m bench.report --check sweep=NAME                 say what of its report is stale or missing; status 1 if any is
python -m bench.report --check FOLDER ...                 the same for report folders, with or without their records
"""

import argparse
import sys
import time
from pathlib import Path

from bench.errors import BenchError
from bench.records.read import Run
from bench.reporting.manifest import MANIFEST
from bench.reporting.sources import Source, from_folders, from_sweep, from_wandb

OPTIONS = ("folder", "source", "project", "entity", "group", "outputs")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="build nothing; say what is stale, changed or missing")
    parser.add_argument("what", nargs="*", help="run folders, or sweep=NAME and settings, or options as above")
    arguments, unknown = parser.parse_known_args()
    refused = [one for one in unknown if one not in ("-m", "--multirun")]  # a sweep, given as it was started
    if refused or not arguments.what:
        parser.error(f"unknown option {refused[0]}" if refused else "give run folders or sweep=NAME")
    start = time.perf_counter()
    try:
        given, rest = _options(arguments.what)
        if arguments.check:
            _check(given, rest)
            return
        source = _source(given, rest)
        _build(source, Path(given["folder"]) if "folder" in given else source.folder, start)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except KeyError as error:
        of = ", ".join(arguments.what[:3]) + (", ..." if len(arguments.what) > 3 else "")
        sys.exit(f"error: The records of {of} lack {error}; run the experiment again to rewrite them.")


def _build(source: Source, folder: Path, start: float) -> None:
    from bench.reporting.build import build
    from bench.reporting.exhibits import sentences

    for note in source.notes:
        print(note, file=sys.stderr)
    page = build(source.runs, folder, title=source.title, notes=source.notes)
    print(f"{_table(source.runs)}\n")
    print("\n".join(sentences(source.runs)))
    count = f"{len(source.runs)} run{'s' if len(source.runs) > 1 else ''}"
    print(f"\nreport    {page} ({count}, {time.perf_counter() - start:.0f} s)")


def _check(given: dict[str, str], rest: list[str]) -> None:
    from bench.reporting.build import check, records_elsewhere

    reports = [Path(one) for one in rest if (Path(one) / MANIFEST).is_file()]
    if reports and not any(_is_setting(one) or (Path(one) / "metrics.json").is_file() for one in rest):
        if others := [one for one in rest if Path(one) not in reports]:
            print(f"no report: {', '.join(others)}")
        problems = [problem for folder in reports for problem in check(folder)]
        for folder in reports:
            if records_elsewhere(folder):
                print(f"{folder}: its records are elsewhere; checked by its own files alone")
    else:
        source = _source(given, rest)
        folder = Path(given["folder"]) if "folder" in given else source.folder
        reports, problems = [folder], check(folder, source.runs)
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(1)
    print(f"up to date: {', '.join(map(str, reports))}")


def _source(given: dict[str, str], rest: list[str]) -> Source:
    if given.get("source", "local") == "wandb":
        if "project" not in given or rest:
            raise BenchError("source=wandb takes project=NAME, and entity=, group=, outputs=, folder= where needed.")
        outputs = Path(given.get("outputs", "outputs"))
        return from_wandb(given["project"], entity=given.get("entity"), group=given.get("group"), outputs=outputs)
    if given.get("source", "local") != "local":
        raise BenchError(f"source={given['source']} is not allowed: it must be local or wandb.")
    if any(_is_setting(one) for one in rest):
        if folders := [one for one in rest if "=" not in one and not one.startswith("~")]:
            (unknown, *_) = [one for one in rest if _is_setting(one)]
            raise BenchError(
                f"{unknown} is no option of a report ({', '.join(OPTIONS)}), and a sweep's settings can't stand beside "
                f"folders such as {folders[0]}."
            )
        from bench.config.compose import CONF, explained

        overrides = [*rest, *(f"{name}={given[name]}" for name in ("outputs",) if name in given)]
        with explained(overrides):
            return from_sweep(overrides, CONF)
    return from_folders([Path(one) for one in rest])


def _options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options of the report by name, and the rest: folders, or a sweep's settings."""
    given: dict[str, str] = {}
    rest = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in OPTIONS:
            given[name] = value
        else:
            rest.append(word)
    return given, rest


def _is_setting(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def _table(runs: list[Run]) -> str:
    """The main comparison as it fits a terminal."""
    from bench.reporting.console import main_table, ranking_table, runs_table
    from bench.reporting.contrasts import shared_seeds
    from bench.reporting.exhibits.verdicts import names
    from bench.reporting.groups import grouped
    from bench.reporting.ranking import rank

    if len(runs) == 1:
        return main_table(runs[0])
    groups = grouped(runs)
    methods, _ = shared_seeds({name: group.runs for name, group in names(groups).items()})
    return ranking_table(rank(methods)) if len(groups) > 1 and all(methods.values()) else runs_table(runs)


if __name__ == "__main__":
    main()
