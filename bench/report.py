"""python -m bench.report RUN_FOLDER ...: the tables of finished runs, side by side where there are several.

python -m bench.report outputs/default/*
"""

import argparse
import sys
from pathlib import Path

from bench.errors import BenchError
from bench.reporting.collect import read_run
from bench.reporting.tables import main_table, runs_table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Tables of finished runs.")
    parser.add_argument("run", nargs="+", type=Path, help="a run's folder, outputs/<name>/<run id>")
    try:
        folders = parser.parse_args().run
        finished = [folder for folder in folders if (folder / "metrics.json").is_file()]
        for folder in folders if finished else []:
            if folder not in finished:
                print(f"left out: {folder} holds no finished run", file=sys.stderr)
        runs = [read_run(folder) for folder in finished or folders]
        table = main_table(runs[0]) if len(runs) == 1 else runs_table(runs)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except KeyError as error:
        folders = ", ".join(str(run.folder) for run in runs)
        sys.exit(f"error: The records in {folders} lack {error}; run the experiment again to rewrite them.")
    print(table)


if __name__ == "__main__":
    main()
