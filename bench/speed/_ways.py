"""The ways of sampling that `python -m bench.speed generation` compares, each from prompts to token ids and texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Policy, Prompts
from bench.devices import device
from bench.errors import BenchError
from bench.models import chat, loading
from bench.models.sampler import Sampler
from bench.progress import Bar, say
from bench.tasks.word_problems import WordProblems

WAYS = ("ours", "generate", "teaching", "vllm")
TEACHING_PROMPTS = 8  # in one call of model.generate
LOGIT_SPREAD = 4.0  # standard deviation of a random model's logits, so that its nucleus is small as a trained one's


@dataclass(frozen=True)
class Work:
    """What every way has to draw."""

    prompts: Prompts
    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int


Way = Callable[[Work, int], list[np.ndarray]]  # (work, seed) -> the token ids of each row


def open_ways(
    names: Sequence[str], policy: Policy, model: Any, tokenizer: Any, *, dtype: str, batch_tokens: int
) -> dict[str, Way]:
    """The ways of these names that this machine has; what is left out is said. batch_tokens: of ours."""
    from bench.generation.transformers_engine import TransformersEngine

    ways: dict[str, Way] = {}
    for name in names:
        if name == "ours":
            ways[name] = partial(_by_engine, TransformersEngine(policy, dtype=dtype, batch_tokens=batch_tokens))
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
    from bench.generation.vllm_engine import VLLMEngine
    from bench.generation.vllm_launch import Options

    engine = VLLMEngine(policy, Options(dtype, 1, 1, 0.3, None, None, None, None, None))
    one = Work(WordProblems().prompts("train")[:1], 1, 1.0, 1.0, 1)
    _by_engine(engine, one, 0)  # starts it
    return partial(_by_engine, engine)


def close_vllm() -> None:
    from bench.generation import vllm_engine

    vllm_engine.close()


def _by_engine(engine: Any, work: Work, seed: int) -> list[np.ndarray]:
    completions, _ = engine.sample(
        work.prompts,
        range(work.samples),
        Sampler(work.temperature, work.top_p),
        max_new_tokens=work.max_new_tokens,
        seed=seed,
        progress=Bar(),
    )
    if hasattr(engine, "_last"):
        engine._last = None  # the next turn reads its prompts again, as the others do
    return list(completions.token_ids.flat)


def _by_generate(model: Any, tokenizer: Any, batch: int | None, work: Work, seed: int) -> list[np.ndarray]:
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


def random_policy(folder: Path, layers: int, hidden: int, vocabulary: int) -> Policy:
    """A randomly initialised Llama with a tokenizer for the task; it hardly ever draws EOS."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from bench.seeds import generator
    from bench.training.pretraining import train_tokenizer

    logging.disable_progress_bar()
    tokenizer = train_tokenizer(WordProblems().demonstrations(2000, generator(0, "speed", "tokenizer")), 400)
    heads = max(1, hidden // (64 if hidden >= 512 else 32))
    config = LlamaConfig(
        vocab_size=max(vocabulary, len(tokenizer)),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4 if heads % 4 == 0 else heads,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    with torch.random.fork_rng(devices=[]), torch.device(device()):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
        model.to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(LOGIT_SPREAD / (config.initializer_range * hidden**0.5))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loading.folder(folder)
