"""python -m bench: compose one experiment from conf/, run it, and leave its records, figure and table."""

import contextlib
import io
import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from bench.errors import BenchError

CONF = str(Path(__file__).resolve().parent.parent / "conf")


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def experiment(cfg: DictConfig) -> None:
    from bench.runner import run_experiment

    try:
        run_experiment(cfg)
    except BenchError as error:
        sys.exit(f"error: {error}")


def main() -> None:
    """Run the command line; whatever goes wrong because of the input ends in one sentence and exit status 1."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from bench.explain import explain_composition

    _refuse_unknown_options(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands exceptions to us instead of printing a page of them
    try:
        experiment()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain_composition(error, Path(CONF))}")
    except KeyboardInterrupt:
        sys.exit("interrupted: what was finished is kept; the same command goes on from there.")


def _refuse_unknown_options(arguments: list[str]) -> None:
    from hydra._internal.utils import get_args_parser

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            get_args_parser().parse_args(arguments)
    except SystemExit as error:
        if error.code:
            last_line = complaint.getvalue().strip().splitlines()[-1]
            reason = last_line.split("error: ", 1)[-1]
            sys.exit(f"error: {reason}; settings are written name=value, and --help lists the options.")
        raise


if __name__ == "__main__":
    main()
