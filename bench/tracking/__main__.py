"""python -m bench.tracking FOLDER ... [tracking=NAME] [tracking.setting=value ...]: log finished runs, now or again.

For runs that were logged nowhere, elsewhere, or only offline. Without settings, each run is logged as its own
configuration says. What a tracker holds already is not logged twice.

    python -m bench.tracking outputs/default/* tracking.mode=online
    python -m bench.tracking outputs/*/* tracking=tensorboard
"""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bench.config import checks
from bench.config.compose import CONF, composing, explained
from bench.errors import BenchError


def main() -> None:
    overrides = [argument for argument in sys.argv[1:] if "=" in argument]
    folders = [Path(argument) for argument in sys.argv[1:] if "=" not in argument]
    if not folders:
        sys.exit("error: give the folders of finished runs: python -m bench.tracking outputs/default/*")
    with explained(overrides):
        given = _composed(overrides) if overrides else None
        for folder in folders:
            if not (folder / "metrics.json").is_file():
                raise BenchError(f"{folder} holds no finished run (no metrics.json).")
            print(_track(folder, given) or f"{folder} was not logged", flush=True)


def _composed(overrides: list[str]) -> DictConfig:
    """The tracking that the settings of this command line choose."""
    from hydra import compose

    others = [override for override in overrides if override.split("=")[0].split(".")[0] != "tracking"]
    if others:
        raise BenchError(f"{others[0]} is not a setting of tracking; a run that is finished stays what it is.")
    with composing(CONF):
        cfg = compose("config", overrides)
    checks.check(cfg)
    return cfg


def _track(folder: Path, given: DictConfig | None) -> object:
    from hydra.utils import instantiate

    cfg = given if given is not None else OmegaConf.load(folder / "config.yaml")
    return instantiate(cfg.tracking, _convert_="all")(folder)


if __name__ == "__main__":
    main()
