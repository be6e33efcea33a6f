"""What `bench.size` estimates beside what a run takes: tokens, FLOPs and memory of each stage, and its CPU-seconds.

    python -m bench.speed sizing
    python -m bench.speed sizing --layers 8 --hidden 512 --ways sft,lora

A randomly initialised Llama, which hardly ever draws EOS, so that lengths are known, goes through the plain experiment
with several ways of training, each way in a process of its own. FLOPs are of every matrix product, counted by torch as
it runs, those that checkpointing computes again too, which the suite leaves out; memory is what a stage holds at its
peak beyond the libraries (Linux).
"""

import argparse
import contextlib
import csv
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.speed._ways import random_policy
from bench.store import Address, Store

WAYS = {
    "sft": ["training.micro_batch_size=4"],
    "checkpointing": ["training.micro_batch_size=4", "training.gradient_checkpointing=true"],
    "whole batch": ["training.micro_batch_size=null"],
    "lora": ["training=lora", "training.micro_batch_size=4"],
    "lora checkpointing": ["training=lora", "training.micro_batch_size=4", "training.gradient_checkpointing=true"],
}
STAGES = {  # of the store: of bench.size
    "generate": "generation",
    "sft": "fine-tuning",
    "divergence_samples": "KL",
    "lm_eval_exact_match": "lm-eval",
}
NUMBERS = ("tokens", "flops", "bytes")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed sizing", description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6, help="default %(default)s")
    parser.add_argument("--hidden", type=int, default=384, help="default %(default)s")
    parser.add_argument("--vocabulary", type=int, default=4_000, help="default %(default)s")
    parser.add_argument("--prompts", type=int, default=8, help="training prompts, half as many held out: %(default)s")
    parser.add_argument("--samples", type=int, default=4, help="of each, default %(default)s")
    parser.add_argument("--tokens", type=int, default=64, help="of a completion, default %(default)s")
    parser.add_argument("--ways", default=",".join(WAYS), help="of training, default %(default)s")
    parser.add_argument("--csv", type=Path, help="a file for every number")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.ways.split(",") if name not in WAYS]
    if unknown:
        parser.error(f"--ways {unknown[0]} is not one of {', '.join(WAYS)}")

    rows: list[dict[str, Any]] = []
    print(f"{'':32}{'tokens':>18}{'FLOPs':>27}{'peak memory, MiB':>27}{'CPU s':>8}")
    print(f"{'':32}{'counted':>10}{'ratio':>8}{'counted':>10}{'estimate':>10}{'ratio':>7}", end="")
    print(f"{'measured':>10}{'estimate':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(Path(folder, "policy"), options.layers, options.hidden, options.vocabulary)
        for way in options.ways.split(","):
            overrides = [
                *("policy=folder", f"policy.path={policy.path}", "tracking=none"),
                *(f"task.train_prompts={options.prompts}", f"task.test_prompts={max(2, options.prompts // 2)}"),
                *(f"num_completions={options.samples}", f"baseline_completions={options.samples}"),
                *(f"evaluation.num_completions={options.samples}", f"task.max_new_tokens={options.tokens}"),
                *("selection=random_per_prompt", "control=none", "training.epochs=2", "training.batch_size=8"),
                *WAYS[way],
            ]
            whole = not rows  # what comes before the training is the same in all
            for name in ("store", "counting"):  # ways that change speed alone make one artifact
                shutil.rmtree(Path(folder, name, "sft"), ignore_errors=True)
            taken = _run([*overrides, f"store={folder}/store"], counting=False, whole=whole)
            # in a run of its own, as it takes longer
            counted = _run([*overrides, f"store={folder}/counting"], counting=True, whole=whole)
            found = [{"way": way, **row} for row in _beside(taken, counted, overrides)]
            print(*map(_line, found), sep="\n", flush=True)
            rows += found
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def _line(row: dict[str, Any]) -> str:
    def pair(name: str, unit: float) -> str:
        counted, estimate = row[name] / unit, row[f"estimated_{name}"] / unit
        return f"{counted:10.3g}{estimate:10.3g}{estimate / counted:7.2f}"

    tokens = f"{row['tokens']:10,.0f}{row['estimated_tokens'] / row['tokens']:8.2f}" if row["tokens"] else f"{'':18}"
    named = f"{row['way']}: {row['stage']}"
    return f"{named:32}{tokens}{pair('flops', 1)}{pair('bytes', 2**20)}{row['cpu_seconds']:8.1f}"


def _run(overrides: list[str], *, counting: bool, whole: bool) -> dict[str, Any]:
    program = f"from {__name__} import measured; measured(counting={counting}, whole={whole})"
    gives_back = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # what a tensor had, at once: else the heap keeps some
    command = [sys.executable, "-c", program, *overrides]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=gives_back)
    return json.loads(answer.stdout.splitlines()[-1])


def _beside(taken: dict[str, Any], counted: dict[str, Any], overrides: list[str]) -> list[dict[str, Any]]:
    """Each stage's numbers with those that bench.size gives for these settings, told the mean lengths."""
    from bench.config.compose import CONF
    from bench.sizing.machines import machine
    from bench.sizing.stages import Told, estimate
    from bench.sweeps.cells import cells

    found = cells(overrides, CONF)
    assert found is not None
    told = Told(prompt_tokens=taken["prompt_tokens"], completion_tokens=taken["completion_tokens"])
    by_name = {stage.name: stage for stage in estimate(found, machine("cpu", 1e11), told).stages}
    rows = []
    for name, stage in taken["stages"].items():
        row = {"stage": name, **stage, "flops": counted["stages"][name]["flops"]}
        rows.append(row | {f"estimated_{number}": getattr(by_name[name], number) for number in NUMBERS})
    return rows


class Measured(Store):
    """A store that measures what making each artifact takes, in `taken` by stage; memory beyond `bare` bytes."""

    def __init__(self, root: Path, *, counting: bool, bare: int) -> None:
        super().__init__(root)
        self.taken: dict[str, dict[str, float]] = {}
        self.counting, self.bare = counting, bare

    def _build(self, address: Address, folder: Path, build: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
        from torch.utils.flop_counter import FlopCounterMode

        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, see proc(5)
        start = time.process_time()
        counter = FlopCounterMode(display=False)
        with counter if self.counting else contextlib.nullcontext():
            manifest = super()._build(address, folder, build)
        seconds, counts = time.process_time() - start, manifest["counts"]
        so_far = self.taken.setdefault(address.stage, dict.fromkeys((*NUMBERS, "cpu_seconds"), 0.0))
        if address.stage != "lm_eval_exact_match":  # which counts the tokens of its texts, another number for noise
            so_far["tokens"] += counts.get("generated_tokens", counts.get("train_tokens", 0))
        so_far["flops"] += counter.get_total_flops() if self.counting else 0
        so_far["cpu_seconds"] += seconds
        so_far["bytes"] = max(so_far["bytes"], resident("VmHWM") - self.bare)
        return manifest


def measured(*, counting: bool, whole: bool) -> None:
    """One way, in a process of its own, the settings in sys.argv: prints its numbers as JSON.

    Before, the same goes through a model of almost nothing, so that what libraries hold is there when it begins.
    """
    bare = 0
    if not counting:
        with tempfile.TemporaryDirectory() as folder:
            small = random_policy(Path(folder, "policy"), 1, 32, 400)
            few = [f"policy.path={small.path}", f"store={folder}/store", "task.max_new_tokens=4"]
            _experiment([*sys.argv[1:], *few], counting=False, bare=0, whole=whole)
        gc.collect()
        bare = resident("VmRSS")
    print(json.dumps(_experiment(sys.argv[1:], counting=counting, bare=bare, whole=whole)))


def _experiment(overrides: list[str], *, counting: bool, bare: int, whole: bool) -> dict[str, Any]:
    """Run it, or its training alone where not `whole`; mean lengths, and what each stage took."""
    from bench.config import checks
    from bench.config.compose import CONF
    from bench.models.loading import load_tokenizer
    from bench.models.tokens import encode
    from bench.seeds import generator
    from bench.store import using
    from bench.sweeps.cells import cells

    found = cells(overrides, CONF)
    assert found is not None
    cfg = found[0].cfg
    parts = checks.build_parts(cfg)
    del parts["tracking"]
    store = Measured(Path(cfg.store), counting=counting, bare=bare)
    with using(store):
        prompts, base = parts["task"].prompts("train"), parts["policy"](parts["task"])
        if whole:
            parts.pop("procedure")(**parts, **{name: cfg[name] for name in checks.RUN_SETTINGS})
        pool = parts["generation"](prompts, base, num_completions=cfg.num_completions, seed=cfg.seed)
        if not whole:
            chosen = parts["selection"](parts["scoring"](prompts, pool).value, generator(cfg.seed, "selection"))
            parts["training"](base, prompts, pool, chosen, seed=cfg.seed)
        read = encode(load_tokenizer(base), prompts, max_new_tokens=1, context=None)
        return {
            "prompt_tokens": sum(map(len, read)) / len(read),
            "completion_tokens": float(pool.length.mean()),
            "stages": {
                STAGES[name]: taken
                for name, taken in store.taken.items()
                if name in STAGES and (whole or name == "sft")
            },
        }


def resident(name: str) -> int:
    """Bytes of this process in memory: VmRSS, now; VmHWM, at the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
