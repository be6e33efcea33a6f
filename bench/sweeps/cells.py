"""The cells of a sweep: their configurations, and the state of each by its folder."""

import contextlib
import fcntl
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bench.config import checks
from bench.config.arms import policies
from bench.config.compose import Composer, as_given, composing, install_plugins, opened, understood
from bench.config.keys import IMPORTED, configured, folder_of_settings, id_of_settings
from bench.errors import BenchError
from bench.models.adapters import STAGE as ADAPTED
from bench.models.loading import folder as load_folder
from bench.procedures.artifact_graph import policy_name
from bench.records.fingerprint import DATA_KEY, data_key, is_current
from bench.records.read import TIMES, changed, failure, is_finished, missing_records, read_config, read_metrics, seconds
from bench.store.files import BUSY, claim, holder, unfinished
from bench.store.reading import read_lineage

FROM_FOLDER = "bench.policies.from_folder"
MODELS = (  # the parts whose setting `model` may name a folder
    *(f"bench.scoring.{name}.{name}" for name in ("reward_model", "process_reward")),
    "bench.selection.similarity.embedding_cosine",
)


@dataclass(frozen=True, eq=False)
class Cell:
    """One experiment of a sweep."""

    label: str  # the settings that differ between cells, e.g. "num_completions=8 temperature=0.7"
    cfg: DictConfig
    fixed: tuple[str, ...]  # keys of the settings that were given to all cells alike

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config: Any = OmegaConf.to_container(self.cfg, resolve=True)
        return config

    @functools.cached_property
    def id(self) -> str:
        return id_of_settings(self.config)

    @functools.cached_property
    def folder(self) -> Path:
        return folder_of_settings(self.config)

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """The parts of the experiment, built but not yet called."""
        return checks.build_parts(self.config)


@dataclass(frozen=True)
class State:
    """The state of a cell."""

    kind: str  # done, running, failed, interrupted, incomplete, outdated or missing
    detail: str = ""  # why, or where
    seconds: float = float("nan")  # the time that a finished cell took


def cells(overrides: Sequence[str], conf: str) -> list[Cell] | None:
    """Every cell, checked. None where the sweeper is not Hydra's own, so that it chooses cells as it goes.

    Raises BenchError, or one of Hydra's exceptions, where any cell can't run.
    """
    install_plugins()
    overrides = opened(overrides)
    _refuse_sweeps_of_wandb(overrides, Path(conf))
    composer = Composer()
    with understood(overrides), composing(conf):
        loader = GlobalHydra.instance().config_loader()
        sweeper = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN).hydra.sweeper
        if not sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
            return None
        grid = sweeper.get("params") or {}
        parser = OverridesParser.create(config_loader=loader)
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in grid.items()), *overrides])
        last = {override.get_key_element(): override for override in parsed}
        refuse_given_twice(parsed[len(grid) :])
        varied = {key for key, override in last.items() if override.is_sweep_override()}
        batch = [arguments for part in BasicSweeper.split_arguments(parsed, None) for arguments in part]
        if not batch:
            empty = [str(last[key].input_line) for key in varied if not list(last[key].sweep_string_iterator())]
            raise BenchError(f"{', '.join(sorted(empty))} gives no value, so there is no cell to run.")
        distinct: dict[str, Cell] = {}
        for arguments in batch:
            cfg = composer.compose(arguments)
            checks.check(cfg)
            label = " ".join(argument for argument in arguments if argument.partition("=")[0] in varied)
            cell = Cell(as_given(label), cfg, tuple(as_given(key) for key in last if key not in varied))
            _ = cell.parts  # raises where a part can't be built
            distinct.setdefault(cell.id, cell)  # two labels of one configuration are one run
    return list(distinct.values())


def refuse_given_twice(given: Sequence[Override]) -> None:
    """BenchError for an axis that is given twice, with other values: only the last would count."""
    axes: dict[str, dict[str, None]] = {}
    for override in given:
        if override.is_sweep_override():
            axes.setdefault(override.get_key_element(), {})[str(override.input_line)] = None
    for key, lines in axes.items():
        if len(lines) > 1:
            twice = f"{key} is given {len(lines)} times ({' '.join(lines)})"
            raise BenchError(f"{twice}; give it once, with all its values.")


numbers: dict[Path, str] = {}  # what lines of the cells of a sweep begin with, by their folders


def number(folders: Sequence[Path]) -> None:
    """Number the cells of a sweep for the lines that they print, e.g. "cell 3 of 16: "."""
    numbers.clear()
    numbers.update({folder: f"cell {i} of {len(folders)}: " for i, folder in enumerate(folders, 1)})


def _refuse_sweeps_of_wandb(overrides: Sequence[str], conf: Path) -> None:
    """BenchError for a file of sweeps/ that W&B runs instead of Hydra."""
    for override in overrides:
        key, _, name = override.lstrip("+").partition("=")
        file = conf / "sweep" / f"{name}.yaml"
        if key == "sweep" and name.startswith("wandb_") and file.is_file():
            raise BenchError(
                f"sweep={name} is run by W&B: run `wandb sweep sweeps/{name}.yaml`, then `wandb agent` with the ID "
                "that it prints."
            )


def prompts_in(task: Mapping[str, Any], split: str) -> int | None:
    """The number of prompts of a split; None where the task takes all prompts of data that is not in a local file."""
    count = task.get(f"{split}_prompts")
    if count is None and task.get("path") is not None:
        return len(instantiate(task, _convert_="all").prompts(split))
    return count


def state(cell: Cell) -> State:
    return state_of(cell.folder)


def state_of(folder: Path) -> State:
    """The state of a run's folder, read from it alone, wherever the run is made."""
    if process := holder(folder / BUSY):
        return State("running", process)
    if is_done(folder):
        return State("done", seconds=seconds(folder))
    if (reason := failure(folder)) is not None:
        return State("failed", reason)
    if (folder / BUSY).is_file():
        return State("interrupted")
    if not is_finished(folder):
        return State("missing")
    if lacking := missing_records(folder):
        return State("incomplete", f"lacks {', '.join(lacking)}")
    if (damage := changed(folder)) is not None:
        return State("incomplete", damage)
    try:
        read_metrics(folder)
    except BenchError:
        return State("incomplete", "metrics.json is damaged")
    return State("outdated", changed_input(folder) or "made by other code")


def is_done(folder: Path) -> bool:
    """Whether `folder` holds a complete run of the present code, with its records as the run left them.

    A run that was killed or failed after its last record is not done: it may not have been tracked.
    """
    if (folder / BUSY).is_file() or failure(folder) is not None:
        return False
    if missing_records(folder) or changed(folder) is not None:
        return False
    try:
        read_metrics(folder)
        return is_current(folder) and changed_input(folder) is None
    except (BenchError, OSError, ValueError):  # damaged records count as missing
        return False


def changed_input(folder: Path) -> str | None:
    """What a run took that is another thing now: a policy, a model, an import or a task's file; None for no change.

    A file or a folder that is gone counts as unchanged. BenchError where the run's records are damaged.
    """
    config, metrics = read_config(folder), read_metrics(folder)
    if any(name.endswith("/artifact") for name in metrics):
        code = config["policy"].get("trust_remote_code", False)
        adapted = {use["parents"]["policy"] for use in read_lineage(folder) if use["stage"] == ADAPTED}
        for name, (_, place, _) in policies(config["arms"]).items():
            with contextlib.suppress(BenchError):  # a folder that was broken since holds another policy, too
                if not Path(place).is_dir() or any(
                    policy_name(load_folder(place, code=code, on=base)) == metrics[f"{name}/artifact"]
                    for base in (*adapted, None)
                ):
                    continue
            return f"the policy in arms.{name} changed"
    if config["generation"]["_target_"] == IMPORTED:
        from bench.generation.imported import changed_import

        if taken := changed_import(config, read_lineage(folder)):
            return f"{taken} has other completions now"
    if (data := data_key(config.get("task") or {})) is not None and metrics.get(DATA_KEY, data) != data:
        return f"task.path={config['task']['path']} has other rows now"
    return changed_folder(config, functools.partial(read_lineage, folder))


def changed_folder(config: Mapping[str, Any], lineage: Callable[[], Sequence[Mapping[str, Any]]]) -> str | None:
    """The policy, scorer, embedder or gold model whose folder holds another one now, or another task's other rows."""
    places = []
    for node in configured(config):
        is_policy = node["_target_"] == FROM_FOLDER
        place = node["path"] if is_policy else node.get("gold_model") or (node["_target_"] in MODELS and node["model"])
        if place and Path(place).expanduser().is_dir():
            places.append((place, node, is_policy))
    tasks = config.get("evaluation", {}).get("transfer", {})
    uses = lineage() if places or tasks else []
    used = {key for use in uses for key in use.get("parents", {}).values()}
    if not used:  # older records name no parents
        return None
    used |= {word for use in uses for word in str(use.get("settings", {}).get("task")).split()}  # of `judged_by`
    for place, node, is_policy in places:
        with contextlib.suppress(BenchError):  # a folder that was broken since holds another one, too
            names = ("trust_remote_code", *(("system", "thinking") if is_policy else ()))
            now = load_folder(Path(place).expanduser(), code=node.get("trust_remote_code", False))
            if replace(now, **{name: node[name] for name in names if name in node}).key in used:
                continue
        return f"the {'policy' if is_policy else 'model'} in {place} changed"
    for name, task in tasks.items():
        with contextlib.suppress(BenchError):  # rows that can't be read are others, too
            if data_key(task) is None or instantiate(task, _convert_="all").prompts("test").key in used:
                continue
        return f"evaluation.transfer.{name}.path={task['path']} has other rows now"
    return None


@contextlib.contextmanager
def busy(folder: Path) -> Iterator[None]:
    """Mark a cell as running while inside. The kernel releases the lock however the process ends."""
    started, start = time.time(), time.monotonic()  # the time of day may be set back meanwhile
    with (folder / BUSY).open("a+") as file:
        with contextlib.suppress(OSError):  # only where no other process runs this cell
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in unfinished(folder):
                left.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_SH)  # shared: two sweeps may run one cell; its artifacts are made once
        claim(file)
        try:
            yield
        except Exception:
            _end(file, folder)
            raise  # Ctrl-C or a preempted job, which raise no Exception, leave the mark of an interrupted cell
        (folder / TIMES).write_text(json.dumps({"started": started, "seconds": round(time.monotonic() - start, 3)}))
        _end(file, folder)


def _end(file: IO[str], folder: Path) -> None:
    """Remove the mark of a running cell, unless another process runs it too."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / BUSY).unlink(missing_ok=True)
