"""Where a report's runs come from: local folders, a sweep's cells, or Weights & Biases."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.keys import task_name
from bench.errors import BenchError, first_line
from bench.records import packed
from bench.records.frames import no_run
from bench.records.read import Run, is_finished, read_run, without_checksums
from bench.reporting.contrasts import shared_seeds
from bench.reporting.files import MANIFEST
from bench.reporting.groups import grouped, in_order, mixed_code
from bench.store.reading import CHECKSUMS
from bench.sweeps.cells import Cell, state
from bench.sweeps.plan import described, tally

RUN_FILES = "run-files"  # the type of the artifact that mirrors a run's folder


@dataclass(frozen=True)
class Source:
    """Finished runs and where their report goes by default."""

    runs: list[Run]
    notes: list[str]  # what was left out and why, for the report's readers
    folder: Path
    title: str


def unverified(runs: Sequence[Run]) -> list[str]:
    """A note where runs are from before checksums: only their means are known to follow from their records."""
    older = [run.folder for run in runs if without_checksums(run.folder)]
    others = f" and {len(older) - 1} other runs" if len(older) > 1 else ""
    return [f"{older[0]}{others}: no {CHECKSUMS}, so only the means were verified, by per_prompt"] if older else []


def from_folders(folders: Sequence[Path], *, task: str | None = None) -> Source:
    """The finished runs among the folders, with a note for each of the others. BenchError where no run is finished.

    The folder of a committed report stands for its runs. task: whose runs are wanted (`bench.config.keys.task_name`).
    """
    committed = [folder for folder in folders if (folder / packed.FILE).is_file()]
    folders = [run for folder in folders for run in (packed.run_folders(folder) if folder in committed else [folder])]
    finished = [folder for folder in folders if is_finished(folder)]
    reports = [folder for folder in folders if (folder / MANIFEST).is_file()]  # an earlier report of these runs
    missing = [folder for folder in folders if folder not in (*finished, *reports)]
    if not finished:
        names = ", ".join(map(str, missing or reports))
        if not missing:
            raise BenchError(f"{names} holds a report and no run; give the folders of finished runs.")
        raise no_run(missing)
    notes = [f"left out: {folder} holds no finished run" for folder in missing]
    parent = Path(os.path.commonpath([folder.absolute().parent for folder in finished]))
    runs = [read_run(folder) for folder in finished]
    if committed:
        return Source(in_order(runs), notes, committed[0], committed[0].absolute().name)
    if len(runs) == 1 and not runs[0].trained:  # imports lie side by side, and have no settings to be compared by
        task = runs[0].folder.name
    elif task is not None:
        tasks = [task_name(run.config["task"]) for run in runs]
        if task not in tasks:
            raise BenchError(f"task={task} is not among these runs; they are of {', '.join(dict.fromkeys(tasks))}.")
        runs = [run for run, name in zip(runs, tasks, strict=True) if name == task]
    end, title = ("", "") if task is None else (f"_{task}", f": {task}")
    return Source(in_order(runs), notes, parent / f"report{end}", f"{parent.name}{title}")


def from_sweep(cells: Sequence[Cell], overrides: Sequence[str]) -> Source:
    """The finished cells of a sweep, under the seeds that all its configurations have finished.

    Notes tell and count what is not finished. overrides: the words after `python -m bench` that start the sweep.
    BenchError where no cell is finished, or finished cells come from different code.
    """
    states = {cell.folder: state(cell) for cell in cells}
    labels = {cell.folder: cell.label or cell.folder.name for cell in cells}
    finished = [folder for folder, reached in states.items() if reached.kind in ("done", "outdated")]
    counts = tally([reached.kind for reached in states.values()])
    several = "" if any(override.startswith("sweep=") for override in overrides) else "-m "
    command = f"python -m bench {several}{' '.join(overrides)}"
    parent = cells[0].folder.parent
    if not finished:
        others = sum(map(is_finished, parent.glob("*")))
        hint = f"; {parent} holds {others} finished runs of other settings" if others else ""
        raise BenchError(f"No cell of this sweep is finished ({counts}); `{command}` runs it{hint}.")
    runs = [read_run(folder) for folder in finished]
    if mixed_code(runs):
        raise BenchError(
            f"Its finished cells come from different versions of the code and can't stand side by side ({counts}); "
            f"`{command}` makes the outdated ones anew, from what the store still holds."
        )
    notes = [f"  {labels[folder]}: {described(states[folder])}" for folder in states if folder not in finished]
    if notes:
        notes.insert(0, f"left out: {len(notes)} of {len(states)} cells are not finished ({counts})")
    if any(states[folder].kind == "outdated" for folder in finished):
        notes.append(f"made by other code than this: {len(finished)} cells; `{command}` makes them anew")
    kept, unshared = shared_seeds({group.label: group for group in grouped(runs)})
    shared = [run for group in kept.values() for run in group.runs]
    if unshared and shared:  # all means are over the same seeds
        seeds = f"seed{'s' if len(unshared) > 1 else ''} {', '.join(map(str, unshared))}"
        left_out = len(runs) - len(shared)
        notes.append(f"left out: {left_out} finished cells of {seeds}, which not every configuration has finished")
        runs = shared
    return Source(in_order(runs), notes, parent / "report", parent.name)


def from_wandb(project: str, *, entity: str | None, group: str | None, outputs: Path, api: Any = None) -> Source:
    """The runs of a W&B project, or of one of its groups, downloaded to outputs/wandb/PROJECT/GROUP.

    A run's artifact holds the files of its folder. Those that were downloaded before and have not changed are not
    fetched again. api: wandb.Api, or what stands for it in tests.
    """
    place = f"{entity}/{project}" if entity else project
    cache = outputs / "wandb" / project / (group or "all")
    folders, notes = [], []
    try:
        if api is None:
            import wandb

            api = wandb.Api(timeout=30)
        for mirror in sorted(api.runs(place, filters={"group": group} if group else {}), key=lambda run: run.name):
            logged = [artifact for artifact in mirror.logged_artifacts() if artifact.type == RUN_FILES]
            if not logged:
                notes.append(f"left out: {place}/{mirror.id} ({mirror.state}) has no artifact of type {RUN_FILES}")
                continue
            name = mirror.name if re.fullmatch(r"[0-9a-f]{10}", mirror.name) else mirror.id
            folders.append(cache / re.sub(r"[^\w-]", "_", name))  # a name that leads nowhere else
            newest = max(logged, key=lambda artifact: int(str(artifact.version).removeprefix("v")))
            newest.download(root=str(folders[-1]))
    except Exception as error:  # wandb and requests raise many kinds
        raise BenchError(
            f"W&B could not be read at {place} ({first_line(error)}); the local run folders hold the same."
        ) from error
    runs = [read_run(folder) for folder in folders]
    if not runs:
        where = f" of group {group}" if group else ""
        raise BenchError(f"W&B's {place} has no finished run{where} with its files; see the project's name and entity.")
    return Source(in_order(runs), notes, cache / "report", group or project)
