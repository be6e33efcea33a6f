"""Pools of completions drawn elsewhere, as runs; and pools of runs as files. The commands: python -m bench.pools."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "import_pool":  # imported late, so that commands start at once
        raise AttributeError(f"module 'bench.pools' has no attribute {name!r}")
    from bench.pools.importing import import_pool

    return import_pool
