"""python -m bench: compose one experiment from conf/, run it, and leave its records, figure and table."""

import argparse
import contextlib
import io
import os
import re
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.errors import BenchError

CONF = str(Path(__file__).resolve().parent.parent / "conf")


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def experiment(cfg: DictConfig) -> None:
    from bench.explain import explain_composition
    from bench.runner import run_experiment

    try:
        run_experiment(cfg)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except OmegaConfBaseException as error:  # a reference to nothing, found when the value is read
        sys.exit(f"error: {explain_composition(error, Path(CONF), ())}")


def main() -> None:
    """Run the command line; whatever goes wrong because of the input ends in one sentence and exit status 1."""
    from hydra.errors import HydraException

    from bench.explain import NOT_A_CHOICE, explain_composition

    arguments = _parse(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands exceptions to us instead of printing a page of them
    try:
        if arguments.multirun and arguments.cfg is None:
            _check_every_cell(arguments.overrides)
        experiment()
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if type(error) is ValueError and not str(error).startswith(NOT_A_CHOICE):
            raise
        sys.exit(f"error: {explain_composition(error, Path(CONF), arguments.overrides)}")
    except KeyboardInterrupt:
        sys.exit("interrupted: what was finished is kept; the same command goes on from there.")


def _check_every_cell(overrides: list[str]) -> None:
    """Refuse a sweep whose last cell is impossible before its first one runs."""
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from bench import settings

    if any(override.startswith("hydra/sweeper=") for override in overrides):
        return  # another sweeper chooses its cells as it goes
    with initialize_config_dir(CONF, version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        (cells,) = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)
        for cell in cells:
            cfg = compose("config", cell)
            settings.check(cfg)
            settings.build_parts(cfg)


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
