"""All rates of one GPU within some minutes: checks, generation, vLLM, scoring, KL, SFT, estimates, a real model.

examples:
  python -m bench.speed gpu
  python -m bench.speed gpu --minutes 4 --parts checks matmul sft
  python -m bench.speed gpu --device cpu --minutes 2 --folder /tmp/gpu                 tiny sizes, to try the command

The folder has a page, a figure and a table per part, and goes into reports/gpu as it is. A part that can't run is one
row with its reason, and the others go on. Each part has a share of the minutes and stops between repetitions. The last
one, experiment=gsm8k_smollm2, has all the time that is left; it needs the hub, or --smollm2 and --gsm8k. The status is
1 where a part failed, and 2 where there is no GPU.
"""

import multiprocessing
import os
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import devices
from bench.errors import first_line, quoted
from bench.speed import gpu_parts, gpu_runs
from bench.speed.gpu_setup import ON_CPU, ON_GPU, NotRunError, PartOutcome, Report, Row, Setup
from bench.speed.measure import option_parser

NO_GPU = "there is no GPU that torch can use; --device cpu tries the command with tiny sizes."
GRACE = 90.0  # seconds that a part may take beyond its share, e.g. to start vLLM
LEAST = 5.0  # seconds that a part needs
HEARTBEAT = 20.0  # seconds between two lines of a part that goes on
Part = Callable[[Setup], Iterator[Row]]
PARTS: dict[str, tuple[Part, float]] = {  # name -> the part, and the share of the minutes after which it stops
    "environment": (gpu_parts.machine, 0.02),
    "matmul": (gpu_parts.matmul, 0.02),
    "checks": (gpu_parts.checks, 0.08),
    "generation": (gpu_parts.drawing, 0.10),
    "vllm": (gpu_parts.vllm, 0.12),
    "scoring": (gpu_parts.scores, 0.05),
    "kl": (gpu_parts.divergence, 0.06),
    "sft": (gpu_parts.sft, 0.10),
    "estimates": (gpu_runs.estimates, 0.05),
    "gsm8k_smollm2": (gpu_runs.gsm8k_smollm2, 1.0),
}


def main(arguments: list[str]) -> None:
    parser = option_parser("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--folder", type=Path, default=Path("outputs/gpu"), help="where the report is written")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny sizes, to try the command")
    parser.add_argument("--model", help="the folder of a model to measure; default: a random Llama of 0.4 B parameters")
    parser.add_argument("--smollm2", help="a folder with SmolLM2-135M-Instruct, instead of the hub")
    parser.add_argument("--gsm8k", help="a folder with GSM8K in its published format, instead of the hub")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif devices.device() == "cpu":
        print(f"error: {NO_GPU}", file=sys.stderr)
        sys.exit(2)
    if options.minutes <= 0:
        parser.error(f"--minutes {options.minutes:g} is not allowed: it must be above 0")
    report = Report(options.folder, shlex.join(["python", "-m", "bench.speed", "gpu", *arguments]))
    with tempfile.TemporaryDirectory() as scratch:
        sizes = ON_CPU if options.device == "cpu" else ON_GPU
        places = {name: getattr(options, name) for name in ("model", "smollm2", "gsm8k")}
        setup = Setup(Path(scratch), options.folder.absolute(), sizes, 0.0, **places)
        run({name: PARTS[name] for name in options.parts}, setup, report, 60 * options.minutes)
    sys.exit(1 if any(outcome.state == "failed" for outcome in report.outcomes) else 0)


def run(parts: Mapping[str, tuple[Part, float]], setup: Setup, report: Report, seconds: float) -> None:
    """Run the parts one after another, and draw the figure. A part that fails or hangs ends no other."""
    last = time.monotonic() + seconds
    worker: PartWorker | None = None
    try:
        for name, (part, share) in parts.items():
            start = time.monotonic()
            deadline = min(last, start + share * seconds)
            given = replace(setup, deadline=deadline - min(10.0, 0.1 * (deadline - start)))
            state, reason = "not run", "no time was left"
            if last - start > LEAST:
                print(f"{name}: at most {deadline - start:.0f} s", flush=True)
                worker = worker or PartWorker()
                state, reason = worker.do(name, part, given, min(last, deadline + GRACE), partial(report.add, name))
            took = time.monotonic() - start
            report.end(PartOutcome(name, state, round(took, 1), len(report.tables.get(name, [])), reason))
            print(f"{name}: {state} after {took:.0f} s{f': {reason}' if reason else ''}", flush=True)
            if worker and (state not in ("done", "not run") or name == "vllm"):
                worker.close()  # what it left in memory must not harm the next part
                worker = None
    finally:
        if worker:
            worker.close()
    start = time.monotonic()
    try:
        report.draw()
    except Exception as error:
        report.end(PartOutcome("figure", "failed", round(time.monotonic() - start, 1), 0, _words(error)))
    print(f"written: {report.folder / 'README.md'}", flush=True)


class PartWorker:
    """A process that runs parts: it may hang, run out of memory or die with a fault of CUDA."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(theirs,))
        self.process.start()
        theirs.close()

    def do(self, name: str, part: Part, setup: Setup, limit: float, add: Callable[[Row], None]) -> tuple[str, str]:
        """(state, reason) of a part; `add` gets each of its rows. limit: of time.monotonic()."""
        start = time.monotonic()
        try:
            self.pipe.send((part, setup))
            while (left := limit - time.monotonic()) > 0:
                if not self.pipe.poll(min(left, HEARTBEAT)):
                    print(f"{name}: {time.monotonic() - start:.0f} s so far", flush=True)
                    continue
                kind, value = self.pipe.recv()
                if kind != "row":
                    return kind, value
                add(value)
        except (EOFError, OSError):
            self.process.join()
            return "failed", f"its process ended by itself, with status {self.process.exitcode}"
        return "stopped", f"it was stopped after {time.monotonic() - start:.0f} s; the rows are what it had finished"

    def close(self) -> None:
        """End the process and all that it started."""
        assert self.process.pid is not None
        gpu_runs.end(self.process.pid)
        self.process.join()
        self.pipe.close()


def _work(pipe: Any) -> None:
    """Do the parts that come through the pipe, and send their rows and how each ended."""
    while True:
        try:
            part, setup = pipe.recv()
        except EOFError:
            return
        try:
            for row in part(setup):
                pipe.send(("row", row))
            ended = ("done", "")
        except NotRunError as reason:
            ended = ("not run", str(reason))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            ended = ("failed", _words(error))
        devices.release_memory()
        pipe.send(ended)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {quoted(first_line(error))}"
