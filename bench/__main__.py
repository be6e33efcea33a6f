"""python -m bench: compose one experiment from conf/, run it, and leave its records, figure and table."""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.config import plugins
from bench.config.compose import CONF, explain_composition, explained
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.search import Search


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def experiment(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from bench.launching.runner import run_cell, run_experiment

    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            run_cell(cfg, HydraConfig.get().job.override_dirname)
        else:
            run_experiment(cfg)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except OmegaConfBaseException as error:  # a reference to nothing, found when the value is read
        sys.exit(f"error: {explain_composition(error, Path(CONF), ())}")


def main() -> None:
    """Run the command line; whatever goes wrong because of the input ends in one sentence and exit status 1."""
    plan_only = "plan=true" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument not in ("plan=true", "plan=false")]
    arguments = _parse(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands exceptions to us instead of printing a page of them
    plugins.install()
    with explained(arguments.overrides):
        several = arguments.multirun or any(override.startswith("sweep=") for override in arguments.overrides)
        if arguments.cfg is None and (several or plan_only):
            sweep(arguments.overrides, plan_only=plan_only)
        else:
            experiment()


def sweep(overrides: list[str], *, plan_only: bool) -> None:
    """Refuse a sweep whose last cell is impossible before its first one runs; say its price; run it; sum it up."""
    from bench import search
    from bench.launching import launch
    from bench.sweeps import plan
    from bench.sweeps.cells import cells, state

    if (wanted := search.read(overrides, CONF)) is not None:
        launch.check(overrides, CONF, devices=not plan_only)
        lead(wanted, plan_only=plan_only)
        return
    found = cells(overrides, CONF)
    launch.check(overrides, CONF, devices=not plan_only)
    if found is not None:
        print(plan.summary(found), flush=True)
    if plan_only:
        return
    if found is not None:
        _call_cells_without(found[0].fixed)
    experiment()
    if found is not None:
        from bench.reporting.console import conclusion

        print(conclusion(found))
        if any(state(cell).kind != "done" for cell in found):
            sys.exit(1)


def lead(wanted: "Search", *, plan_only: bool) -> None:
    """Say what a search will cost, run what is missing of it, and say what it came to."""
    from bench.search import report

    print(report.summary(wanted), flush=True)
    if plan_only:
        return
    _call_cells_without(wanted.fixed_keys)
    experiment()
    text, complete = report.conclusion(wanted)
    print(text)
    if not complete:
        sys.exit(1)


def _call_cells_without(keys: Sequence[str]) -> None:
    """A cell is called by what sets it apart, in whatever process it runs; `keys` are alike in all."""
    sys.argv.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(keys)}]")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The command line as Hydra reads it; an option that Hydra does not know is refused here."""
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
