"""python -m bench.speed: measure the time and memory of parts of the suite, beside plain ways to do the same.

Without a NAME, the benchmarks are listed. OMP_NUM_THREADS sets the number of threads (default: 1).

examples:
  python -m bench.speed
  python -m bench.speed estimators --help
  python -m bench.speed estimators --prompts 1000 --samples 256
"""

import ast
import importlib
import os
import sys
from pathlib import Path

from bench.errors import CommandLine

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

BENCHMARKS = tuple(
    sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py") if "\ndef main(" in file.read_text())
)


def main(arguments: list[str]) -> None:
    parser = CommandLine(__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", choices=BENCHMARKS, help="a benchmark; each has its --help")
    name = parser.parse_args(arguments[:1]).name
    if name is None:
        print("python -m bench.speed NAME, where NAME is one of these; each has --help.\n")
        for benchmark in BENCHMARKS:
            docstring = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{benchmark}.py").read_text()))
            print(f"    {benchmark:12}{(docstring or '').splitlines()[0]}")
    else:
        importlib.import_module(f"bench.speed.{name}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
