"""Pools of completions drawn elsewhere, as runs; and pools of runs as files. The commands: python -m bench.pools."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.blocks import scattered as scattered
    from bench.blocks import side_by_side as side_by_side
    from bench.blocks import stopped as stopped
    from bench.pools.importing import import_pool as import_pool

PUBLIC = {
    **dict.fromkeys(("scattered", "side_by_side", "stopped"), "bench.blocks"),
    "import_pool": "bench.pools.importing",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'bench.pools' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)
