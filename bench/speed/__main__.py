"""`python -m bench.speed` lists the benchmarks; `python -m bench.speed NAME` runs bench/speed/NAME.py.

A benchmark uses one thread unless OMP_NUM_THREADS says otherwise.
"""

import ast
import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

BENCHMARKS = ("cli", "estimators", "generation", "imports", "pool", "scoring", "sizing", "verify")


def main(arguments: list[str]) -> None:
    if not arguments:
        print("python -m bench.speed NAME, where NAME is one of these; each takes --help.\n")
        for name in BENCHMARKS:
            docstring = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text()))
            print(f"    {name:12}{(docstring or '').splitlines()[0]}")
    elif arguments[0] not in BENCHMARKS:
        sys.exit(f"python -m bench.speed needs one of {', '.join(BENCHMARKS)}; each takes --help.")
    else:
        importlib.import_module(f"bench.speed.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
