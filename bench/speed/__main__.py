"""`python -m bench.speed <part>`: runs bench/speed/<part>.py, on one thread unless OMP_NUM_THREADS says otherwise."""

import importlib
import os
import pkgutil
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import bench.speed


def main(arguments: list[str]) -> None:
    parts = sorted(
        module.name for module in pkgutil.iter_modules(bench.speed.__path__) if not module.name.startswith("_")
    )
    if not arguments or arguments[0] not in parts:
        sys.exit(f"python -m bench.speed needs one of {', '.join(parts)}; each takes --help.")
    importlib.import_module(f"bench.speed.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
