"""A second process for an experiment that keeps one core busy: it makes what does not wait for the training.

The first artifact that an experiment makes starts it. It evaluates the base and draws the pool of Best-of-N, then
follows the same procedure and judges the policies in the opposite order. Both processes keep artifacts in one store,
whose locks let one of them make each. So the numbers are those of one process, and where one ends, the other goes on.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from bench.config import checks
from bench.config.keys import IN_PROCESS, configured
from bench.devices import device
from bench.models.loading import count_parameters
from bench.progress import relayed, say, tell
from bench.store import Address, Store, using

LEAST_COMPLETIONS = 10_000  # of an experiment; with fewer, the start of a process takes as long as it saves
MOST_PARAMETERS = 20_000_000  # of the policy, which both processes hold in memory


def is_of_use(cfg: DictConfig, completions: int) -> bool:
    """Whether a second process makes the experiment faster: a small policy on a CPU, and a core without work."""
    from joblib import cpu_count  # it heeds the limits of a container, and LOKY_MAX_CPU_COUNT

    try:
        cores = cpu_count()
    except ValueError:  # LOKY_MAX_CPU_COUNT is no number
        return False
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return (
        completions >= LEAST_COMPLETIONS
        and cfg.generation["_target_"] == IN_PROCESS
        and all(str(node["_target_"]).startswith("bench.") for node in configured(config))  # others' code runs once
        and 0 < 2 * cfg.threads <= cores
        and device() == "cpu"
    )


class SecondProcess:
    def __init__(self, cfg: DictConfig, made: IO[bytes], said: IO[bytes]) -> None:
        self.cfg, self.completions = cfg, 0  # that the experiment draws; 0: no process is started
        self._made, self._said = made, said  # files for its standard output and error
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process, once, if it is of use; called before each artifact that the experiment makes."""
        completions, self.completions = self.completions, 0
        if not completions or not is_of_use(self.cfg, completions):
            return
        command = [sys.executable, "-m", "bench.launching.second"]
        paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            self.process = subprocess.Popen(
                command, env=os.environ | paths, stdin=subprocess.PIPE, stdout=self._made, stderr=self._said, text=True
            )
        except OSError as error:
            say(f"warning: the second process of this run can't start ({error.strerror}), so its work is done here")
            return
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which `complain` says
            print(json.dumps(OmegaConf.to_container(self.cfg, resolve=True)), file=self.process.stdin, flush=True)
        tell(f"a second process ({self.process.pid}) begins with what does not need the fine-tuned policies")

    def made(self) -> set[Path]:
        """The artifacts that the process has made, as folders of the store."""
        return set(map(Path, _written(self._made).splitlines()))

    def complain(self) -> None:
        """Say so where the process ended by itself before its work was done."""
        if self.process is not None and self.process.poll():
            lines = _written(self._said).strip().splitlines() or ["it said nothing"]
            say(
                f"warning: the second process of this run ended early, and its work was done here ({lines[-1].strip()})"
            )


@contextlib.contextmanager
def second_process(cfg: DictConfig) -> Iterator[SecondProcess]:
    """The second process of an experiment, which ends with the body."""
    with tempfile.TemporaryFile() as made, tempfile.TemporaryFile() as said:  # without a name: a kill leaves nothing
        second = SecondProcess(cfg, made, said)
        try:
            yield second
            second.complain()
        finally:
            if second.process is not None:
                second.process.kill()
                second.process.communicate()


def _written(file: IO[bytes]) -> str:
    """What is in a file to which another process writes, at its own place."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


class _Telling(Store):
    """A store that prints the folder of each artifact that this process made."""

    def _build(self, address: Address, folder: Path, build: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
        manifest = super()._build(address, folder, build)
        print(address.folder, flush=True)
        return manifest


def main() -> None:
    """Read an experiment's configuration from standard input, and work on it from its other end."""
    from bench.procedures import elsewhere
    from bench.procedures.parts import Parts

    cfg = OmegaConf.create(json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parts = checks.build_parts(cfg)
    whole = Parts.of(cfg, parts, last_first=True)
    with relayed(lambda line: None), using(_Telling(cfg.store)):
        if count_parameters(whole.base) <= MOST_PARAMETERS:
            whole.judge(whole.base)
            whole.best_of_n()
            elsewhere.judge(whole, elsewhere.made(whole))
            parts["procedure"](whole)


def _end_with_parent() -> None:
    sys.stdin.read()  # until the parent has closed it, or has ended in any way
    os._exit(1)


if __name__ == "__main__":
    main()
