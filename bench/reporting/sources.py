"""Where a report's runs come from: local folders, a sweep's cells, or Weights & Biases."""

import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.records.read import Run, read_run
from bench.reporting.contrasts import shared_seeds
from bench.reporting.groups import grouped, in_order
from bench.reporting.manifest import MANIFEST

RUN_FILES = "run-files"  # the type of the artifact that mirrors a run's folder

if TYPE_CHECKING:
    from bench.search import Search


@dataclass(frozen=True)
class Source:
    """Finished runs, what was left out and why, and where their report goes unless told otherwise."""

    runs: list[Run]
    notes: list[str]  # to be read with the report
    folder: Path
    title: str


def from_folders(folders: Sequence[Path]) -> Source:
    """Run folders; those that hold no finished run are counted and named. BenchError where none does."""
    finished = [folder for folder in folders if (folder / "metrics.json").is_file()]
    reports = [folder for folder in folders if (folder / MANIFEST).is_file()]  # an earlier report of theirs
    missing = [folder for folder in folders if folder not in (*finished, *reports)]
    if not finished:
        which = ", ".join(map(str, missing or reports))
        if not missing:
            raise BenchError(f"{which} holds a report and no run; give the folders of finished runs.")
        raise BenchError(f"{which} holds no finished run (no metrics.json); see error.txt there, or run it again.")
    notes = [f"left out: {folder} holds no finished run" for folder in missing]
    parents = {folder.absolute().parent for folder in finished}
    parent = Path(os.path.commonpath([str(parent) for parent in parents]))
    return Source(in_order([read_run(folder) for folder in finished]), notes, parent / "report", parent.name)


def from_sweep(overrides: Sequence[str], conf: str) -> Source:
    """The finished cells of a sweep, under the seeds that all its configurations have finished.

    What is unfinished is said and counted. BenchError where no cell is finished, or cells of different code would stand
    side by side; its sentence says which command makes them anew.
    """
    from bench import search
    from bench.sweeps.cells import cells, state
    from bench.sweeps.plan import described, tally

    found = cells(overrides, conf)
    if found is None:
        if (wanted := search.read(overrides, conf)) is not None:
            return _from_search(wanted)
        raise BenchError(
            "another sweeper than Hydra's own chooses its cells as it goes; give the runs' folders instead."
        )
    states = {cell.folder: state(cell) for cell in found}
    labels = {cell.folder: cell.label or cell.folder.name for cell in found}
    usable = [folder for folder, one in states.items() if one.kind in ("done", "outdated")]
    several = "" if any(override.startswith("sweep=") for override in overrides) else "-m "
    command = f"python -m bench {several}{' '.join(overrides)}"
    counts = tally([one.kind for one in states.values()])
    if not usable:
        others = len(list(found[0].folder.parent.glob("*/metrics.json")))
        hint = f"; {found[0].folder.parent} holds {others} finished runs of other settings" if others else ""
        raise BenchError(f"No cell of this sweep is finished ({counts}); `{command}` runs it{hint}.")
    runs = [read_run(folder) for folder in usable]
    codes = {run.metrics.get("code") for run in runs}
    if len(codes) > 1:
        raise BenchError(
            f"Its finished cells come from {len(codes)} versions of the code and can't stand side by side ({counts}); "
            f"`{command}` makes the outdated ones anew, from what the store still holds."
        )
    left_out = [f"  {labels[folder]}: {described(one)}" for folder, one in states.items() if folder not in usable]
    notes = []
    if left_out:
        notes += [f"left out: {len(left_out)} of {len(states)} cells are not finished ({counts})", *left_out]
    if any(states[folder].kind == "outdated" for folder in usable):
        notes.append(f"made by other code than this: {len(usable)} cells; `{command}` makes them anew")
    runs, unshared = _under_shared_seeds(runs)
    folder = found[0].folder.parent
    return Source(in_order(runs), notes + unshared, folder / "report", folder.name)


def _from_search(wanted: "Search") -> Source:
    """What a search chose beside what there was without it, both judged on test, with its own words as notes."""
    from bench.search.report import RECORD, conclusion

    if wanted.study() is None:
        raise BenchError(f"The search in {wanted.root} has not begun: no trial of these settings is there.")
    text, complete = conclusion(wanted)
    if not complete:
        raise BenchError(f"The search in {wanted.root} is not finished; the command that began it goes on with it.")
    judged = json.loads((wanted.root / RECORD).read_text())
    names = dict.fromkeys(judged[name]["run"] for name in ("chosen", "baseline"))  # one where they are the same
    runs = [read_run(wanted.root / name) for name in names]
    return Source(in_order(runs), text.strip().splitlines(), wanted.root / "report", wanted.root.name)


def _under_shared_seeds(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Runs under the seeds that every configuration has, so that all means are over the same ones.

    All runs where no seed is.
    """
    groups = {group.label: group.runs for group in grouped(runs)}
    kept, seeds = shared_seeds(groups)
    if not seeds or not all(kept.values()):
        return runs, []
    folders = {run.folder for of_group in kept.values() for run in of_group}
    number = len(runs) - len(folders)
    which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    note = f"left out: {number} finished cells of {which}, which not every configuration has finished"
    return [run for run in runs if run.folder in folders], [note]


def from_wandb(project: str, *, entity: str | None, group: str | None, outputs: Path, api: Any = None) -> Source:
    """Runs of a W&B project (of one group, the sweep or name they ran under), downloaded to outputs/wandb/<project>.

    A run's files come back from its artifact as the run left them, so the report is the one of the local folders; what
    was downloaded before and is still the same is not fetched again. api: wandb.Api, or what stands for it.
    """
    place = f"{entity}/{project}" if entity else project
    found = _asked(place, lambda: list((api or _api()).runs(place, filters={"group": group} if group else {})))
    cache = outputs / "wandb" / project / (group or "all")
    runs, notes = [], []
    for one in sorted(found, key=lambda run: run.name):
        artifact = _asked(place, functools.partial(_run_files, one))
        if artifact is None:
            notes.append(f"left out: {place}/{one.id} ({one.state}) has no artifact of type {RUN_FILES}")
            continue
        folder = cache / (one.name if re.fullmatch(r"[0-9a-f]{10}", one.name) else one.id)
        _asked(place, functools.partial(artifact.download, root=str(folder)))
        runs.append(read_run(folder))
    if not runs:
        where = f" of group {group}" if group else ""
        raise BenchError(f"W&B's {place} has no finished run{where} with its files; see the project's name and entity.")
    return Source(in_order(runs), notes, cache / "report", group or project)


def _run_files(run: Any) -> Any:
    """The newest artifact that mirrors the run's folder, None where there is none."""
    logged = [artifact for artifact in run.logged_artifacts() if artifact.type == RUN_FILES]
    return max(logged, key=lambda artifact: int(str(artifact.version).removeprefix("v")), default=None)


def _asked(place: str, what: Callable[[], Any]) -> Any:
    try:
        return what()
    except BenchError:
        raise
    except Exception as error:  # wandb and requests raise many kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise BenchError(
            f"W&B could not be read at {place} ({reason}); the local run folders hold the same."
        ) from error


def _api() -> Any:
    import wandb

    return wandb.Api(timeout=30)
