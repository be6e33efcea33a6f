"""The ways to sample that `python -m bench.speed generation` compares, each from prompts to token ids and texts."""

import contextlib
import gc
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation import vllm_engine
from bench.models import chat, loading
from bench.models.sampler import Sampler
from bench.progress import Bar, say
from bench.tasks.word_problems import WordProblems

WAYS = ("ours", "generate", "teaching", "vllm")
VLLM = (1, 1, 0.3, None, None, None, None, None)  # of its options; room for two engines, and for torch
TEACHING_PROMPTS = 8  # in one call of model.generate


@dataclass(frozen=True)
class SamplingWork:
    """The samples that every way draws."""

    prompts: Prompts
    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int


Way = Callable[[SamplingWork, int], list[np.ndarray]]  # (work, seed) -> the token ids of each row


def open_ways(
    names: Sequence[str], policy: Policy, model: Any, tokenizer: Any, *, dtype: str, batch_tokens: int | None
) -> dict[str, Way]:
    """The ways of these names that this machine has; say which are left out. batch_tokens: the budget of `ours`."""
    ways: dict[str, Way] = {}
    for name in names:
        if name == "ours":
            ways[name] = partial(_by_engine, open_engine(policy, dtype, batch_tokens))
        elif name == "generate":
            ways[name] = partial(_by_generate, model, tokenizer, None)
        elif name == "teaching":
            ways[name] = partial(_by_generate, model, tokenizer, TEACHING_PROMPTS)
        else:
            try:
                ways[name] = _vllm(policy, dtype)
            except BenchError as error:
                say(f"vllm is left out: {error}")
    return ways


def _vllm(policy: Policy, dtype: str) -> Way:
    from bench.generation.vllm_launch import Options

    engine = vllm_engine.VLLMEngine(policy, Options(dtype, *VLLM))
    _by_engine(engine, SamplingWork(WordProblems().prompts("train")[:1], 1, 1.0, 1.0, 1), 0)  # starts it
    return partial(_by_engine, engine)


@contextlib.contextmanager
def raw_vllm_ways(policy: Policy, dtype: str) -> Iterator[dict[str, Way]]:
    """vLLM without this suite: one request with n samples, also with log-probabilities; a request with a seed each."""
    from vllm import LLM, SamplingParams

    from bench.generation.vllm_launch import Options, arguments, quiet

    tokenizer = loading.load_tokenizer(policy)
    given = arguments(policy.path, Options(dtype, *VLLM), lora_rank=0, trust_remote_code=policy.trust_remote_code)
    with quiet():
        llm: Any = LLM(**given)

    def way(logprobs: int | None, seeded: bool, work: SamplingWork, seed: int) -> list[np.ndarray]:
        llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": chat.encode(tokenizer, messages)} for messages in work.prompts.messages]
        common = {"temperature": work.temperature, "top_p": work.top_p, "max_tokens": work.max_new_tokens}
        settings: Any = SamplingParams(n=work.samples, logprobs=logprobs, **common)
        if seeded:
            prompts = [prompt for prompt in prompts for _ in range(work.samples)]
            settings = [
                SamplingParams(seed=seed * len(prompts) + i, logprobs=logprobs, **common) for i, _ in enumerate(prompts)
            ]
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

    from bench.models.tokens import ending_ids

    eos, rows = ending_ids(tokenizer, model.generation_config), []
    sampler = {"temperature": work.temperature, "top_p": work.top_p, "top_k": 0} if work.temperature else {}
    batch = batch or len(work.prompts)
    for start in range(0, len(work.prompts), batch):
        encoded = [chat.encode(tokenizer, messages) for messages in work.prompts.messages[start : start + batch]]
        width = max(map(len, encoded))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in encoded], device=model.device)
        seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in encoded])
        with torch.random.fork_rng():
            torch.manual_seed(seed + start)
            out = model.generate(
                ids,
                attention_mask=seen.to(model.device),
                do_sample=work.temperature > 0,
                num_return_sequences=work.samples,
                max_new_tokens=work.max_new_tokens,
                eos_token_id=sorted(eos) or None,
                pad_token_id=min(eos, default=0),
                **sampler,
            )
        for row in out[:, width:].cpu().numpy():
            ends = np.isin(row, list(eos)).nonzero()[0]
            rows.append(row[: ends[0] + 1] if len(ends) else row)
    tokenizer.batch_decode([row.tolist() for row in rows], skip_special_tokens=True)
    return rows
