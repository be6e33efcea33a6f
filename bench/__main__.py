"""python -m bench: compose one experiment from conf/, run it, and write its records, figure and table."""

import argparse
import contextlib
import gc
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.config import checks
from bench.config.compose import CONF, composing, explain_composition, explained, install_plugins, understood
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.search import Search


ANSWERS = ("help", "hydra_help", "info", "cfg", "shell_completion")  # options that run nothing
OTHER_CONFIGURATIONS = ("config_name", "config_path", "config_dir")

_failed: list[Exception] = []  # what ended the experiment and is no mistake in the input


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def experiment(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    from bench.launching.runner import run_cell, run_experiment

    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            run_cell(cfg, HydraConfig.get().job.override_dirname)
        else:
            run_experiment(cfg)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:  # e.g. a reference to a missing key, when it is read
        sys.exit(f"error: {explain_composition(error, Path(CONF), ())}")
    except Exception as error:  # `main` raises it: Hydra would print a line of its own above it
        _failed.append(error)


def main() -> None:
    """Run the command line. A mistake in the input ends in one sentence and exit status 1."""
    plan_only = "plan=true" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument not in ("plan=true", "plan=false")]
    arguments = _parse(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises exceptions instead of printing them
    install_plugins()
    _failed.clear()
    with explained(arguments.overrides):
        several = arguments.multirun or any(override.startswith("sweep=") for override in arguments.overrides)
        if any(getattr(arguments, name) for name in ANSWERS + OTHER_CONFIGURATIONS):
            with understood(arguments.overrides):
                experiment()
        elif several or plan_only:
            sweep(arguments.overrides, plan_only=plan_only)
        else:
            _check_alone(arguments.overrides)
            _run()
    if _failed:
        raise _failed.pop()


def _check_alone(overrides: list[str]) -> None:
    """BenchError where the settings of one experiment are wrong, or are those of a sweep."""
    from hydra import compose

    with understood(overrides), composing(CONF):
        cfg = compose("config", overrides)
    for override in overrides:
        if override.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")):
            raise BenchError(f"{override} is for several runs: add -m before the settings, or sweep=NAME.")
    checks.check(cfg)


def _run() -> None:
    """Let Hydra run; BenchError where a folder that it is to make can't be made."""
    try:
        experiment()
    except OSError as error:
        frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        last = next(path for path in reversed(frames) if path.stem not in ("pathlib", "os"))
        if "hydra" not in last.parts:
            raise
        raise BenchError(
            f"hydra.run.dir or hydra.sweep.dir: {error.filename} can't be made ({error.strerror}); leave them as they "
            "are, or give a folder."
        ) from error


def sweep(overrides: list[str], *, plan_only: bool) -> None:
    """Check all cells of a sweep, print its plan, run it, and print its conclusion."""
    from bench import search
    from bench.launching import launch
    from bench.launching.runner import refuse_early
    from bench.sweeps import plan
    from bench.sweeps.cells import cells, is_done, number, state

    if (definition := search.read(overrides, CONF)) is not None:
        launch.check(overrides, CONF, devices=not plan_only)
        run_search(definition, plan_only=plan_only)
        return
    listed = cells(overrides, CONF)
    launch.check(overrides, CONF, devices=not plan_only)
    if listed is not None:
        print(plan.summary(listed), flush=True)
    if plan_only:
        return
    if listed is not None:
        for cell in listed:
            if not is_done(cell.folder):
                refuse_early(cell.cfg, cell.parts)
        number([cell.folder for cell in listed])
        _leave_out_of_labels(listed[0].fixed)
    _run()
    if listed is not None:
        from bench.reporting.console import conclusion

        print(conclusion(listed))
        if any(state(cell).kind != "done" for cell in listed):
            sys.exit(1)


def run_search(definition: "Search", *, plan_only: bool) -> None:
    """Print the plan of a search, run its missing trials, and print its conclusion."""
    from bench.search import report

    print(report.summary(definition), flush=True)
    if plan_only:
        return
    _leave_out_of_labels(definition.fixed_keys)
    _run()
    text, complete = report.conclusion(definition)
    print(text)
    if not complete:
        sys.exit(1)


def _leave_out_of_labels(keys: Sequence[str]) -> None:
    """Let Hydra leave these keys, equal in all cells, out of the labels of cells, in every process that runs one."""
    sys.argv.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(keys)}]")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line as Hydra does; refuse an unknown option in one sentence."""
    from hydra._internal.utils import get_args_parser

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return get_args_parser().parse_args(arguments)
    except SystemExit as error:
        if error.code:
            last_line = complaint.getvalue().strip().splitlines()[-1]
            reason = last_line.split("error: ", 1)[-1]
            if re.fullmatch(r"unrecognized arguments: [^-].*", reason):
                sys.exit(f"error: {reason}; options such as -m go before the settings.")
            sys.exit(f"error: {reason}; settings are written name=value, and --help lists the options.")
        raise


if __name__ == "__main__":
    main()
    gc.freeze()  # or Python would look through what torch made once more before it exits, for seconds
