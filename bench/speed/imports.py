"""Import a million completions from JSON lines in a process of its own: seconds and peak memory.

examples:
  python -m bench.speed imports
  python -m bench.speed imports --prompts 1000
  python -m bench.speed imports --prompts 62500 400000 --completions 16 1

The rows have an id, a prompt, a completion of 250 characters, a label and a reward.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

from bench.seeds import generator
from bench.speed.measure import Printout, keep, option_parser, python, timed

WORDS = "Let x be the number of coins that Leo has. " * 6
PROGRAM = (
    "import resource, sys; from bench.pools.importing import main; main(sys.argv[1:]);"
    "used = resource.getrusage(resource.RUSAGE_SELF);"
    "print(used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"
)


def main(arguments: list[str]) -> None:
    parser = option_parser("imports", __doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=[62_500], help="M of each file")
    parser.add_argument("--completions", type=int, nargs="+", default=[16], help="N per prompt of each")
    parser.add_argument("--csv", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    if len(options.prompts) != len(options.completions):
        parser.error("--prompts and --completions must have as many numbers: one for each file")
    table = Printout(16, {"MiB": 8, "wall s": 8, "CPU s": 8, "peak memory": 14})
    for prompts, completions in zip(options.prompts, options.completions, strict=True):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "samples.jsonl")
            _write(file, prompts, completions)
            call = partial(python, Path(scratch), "-c", PROGRAM, file.name, "name=speed", OMP_NUM_THREADS="1")
            printed, cost = timed(call)
            seconds, peak = map(float, printed.split()[-2:])
            size = file.stat().st_size / 2**20
            cells = f"{size:,.0f}", f"{cost.wall:.0f}", f"{seconds:.1f}", f"{peak / 2**30:.2f} GiB"
            table.row(f"{prompts:,} x {completions}", *cells)
    keep(options.csv, table.rows)


def _write(file: Path, prompts: int, completions: int) -> None:
    """Rows whose labels and rewards are random, by prompts of different difficulty."""
    rng = generator(0, "speed of imports")
    with file.open("w") as opened:
        for prompt, chance in enumerate(rng.beta(1, 2, prompts).tolist()):
            correct = rng.random(completions) < chance
            rewards = correct + rng.normal(0, 1, completions)
            about = {"id": f"q{prompt}", "prompt": f"How many coins has Leo in case {prompt}?"}
            for sample, (right, reward) in enumerate(zip(correct.tolist(), rewards.tolist(), strict=True)):
                row = about | {"completion": f"{WORDS}{sample}", "correct": right, "reward": reward}
                opened.write(json.dumps(row) + "\n")
