"""Sampling with transformers: one prefill for all samples of a prompt, a cache filled in place, finished rows dropped.

Any causal language model of Hugging Face works, through its own forward. Where its layers remember more than attention
keys and values (state-space and hybrid models), nothing can be shared, and its own `generate` decodes every sample.
On a GPU the cache lies at fixed addresses, and a step is replayed as a CUDA graph (see bench.generation.row_memory).
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.config.rules import DTYPE, Count, Samples, Seed, Temperature, TopK, TopP, or_null, whole
from bench.devices import Halving, device, resolve_dtype, that_fit
from bench.errors import BenchError
from bench.generation.pool import draw
from bench.models import loading, tokens
from bench.models.sampler import Sampler
from bench.progress import Bar, say
from bench.seeds import stream_key

MISTAKEN_IN_BATCHES = ("rwkv",)  # by the model's own generate, a prompt's answer depends on the others in its batch
BATCH_TOKENS, MOST = 49_152, 2**22  # rows x (prompt + max_new_tokens) at once: on a CPU, and the most on a GPU
VERSION = 3  # raise it when equal settings draw other samples


def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    num_completions: Samples,
    temperature: Temperature,
    top_p: TopP,
    top_k: TopK = 0,
    max_new_tokens: Count,
    seed: Seed,
    dtype: Annotated[str, DTYPE] = "auto",
    block_size: Count = 4,
    shard_size: Count = 256,
    first_sample: Annotated[int, whole(0)] = 0,
    batch_tokens: Annotated[int | None, or_null(whole(1, 1_000_000_000))] = None,
) -> Completions:
    """N completions of each prompt [M, N], read from the store where they were drawn before.

    temperature 0 is greedy and has one completion. dtype: a torch name, or "auto": bfloat16 on a GPU, float32 on a CPU.
    block_size and shard_size: samples and prompts of one stored unit; first_sample: those before it are left out (see
    bench.generation.pool).
    batch_tokens: rows x (prompt + max_new_tokens) decoded at once; None: 49,152 on a CPU, what half of its free memory
    holds on a GPU. BenchError names a prompt that leaves no room for max_new_tokens in the model's context.
    """
    dtype = resolve_dtype(dtype)
    return draw(
        prompts,
        policy,
        partial(TransformersEngine, policy, dtype=dtype, batch_tokens=batch_tokens),
        Sampler(temperature, top_p, top_k),
        engine="transformers",
        version=VERSION,
        samples=range(first_sample, num_completions),
        max_new_tokens=max_new_tokens,
        seed=seed,
        dtype=dtype,
        block_size=block_size,
        shard_size=shard_size,
    )


class TransformersEngine:
    """A loaded policy, its tokenizer, and the prefill of the prompts that it sampled from last."""

    def __init__(self, policy: Policy, *, dtype: str, batch_tokens: int | None, model: Any = None) -> None:
        """model: of the policy, where it is loaded, e.g. because it is being trained: call `forget` after a change."""
        from bench.generation import decoding, row_memory
        from bench.models import kv_cache

        self.tokenizer = loading.load_tokenizer(policy)
        self.model = loading.load_model(policy, dtype=dtype, device=device()) if model is None else model
        self.in_training = model is not None
        kind = self.model.config.model_type
        if kind in MISTAKEN_IN_BATCHES:
            raise BenchError(
                f"transformers computes {kind} models wrongly where a batch holds several prompts, so "
                "generation=transformers can't draw from them."
            )
        self.shares_prompts = kv_cache.supported(self.model)
        self.mixes_lengths = kv_cache.mixes_lengths(self.model)
        if self.shares_prompts:
            self._prefill: Any = decoding.prefill
            kv_cache.install_attention(self.model)
            two_prompts = partial(decoding.prefill, self.model, [[0, 0, 0], [0, 0]])
            self.memory = row_memory.for_model(self.model, two_prompts)
            self._decode: Any = partial(decoding.decode, memory=self.memory)
        else:
            self._prefill, self._decode = lambda model, prompt_ids: prompt_ids, decoding.plain_decode
            say(
                f"{kind} models remember more than attention keys and values: each sample reads its prompt anew, by "
                "the model's own generate, which is slower."
            )
        self.batch_tokens = batch_tokens or that_fit(BATCH_TOKENS, loading.bytes_per_token(self.model), MOST)
        self.halving = Halving("prompt", "lower generation.block_size or task.max_new_tokens")
        self.eos_ids = tokens.ending_ids(self.tokenizer, self.model.generation_config)
        self._last: tuple[object, list[list[int]], list[list[int]], Any] | None = None

    def forget(self) -> None:
        """Drop the last prompts' prefill, which other weights would not give, and the memory of batches."""
        self._last = None
        if self.shares_prompts:
            self.memory.forget()

    def sample(
        self, prompts: Prompts, samples: range, sampler: Sampler, *, max_new_tokens: int, seed: int, progress: Bar
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt [M, len(samples)], each from its own random stream.

        The prompts' tokens are counted with sample 0, whose prefill the other samples share where they can; for a model
        in training they are counted each time.
        """
        prompt_ids, groups, prefill = self._prefilled(prompts, len(samples), max_new_tokens)
        token_ids = np.empty((len(prompts), len(samples)), object)
        logprobs = np.zeros((*token_ids.shape, 2))

        def drawn(group: list[int]) -> Any:
            keys = [stream_key(seed, "generate", str(prompts.id[row]), sample) for row in group for sample in samples]
            return self._decode(
                self.model,
                prefill(*group),
                _uniforms(keys, max_new_tokens),
                sampler,
                eos_ids=self.eos_ids,
                advance=progress.advance,
            )

        for group, draws in self.halving.each(drawn, groups):
            for i, ids in enumerate(draws.token_ids()):
                token_ids[group[i // len(samples)], i % len(samples)] = ids
            logprobs[group] = draws.logprobs().reshape(len(group), len(samples), 2)
        completions = tokens.decode(
            self.tokenizer,
            token_ids,
            prompts,
            eos_ids=self.eos_ids,
            logprob=logprobs[..., 0],
            policy_logprob=logprobs[..., 1],
            dtype=str(self.model.dtype),
        )
        reads = (self.in_training or 0 in samples) if self.shares_prompts else len(samples)
        read = sum(map(len, prompt_ids)) * reads
        written = int(completions.length.sum())
        flops = 2 * self.model.num_parameters() * (read + written)
        return completions, {"prompt_tokens": read, "generated_tokens": written, "flops": flops}

    def _prefilled(
        self, prompts: Prompts, samples: int, max_new_tokens: int
    ) -> tuple[list[list[int]], list[list[int]], Callable[..., Any]]:
        """Each prompt's token ids, groups of prompts, and a function from the prompts of a group to their prefill.

        It remembers for the next block of samples, where all prompts together are within the token budget.
        """
        wanted = (prompts.key, samples, max_new_tokens)
        if self._last is None or self._last[0] != wanted:
            self._last = None  # its memory is needed
            context = loading.context(self.model.config)
            prompt_ids = tokens.encode(self.tokenizer, prompts, max_new_tokens=max_new_tokens, context=context)
            groups = list(self._groups(prompt_ids, samples, max_new_tokens))
            model, prefill = self.model, self._prefill  # not self, which would keep itself in memory

            def prefilled(*group: int) -> Any:
                return prefill(model, [prompt_ids[row] for row in group])

            if sum(map(len, prompt_ids)) > self.batch_tokens:  # too much memory to keep; one group at a time
                return prompt_ids, groups, prefilled
            self._last = (wanted, prompt_ids, groups, cache(prefilled))
        return self._last[1:]

    def _groups(self, prompt_ids: list[list[int]], samples: int, max_new_tokens: int) -> Iterator[list[int]]:
        """Prompts of like length (equal, where padding is harmful), as many as the token budget decodes at once."""
        order = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
        group: list[int] = []
        for row in order:
            length = len(prompt_ids[row])
            full = (len(group) + 1) * samples * (length + max_new_tokens) > self.batch_tokens
            if group and (full or not (self.mixes_lengths or length == len(prompt_ids[group[0]]))):
                yield group
                group = []
            group.append(row)
        yield group


def _uniforms(keys: list[int], count: int) -> np.ndarray:
    """[len(keys), count] float64 in [0, 1): what bench.seeds.generator draws first from each key.

    One generator is set to each key in turn, in a quarter of the time that a generator per key takes to make.
    """
    bits = np.random.Philox(key=0)
    start, draw_from = bits.state, np.random.Generator(bits)
    uniforms = np.empty((len(keys), count))
    for row, key in enumerate(keys):
        start["state"]["key"] = np.array([key % 2**64, key >> 64], dtype=np.uint64)
        bits.state = start
        draw_from.random(out=uniforms[row])
    return uniforms
