"""Composing configurations with Hydra: quickly where they differ in values alone, and errors in one sentence."""

import contextlib
import copy
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.errors import BenchError

CONF = str(Path(__file__).resolve().parents[2] / "conf")
# Hydra's plain ValueError for group=null and group=3; it names neither
NOT_A_CHOICE = "Config group override must be"
LAUNCHERS = "hydra/launcher"  # of which installed plugins bring more, which are none of ours


@contextlib.contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
    """End the process with one sentence where these settings are wrong."""
    from hydra.errors import HydraException

    try:
        if len(named := [one for one in overrides if one.lstrip("+").startswith("sweep=")]) > 1:
            raise BenchError(f"{' '.join(named)}: give one sweep at a time.")
        yield
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if type(error) is ValueError and not str(error).startswith(NOT_A_CHOICE):
            raise
        sys.exit(f"error: {explain_composition(error, Path(CONF), overrides)}")
    except KeyboardInterrupt:
        sys.exit("interrupted: what was finished is kept; the same command goes on from there.")


@contextlib.contextmanager
def composing(conf: str) -> Iterator[None]:
    """Inside, Hydra composes from the folder `conf`; where Hydra runs already, from the folder that it runs with."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(conf, version_base="1.3"):
            yield


class Composer:
    """Composes one configuration after another; use it inside `composing`.

    Hydra takes a tenth of a second to compose. So each choice of parts is composed once, and overrides that only
    replace a value are applied to a copy of it, as Hydra itself does at the end.
    """

    def __init__(self) -> None:
        self._chosen: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with these overrides, none of which is a sweep; raises what Hydra raises."""
        from hydra import compose
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser

        loader = GlobalHydra.instance().config_loader()
        values: list[Any] = []
        choices: list[Any] = []
        for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
            key = override.key_or_group
            if key not in self._is_group:
                self._is_group[key] = key.startswith("hydra") or bool(loader.get_group_options(key))
            is_group = override.package is not None or self._is_group[key]
            (choices if is_group or override.is_add() or override.is_delete() else values).append(override)
        chosen = tuple(str(override.input_line) for override in choices)
        if chosen not in self._chosen:
            self._chosen[chosen] = compose("config", list(chosen))
        cfg = copy.deepcopy(self._chosen[chosen])
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        return cfg


def explain_composition(error: Exception, conf: Path, arguments: Sequence[str]) -> str:
    """What is wrong, where, and what is allowed; `conf` is the configuration folder, `arguments` the command line."""
    from hydra.errors import OverrideParseException

    text = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} can't be read as a setting; write name=value, with quotes around special characters."
        )
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"{found[1]} is not a setting{_suggest(found[1], conf)}; `python -m bench --cfg job` shows all of them."
    if text.startswith(NOT_A_CHOICE):
        return _not_a_choice(conf, arguments) or text
    if found := re.search(r"Could not find '(.+)/([^/']*)'", text):
        listing = text.partition("Available options")[2].partition("Config search path")[0]
        allowed = re.findall(r"^\t(\S+)$", listing, re.MULTILINE)
        if found[1] == LAUNCHERS:
            allowed = sorted(path.stem for path in (conf / LAUNCHERS).glob("*.yaml"))
        return f"{found[1]}={found[2]} does not exist; {found[1]} can be {', '.join(allowed) or 'left out only'}."
    if text.startswith("Ambiguous value"):
        return f"{text.splitlines()[0]}: several values are a sweep, which needs -m (python -m bench -m ...)."
    return ". ".join(line.strip() for line in text.splitlines() if line.strip() and "https://" not in line)


def _not_a_choice(conf: Path, arguments: Sequence[str]) -> str:
    for argument in arguments:
        group, _, values = argument.partition("=")
        if not values or not (conf / group).is_dir():
            continue
        allowed = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        for value in values.split(","):
            if value not in allowed and not isinstance(yaml.safe_load(value), str):
                choices = ", ".join(allowed) or "left out only"
                return f"{group}={value} does not exist; {group} can be {choices}."
    return ""


def _suggest(key: str, conf: Path) -> str:
    known = list(_known_keys(conf))
    if key in known:
        group = key.rpartition(".")[0].replace(".", "/")
        return f" of the chosen {group if (conf / group).is_dir() else key.partition('.')[0]}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _known_keys(conf: Path) -> Iterator[str]:
    for path in conf.rglob("*.yaml"):
        group = path.parent.relative_to(conf).as_posix().replace("/", ".")
        prefix = "" if group in (".", "experiment") else f"{group}."
        yield from _flatten(yaml.safe_load(path.read_text()) or {}, prefix)
        if prefix:
            yield prefix[:-1]


def _flatten(node: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in node.items():
        if name not in ("defaults", "_target_", "_partial_", "hydra"):
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from _flatten(value, f"{prefix}{name}.")
