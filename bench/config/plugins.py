"""What Hydra has to know of us before it composes anything: our launchers and our sweeper."""

import importlib
import sys
from pathlib import Path
from typing import Any

LAUNCHERS = "hydra_plugins.bench_launchers"  # Hydra takes plugins from the namespace package hydra_plugins only
SWEEPERS = "hydra_plugins.bench_search"
BENCH = Path(__file__).resolve().parents[1]
HYDRA_CONF = BENCH.parent / "conf" / "hydra"


def install() -> None:
    """Register our launchers and sweeper, and choose our presets over those of equal name that other plugins bring."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    for place in ("launching", "search"):
        if (folder := str(BENCH / place / "plugin")) not in sys.path:
            sys.path.append(folder)
    plugins = Plugins.instance()  # imports all plugins, which is when they store their presets
    launchers, sweepers = importlib.import_module(LAUNCHERS), importlib.import_module(SWEEPERS)
    for plugin in (launchers.Joblib, launchers.Ray, launchers.Slurm, sweepers.OptunaSearch):
        plugins.register(plugin)
    stored: dict[str, Any] = ConfigStore.instance().repo.get("hydra", {})
    for preset in HYDRA_CONF.glob("*/*.yaml"):
        stored.get(preset.parent.name, {}).pop(preset.name, None)
