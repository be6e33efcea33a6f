"""python -m bench.pools: import completions that were drawn elsewhere, export, compare and audit pools.

commands; each has its own --help:
  import FILE ... name=NAME [COLUMN=FIELD ...]   make a run of these completions, outputs/imported/NAME
  export RUN FILE                                write the pool of a run to a file
  compare A B                                    say at which k either of two pools leads
  audit NAME [labels=FILE]                       estimate a verifier's errors from labels by hand

examples:
  python -m bench.pools import samples.jsonl name=mine completion=output correct=is_correct reward.rm=score
  python -m bench.pools export outputs/imported/mine pool.eval
  python -m bench.pools compare outputs/imported/mine outputs/default/1f7337556b
  python -m bench.pools import --help
"""

import importlib
import sys

from bench.errors import BenchError, CommandLine

COMMANDS = {"import": "importing", "export": "export", "compare": "compare", "audit": "audit"}  # -> its module here


def main() -> None:
    given = sys.argv[1:]
    if given and given[0] in COMMANDS and {"-h", "--help"} & set(given):
        print(importlib.import_module(f"bench.pools.{COMMANDS[given[0]]}").__doc__)
        return
    parser = CommandLine(__doc__)
    parser.add_argument("command", choices=COMMANDS, nargs="?", help="what to do")
    parser.take_words("what it takes", "WORD")
    parsed = parser.parse_args(given)
    if parsed.command is None:
        parser.print_help()
        return
    try:
        importlib.import_module(f"bench.pools.{COMMANDS[parsed.command]}").main(parsed.words)
    except BenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
