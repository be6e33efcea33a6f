"""Import completions that were drawn elsewhere, export those of a run, compare two pools, or audit their verdicts.

python -m bench.pools import FILE ... name=NAME [COLUMN=FIELD ...]    outputs/imported/NAME: a run of these completions
python -m bench.pools export RUN FILE                                 the pool of a run as a file
python -m bench.pools compare A B                                     where either of two pools leads, over k
python -m bench.pools audit NAME [labels=FILE]                        a verifier's errors, from labels by hand
python -m bench.pools COMMAND --help                                  the words that a command takes
"""

import importlib
import sys

from bench.errors import BenchError, printable

COMMANDS = {
    "import": "importing",
    "export": "export",
    "compare": "compare",
    "audit": "audit",
}  # command -> the module here whose main(words) it calls


def main() -> None:
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(__doc__)
        return
    if command not in COMMANDS:
        sys.exit(f"error: {printable(command)} is no command of bench.pools: give {', '.join(COMMANDS)}.")
    module = importlib.import_module(f"bench.pools.{COMMANDS[command]}")
    if {"-h", "--help"} & set(words):
        print(module.__doc__)
        return
    try:
        module.main(words)
    except BenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
