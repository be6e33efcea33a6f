"""Sampling with transformers: one prefill a prompt for all its samples, a cache filled in place, finished rows dropped.

Any causal language model of Hugging Face whose layers cache attention keys and values works, through its own forward.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np

from bench import policies
from bench.allowed import DTYPE, Count, Seed, Temperature, TopK, TopP
from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation import tokens
from bench.generation.pool import draw
from bench.progress import Bar
from bench.seeds import generator

if TYPE_CHECKING:
    from bench.generation.decoding import Prefill

VERSION = 2  # raise it when equal settings draw other samples


def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    num_completions: Count,
    temperature: Temperature,
    top_p: TopP,
    top_k: TopK = 0,
    max_new_tokens: Count,
    seed: Seed,
    dtype: Annotated[str, DTYPE] = "auto",
    block_size: Count = 4,
    shard_size: Count = 256,
    batch_tokens: Count = 49_152,
) -> Completions:
    """N completions of each prompt [M, N], from the store where they were drawn before.

    temperature 0 is greedy and has one completion. dtype: a torch name, or "auto": bfloat16 on a GPU, float32 on a CPU.
    block_size and shard_size: samples and prompts of one stored unit (see bench.generation.pool).
    batch_tokens: rows x (prompt + max_new_tokens) decoded at once. BenchError names a prompt that leaves no room for
    max_new_tokens in the model's context.
    """
    if dtype == "auto":
        dtype = "bfloat16" if _device() == "cuda" else "float32"
    return draw(
        prompts,
        policy,
        partial(TransformersEngine, policy, dtype=dtype, batch_tokens=batch_tokens),
        engine="transformers",
        version=VERSION,
        num_completions=num_completions,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        dtype=dtype,
        block_size=block_size,
        shard_size=shard_size,
    )


class TransformersEngine:
    """A loaded policy, its tokenizer, and the prefill of the prompts that it sampled from last."""

    def __init__(self, policy: Policy, *, dtype: str, batch_tokens: int) -> None:
        from bench.generation import kv_cache

        self.tokenizer = policies.load_tokenizer(policy)
        self.model = policies.load_model(policy, dtype=dtype, device=_device())
        if not kv_cache.supported(self.model):
            raise BenchError(
                f"The policy's model type {self.model.config.model_type} remembers more than attention keys and "
                "values, which generation=transformers can't share among samples."
            )
        self.batch_tokens = batch_tokens
        self.eos_ids = tokens.ending_ids(self.tokenizer, self.model.generation_config)
        self._last: tuple[object, list[list[int]], list[tuple[list[int], Prefill]]] | None = None

    def sample(
        self,
        prompts: Prompts,
        samples: range,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        max_new_tokens: int,
        seed: int,
        progress: Bar,
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt [M, len(samples)], each from its own random stream.

        The prompts' tokens are counted with sample 0, whose prefill the other samples share.
        """
        from bench.generation.decoding import decode

        prompt_ids, groups = self._prefilled(prompts, len(samples), max_new_tokens)
        shape = (len(prompts), len(samples))
        token_ids = np.empty(shape, object)
        logprob, policy_logprob = np.zeros(shape), np.zeros(shape)
        for group, prefill in groups:
            streams = [
                generator(seed, "generate", str(prompts.id[row]), sample).random(max_new_tokens)
                for row in group
                for sample in samples
            ]
            drawn = decode(
                self.model,
                prefill,
                np.stack(streams),
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                eos_ids=self.eos_ids,
                advance=progress.advance,
            )
            for i, ids in enumerate(drawn.token_ids):
                token_ids[group[i // shape[1]], i % shape[1]] = ids
            logprob[group] = drawn.logprob.reshape(-1, shape[1])
            policy_logprob[group] = drawn.policy_logprob.reshape(-1, shape[1])
        completions = tokens.decode(
            self.tokenizer,
            token_ids,
            eos_ids=self.eos_ids,
            logprob=logprob,
            policy_logprob=policy_logprob,
            dtype=str(self.model.dtype),
        )
        read = sum(map(len, prompt_ids)) if 0 in samples else 0
        written = int(completions.length.sum())
        flops = 2 * self.model.num_parameters() * (read + written)
        return completions, {"prompt_tokens": read, "generated_tokens": written, "flops": flops}

    def _prefilled(
        self, prompts: Prompts, samples: int, max_new_tokens: int
    ) -> tuple[list[list[int]], list[tuple[list[int], "Prefill"]]]:
        """Each prompt's token ids, and groups of prompts with their prefill; kept for the next block of samples."""
        from bench.generation.decoding import prefill

        wanted = (prompts.key, samples, max_new_tokens)
        if self._last is None or self._last[0] != wanted:
            self._last = None  # its memory is needed
            context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
            prompt_ids = tokens.encode(self.tokenizer, prompts, max_new_tokens=max_new_tokens, context=context)
            groups = [
                (group, prefill(self.model, [prompt_ids[row] for row in group]))
                for group in self._groups(prompt_ids, samples, max_new_tokens)
            ]
            self._last = (wanted, prompt_ids, groups)
        return self._last[1:]

    def _groups(self, prompt_ids: list[list[int]], samples: int, max_new_tokens: int) -> Iterator[list[int]]:
        """Prompts of like length, as many as the token budget decodes at once."""
        order = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
        group: list[int] = []
        for row in order:
            size = (len(group) + 1) * samples * (len(prompt_ids[row]) + max_new_tokens)
            if group and size > self.batch_tokens:
                yield group
                group = []
            group.append(row)
        yield group


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
