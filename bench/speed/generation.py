"""Sampling, ours and others' ways, on the same prompts in turns: tokens a second, a CPU-second, memory, the GEMM floor.

    python -m bench.speed generation
    python -m bench.speed generation --policy FOLDER --rows 512 --max-new-tokens 256         a model of yours
    python -m bench.speed generation --layers 24 --hidden 2048 --vocabulary 128000           a random one, on a GPU

ours: the transformers engine. generate: model.generate on all rows at once. teaching: model.generate with
num_return_sequences on 8 prompts at a time, as teaching code does. vllm: the vLLM engine. Each turns prompts into token
ids and texts; ours and vllm give log-probabilities too. floor: the products with the model's weight matrices alone, for
the tokens that ours read and drew, each prompt read once.
"""

import argparse
import csv
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import policies
from bench.artifacts import Policy
from bench.devices import device, resolve_dtype
from bench.models import chat, loading
from bench.speed._ways import WAYS, Way, Work, close_vllm, open_ways, random_policy
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems


@dataclass(frozen=True)
class Turn:
    """One way's turn at the work."""

    tokens: int
    seconds: float
    cpu_seconds: float  # of this process and of those it started

    def rate(self, measure: str) -> float:
        return self.tokens / max(self.cpu_seconds if measure == "cpu" else self.seconds, 1e-9)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed generation", description=__doc__.splitlines()[0])
    parser.add_argument("--policy", help="a folder; default: the embedded policy, from the store or pretrained now")
    parser.add_argument("--layers", type=int, help="of a randomly initialised Llama in place of a policy")
    parser.add_argument("--hidden", type=int, default=1024, help="its hidden size, default %(default)s")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="its vocabulary, default %(default)s")
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024], help="default %(default)s")
    parser.add_argument("--samples", type=int, default=4, help="rows of one prompt, default %(default)s")
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0, 0.9], help="default %(default)s")
    parser.add_argument("--temperature", type=float, default=1.0, help="default %(default)s")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="default %(default)s")
    parser.add_argument("--batch-tokens", type=int, default=49_152, help="of ours, default %(default)s")
    parser.add_argument("--dtype", default="auto", help="bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each way, default %(default)s")
    parser.add_argument("--store", default="store", help="default %(default)s")
    parser.add_argument("--csv", type=Path, help="a file for every turn's numbers")
    options = parser.parse_args(arguments)

    import torch

    dtype = resolve_dtype(options.dtype)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        policy = _policy(options, Path(scratch))
        model = loading.load_model(policy, dtype=dtype, device=device())
        where = torch.cuda.get_device_name() if device() == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
        print(f"{model.config.model_type}, {model.num_parameters():,} parameters, {dtype}, {where}\n")
        tokenizer = loading.load_tokenizer(policy)
        task = WordProblems(train_prompts=max(600, max(options.rows) // options.samples))
        names: list[str] = options.ways
        for rows in options.rows:
            for top_p in options.top_p:
                ways = open_ways(  # anew, so that each starts without memory that it kept
                    names, policy, model, tokenizer, dtype=dtype, batch_tokens=options.batch_tokens
                )
                names = list(ways)
                prompts = task.prompts("train")[: max(1, rows // options.samples)]
                work = Work(prompts, options.samples, options.temperature, top_p, options.max_new_tokens)
                read = sum(len(chat.encode(tokenizer, messages)) for messages in prompts.messages)
                records += _compare(work, ways, model, read, options.repeats)
        if {"ours", "generate"} <= ways.keys():
            _greedy(Work(prompts, 1, 0.0, 1.0, options.max_new_tokens), ways)
        if "vllm" in ways:
            close_vllm()
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


def _policy(options: argparse.Namespace, scratch: Path) -> Policy:
    if options.policy is not None:
        return loading.folder(options.policy)
    if options.layers is not None:
        return random_policy(scratch, options.layers, options.hidden, options.vocabulary)
    with using(Store(options.store)):
        return policies.tiny(WordProblems(), seed=0)


def _compare(work: Work, ways: dict[str, Way], model: Any, prompt_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Every way once, to warm up and for its memory, then all in turns; prints a table, gives a record a turn."""
    memory = {name: _peak_memory(partial(way, work, 0), children=name == "vllm") for name, way in ways.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in (*ways, "floor")}
    for seed in range(1, repeats + 1):
        drawn = []
        for name, way in ways.items():
            turn, rows = _timed(partial(way, work, seed), children=name == "vllm")
            turns[name].append(turn)
            drawn.append([len(row) for row in rows])
        turns["floor"].append(_floor(model, prompt_tokens, len(work.prompts), np.array(drawn[0])))
    print(
        f"{len(drawn[0]):,} rows = {len(work.prompts):,} prompts x {work.samples}, temperature {work.temperature:g}, "
        f"top-p {work.top_p:g}, {np.mean(drawn[0]):.0f} tokens each; medians of {repeats} turns (lowest, highest)"
    )
    _show(turns, memory, "wall" if model.device.type == "cuda" else "cpu")
    return [
        {
            "rows": len(drawn[0]),
            "top_p": work.top_p,
            "way": name,
            "turn": number,
            "tokens": turn.tokens,
            "seconds": round(turn.seconds, 4),
            "cpu_seconds": round(turn.cpu_seconds, 4),
            "peak_memory_bytes": memory.get(name, ""),
        }
        for name, own in turns.items()
        for number, turn in enumerate(own)
    ]


def _show(turns: dict[str, list[Turn]], memory: dict[str, float], measure: str) -> None:
    """The table; ratios are of tokens a CPU-second, on a GPU of tokens a second."""
    reference = turns.get("generate", turns["floor"])
    head = (f"x {'generate' if reference is turns.get('generate') else 'floor'}", "of the floor", "peak memory")
    print(f"{'':10}{'tokens a second':>27}{'tokens a CPU-second':>30}{head[0]:>21}{head[1]:>14}{head[2]:>13}")
    for name, own in turns.items():
        ratios = [a.rate(measure) / b.rate(measure) for a, b in zip(own, reference, strict=True)]
        shares = [a.rate(measure) / b.rate(measure) for a, b in zip(own, turns["floor"], strict=True)]
        print(
            f"{name:10}{_range([turn.rate('wall') for turn in own]):>27}"
            f"{_range([turn.rate('cpu') for turn in own]):>30}"
            f"{_range(ratios, '.2f'):>21}{np.median(shares):>14.0%}"
            + (f"{memory[name] / 2**20:>9,.0f} MiB" if name in memory else "")
        )
    print(flush=True)


def _range(values: list[float], form: str = ",.0f") -> str:
    return f"{np.median(values):{form}} ({min(values):{form}}, {max(values):{form}})"


def _greedy(work: Work, ways: dict[str, Way]) -> None:
    ours, theirs = ways["ours"](work, 0), ways["generate"](work, 0)
    same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    print(f"greedy completions that are model.generate's, token for token: {same} of {len(ours)}")


def _timed(run: Callable[[], list[np.ndarray]], *, children: bool) -> tuple[Turn, list[np.ndarray]]:
    start, cpu = time.perf_counter(), _cpu_seconds(children)
    rows = run()
    _synchronise()
    return Turn(sum(map(len, rows)), time.perf_counter() - start, _cpu_seconds(children) - cpu), rows


def _floor(model: Any, prompt_tokens: int, prompts: int, lengths: np.ndarray) -> Turn:
    """The products with every weight matrix: all prompts at once, then the rows that are alive at each step."""
    import torch
    from transformers.pytorch_utils import Conv1D

    matrices = [
        (module.weight if isinstance(module, Conv1D) else module.weight.T, module is model.get_output_embeddings())
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]
    alive = [int((lengths > step).sum()) for step in range(1, max(lengths))]
    steps = [(prompt_tokens, prompts), *zip(alive, alive, strict=True)]
    room = {
        width: torch.randn(max(map(max, steps)), width, dtype=model.dtype, device=model.device)
        for width in {matrix.shape[0] for matrix, _ in matrices}
    }
    _synchronise()
    start, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for inner, last in steps:
            for matrix, is_head in matrices:
                torch.mm(room[matrix.shape[0]][: last if is_head else inner], matrix)
    _synchronise()
    return Turn(int(lengths.sum()), time.perf_counter() - start, time.process_time() - cpu)


def _peak_memory(run: Callable[[], Any], *, children: bool) -> float:
    """Bytes at the peak of a run beyond those before it, with all of the children's; NaN where it can't be told.

    On a GPU that of torch in this process, in which vLLM's has no part.
    """
    import ctypes

    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    status = Path("/proc/self/status")
    if not status.exists():
        run()
        return float("nan")

    def held(field: str) -> int:
        return 1024 * int(status.read_text().split(f"{field}:")[1].split()[0])

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier ways freed must not be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = held("VmRSS")
    run()
    return held("VmHWM") - before + sum(child.memory_info().rss for child in (_children() if children else []))


def _cpu_seconds(children: bool) -> float:
    """Of this process; with its children, in one of which vLLM computes (and waits, at a CPU's expense)."""
    total = time.process_time()
    for child in _children() if children else []:
        times = child.cpu_times()
        total += times.user + times.system
    return total


def _children() -> list[Any]:
    import psutil

    return psutil.Process().children(recursive=True)


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
