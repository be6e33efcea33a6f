"""Compose configurations with Hydra: our plugins, fast composition of many cells, and errors in one sentence."""

import contextlib
import importlib
import os
import pickle
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from bench.errors import BenchError, did_you_mean

BENCH = Path(__file__).resolve().parents[1]
CONF = str((BENCH / "conf").resolve())  # a link to conf/ in a checkout, a folder where the package is installed
LAUNCHER_PLUGINS = "hydra_plugins.bench_launchers"  # Hydra takes plugins from the namespace package hydra_plugins only
SWEEPER_PLUGINS = "hydra_plugins.bench_search"
NOT_A_CHOICE = "Config group override must be"  # Hydra's ValueError for group=null and group=3, which it does not name
_QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LAUNCHERS = "hydra/launcher"  # installed plugins add choices, which messages leave out


def install_plugins() -> None:
    """Register our launchers and our sweeper with Hydra, and prefer our presets to those of other plugins."""
    for place in ("launching", "search"):
        if (folder := str(BENCH / place / "plugin")) not in sys.path:
            sys.path.append(folder)
    plugins = Plugins.instance()  # imports all plugins, which then store their presets
    launchers, sweepers = importlib.import_module(LAUNCHER_PLUGINS), importlib.import_module(SWEEPER_PLUGINS)
    for plugin in (launchers.Joblib, launchers.Ray, launchers.Slurm, sweepers.OptunaSearch):
        plugins.register(plugin)
    stored: dict[str, Any] = ConfigStore.instance().repo.get("hydra", {})
    for preset in Path(CONF, "hydra").glob("*/*.yaml"):
        stored.get(preset.parent.name, {}).pop(preset.name, None)


def opened(overrides: Sequence[str]) -> list[str]:
    """The overrides with ++ before those of settings whose names a user chooses, which Hydra would refuse without."""
    return [f"++{override}" if override.startswith("arms.") else override for override in overrides]


def as_given(label: str) -> str:
    """The label of a cell without what `opened` has put before its settings."""
    return label.replace("++arms.", "arms.")


@contextlib.contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
    """End the process with one sentence where the settings inside are wrong."""
    try:
        if len(named := [override for override in overrides if override.lstrip("+").startswith("sweep=")]) > 1:
            raise BenchError(f"{' '.join(named)}: give one sweep at a time.")
        yield
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        of_settings = isinstance(error, HydraException | OmegaConfBaseException)
        if not of_settings and not str(error).startswith(NOT_A_CHOICE):  # e.g. JSONDecodeError, from within a run
            raise
        sys.exit(f"error: {explain_composition(error, overrides)}")
    except BrokenPipeError:  # who reads the output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("interrupted: finished work is kept; run the same command to go on.")


@contextlib.contextmanager
def understood(overrides: Sequence[str]) -> Iterator[None]:
    """BenchError, in one sentence, where the settings that are composed inside can't be."""
    if malformed := _malformed(overrides):
        raise BenchError(malformed)
    try:
        yield
    except (BenchError, BrokenPipeError):
        raise
    except Exception as error:  # what malformed settings raise in Hydra's parsers and OmegaConf is of many kinds
        raise BenchError(explain_composition(error, overrides)) from error


def _malformed(overrides: Sequence[str]) -> str | None:
    """What is wrong with overrides that Hydra would misread: one without a name, or a choice by a path or a mapping.

    In a sweep a mapping is right: several settings of a part that vary together, as in sweeps/hybrid_gate.yaml.
    """
    refused = ("/", "[") if any(override.startswith("sweep=") for override in overrides) else ("/", "[", "{")
    for override in overrides:
        key, equals, value = override.lstrip("+~").partition("=")
        if equals and not key.strip():
            return f"{override!r} names no setting; write name=value."
        group = key.partition("@")[0]
        if _is_group(group):
            for choice in [value] if value.startswith(("{", "[")) else value.split(","):
                if choice.startswith(refused) or ".." in choice:
                    return f"{group}={choice} does not exist; {group} can be {_choices(group)}."
    return None


@contextlib.contextmanager
def composing(conf: str) -> Iterator[None]:
    """Let Hydra compose from the folder `conf`, or, inside a Hydra application, from the application's folder."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(conf, "__main__", version_base="1.3"):  # hydra.job.name, as hydra.main sets it
            yield


def compose_one(overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration of one experiment. BenchError for a selection beside pairs, or a grid without sweep=."""
    cfg = compose("config", overrides, return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    if None not in (chosen.get("pairs"), chosen.get("selection")):
        raise BenchError(
            f"selection={chosen.selection} is not allowed with pairs={chosen.pairs}, which take its place ("
            "training=dpo sets pairs): leave one of them out, in an experiment by ~selection."
        )
    if chosen.get("sweep") is None and (cfg.hydra.mode or cfg.hydra.sweeper.get("params")):
        raise BenchError("hydra.mode and hydra.sweeper.params go into a file of sweeps/, which sweep=NAME runs.")
    if not with_hydra:
        with open_dict(cfg):
            del cfg["hydra"]
    return cfg


class Composer:
    """Compose one configuration after another; use it inside `composing`.

    Hydra takes 0.1 seconds per configuration. So each choice of parts is composed once, and overrides of single values
    are applied to a copy of it, as Hydra does in its last step.
    """

    def __init__(self) -> None:
        self._chosen: dict[tuple[str, ...], bytes] = {}  # pickled: quicker than a deep copy
        self._is_group: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with these overrides, which must not sweep. Raises Hydra's exceptions."""
        loader = GlobalHydra.instance().config_loader()
        values, choices = list[Any](), list[Any]()
        for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
            key = override.key_or_group
            if key not in self._is_group:
                self._is_group[key] = key.startswith("hydra") or bool(loader.get_group_options(key))
            is_group = override.package is not None or self._is_group[key]
            (choices if is_group or override.is_add() or override.is_delete() else values).append(override)
        chosen = tuple(str(override.input_line) for override in choices)
        if chosen not in self._chosen:
            self._chosen[chosen] = pickle.dumps(compose_one(list(chosen)))
        cfg: DictConfig = pickle.loads(self._chosen[chosen])
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        return cfg


def choices(overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """Group -> its choices -> the first line of their files. overrides: their hydra.searchpath may add choices."""
    folders = [CONF]
    if overrides:
        with understood(overrides), composing(CONF):
            sources = compose("config", list(overrides), return_hydra_config=True).hydra.runtime.config_sources
        folders = [source.path for source in sources if source.schema == "file"]
    files = [path for folder in folders for part in ("*", "hydra/*") for path in Path(folder).glob(f"{part}/*.yaml")]
    listed: dict[str, dict[str, str]] = {}
    for path in sorted(files):
        group = f"hydra/{path.parent.name}" if path.parent.parent.name == "hydra" else path.parent.name
        lines = [line for line in path.read_text().splitlines()[:2] if not line.startswith("# @package")]
        listed.setdefault(group, {})[path.stem] = lines[0][2:] if lines and lines[0].startswith("# ") else ""
    return listed


def defaults() -> dict[str, tuple[str, str]]:
    """Group -> the default choice, and what the group decides: the comment beside it in conf/config.yaml."""
    line = re.compile(r"^  - (?:override )?([\w/]+): (\w+) # (.*)$", re.MULTILINE)
    return {group: (choice, words) for group, choice, words in line.findall(Path(CONF, "config.yaml").read_text())}


def explain_composition(error: Exception, arguments: Sequence[str]) -> str:
    """One sentence on a mistake in the settings. arguments: the command line."""
    text = str(error)
    if malformed := _malformed(arguments):
        return malformed
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} can't be read as a setting; write name=value, with quotes around special characters."
        )
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown(found[1], arguments)
    if isinstance(error, InterpolationKeyError) and (found := re.search(r"'([^']+)' not found", text)):
        near = _near(found[1], arguments) or "."
        given = next((argument for argument in arguments if f"${{{found[1]}" in argument), error.full_key)
        return f"{given} refers to a setting that does not exist: {found[0]}{near}"
    if isinstance(error, RecursionError) or text.startswith("Recursive interpolation"):
        return "A setting refers to itself, or is nested too deeply; give it a plain value."
    if text.startswith(NOT_A_CHOICE):
        return _not_a_choice(arguments) or text
    if found := re.search(r"Could not find '(.+)/([^/']*)'", text):
        listing = text.partition("Available options")[2].partition("Config search path")[0]
        allowed = re.findall(r"^\t(\S+)$", listing, re.MULTILINE)
        if found[1] == LAUNCHERS:
            allowed = sorted(path.stem for path in Path(CONF, LAUNCHERS).glob("*.yaml"))
        near = did_you_mean(found[2], allowed) or ";"
        return f"{found[1]}={found[2]} does not exist{near} {found[1]} can be {', '.join(allowed) or 'left out only'}."
    if text.startswith("Ambiguous value"):
        return f"{text.splitlines()[0]}: several values are a sweep, which needs -m (python -m bench -m ...)."
    lines = [line.strip() for line in text.replace("full_key: ", "setting: ").splitlines()]
    words = ". ".join(line for line in lines if line and "https://" not in line and "_type=" not in line)
    of_settings = isinstance(error, HydraException | OmegaConfBaseException) and words
    return words if of_settings else f"These settings can't be read: {type(error).__name__}: {words[:200]}"


def _not_a_choice(arguments: Sequence[str]) -> str:
    for argument in arguments:
        group, _, values = argument.partition("=")
        for value in values.split(",") if values and _is_group(group) else ():
            if not Path(CONF, group, f"{value}.yaml").is_file() and not isinstance(yaml.safe_load(value), str):
                return f"{group}={value} does not exist; {group} can be {_choices(group)}."
    return ""


def _is_group(name: str) -> bool:
    return re.fullmatch(r"\w+(/\w+)?", name) is not None and len(name) < 100 and Path(CONF, name).is_dir()


def _choices(group: str) -> str:
    return ", ".join(sorted(path.stem for path in Path(CONF, group).glob("*.yaml"))) or "left out only"


def _unknown(key: str, arguments: Sequence[str]) -> str:
    show = "`python -m bench --cfg job` shows all of them."
    if _is_group(key):
        return f"{key} is a part: choose one of {_choices(key)}, and set its settings by {key}.NAME=VALUE; {show}"
    if key in _known_keys():
        group = key.rpartition(".")[0].replace(".", "/")
        chosen = group if _is_group(group) else key.partition(".")[0]
        return f"{key} is not a setting of the chosen {chosen}; {show}"
    near = _near(key, arguments)
    return f"{key} is not a setting{near} {show}" if near else f"{key} is not a setting; {show}"


def _near(key: str, arguments: Sequence[str]) -> str:
    """A question after the setting that was meant, if one of these choices' has a name like it."""
    choices = [
        argument
        for argument in arguments
        if argument.startswith("hydra.searchpath=")  # with parts of one's own
        or (_is_group(argument.partition("=")[0].lstrip("+")) and "," not in argument)
    ]
    try:
        with composing(CONF):
            known = list(_flatten(OmegaConf.to_container(compose("config", choices))))
    except (HydraException, OmegaConfBaseException, ValueError):  # the choices are wrong, too
        return ""
    groups = [path.relative_to(CONF).as_posix() for path in Path(CONF).glob("**/*/")]
    same = [name for name in known if name.rpartition(".")[2] == key]  # given without the part that it belongs to
    return did_you_mean(key, [*known, *groups], cutoff=0.7) or did_you_mean(f".{key}", same, cutoff=0.0)


def _known_keys() -> Iterator[str]:
    for path in Path(CONF).rglob("*.yaml"):
        group = path.parent.relative_to(CONF).as_posix().replace("/", ".")
        prefix = "" if group in (".", "experiment") else f"{group}."
        yield from _flatten(yaml.load(path.read_text(), _QUICK) or {}, prefix)


def _flatten(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if name not in ("defaults", "_target_", "_partial_", "hydra"):
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from _flatten(value, f"{prefix}{name}.")
