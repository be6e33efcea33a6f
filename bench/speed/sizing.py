"""The estimates of `bench.size` beside what a run takes: tokens, FLOPs and memory of each stage, and CPU-seconds.

examples:
  python -m bench.speed sizing
  python -m bench.speed sizing --layers 8 --hidden 512 --ways sft,lora

A randomly initialised Llama goes through the plain experiment with several ways of training, each in a process of its
own. It hardly ever draws EOS, so that lengths are known. torch counts the FLOPs of every matrix product as it runs,
with those that checkpointing repeats, which the suite leaves out. Memory is what a stage holds at its peak beyond the
libraries (Linux).
"""

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from bench.artifacts import Policy
from bench.sizing.memory import Machine, machine
from bench.speed.measure import cells_of, highest, keep, option_parser, reset_peak, resident, timed
from bench.speed.random_llama import random_policy
from bench.store import Address, Store

WAYS = {
    "sft": ["training.micro_batch_size=4"],
    "checkpointing": ["training.micro_batch_size=4", "training.gradient_checkpointing=true"],
    "whole batch": ["training.micro_batch_size=null"],
    "lora": ["training=lora", "training.micro_batch_size=4"],
    "lora checkpointing": ["training=lora", "training.micro_batch_size=4", "training.gradient_checkpointing=true"],
}
STAGES = {  # name in the store: name in bench.size
    "generate": "generation",
    "sft": "fine-tuning",
    "divergence_samples": "KL",
    "lm_eval_exact_match": "lm-eval",
}
NUMBERS = ("tokens", "flops", "bytes", "seconds")


def main(arguments: list[str]) -> None:
    parser = option_parser("sizing", __doc__)
    parser.add_argument("--layers", type=int, default=6, help="layers of the model")
    parser.add_argument("--hidden", type=int, default=384, help="its hidden size")
    parser.add_argument("--vocabulary", type=int, default=4_000, help="its vocabulary")
    parser.add_argument("--prompts", type=int, default=8, help="training prompts; half as many are held out")
    parser.add_argument("--samples", type=int, default=4, help="completions per prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per completion")
    parser.add_argument("--ways", default=",".join(WAYS), help="ways of training")
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
            plain = plain_experiment(policy, options.prompts, options.samples, options.tokens)
            overrides = [*plain, "training.epochs=2", "training.batch_size=8", *WAYS[way]]
            whole = not rows  # all ways share what comes before the training
            for name in ("store", "counting"):  # ways that differ in speed alone make the same artifact
                shutil.rmtree(Path(folder, name, "sft"), ignore_errors=True)
            taken = _run([*overrides, f"store={folder}/store"], counting=False, whole=whole)
            # counting FLOPs slows a run down, so it is a run of its own
            counted = _run([*overrides, f"store={folder}/counting"], counting=True, whole=whole)
            for name, stage in counted["stages"].items():
                taken["stages"][name]["flops"] = stage["flops"]
            rows_of_way = [{"way": way, **row} for row in beside(taken, overrides, machine("cpu", 1e11))]
            print(*map(_line, rows_of_way), sep="\n", flush=True)
            rows += rows_of_way
    keep(options.csv, rows)


def plain_experiment(policy: Policy, prompts: int, samples: int, tokens: int) -> list[str]:
    """The settings of an experiment whose amounts of work are known. samples: per prompt. tokens: per completion."""
    return [
        *("policy=folder", f"policy.path={policy.path}", "tracking=none", f"task.train_prompts={prompts}"),
        *(f"task.test_prompts={max(2, prompts // 2)}", f"num_completions={samples}", f"baseline_completions={samples}"),
        *(f"evaluation.num_completions={samples}", f"task.max_new_tokens={tokens}", "selection=random_per_prompt"),
        *("prompt_filter=all", "control=none"),
    ]


def _line(row: dict[str, Any]) -> str:
    def pair(name: str, unit: float) -> str:
        counted, estimate = row[name] / unit, row[f"estimated_{name}"] / unit
        return f"{counted:10.3g}{estimate:10.3g}{estimate / counted:7.2f}"

    tokens = f"{row['tokens']:10,.0f}{row['estimated_tokens'] / row['tokens']:8.2f}" if row["tokens"] else f"{'':18}"
    name = f"{row['way']}: {row['stage']}"
    return f"{name:32}{tokens}{pair('flops', 1)}{pair('bytes', 2**20)}{row['cpu_seconds']:8.1f}"


def _run(overrides: list[str], *, counting: bool, whole: bool) -> dict[str, Any]:
    program = f"from {__name__} import measured; measured(counting={counting}, whole={whole})"
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # else the heap keeps memory of freed tensors
    command = [sys.executable, "-c", program, *overrides]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(answer.stdout.splitlines()[-1])


def beside(taken: dict[str, Any], overrides: list[str], where: Machine) -> list[dict[str, Any]]:
    """Each stage's measured numbers with the estimates of bench.size, given the mean lengths."""
    from bench.sizing.stages import SizeHints, estimate

    hints = SizeHints(prompt_tokens=taken["prompt_tokens"], completion_tokens=taken["completion_tokens"])
    by_name = {stage.name: stage for stage in estimate(cells_of(overrides), where, hints).stages}
    return [
        {"stage": name, **stage, **{f"estimated_{number}": getattr(by_name[name], number) for number in NUMBERS}}
        for name, stage in taken["stages"].items()
    ]


class MeasuringStore(Store):
    """A store that measures what each stage takes to make its artifacts; memory is counted beyond `bare` bytes.

    On a GPU: its memory that torch reserves in this process, and whatever else of it is in use.
    """

    def __init__(self, root: Path, *, counting: bool, bare: int) -> None:
        super().__init__(root)
        self.taken: dict[str, dict[str, float]] = {}
        self.counting, self.bare = counting, bare

    def _build(self, address: Address, folder: Path, build: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
        from torch.utils.flop_counter import FlopCounterMode

        reset_peak()
        counter = FlopCounterMode(display=False)
        with counter if self.counting else contextlib.nullcontext():
            manifest, cost = timed(lambda: super(MeasuringStore, self)._build(address, folder, build))
        counts = manifest["counts"]
        so_far = self.taken.setdefault(address.stage, dict.fromkeys((*NUMBERS, "cpu_seconds"), 0.0))
        if address.stage != "lm_eval_exact_match":  # it counts the tokens of its texts, another number
            so_far["tokens"] += counts.get("generated_tokens", counts.get("train_tokens", 0))
        so_far["flops"] += counter.get_total_flops() if self.counting else 0
        so_far["cpu_seconds"] += cost.cpu
        so_far["seconds"] += cost.wall
        so_far["bytes"] = max(so_far["bytes"], highest() - self.bare)
        return manifest


def measured(*, counting: bool, whole: bool) -> None:
    """Measure one way in this process, with the settings in sys.argv, and print its numbers as JSON.

    A tiny model goes first, so that the memory of the libraries is allocated before the measurement.
    """
    bare = 0
    if not counting:
        with tempfile.TemporaryDirectory() as folder:
            small = random_policy(Path(folder, "policy"), 1, 32, 400)
            few = [f"policy.path={small.path}", f"store={folder}/store", "task.max_new_tokens=4"]
            experiment([*sys.argv[1:], *few], counting=False, bare=0, whole=whole)
        gc.collect()
        bare = resident("VmRSS")
    print(json.dumps(experiment(sys.argv[1:], counting=counting, bare=bare, whole=whole)))


def experiment(overrides: list[str], *, counting: bool, bare: int, whole: bool) -> dict[str, Any]:
    """Run the experiment, or only its training where not `whole`; returns mean lengths and what each stage took."""
    from bench.config import checks
    from bench.models.loading import load_tokenizer
    from bench.models.tokens import encode
    from bench.procedures.parts import Parts
    from bench.seeds import generator
    from bench.store import using

    cfg = cells_of(overrides)[0].cfg
    parts = checks.build_parts(cfg)
    del parts["tracking"]
    store = MeasuringStore(Path(cfg.store), counting=counting, bare=bare)
    with using(store):
        prompts, base = parts["task"].prompts("train"), parts["policy"](parts["task"])
        if whole:
            parts["procedure"](Parts.of(cast(Mapping[str, Any], cfg), parts))
        pool = parts["generation"](prompts, base, num_completions=cfg.num_completions, seed=cfg.seed)
        if not whole:
            chosen = parts["selection"](parts["scoring"](prompts, pool).value, generator(cfg.seed, "selection"))
            parts["training"](base, prompts, pool, chosen, seed=cfg.seed)
        read = encode(load_tokenizer(base), prompts)
        return {
            "prompt_tokens": sum(map(len, read)) / len(read),
            "completion_tokens": float(pool.length.mean()),
            "stages": {
                STAGES[name]: taken
                for name, taken in store.taken.items()
                if name in STAGES and (whole or name == "sft")
            },
        }
