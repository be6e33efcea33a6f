"""python -m bench.report: make figures, tables, verdicts and one page from finished runs; nothing is run.

options written as settings:
  folder=PATH              the folder to write (default: outputs/<name>/report)
  outputs=PATH             where runs lie (default: outputs)
  source=wandb             read runs back from W&B: project=NAME, and entity=NAME or group=NAME
  config_dir=FOLDER        add your own figures, FOLDER/figure/*.yaml
  figures.only=[NAME,...]  the figures to make, by their file names
  figures.size=[W,H]       width and height in inches
  figures.labels={A: B}    replace the text A in figures by B
  figures.NAME.curves=[..] the curves of one figure; NAME.size and NAME.labels work alike
  figures.NAME.x=flops     the x axis of one figure, where it can be chosen; of heat_map, y too
  style=paper|talk|PATH    the look of figures, or the path of a Matplotlib style sheet
  figures=FILE.yaml        a file with settings of figures
  task=NAME                only the runs of this task

examples:
  python -m bench.report outputs/default/*
  python -m bench.report outputs/default/* task=word_problems
  python -m bench.report sweep=num_completions_by_temperature
  python -m bench.report source=wandb project=rejection-sampling-bench group=default
  python -m bench.report outputs/default/* figures.only=[frontier] figures.size=[3.25,2.4] style=talk
  python -m bench.report outputs/default/* figures.frontier.curves=[best_of_n,tuned]
  python -m bench.report --check sweep=num_completions_by_temperature
  python -m bench.report --check reports/*
  python -m bench.report sweep=on_one_axis folder=reports/on_one_axis    a committed report: it has README.md.j2
  python -m bench.report reports/on_one_axis folder=/tmp/full            all of it, from the records that it holds
"""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, CommandLine, did_you_mean, printable
from bench.progress import say
from bench.records.read import Run, is_finished, read_run
from bench.reporting import published
from bench.reporting.build import build, check, records_elsewhere
from bench.reporting.exhibits import Part, from_configs, sentences
from bench.reporting.figure_settings import FigureSettings, read
from bench.reporting.files import MANIFEST, TEMPLATE, is_published
from bench.reporting.groups import grouped, in_order
from bench.reporting.sources import Source, from_folders, from_sweep, from_wandb, unverified
from bench.reporting.words import counted
from bench.store.reading import read_json

FIGURES = re.compile(r"(figures[.=]|style=)")
OPTIONS = ("folder", "source", "project", "entity", "group", "outputs", "config_dir")


def main() -> None:
    parser = CommandLine(__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="build nothing; list what is stale, changed or missing; exit with status 1 if anything is",
    )
    parser.take_words("folders of runs, or the settings that started a sweep; and options", "FOLDER|setting=value")
    arguments = parser.parse_intermixed_args()
    if not arguments.words:
        parser.error("give run folders or sweep=NAME")
    start = time.perf_counter()
    try:
        options, words = _options([word for word in arguments.words if not FIGURES.match(word)])
        wanted = read([word for word in arguments.words if FIGURES.match(word)])
        if arguments.check:
            _check(options, words)
            return
        if len(words) == 1 and published.is_page(Path(words[0])):
            say(f"page      {published.publish_page(Path(words[0]))}")
            return
        source = _source(options, words)
        _build(source, Path(options.get("folder", source.folder)), _own(options), wanted, start)
    except BenchError as error:
        sys.exit(f"error: {error}")


def _options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The report's options by name, and the other words: folders, or a sweep's settings."""
    given = [word for word in words if "=" in word and word.partition("=")[0] in OPTIONS]
    return dict(word.split("=", 1) for word in given), [word for word in words if word not in given]


def _source(options: Mapping[str, str], words: Sequence[str]) -> Source:
    kind = options.get("source", "local")
    if kind == "wandb":
        if "project" not in options or words:
            raise BenchError("source=wandb takes project=NAME, and entity=, group=, outputs=, folder= where needed.")
        outputs = Path(options.get("outputs", "outputs"))
        return from_wandb(options["project"], entity=options.get("entity"), group=options.get("group"), outputs=outputs)
    if kind != "local":
        raise BenchError(f"source={kind} is not allowed: it must be local or wandb.")
    settings = [word for word in words if _is_setting(word)]
    if not words:
        raise BenchError("give run folders or sweep=NAME beside the options of the report.")
    if not settings:
        return from_folders([Path(word) for word in words])
    folders = [word for word in words if "=" not in word and not word.startswith("~")]
    if folders and all(word.startswith("task=") for word in settings):
        return from_folders([Path(word) for word in folders], task=settings[-1].removeprefix("task="))
    for setting in settings:
        near = did_you_mean(re.split("[.=]", setting)[0], (*OPTIONS, "figures", "style"), cutoff=0.75)
        if near or folders:
            beside = f", and a sweep's settings can't stand beside folders such as {folders[0]}" if folders else ""
            raise BenchError(f"{setting} is no option of a report ({', '.join(OPTIONS)}){beside}{near or '.'}")
    from bench.config.compose import explained

    overrides = [*words, *([f"outputs={options['outputs']}"] if "outputs" in options else [])]
    with explained(overrides):
        return _from_overrides(overrides)


def _from_overrides(overrides: Sequence[str]) -> Source:
    """The cells of a sweep; or the run that a search chose and the run without a search, with its conclusion."""
    from bench import search
    from bench.config.compose import CONF
    from bench.sweeps.cells import cells

    planned = cells(overrides, CONF)
    if planned is not None:
        return from_sweep(planned, overrides)
    wanted = search.read(overrides, CONF)
    if wanted is None:
        raise BenchError(
            "another sweeper than Hydra's own chooses its cells as it goes; give the runs' folders instead."
        )
    from bench.search.report import RECORD, conclusion

    if wanted.study() is None:
        raise BenchError(f"The search in {wanted.root} has not begun: no trial of these settings is there.")
    text, complete = conclusion(wanted)
    if not complete:
        raise BenchError(f"The search in {wanted.root} is not finished; the command that began it goes on with it.")
    record = read_json(wanted.root / RECORD)
    names = dict.fromkeys(record[name]["run"] for name in ("chosen", "baseline"))  # one where they are the same
    runs = [read_run(wanted.root / name) for name in names]
    return Source(in_order(runs), text.strip().splitlines(), wanted.root / "report", wanted.root.name)


def _is_setting(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def _own(options: Mapping[str, str]) -> list[Part]:
    """The user's own exhibits; a module of the folder in which the command runs can be named there."""
    from bench.config.compose import CONF

    return from_configs(Path(CONF), *([Path(options["config_dir"])] if "config_dir" in options else []))


def _build(source: Source, folder: Path, own: Sequence[Part], wanted: FigureSettings, start: float) -> None:
    for note in source.notes:
        say(note)
    tell: Any = print
    if is_published(folder):
        if wanted != FigureSettings():
            raise BenchError(f"{folder} holds {TEMPLATE}: its figures are shaped by the settings in its figures.yaml.")
        page, tell = published.publish(source.runs, folder, title=source.title, notes=source.notes, own=own), say
    else:
        page = build(source.runs, folder, title=source.title, notes=source.notes, own=own, wanted=wanted)
        print(printable(f"{_table(source.runs)}\n"))
        print(printable("\n".join([*sentences(source.runs, own), *unverified(source.runs)])), end="\n\n")
    tell(f"report    {page} ({counted(len(source.runs), 'run')}, {time.perf_counter() - start:.0f} s)")


def _table(runs: list[Run]) -> str:
    """The main comparison, as wide as a terminal."""
    from bench.reporting.console import main_table, ranking_table, runs_table
    from bench.reporting.contrasts import shared_seeds
    from bench.reporting.exhibits.verdicts import names
    from bench.reporting.ranking import rank

    if len(runs) == 1:
        return main_table(runs[0])
    if all(run.trained for run in runs):
        groups = grouped(runs)
        methods, _ = shared_seeds(names(groups))
        if len(groups) > 1 and all(group.runs for group in methods.values()):
            return ranking_table(rank(methods))
    return runs_table(runs)


def _check(options: Mapping[str, str], words: Sequence[str]) -> None:
    own = _own(options)
    reports = [Path(word) for word in words if (Path(word) / MANIFEST).is_file() or is_published(Path(word))]
    if reports and not any(_is_setting(word) or is_finished(Path(word)) for word in words):
        if others := [word for word in words if Path(word) not in reports]:
            print(f"no report: {', '.join(others)}")
        checks = {folder: published.check if is_published(folder) else check for folder in reports}
        problems = [problem for folder, found in checks.items() for problem in found(folder, own=own)]
        for folder in (folder for folder in reports if not is_published(folder) and records_elsewhere(folder)):
            print(f"{folder}: its records are elsewhere; checked by its own files alone")
    else:
        source = _source(options, words)
        for note in unverified(source.runs):
            print(note)
        reports = [folder := Path(options.get("folder", source.folder))]
        problems = published.check(folder, own=own) if is_published(folder) else check(folder, source.runs, own=own)
    for problem in problems:
        print(printable(problem))
    if problems:
        sys.exit(1)
    print(f"up to date: {', '.join(map(str, reports))}")


if __name__ == "__main__":
    main()
