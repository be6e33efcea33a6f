"""Sampling with transformers: one prefill a prompt for all its samples, a preallocated cache, finished rows dropped.

Any causal language model of Hugging Face with ordinary attention layers works, through its own forward.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import chat, policies
from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation.pool import draw
from bench.generation.truncation import truncate
from bench.progress import Bar
from bench.seeds import generator

if TYPE_CHECKING:
    import torch

VERSION = 1  # raise it when equal settings draw other samples
DROP_BELOW = 0.85  # share of unfinished rows under which the cache is repacked without the finished ones
ROOM = 16  # tokens by which the cache grows: long enough to be rare, short enough to waste little


def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    num_completions: int,
    temperature: float,
    top_p: float,
    top_k: int = 0,
    max_new_tokens: int,
    seed: int,
    dtype: str = "auto",
    block_size: int = 4,
    shard_size: int = 256,
    batch_tokens: int = 32_768,
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
    """A loaded policy and its tokenizer."""

    def __init__(self, policy: Policy, *, dtype: str, batch_tokens: int) -> None:
        self.tokenizer = policies.load_tokenizer(policy)
        self.model = policies.load_model(policy, dtype=dtype, device=_device())
        self.batch_tokens = batch_tokens
        self.layers = _attention_layers(self.model.config)
        configured = self.model.generation_config.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        self.eos_ids = {token for token in (*several, self.tokenizer.eos_token_id) if token is not None}

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
        """The given samples of every prompt [M, len(samples)], each from its own random stream."""
        prompt_ids = [chat.encode(self.tokenizer, messages) for messages in prompts.messages]
        self._refuse_long(prompts, prompt_ids, max_new_tokens)
        shape = (len(prompts), len(samples))
        token_ids = np.empty(shape, object)
        logprob, policy_logprob = np.zeros(shape), np.zeros(shape)
        for group in self._groups(prompt_ids, len(samples), max_new_tokens):
            streams = [
                generator(seed, "generate", str(prompts.id[row]), sample).random(max_new_tokens)
                for row in group
                for sample in samples
            ]
            drawn, ours, raw = self._decode(
                [prompt_ids[row] for row in group], np.stack(streams), temperature, top_p, top_k, progress
            )
            for i, ids in enumerate(drawn):
                token_ids[group[i // shape[1]], i % shape[1]] = ids
            logprob[group] = ours.reshape(-1, shape[1])
            policy_logprob[group] = raw.reshape(-1, shape[1])
        texts = self.tokenizer.batch_decode(list(token_ids.ravel()), skip_special_tokens=True)
        stopped = [ids[-1] in self.eos_ids for ids in token_ids.ravel()]
        completions = Completions(
            text=np.array(texts, object).reshape(shape),
            token_ids=token_ids,
            finish_reason=np.where(stopped, "stop", "length").reshape(shape),
            logprob=logprob,
            policy_logprob=policy_logprob,
            key="",
        )
        read, written = sum(map(len, prompt_ids)), int(completions.length.sum())
        flops = 2 * self.model.num_parameters() * (read + written)
        return completions, {"prompt_tokens": read, "generated_tokens": written, "flops": flops}

    def _decode(
        self,
        prompt_ids: list[list[int]],
        uniforms: np.ndarray,
        temperature: float,
        top_p: float,
        top_k: int,
        progress: Bar,
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Token ids, sampler and policy log-probabilities of R = P x S rows from P prompts; uniforms: [R, T]."""
        import torch

        from bench.generation import kv_cache

        device = self.model.device
        rows, steps = uniforms.shape
        per_prompt, width = rows // len(prompt_ids), max(map(len, prompt_ids))
        ids = torch.zeros(len(prompt_ids), width, dtype=torch.long)
        attended = torch.zeros(len(prompt_ids), width + steps, dtype=torch.bool)
        attended[:, width:] = True
        for place, prompt in enumerate(prompt_ids):
            ids[place, width - len(prompt) :] = torch.tensor(prompt)
            attended[place, width - len(prompt) : width] = True
        ids, attended = ids.to(device), attended.to(device)
        uniform = torch.from_numpy(uniforms).to(device)
        eos = torch.tensor(sorted(self.eos_ids), device=device)

        tokens = torch.zeros(rows, steps, dtype=torch.int32, device=device)
        length = torch.full((rows,), steps, device=device)
        logprob = torch.zeros(rows, 2, dtype=torch.float64, device=device)  # sampler's, policy's
        with torch.inference_mode():
            cache = kv_cache.empty(self.layers, width)
            logits = self._forward(ids, attended[:, :width], width - 1, cache)
            of_prompt = torch.arange(len(prompt_ids), device=device).repeat_interleave(per_prompt)
            capacity = width + min(ROOM, steps)
            cache = kv_cache.take(cache, of_prompt, capacity)
            logits, attended = logits[of_prompt], attended[of_prompt]
            row = torch.arange(rows, device=device)  # which of the R each row of the batch is
            live = torch.ones(rows, dtype=torch.bool, device=device)
            for step in range(steps):
                drawn, both = _draw(logits, uniform[row, step], temperature, top_p, top_k)
                tokens[row, step] = drawn.int()
                logprob[row] += both * live[:, None]
                ended = live & torch.isin(drawn, eos)
                length[row[ended]] = step + 1
                live = live & ~ended
                remaining = int(live.sum())
                progress.advance(remaining)
                if remaining == 0 or step == steps - 1:
                    break
                few, full = remaining < DROP_BELOW * len(row), width + step + 1 > capacity
                if few or full:
                    kept = live.nonzero()[:, 0] if few else torch.arange(len(row), device=device)
                    capacity = min(capacity + ROOM, width + steps) if full else capacity
                    cache = kv_cache.take(cache, kept, capacity)
                    row, live, drawn, attended = row[kept], live[kept], drawn[kept], attended[kept]
                logits = self._forward(drawn[:, None], attended[:, : width + step + 1], width + step, cache)
        lengths, ours = length.cpu().tolist(), logprob.cpu().numpy()
        found = tokens.cpu().numpy()
        return [found[i, :n].copy() for i, n in enumerate(lengths)], ours[:, 0], ours[:, 1]

    def _forward(self, ids: "torch.Tensor", attended: "torch.Tensor", last: int, cache: Any) -> "torch.Tensor":
        """[rows, V] logits after the token at position `last` of the padded sequences."""
        positions = (attended.cumsum(dim=-1) - 1).clamp(min=0)[:, last + 1 - ids.shape[1] : last + 1]
        result = self.model(
            input_ids=ids,
            attention_mask=attended,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return result.logits[:, -1]

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

    def _refuse_long(self, prompts: Prompts, prompt_ids: list[list[int]], max_new_tokens: int) -> None:
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for name, ids in zip(prompts.id, prompt_ids, strict=True):
            if context is not None and len(ids) + max_new_tokens > context:
                raise BenchError(
                    f"Prompt {name} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} is more than the "
                    f"policy's context of {context}; shorten it or lower task.max_new_tokens."
                )


def _draw(
    logits: "torch.Tensor", uniform: "torch.Tensor", temperature: float, top_p: float, top_k: int
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """One token a row [R] by inverting the sampler's distribution function, and its log-probabilities [R, 2] in nats.

    The first log-probability is the sampler's, the second that of the policy at temperature 1, top-p 1.
    """
    import torch

    logits = logits.float()
    if temperature == 0:
        drawn = logits.argmax(dim=-1)
        return drawn, torch.stack([torch.zeros_like(uniform), _logprob_of(logits, drawn)], dim=-1)
    allowed = truncate(logits, temperature, top_p, top_k)
    cumulative = (allowed - allowed.amax(dim=-1, keepdim=True)).exp_().double().cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    sampler = _logprob_of(allowed, drawn)
    raw = sampler if allowed is logits else _logprob_of(logits, drawn)
    return drawn, torch.stack([sampler, raw], dim=-1)


def _logprob_of(logits: "torch.Tensor", tokens: "torch.Tensor") -> "torch.Tensor":
    return logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0].double()


def _attention_layers(config: Any) -> int:
    """How many layers keep keys and values; BenchError where some keep anything else."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        raise BenchError(
            f"Policy of type {config.model_type} has layers other than full attention ({', '.join(sorted(kinds))}), "
            "which generation=transformers does not handle."
        )
    return text.num_hidden_layers


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
