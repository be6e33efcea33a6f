"""Batched sampling through a model's own forward: prompts prefilled once, samples decoded from them, rows dropped."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.generation import kv_cache
from bench.generation.truncation import truncate

DROP_BELOW = 0.9  # share of unfinished rows under which the cache is repacked without the finished ones
ROOM = 8  # tokens by which the cache grows: attention is fastest on keys that lie close together
LOOK_EVERY = 8  # steps after which a GPU is asked which rows have finished; a CPU is asked at every step


@dataclass(frozen=True)
class Prefill:
    """P prompts, padded on the left to a common width, and what the model made of them."""

    cache: Any
    logits: torch.Tensor  # [P, V] of the first new token
    attended: torch.Tensor  # [P, width] bool

    @property
    def width(self) -> int:
        return self.attended.shape[1]


@dataclass(frozen=True)
class Drawn:
    """R = P x S rows, the samples of one prompt next to each other."""

    token_ids: list[np.ndarray]  # [R] int32 [length], EOS included where it was drawn
    logprob: np.ndarray  # [R] nats a sequence, under the sampler
    policy_logprob: np.ndarray  # [R] nats a sequence, at temperature 1, top-p 1


@torch.inference_mode()
def prefill(model: Any, prompt_ids: list[list[int]]) -> Prefill:
    width = max(map(len, prompt_ids))
    ids = torch.zeros(len(prompt_ids), width, dtype=torch.long)
    attended = torch.zeros(len(prompt_ids), width, dtype=torch.bool)
    for row, prompt in enumerate(prompt_ids):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attended[row, width - len(prompt) :] = True
    ids, attended = ids.to(model.device), attended.to(model.device)
    cache = kv_cache.empty(model, width)
    positions = (attended.cumsum(dim=-1) - 1).clamp(min=0)
    return Prefill(cache, _forward(model, ids, attended, positions, cache), attended)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Prefill,
    uniforms: np.ndarray,
    *,
    temperature: float,
    top_p: float,
    top_k: int,
    eos_ids: set[int],
    advance: Callable[[float], None],
) -> Drawn:
    """A completion of at most T tokens for each row of uniforms [R, T]; `advance` is told of the tokens drawn."""
    device = model.device
    rows, steps = uniforms.shape
    of_prompt = torch.arange(len(prompts.logits), device=device).repeat_interleave(rows // len(prompts.logits))
    uniform = torch.from_numpy(uniforms).to(device)
    eos = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
    tokens = torch.zeros(rows, steps, dtype=torch.int32, device=device)
    length = torch.zeros(rows, dtype=torch.long, device=device)
    logprobs = torch.zeros(rows, 2, dtype=torch.float64, device=device)  # the sampler's, the policy's

    capacity = prompts.width + min(ROOM, steps)
    cache = kv_cache.take(prompts.cache, of_prompt, capacity)
    logits, position = prompts.logits[of_prompt], prompts.attended.sum(dim=-1)[of_prompt]
    attended = torch.nn.functional.pad(prompts.attended, (0, steps), value=True)[of_prompt]
    row = torch.arange(rows, device=device)  # which of the R each row of the batch is
    live = torch.ones(rows, dtype=torch.bool, device=device)
    look_every, unfinished = 1 if device.type == "cpu" else LOOK_EVERY, rows
    for step in range(steps):
        drawn, both = _draw(logits, uniform[row, step], temperature, top_p, top_k)
        tokens[row, step] = drawn.int()
        logprobs[row] += both * live[:, None]
        length[row] += live
        live = live & ~torch.isin(drawn, eos)
        if step == steps - 1:
            break
        used, kept = prompts.width + step, None
        if (step + 1) % look_every == 0:
            advance(unfinished * look_every)
            unfinished = int(live.sum())
            if unfinished == 0:
                break
            if unfinished < DROP_BELOW * len(row):
                kept = live.nonzero()[:, 0]
                row, live, drawn, attended, position = (x[kept] for x in (row, live, drawn, attended, position))
        if kept is not None or used == capacity:
            capacity = min(capacity + ROOM, prompts.width + steps) if used == capacity else capacity
            cache = kv_cache.take(cache, kept, capacity)
        logits = _forward(model, drawn[:, None], attended[:, : used + 1], (position + step)[:, None], cache)
    found, lengths, totals = tokens.cpu().numpy(), length.tolist(), logprobs.cpu().numpy()
    return Drawn([found[i, :n].copy() for i, n in enumerate(lengths)], totals[:, 0], totals[:, 1])


def _forward(
    model: Any, ids: torch.Tensor, attended: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """[rows, V] logits after the last of the given tokens."""
    optional = {"position_ids": positions, "logits_to_keep": 1}  # Bloom, for one, finds positions in the mask
    given = {name: value for name, value in optional.items() if name in _parameters(type(model).forward)}
    return model(input_ids=ids, attention_mask=attended, past_key_values=cache, use_cache=True, **given).logits[:, -1]


@functools.cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def _draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row [R] by inverting the sampler's distribution function, and its log-probabilities [R, 2] in nats.

    The first log-probability is the sampler's, the second that of the policy at temperature 1, top-p 1. uniform is
    float64: below 1, its product with a total is below the total, so that no token of probability 0 is drawn.
    """
    logits = logits.float()
    if temperature == 0:
        drawn = logits.argmax(dim=-1)
        return drawn, torch.stack([torch.zeros_like(uniform), _logprob(logits, drawn)], dim=-1)
    allowed = truncate(logits, temperature, top_p, top_k)
    largest = allowed.amax(dim=-1, keepdim=True)
    cumulative = (allowed - largest).exp_().double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    drawn.clamp_(max=logits.shape[-1] - 1)  # NaN logits alone lead past the end; their log-probability stays NaN
    sampler = ((allowed.gather(-1, drawn) - largest).double() - total.log())[:, 0]
    drawn = drawn[:, 0]
    return drawn, torch.stack([sampler, sampler if allowed is logits else _logprob(logits, drawn)], dim=-1)


def _logprob(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0].double()
