"""What all workers of a test run share: folders that one of them makes and the others read."""

import contextlib
import fcntl
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from bench.artifacts import Policy
from bench.config import compose as configs
from bench.config.keys import run_folder
from bench.launching.runner import run_experiment
from bench.sweeps.cells import is_done

CONF = Path(configs.CONF)
SMALL = [  # the settings of most small runs, so that they share pools and policies
    *("task.train_prompts=40", "task.test_prompts=20", "num_completions=4", "baseline_completions=8"),
    *("evaluation.num_completions=4", "evaluation.temperatures=null", "evaluation.lm_eval=false"),
    *("training.epochs=1", "tracking=none", "threads=1"),
]


@dataclass(frozen=True)
class Finished:
    """A run that has ended: its folder, and what it printed."""

    folder: Path
    out: str
    err: str


class Shared:
    """A folder of things that are made once, under a lock, by the first worker that asks for them."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(exist_ok=True)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the folder of this name after `make(folder)` has filled it in this or in another process."""
        folder, whole = self.root / name, self.root / f"{name}.whole"
        with self._locked(name):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    def run(self, policy: Policy, *settings: str) -> Finished:
        """Run an experiment in this process, from the shared store; return it as it is where it has ended."""
        cfg = composed(*given_by(policy), *SMALL, *places(self.root), *settings)
        folder = run_folder(cfg)
        told = {stream: self.root / f"{folder.name}.{stream}" for stream in ("out", "err")}
        with self._locked(folder.name):
            if not is_done(folder):
                with (
                    contextlib.redirect_stdout(told["out"].open("w")) as out,
                    contextlib.redirect_stderr(told["err"].open("w")) as err,
                    out,
                    err,
                ):
                    run_experiment(cfg)
        return Finished(folder, told["out"].read_text(), told["err"].read_text())

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.root / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def shared_folder(base: Path) -> Path:
    """Return the folder that workers share. base: the temporary folder of this worker's session."""
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "shared"


def composed(*overrides: str) -> DictConfig:
    """Return the configuration of an experiment. Each choice of parts is composed once for the GPUs that are seen."""
    with configs.composing(str(CONF)):
        return _composer(os.environ.get("CUDA_VISIBLE_DEVICES")).compose(configs.opened(overrides))


@functools.cache
def _composer(visible: str | None) -> configs.Composer:
    return configs.Composer()


def composed_anew(*overrides: str) -> DictConfig:
    """Return what `composed` does where something else, such as a package, decides a choice."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", configs.opened(overrides))


def replaced(settings: Sequence[str], *others: str) -> list[str]:
    """Return the settings with others in the place of those of the same name: an axis must not be given twice."""
    given = {other.partition("=")[0] for other in others}
    return [*(setting for setting in settings if setting.partition("=")[0] not in given), *others]


def places(folder: Path) -> list[str]:
    """Return the settings that keep a run's store and outputs in `folder`."""
    return [f"store={folder}/store", f"outputs={folder}/outputs"]


def given_by(policy: Policy) -> list[str]:
    """Return the settings of a policy that lies in a folder."""
    return ["policy=folder", f"policy.path={policy.path}"]


def scaled(folder: Path, by: float, into: Path) -> Path:
    """A copy of a model whose weights are `by` times as large."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, into, dirs_exist_ok=True)
    (weights,) = into.glob("*.safetensors")
    save_file({name: by * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return into
