"""Sampling by this suite and by other ways, on the same prompts in turns: tokens per second, memory, the GEMM floor.

examples:
  python -m bench.speed generation
  python -m bench.speed generation --policy FOLDER --rows 512 --max-new-tokens 256         a model of yours
  python -m bench.speed generation --layers 24 --hidden 2048 --vocabulary 128000           a random one, on a GPU

ours: the transformers engine. generate: model.generate on all rows at once. teaching: model.generate with
num_return_sequences on 8 prompts at a time, as teaching code does. vllm: the vLLM engine. Each turns prompts into token
ids and texts; ours and vllm give log-probabilities too. floor: only the products with the model's weight matrices, for
the tokens that ours read and drew, where each prompt is read once.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.devices import device, resolve_dtype
from bench.errors import BenchError
from bench.generation import vllm_engine
from bench.models import chat, loading, tokens
from bench.models.sampler import Sampler
from bench.progress import Bar, say
from bench.speed import measure as measuring
from bench.speed.random_llama import embedded_or_random
from bench.tasks.word_problems import WordProblems

WAYS = ("ours", "generate", "teaching", "vllm")
VLLM = (1, 1, 0.3, None, None, None, None, None)  # of its options; room for two engines, and for torch
TEACHING_PROMPTS = 8  # in one call of model.generate


class SamplingWork(NamedTuple):
    prompts: Prompts
    samples: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


Way = Callable[[SamplingWork, int], list[np.ndarray]]  # (work, seed) -> the token ids of each row


class Turn(NamedTuple):
    tokens: int
    cost: measuring.Cost


def main(arguments: list[str]) -> None:
    parser = measuring.option_parser("generation", __doc__)
    parser.add_argument("--policy", help="a folder; default: the embedded policy, from the store or pretrained now")
    parser.add_argument("--layers", type=int, help="layers of a randomly initialised Llama in place of a policy")
    parser.add_argument("--hidden", type=int, default=1024, help="its hidden size")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="its vocabulary")
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024], help="completions drawn at once")
    parser.add_argument("--samples", type=int, default=4, help="rows per prompt")
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0, 0.9], help="of the sampler")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampler")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="of the sampler")
    parser.add_argument("--batch-tokens", type=int, help="the budget of ours; default: that of generation=transformers")
    parser.add_argument("--dtype", default="auto", help="auto: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is compared")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each way")
    parser.add_argument("--store", default="store", help="where the embedded policy lies")
    parser.add_argument("--csv", type=Path, help="a file for the rows of the tables")
    options = parser.parse_args(arguments)

    import torch

    dtype = resolve_dtype(options.dtype)
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        given = loading.folder(options.policy) if options.policy is not None else None
        policy = given or embedded_or_random(options, Path(scratch))
        model = loading.load_model(policy, dtype=dtype, device=device())
        where = torch.cuda.get_device_name() if device() == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
        print(f"{model.config.model_type}, {model.num_parameters():,} parameters, {dtype}, {where}\n")
        tokenizer = loading.load_tokenizer(policy)
        measure = "wall" if model.device.type == "cuda" else "cpu"
        names: list[str] = options.ways
        for rows in options.rows:
            prompts = prompts_of(rows, options.samples)
            for top_p in options.top_p:
                ways = open_ways(  # anew, so that each starts without memory that it kept
                    names, policy, model, tokenizer, dtype=dtype, batch_tokens=options.batch_tokens
                )
                names = list(ways)
                work = SamplingWork(prompts, options.samples, options.max_new_tokens, options.temperature, top_p)
                done = compare(work, ways, model, tokenizer, measuring.repetitions(options.repeats))
                about = {"rows": len(prompts) * options.samples, "top_p": top_p}
                table += [about | row for row in _table(*done, measure)]
        if {"ours", "generate"} <= ways.keys():
            _greedy(SamplingWork(prompts, 1, options.max_new_tokens, temperature=0.0), ways)
        if "vllm" in ways:
            vllm_engine.close()
    measuring.keep(options.csv, table)


def prompts_of(rows: int, samples: int) -> Prompts:
    """Training prompts of the default task for so many rows."""
    return WordProblems(train_prompts=max(600, rows // samples)).prompts("train")[: max(1, rows // samples)]


def compare(
    work: SamplingWork, ways: dict[str, Way], model: Any, tokenizer: Any, repeats: Iterable[int]
) -> tuple[dict[str, list[Turn]], dict[str, float]]:
    """Run every way once for its memory, which warms it up, then all in turns; the turns and the memory of each way.

    repeats: the seeds of the turns. Prints what is compared.
    """
    memory = {name: measuring.peak_memory(partial(way, work, 0), children=name == "vllm") for name, way in ways.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in (*ways, "floor")}
    read = sum(map(len, tokens.encode(tokenizer, work.prompts)))
    for seed in repeats:
        lengths = []
        for name, way in ways.items():
            rows, cost = measuring.timed(partial(way, work, seed), children=name == "vllm")
            lengths.append([len(row) for row in rows])
            turns[name].append(Turn(sum(lengths[-1]), cost))
        turns["floor"].append(_floor(model, read, len(work.prompts), np.array(lengths[0])))
    print(
        f"{len(lengths[0]):,} rows = {len(work.prompts):,} prompts x {work.samples}, "
        f"temperature {work.temperature:g}, top-p {work.top_p:g}, {np.mean(lengths[0]):.0f} tokens each; "
        f"medians of {len(turns['floor'])} turns (lowest, highest)"
    )
    return turns, memory


def rates(turns: Sequence[Turn], measure: str) -> np.ndarray:
    """Tokens per second of each turn; measure: cpu or wall."""
    return np.array([turn.tokens / max(getattr(turn.cost, measure), 1e-9) for turn in turns])


def _table(turns: dict[str, list[Turn]], memory: dict[str, float], measure: str) -> list[dict[str, Any]]:
    """Print a row per way, and return them. Ratios are of tokens per CPU-second, on a GPU of tokens per second."""
    reference = "generate" if "generate" in turns else "floor"
    columns = {"tokens per second": 27, "tokens per CPU-second": 30, f"x {reference}": 21, "of the floor": 14}
    printout, rows = measuring.Printout(10, {**columns, "peak memory": 13}), []
    for name, own in turns.items():
        wall, cpu = rates(own, "wall"), rates(own, "cpu")
        ratios, shares = (rates(own, measure) / rates(turns[other], measure) for other in (reference, "floor"))
        peak = f"{memory[name] / 2**20:,.0f} MiB" if name in memory else ""
        cells = (measuring.in_words(values, form) for values, form in ((wall, ",.0f"), (cpu, ",.0f"), (ratios, ".2f")))
        printout.row(name, *cells, f"{np.median(shares):.0%}", peak)
        row: dict[str, Any] = {"way": name, "turns": len(own), "tokens": sum(turn.tokens for turn in own)}
        measured = {"tokens_per_second": wall, "tokens_per_cpu_second": cpu, f"times_{reference}": ratios}
        for column, values in {**measured, "of_floor": shares}.items():
            row |= measuring.columns_of(column, values)
        rows.append(row | {"peak_memory_bytes": memory.get(name, "")})
    print()
    return rows


def _greedy(work: SamplingWork, ways: dict[str, Way]) -> None:
    ours, theirs = ways["ours"](work, 0), ways["generate"](work, 0)
    same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    print(f"greedy completions that are model.generate's, token for token: {same} of {len(ours)}")


def _floor(model: Any, prompt_tokens: int, prompts: int, lengths: np.ndarray) -> Turn:
    """Multiply by every weight matrix: for all prompts at once, then for the unfinished rows at each step."""
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

    def products() -> None:
        with torch.inference_mode():
            for inner, last in steps:
                for matrix, is_head in matrices:
                    torch.mm(room[matrix.shape[0]][: last if is_head else inner], matrix)

    return Turn(int(lengths.sum()), measuring.timed(products)[1])


def open_ways(
    names: Sequence[str], policy: Policy, model: Any, tokenizer: Any, *, dtype: str, batch_tokens: int | None
) -> dict[str, Way]:
    """The ways of these names that this machine has; say which are left out. batch_tokens: the budget of `ours`."""
    ways: dict[str, Way] = {}
    for name in names:
        if name == "ours":
            ways[name] = partial(_by_engine, open_engine(policy, dtype, batch_tokens))
        elif name != "vllm":
            ways[name] = partial(_by_generate, model, tokenizer, TEACHING_PROMPTS if name == "teaching" else None)
        else:
            try:
                ways[name] = _vllm(policy, dtype)
            except BenchError as error:
                say(f"vllm is left out: {error}")
    return ways


def _vllm(policy: Policy, dtype: str) -> Way:
    from bench.generation.vllm_launch import Options

    engine = vllm_engine.VLLMEngine(policy, Options(dtype, *VLLM))
    _by_engine(engine, SamplingWork(prompts_of(1, 1), 1, 1), 0)  # starts it
    return partial(_by_engine, engine)


def open_engine(policy: Policy, dtype: str, batch_tokens: int | None = None) -> Any:
    """The transformers engine; batch_tokens None: the default of its stage."""
    from bench.generation.transformers_engine import TransformersEngine, generate

    budget = batch_tokens or inspect.signature(generate).parameters["batch_tokens"].default
    return TransformersEngine(policy, dtype=dtype, batch_tokens=budget)


def _by_engine(engine: Any, work: SamplingWork, seed: int) -> list[np.ndarray]:
    return list(draw(engine, work, seed).token_ids.flat)


def draw(engine: Any, work: SamplingWork, seed: int) -> Completions:
    """The work's completions [M, N], whose prompts the engine reads anew."""
    completions: Completions = engine.sample(
        work.prompts,
        range(work.samples),
        Sampler(work.temperature, work.top_p),
        max_new_tokens=work.max_new_tokens,
        seed=seed,
        progress=Bar(),
    )[0]
    if hasattr(engine, "_last"):
        engine._last = None  # the next turn reads its prompts again, as the other ways do
    return completions


def _by_generate(model: Any, tokenizer: Any, batch: int | None, work: SamplingWork, seed: int) -> list[np.ndarray]:
    import torch

    eos, rows = tokens.ending_ids(tokenizer, model.generation_config), []
    sampler = {"temperature": work.temperature, "top_p": work.top_p, "top_k": 0} if work.temperature else {}
    batch = batch or len(work.prompts)
    for start in range(0, len(work.prompts), batch):
        encoded = [chat.encode(tokenizer, messages) for messages in work.prompts.messages[start : start + batch]]
        read = tokens.padded([{"input_ids": prompt} for prompt in encoded], {}, model.device, left=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed + start)
            out = model.generate(
                **read,
                do_sample=work.temperature > 0,
                num_return_sequences=work.samples,
                max_new_tokens=work.max_new_tokens,
                eos_token_id=sorted(eos) or None,
                pad_token_id=min(eos, default=0),
                **sampler,
            )
        for row in out[:, read["input_ids"].shape[1] :].cpu().numpy():
            ends = np.isin(row, list(eos)).nonzero()[0]
            rows.append(row[: ends[0] + 1] if len(ends) else row)
    tokenizer.batch_decode([row.tolist() for row in rows], skip_special_tokens=True)
    return rows
