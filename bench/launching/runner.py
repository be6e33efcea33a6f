"""Run a composed configuration: check it, call its procedure, and write, draw and track the results."""

import contextlib
import os
import shlex
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from bench.config import checks
from bench.config.keys import run_folder
from bench.errors import BenchError, full_disk, is_disk_full, is_out_of_gpu_memory
from bench.launching.second import second_process
from bench.progress import say, tell, told
from bench.store import MANIFEST, Finder, MissingError, Store, Use, unique, using
from bench.store.files import FAILURE
from bench.sweeps.cells import Cell, busy, changed_input, is_done, numbers
from bench.sweeps.plan import lineage_of, opening, record_of, workload
from bench.tracking import followed
from bench.training.lora import check_four_bit

if TYPE_CHECKING:
    from bench.procedures.parts import Parts


def run_cell(cfg: DictConfig, label: str) -> None:
    """Run one cell of a sweep and print one line. A finished cell is skipped; the reason of a failure is recorded."""
    folder = run_folder(cfg)
    if is_done(folder):
        say(f"{label}: done before")
        return
    start = time.perf_counter()
    try:
        with told(numbers.get(folder, "")):
            tell(f"{label} begins")
            run_experiment(cfg, quiet=True)
    except Exception as error:
        reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        say(f"{label}: FAILED after {time.perf_counter() - start:.0f} s: {reason} ({folder / FAILURE})")
    else:
        from bench.records.read import read_run
        from bench.reporting.console import headline

        say(f"{label}: {headline(read_run(folder))} ({time.perf_counter() - start:.0f} s)")


def run_experiment(cfg: DictConfig, *, quiet: bool = False) -> Path:
    """Check, run, record, draw and track one experiment. Returns its folder. quiet: no tables, times and figures."""
    start = time.perf_counter()
    checks.check(cfg)
    parts = checks.build_parts(cfg)
    folder = run_folder(cfg)
    _make("outputs", cfg.outputs, folder)
    if directory := cfg.tracking.get("directory"):
        _make("tracking.directory", directory, Path(directory))

    failure = folder / FAILURE
    failure.unlink(missing_ok=True)
    try:
        with told() as course, busy(folder), second_process(cfg) as second, using(Store(cfg.store)) as store:
            whole = refuse_early(cfg, parts)
            cell = Cell("", cfg, ())
            course.stages = [stage.name for stage in record_of(cell).stages]  # BenchError where it can't end
            if not quiet:
                say(opening(cell, _stored(cell, whole, store.root)))
                second.completions, store.before_making = workload([cell]).completions, second.start
                store.made_beside = second.made
            # imported late, so that a wrong setting is refused at once
            from bench.procedures import elsewhere
            from bench.records.read import read_run
            from bench.records.write import seal, write
            from bench.reporting.console import main_table
            from bench.reporting.exhibits import of_one_run, sentences
            from bench.reporting.files import write_figure

            with followed(parts["tracking"], folder, cell.config, course):
                results = elsewhere.run(parts["procedure"], whole)
            beside = second.made()
            for use in store.uses:
                use.reused = use.reused and use.folder not in beside
            metrics = write(folder, cfg, results, store.uses)
            finished = read_run(folder)
            # a sweep's figures are those of its report
            shown = [] if quiet else of_one_run(finished)
            drawn = [path for figure in shown for path in write_figure(figure, folder)]
            if drawn:
                seal(folder, drawn)
            tracked = parts["tracking"](folder)
            failure.unlink(missing_ok=True)  # of another process, which may run the same cell
    except Exception as error:
        with contextlib.suppress(OSError):  # if even this can't be written, the reason is on the console
            failure.write_text(str(error) if isinstance(error, BenchError) else traceback.format_exc())
        if is_disk_full(error) and not isinstance(error, BenchError):
            place, setting = full_disk(error, "outputs", Path(cfg.outputs))
            raise BenchError(
                f"The disk of {place} is full; free some space, or give another place ({setting}=PATH), and run the "
                "same command: finished work is in the store."
            ) from error
        if is_out_of_gpu_memory(error) and not isinstance(error, BenchError):
            raise BenchError(
                "The GPU's memory ran out: lower training.micro_batch_size or generation.gpu_memory_utilization, set "
                "training.gradient_checkpointing=true or training=lora; python -m bench.size, with the same settings, "
                "says what each stage takes."
            ) from error
        raise

    if metrics["pool/twins_alarm"]:
        say(
            f"warning: {metrics['pool/twins']:.0f} pairs of equal samples, but independent samples would have about "
            f"{metrics['pool/twins_expected']:.0f}: the engine seems to draw several samples from one random stream"
        )
    if quiet:
        return folder
    print(main_table(finished))
    print("", *sentences([finished]), sep="\n")
    print(f"\nfigure    {drawn[0]}\nrecords   {folder}\npolicy    {results.policies['tuned'].path}")
    print(f"report    python -m bench.report {shlex.quote(str(folder))}")
    if tracked is not None:
        print(tracked)
    sys.stdout.flush()
    _say_where_time_went(store.uses, time.perf_counter() - start, beside)
    return folder


def refuse_early(cfg: DictConfig, parts: Mapping[str, Any]) -> "Parts":
    """The parts of the experiment. BenchError where it would fail later, or this machine lacks something for it.

    Nothing is made. parts: the configured parts, built but not yet called.
    """
    _limit_threads(cfg.threads)
    checks.check_installed(cfg)
    if OmegaConf.select(cfg, "training.lora.four_bit"):
        check_four_bit()
    from bench.procedures import ready
    from bench.procedures.parts import Parts

    if cfg.evaluation.get("harness_tasks"):
        from bench.evaluation.harness_tasks import find_tasks

        find_tasks(tuple(cfg.evaluation.harness_tasks), cfg.evaluation.harness_include)
    whole = Parts.of(cast(Mapping[str, Any], cfg), parts)
    ready.check(whole, parts["procedure"], cast(Mapping[str, Any], OmegaConf.to_container(cfg, resolve=True)))
    return whole


def _stored(cell: Cell, parts: "Parts", root: Path) -> set[int]:
    """Which stages the store is known to hold: all after a finished run; else the base and what it draws."""
    planned = record_of(cell).stages
    with contextlib.suppress(BenchError):  # where there is no finished run, or its records are damaged
        if changed_input(cell.folder) is None and all(
            (root / use["stage"] / use["key"] / use["part"] / MANIFEST).is_file() for use in lineage_of(cell)
        ):
            return set(range(len(planned)))
    stored = set()
    with using(Finder(root)), told(rehearse=lambda name: None), contextlib.suppress(MissingError):
        base = parts.made(parts.policy)
        for number, stage in enumerate(planned):
            with contextlib.suppress(MissingError):
                for split, settings in stage.pools:
                    parts.generation(parts.prompts(split), base, **settings)
                if stage.name == "policy (base)" or (stage.pools and stage.name.startswith("generate ")):
                    stored.add(number)
    return stored


def _make(key: str, value: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{key}={value} can't be written ({error.strerror}); give a folder: {key}=PATH.") from error


def _limit_threads(threads: int) -> None:
    if threads == 0:
        return
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is first imported
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _say_where_time_went(uses: Sequence[Use], total: float, beside: Collection[Path]) -> None:
    """Print the seconds of each stage in this run, and the work that was reused. beside: by the second process."""
    ancestors = unique(uses)
    made: dict[str, float] = {}
    for use in ancestors:
        made[use.stage] = made.get(use.stage, 0.0) + (0.0 if use.reused else use.seconds)
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in made.items() if seconds)
    elsewhere = sum(use.seconds for use in ancestors if use.folder in beside)
    rest = total - sum(made.values()) + elsewhere
    say(
        f"time      {total:.1f} s{f', and {elsewhere:.1f} s beside it in a second process' if beside else ''}: "
        f"{stages + ', ' if stages else ''}everything else {rest:.1f} s"
    )
    reused = [use for use in ancestors if use.reused]
    earlier = sum(use.seconds for use in reused)
    shipped = ", ".join(use.stage for use in reused if use.shipped)
    say(
        f"reused    {len(reused)} of {len(ancestors)} artifacts, {earlier:.1f} s of earlier work"
        + (f"; shipped with the package: {shipped}" if shipped else "")
    )
