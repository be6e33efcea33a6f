"""python -m bench: run one experiment in rejection sampling, or a sweep, and measure it against Best-of-N.

examples:
  python -m bench                                                               the default experiment
  python -m bench experiment=quick                                              a smaller one, in well under a minute
  python -m bench num_completions=32 temperature=0.7 selection=distinct_correct
  python -m bench -m num_completions=4,16 selection=top_per_prompt,rso          a sweep: every combination
  python -m bench sweep=num_completions_by_temperature plan=true                the cost of a sweep; nothing is run
  python -m bench --cfg job experiment=quick                                    every setting and its value

options, before the settings:
  -m, --multirun    run every combination of the values that settings list
  --cfg job         print every setting and its value; nothing is run
  --hydra-help      more options, which are those of Hydra
"""

import argparse
import ast
import contextlib
import functools
import gc
import io
import itertools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config import checks, compose
from bench.config.compose import CONF, compose_one, composing, explained, understood
from bench.errors import BenchError, did_you_mean, printable

if TYPE_CHECKING:
    from bench.search import Search


ANSWERS = ("hydra_help", "info", "cfg", "shell_completion")  # options that run nothing
OTHER_GROUPS = {  # those that conf/config.yaml does not list
    "hydra/launcher": ("local", "where the cells of a sweep run"),
    "hydra/sweeper": ("null", "a search in place of a grid"),
}
OTHER_CONFIGURATIONS = ("config_name", "config_path")

_failed: list[Exception] = []  # what ended the experiment and is no mistake in the input


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def experiment(cfg: DictConfig) -> None:
    from bench.launching.runner import run_cell, run_experiment

    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            run_cell(cfg, compose.as_given(HydraConfig.get().job.override_dirname))
        else:
            run_experiment(cfg)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:  # e.g. a reference to a missing key, when it is read
        sys.exit(f"error: {compose.explain_composition(error, ())}")
    except Exception as error:  # `main` raises it: Hydra would print a line of its own above it
        _failed.append(error)


def main() -> None:
    """Run the command line. A mistake in the input ends in one sentence and exit status 1."""
    plan_only = "plan=true" in sys.argv
    sys.argv = compose.opened([argument for argument in sys.argv if argument not in ("plan=true", "plan=false")])
    arguments = _parse(sys.argv[1:])
    if arguments.config_dir is not None:
        sys.argv[1:] = _as_setting(arguments.config_dir, sys.argv[1:])
        arguments = _parse(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises exceptions instead of printing them
    compose.install_plugins()
    _failed.clear()
    with explained(arguments.overrides):
        several = arguments.multirun or any(override.startswith("sweep=") for override in arguments.overrides)
        if arguments.help:
            print(printable(overview(arguments.overrides)))
        elif any(getattr(arguments, name) for name in ANSWERS + OTHER_CONFIGURATIONS):
            if (several or plan_only) and not any(getattr(arguments, name) for name in ANSWERS):
                raise BenchError("--config-name and --config-path take no -m, sweep= or plan=true; try --config-dir.")
            with understood(arguments.overrides):
                experiment()
        elif several or plan_only:
            sweep(arguments.overrides, plan_only=plan_only)
        else:
            _run_alone(arguments.overrides)
    if _failed:
        raise _failed.pop()


def overview(overrides: Sequence[str]) -> str:
    """The answer to --help: examples, the other commands, and one line about every choice of every group."""
    commands = {}
    for file in [*compose.BENCH.glob("*.py"), *compose.BENCH.glob("*/__main__.py")]:
        name = file.parent.name if file.stem == "__main__" else file.stem
        if name != compose.BENCH.name and '\nif __name__ == "__main__":' in (source := file.read_text()):
            first_line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            commands[f"python -m bench.{name}"] = first_line.removeprefix(f"python -m bench.{name}: ")
    lines = [str(__doc__).strip(), "", "other commands, each with --help:", *_listed(commands)]
    lines += ["", "choices of each group (group=NAME), from conf/:"]
    groups, known = compose.choices(overrides), {**compose.defaults(), **OTHER_GROUPS}
    for group in sorted(groups, key=[*known, *sorted(groups)].index):
        default, purpose = known.get(group, ("null", "a group of your own"))
        lines += ["", f"{group}: {purpose}{'' if default == 'null' else f' (default: {default})'}"]
        lines += _listed(groups[group])
    return "\n".join(lines)


def _listed(descriptions: Mapping[str, str]) -> list[str]:
    width = max(map(len, descriptions)) + 2
    return [f"  {name:{width}}{words}".rstrip() for name, words in sorted(descriptions.items())]


def _run_alone(overrides: list[str]) -> None:
    """Run one experiment. BenchError where its settings are wrong, or are those of a sweep."""
    with composing(CONF):
        with understood(overrides):
            cfg = compose_one(overrides, with_hydra=True)
        for override in overrides:
            if override.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")):
                raise BenchError(f"{override} is for several runs: add -m before the settings, or sweep=NAME.")
        checks.check(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
        if cfg.hydra.mode is None and not cfg.hydra.verbose:
            _run(functools.partial(_run_composed, cfg))
            return
    _run(experiment)  # Hydra is to say what it does, or an experiment of one's own chose a sweep


def _run_composed(cfg: DictConfig) -> None:
    """Do what Hydra does to run `experiment`, where it would compose the configuration two more times."""
    configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
    context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(cfg))
    context.callbacks.on_run_start(config=cfg, config_name="config")
    ended = run_job(experiment, cfg, "hydra.run.dir", None, context)
    context.callbacks.on_run_end(config=cfg, config_name="config", job_return=ended)
    _ = ended.return_value  # raises what `experiment` raised


def _run(task: Callable[[], object]) -> None:
    """Let Hydra run; BenchError where a folder that it is to make can't be made."""
    try:
        task()
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

    sys.argv.append("hydra.mode=MULTIRUN")  # which a file of sweeps/ need not say
    if (definition := search.read(overrides, CONF)) is not None:
        launch.check(overrides, CONF, devices=not plan_only)
        run_search(definition, plan_only=plan_only)
        return
    listed = cells(overrides, CONF)
    launch.check(overrides, CONF, devices=not plan_only)
    if listed is None:  # the sweeper chooses its cells as it goes
        if not plan_only:
            _run(experiment)
        return
    print(plan.summary(listed), flush=True)
    if plan_only:
        return
    for cell in listed:
        if not is_done(cell.folder):
            refuse_early(cell.cfg, cell.parts)
    number([cell.folder for cell in listed])
    _leave_out_of_labels(listed[0].fixed)
    _run(experiment)
    from bench.reporting.console import conclusion

    print(conclusion(listed))
    folders = sorted({shlex.quote(str(cell.folder.parent)) for cell in listed})
    print("report    python -m bench.report", *(f"{folder}/*" for folder in folders))
    if any(state(cell).kind != "done" for cell in listed):
        sys.exit(1)


def run_search(definition: "Search", *, plan_only: bool) -> None:
    """Print the plan of a search, run its missing trials, and print its conclusion."""
    from bench.search import report

    print(report.summary(definition), flush=True)
    if plan_only:
        return
    _leave_out_of_labels(definition.fixed_keys)
    _run(experiment)
    text, complete = report.conclusion(definition)
    print(text)
    if not complete:
        sys.exit(1)


def _leave_out_of_labels(keys: Sequence[str]) -> None:
    """Let Hydra leave these keys, equal in all cells, out of the labels of cells, in every process that runs one."""
    sys.argv.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(keys)}]")


def _as_setting(folder: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with --config-dir as a setting, which plans and checks read too."""
    if any(argument.startswith("hydra.searchpath=") for argument in arguments):
        sys.exit(f"error: name all folders in hydra.searchpath=[...], in place of --config-dir {folder}.")
    if not os.path.isdir(folder):
        sys.exit(f"error: --config-dir {folder}: no such folder; give one that holds groups such as experiment/.")
    options = ("--config-dir", "-cd")
    kept = [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if before not in options and argument.partition("=")[0] not in options
    ]
    return [*kept, f"hydra.searchpath=[file://{os.path.abspath(folder)}]"]


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line as Hydra does; refuse an unknown option in one sentence."""
    from hydra._internal.utils import get_args_parser

    complaint, parser = io.StringIO(), get_args_parser()
    try:
        with contextlib.redirect_stderr(complaint):
            return parser.parse_args(arguments)
    except SystemExit as error:
        if error.code:
            last_line = complaint.getvalue().strip().splitlines()[-1]
            reason = last_line.split("error: ", 1)[-1]
            if re.fullmatch(r"unrecognized arguments: [^-].*", reason):
                sys.exit(f"error: {reason}; options such as -m go before the settings.")
            option = reason.removeprefix("unrecognized arguments: ").partition("=")[0]
            near = did_you_mean(option, parser._option_string_actions) or ";"
            sys.exit(f"error: {reason}{near} settings are written name=value, and --help lists the options.")
        raise


if __name__ == "__main__":
    gc.set_threshold(10_000)  # a tenth of the time that imports take is a search for garbage, of which they leave none
    main()
    gc.freeze()  # or Python would look through what torch made once more before it exits, for seconds
