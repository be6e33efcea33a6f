"""The rates of `python -m bench.speed gpu`: each part yields the rows of its table, and stops between repetitions."""

import contextlib
import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Policy
from bench.devices import device, resolve_dtype
from bench.generation import vllm_engine
from bench.models import chat, loading, tokens
from bench.selection.cells import cells
from bench.speed import generation, gpu_checks, scoring
from bench.speed.gpu_setup import GIB, SAMPLES, NotRunError, Row, Setup, range_of, rates, with_share
from bench.speed.measure import highest, in_turns, peak_memory, reset_peak, timed
from bench.speed.random_llama import random_reward_model
from bench.store import Store, using


def machine(setup: Setup) -> Iterator[Row]:
    """Versions of the packages, and the card."""
    import torch

    from bench.records.environment import environment

    optional = ("wandb", "datasets", "accelerate", "liger-kernel", "flash-attn", "bitsandbytes")
    found = {**environment(), **{name: _version(name) for name in ("vllm", "lm-eval", *optional)}}
    if device() == "cuda":
        found["GPU memory, GiB"] = f"{torch.cuda.get_device_properties(0).total_memory / GIB:.1f}"
        found["CUDA of torch"] = str(torch.version.cuda)
        with contextlib.suppress(OSError):
            query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            found["driver, clock, power"] = answer.strip().partition("\n")[0]
    found["model"] = f"{loading.count_parameters(setup.policy()):,} parameters"
    yield from ({"name": name, "value": value} for name, value in found.items())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def matmul(setup: Setup) -> Iterator[Row]:
    """Products of square matrices, in the number format of the models and in float32."""
    import torch

    formats = [(resolve_dtype(), "highest")]
    if device() == "cuda":
        formats += [("float32", "highest"), ("float32", "high")]
    for name, precision in formats:
        torch.set_float32_matmul_precision(precision)
        for side in setup.sizes.sides:
            left = torch.randn(side, side, dtype=getattr(torch, name), device=device())
            products = partial(_products, left, 10)
            products()
            costs = [timed(products)[1] for _ in setup.turns()]
            flops = 10 * 2 * side**3
            label = "TF32" if precision == "high" else name
            yield {"format": label, "side": side, **rates("TFLOP/s", flops / 1e12, costs)}
    torch.set_float32_matmul_precision("highest")


def _products(matrix: Any, count: int) -> None:
    for _ in range(count):
        matrix @ matrix


def checks(setup: Setup) -> Iterator[Row]:
    """Numbers of the device beside those of plain code on a CPU in float32."""
    return gpu_checks.rows(setup.scratch / "checks", setup.deadline)


def drawing(setup: Setup) -> Iterator[Row]:
    """The transformers engine beside model.generate, in turns."""
    policy, dtype = setup.policy(), resolve_dtype()
    model, tokenizer = loading.load_model(policy, dtype=dtype, device=device()), loading.load_tokenizer(policy)
    for rows in setup.in_time(setup.sizes.rows):
        ways = generation.open_ways(["ours", "generate"], policy, model, tokenizer, dtype=dtype, batch_tokens=None)
        yield from _drawn(setup, rows, ways, model)


def _drawn(setup: Setup, rows: int, ways: dict[str, Any], model: Any, base: str = "generate") -> Iterator[Row]:
    work, tokenizer = setup.work(rows), loading.load_tokenizer(setup.policy())
    with contextlib.redirect_stdout(sys.stderr):
        turns, memory = generation.compare(work, ways, model, tokenizer, setup.turns())
    drawn = {way: generation.rates(own, "wall") for way, own in turns.items()}
    for way, own in drawn.items():
        ratio = float(np.median(own / drawn[base])) if base in drawn else float("nan")
        step = 1000 * len(work.prompts) * work.samples / np.median(own)
        row = {"rows": rows, "way": way, **range_of("tokens/s", own), f"x {base}": ratio, "ms per step": step}
        yield row | {"peak GiB": memory.get(way, float("nan")) / GIB}


def vllm(setup: Setup) -> Iterator[Row]:
    """vLLM's LLM.generate as it is, with log-probabilities, with a seed per sample, and through this suite."""
    if find_spec("vllm") is None:
        raise NotRunError("vllm is not installed")
    policy, dtype = setup.policy(), resolve_dtype()
    model = loading.load_model(policy, dtype=dtype, device=device())
    try:
        with raw_vllm_ways(policy, dtype) as raw:
            ways = generation.open_ways(["vllm"], policy, model, None, dtype=dtype, batch_tokens=None)
            for rows in setup.in_time(setup.sizes.rows[::-1]):
                yield from _drawn(setup, rows, {**raw, **ways}, model, base="LLM.generate")
    finally:
        vllm_engine.close()


@contextlib.contextmanager
def raw_vllm_ways(policy: Policy, dtype: str) -> Iterator[dict[str, generation.Way]]:
    """vLLM without this suite: one request with n samples, also with log-probabilities; a request with a seed each."""
    from vllm import LLM, SamplingParams

    from bench.generation.vllm_launch import Options, arguments, quiet

    tokenizer = loading.load_tokenizer(policy)
    given = arguments(
        policy.path, Options(dtype, *generation.VLLM), lora_rank=0, trust_remote_code=policy.trust_remote_code
    )
    with quiet():
        llm: Any = LLM(**given)

    def way(logprobs: int | None, seeded: bool, work: generation.SamplingWork, seed: int) -> list[np.ndarray]:
        llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": chat.encode(tokenizer, messages)} for messages in work.prompts.messages]
        common = {"temperature": work.temperature, "top_p": work.top_p, "max_tokens": work.max_new_tokens}
        settings: Any = SamplingParams(n=work.samples, logprobs=logprobs, **common)
        if seeded:
            prompts = [prompt for prompt in prompts for _ in range(work.samples)]
            seeds = range(seed * len(prompts), (seed + 1) * len(prompts))
            settings = [SamplingParams(seed=own, logprobs=logprobs, **common) for own in seeds]
        answers = llm.generate(prompts, settings, use_tqdm=False)
        return [np.array(sample.token_ids) for answer in answers for sample in answer.outputs]

    try:
        yield {
            "LLM.generate": partial(way, None, False),
            "with log-probabilities": partial(way, 0, False),
            "with log-probabilities and seeds": partial(way, 0, True),
        }
    finally:
        llm = None  # its processes end with it
        gc.collect()


def scores(setup: Setup) -> Iterator[Row]:
    """A reward model of random weights: sorted batches beside batches of 8 in arrival order."""
    from bench.models.classifiers import find
    from bench.models.reward_models import RewardModel

    texts = scoring.long_tailed(setup.sizes.texts, 60, 1.0, 1024)
    folder = setup.scratch / "reward"
    random_reward_model(folder, *texts, hidden=setup.sizes.hidden, layers=setup.sizes.layers, longest=1088)
    scorer = RewardModel(find(str(folder)), max_length=None, dtype=resolve_dtype(), batch_tokens=None)
    lengths = [len(row["input_ids"]) for row in chat.encode_conversations(scorer.tokenizer, *texts)]
    ways: dict[str, Callable[[], np.ndarray]] = {
        "scoring=reward_model": lambda: scorer.score(*texts)[0],
        "batches of 8 in arrival order": partial(scoring.in_arrival_order, scorer, 8, texts),
    }
    peaks = {name: peak_memory(way) for name, way in ways.items()}
    costs, values = in_turns(ways, setup.turns())
    plain = values["batches of 8 in arrival order"]
    flops = 2 * scorer.model.num_parameters() / setup.matmul_rate()
    for name, own in costs.items():
        row = with_share({"way": name, **rates("tokens/s", sum(lengths), own)}, flops)
        difference = np.abs(values[name] - plain).max() / plain.std()
        yield row | {"peak GiB": peaks[name] / GIB, "largest difference, standard deviations": float(difference)}


def divergence(setup: Setup) -> Iterator[Row]:
    """The exact KL of every step of drawn completions from the raw base, and the error of bfloat16."""
    from bench.models.logprobs import divergence_samples

    policy, (prompts, pool) = setup.policy(), setup.pool()
    other = _changed(policy, setup.scratch / "changed")
    read = sum(map(len, tokens.encode(loading.load_tokenizer(policy), prompts))) * SAMPLES + pool.length.sum()
    flops = 2 * 2 * loading.count_parameters(policy) / setup.matmul_rate()

    def measured(dtype: str) -> np.ndarray:
        with using(Store(setup.scratch / "kl")):
            found = divergence_samples(other, policy, prompts, pool, temperature=1.0, top_p=1.0, dtype=dtype)
        shutil.rmtree(setup.scratch / "kl" / "divergence_samples")
        return found.rao_blackwell

    exact = np.array([])
    for dtype in setup.in_time(("float32", "bfloat16")):
        peak = peak_memory(partial(measured, dtype))
        costs, values = in_turns({dtype: partial(measured, dtype)}, setup.turns())
        exact = values[dtype] if dtype == "float32" else exact
        row = with_share({"format": dtype, **rates("tokens/s", float(read), costs[dtype])}, flops)
        row |= {"peak GiB": peak / GIB, "nats per sequence": float(values[dtype].mean())}
        yield row | {"mean difference from float32": float(np.abs(values[dtype] - exact).mean())}


def _changed(policy: Policy, place: Path) -> Policy:
    """The policy with noise in its weights, in place of a tuned one."""
    import torch

    model = loading.load_model(policy)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            weight.add_(0.02 * weight.std(correction=0) * torch.randn_like(weight))
    model.to(torch.bfloat16).save_pretrained(place)
    loading.load_tokenizer(policy).save_pretrained(place)
    return loading.folder(place)


def sft(setup: Setup) -> Iterator[Row]:
    """Fine-tuning of all weights, with its share of the card's rate of matrix products.

    The rate is of the updates beyond the first two: loading, saving and the first kernels are not in it.
    """
    from bench.training.sft import fine_tune

    policy, (prompts, pool) = setup.policy(), setup.pool()
    chosen = cells(np.ones(pool.shape, bool))
    per_token = 6 * loading.count_parameters(policy) / setup.matmul_rate()

    def trained(updates: int, seed: int, packing: bool) -> tuple[float, float]:
        place = setup.scratch / "sft"
        recipe: dict[str, Any] = {"epochs": None, "learning_rate": 1e-5, "batch_size": setup.sizes.batch}
        with using(Store(place)) as store:
            fine_tune(policy, prompts, pool, chosen, **recipe, updates=updates, packing=packing, seed=seed)
        shutil.rmtree(place)
        return store.uses[-1].counts["train_tokens"], store.uses[-1].seconds

    for packing in setup.in_time((False, True)):
        few, many = 2, 2 + setup.sizes.updates
        trained(few, 0, packing)
        tokens, seconds = trained(few, 1, packing)
        peaks, speeds, steps = [], [], []
        for seed in setup.turns():
            reset_peak()
            more_tokens, more_seconds = trained(many, seed, packing)
            peaks.append(highest())
            steps.append(max(more_seconds - seconds, 1e-9) / setup.sizes.updates)
            speeds.append((more_tokens - tokens) / max(more_seconds - seconds, 1e-9))
        found = with_share({"packing": packing, **range_of("tokens/s", speeds)}, per_token)
        yield found | {
            "s per update": float(np.median(steps)),
            "s to load, start and save": seconds,
            "GiB in use at the peak": max(peaks) / GIB,
        }
