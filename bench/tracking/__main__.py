"""python -m bench.tracking: log finished runs, for the first time or again.

Without settings, each run is logged as its own configuration says. What a tracker already has is not logged twice.

examples:
  python -m bench.tracking outputs/default/* tracking.mode=online
  python -m bench.tracking outputs/*/* tracking=tensorboard

A folder of runs may come from anyone. So its configuration can name only the trackers of this suite, with settings that
they allow, and nothing in it is resolved. Only files of the run, of its artifacts and of its models are uploaded.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.config import checks
from bench.config.compose import CONF, composing, explained
from bench.config.rules import rules
from bench.errors import BenchError, CommandLine, printable
from bench.records.read import CONFIG, METRICS, is_finished, read_run
from bench.reporting.files import MANIFEST as REPORT
from bench.store import MANIFEST, DamagedArtifactError, check
from bench.store.reading import read_json
from bench.tracking import log_nothing, log_to_tensorboard, log_to_wandb, mirror

Tracker = Callable[[Path], object]
TRACKERS: dict[Any, Callable[..., object]] = {
    f"bench.tracking.{tracker.__name__}": tracker for tracker in (log_nothing, log_to_tensorboard, log_to_wandb)
}


def main() -> None:
    parser = CommandLine(__doc__)
    parser.take_words("folders of finished runs, and settings of the group tracking", "FOLDER|tracking.NAME=VALUE")
    words = parser.parse_intermixed_args().words
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    folders = [Path(word) for word in words if word not in overrides and not Path(word, REPORT).is_file()]
    if not folders:
        sys.exit("error: give the folders of finished runs: python -m bench.tracking outputs/default/*")
    with explained(overrides):
        given = _composed(overrides) if overrides else None
        for folder in folders:
            if not is_finished(folder):
                raise BenchError(f"{folder} holds no finished run (no {METRICS}).")
            config = read_run(folder).config
            tracker = given or recorded(config.get("tracking"), folder / CONFIG)
            if getattr(tracker, "func", None) is log_to_wandb:
                refuse_strangers(mirror.read(folder))
            print(printable(str(tracker(folder) or f"{folder} was not logged")), flush=True)


def _composed(overrides: list[str]) -> Tracker:
    from hydra import compose
    from hydra.utils import instantiate

    others = [override for override in overrides if override.split("=")[0].split(".")[0] != "tracking"]
    if others:
        raise BenchError(f"{others[0]} is not a setting of tracking; a run that is finished stays what it is.")
    with composing(CONF):
        cfg = compose("config", overrides)
    checks.check(cfg)
    return instantiate(cfg.tracking, _convert_="all")


def recorded(node: Any, source: Path) -> Tracker:
    """The tracking that a run's configuration names; BenchError for any but this suite's, and for other settings."""
    settings = dict(node) if isinstance(node, dict) else {}
    target, _ = settings.pop("_target_", None), settings.pop("_partial_", None)
    if not isinstance(target, str) or target not in TRACKERS:
        raise BenchError(
            f"{source} names no tracking of this suite: tracking._target_={target} is not one of "
            f"{', '.join(TRACKERS)}; choose one for this command: tracking=NAME."
        )
    allowed = rules(TRACKERS[target])
    for name, value in settings.items():
        if name not in allowed or not allowed[name].allows(value):
            must = f"it must be {allowed[name].description}" if name in allowed else "there is no such setting"
            raise BenchError(f"{source}: tracking.{name}={value} is not allowed: {must}.")
    return functools.partial(TRACKERS[target], **settings)


def refuse_strangers(run: mirror.FinishedRun) -> None:
    """BenchError where the run would have a file uploaded that is not its own, an artifact's, or a model's."""
    linked = [run.folder / path for link in run.chain for path in link["files"].values()]
    for place in (path.resolve() for path in (*run.files, *linked)):
        if place.parent != run.folder.resolve() and not _is_of_an_artifact(place):
            raise BenchError(f"{run.folder} names {place}, which is no file of this run, of a store or of a model.")


def _is_of_an_artifact(path: Path) -> bool:
    try:
        for folder in list(path.parents)[:4]:
            if (folder / MANIFEST).is_file():
                return path.relative_to(folder).as_posix() in check(folder, hash_limit=0)["files"]
        return "model_type" in read_json(path.parent / "config.json")
    except (DamagedArtifactError, OSError, ValueError, TypeError):
        return False


if __name__ == "__main__":
    main()
