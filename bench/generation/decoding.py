"""Batched sampling through a model's own forward: prompts prefilled once, samples decoded from them, rows dropped.

State-space and hybrid models keep more than attention keys and values, which can't be shared among samples or repacked.
`plain_decode` leaves them to the model's own `generate`. The tokens are ours: a logits processor draws each from its
row's random stream and leaves it as the only choice. Every sample reads its prompt anew and finished rows stay in the
batch, so this is slower.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.generation.row_memory import FixedRows, GrowingRows
from bench.models import kv_cache
from bench.models.sampler import Sampler, at_quantile, first_kept, scale, token_at, upper_tail
from bench.models.tokens import padded

LOOK_EVERY = 8  # steps between two looks at which rows have finished, on a GPU; a CPU looks at every step


@dataclass(frozen=True)
class Prefill:
    """P prompts, padded on the left to a common width, with the model's cache and logits for them."""

    cache: Any
    logits: torch.Tensor  # [P, V] of the first new token
    attended: torch.Tensor  # [P, width] bool

    @property
    def width(self) -> int:
        return self.attended.shape[1]


class Draws:
    """The tokens that R = P x S rows draw step by step, by uniforms [R, T]; the rows of a prompt are adjacent."""

    def __init__(self, uniforms: np.ndarray, sampler: Sampler, eos_ids: set[int], device: torch.device) -> None:
        rows, steps = uniforms.shape
        self.sampler, self.uniforms = sampler, torch.from_numpy(uniforms).to(device)
        self.eos = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
        self.tokens = torch.zeros(rows, steps, dtype=torch.int32, device=device)
        self.length = torch.zeros(rows, dtype=torch.long, device=device)
        self.totals = torch.zeros(rows, 2, dtype=torch.float64, device=device)  # see `logprobs`
        self.row = torch.arange(rows, device=device)  # which of the R each row of the batch is
        self.live = torch.ones(rows, dtype=torch.bool, device=device)

    def step(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The next token [rows of the batch], drawn from logits [rows of the batch, V]."""
        drawn, logprobs = draw(logits, self.uniforms[self.row, step], self.sampler)
        self.tokens[self.row, step] = drawn.int()
        self.totals[self.row] += logprobs * self.live[:, None]
        self.length[self.row] += self.live
        self.live = self.live & ~torch.isin(drawn, self.eos)
        return drawn

    def keep(self, order: torch.Tensor) -> None:
        """Go on with the given rows of the batch, in that order."""
        self.row, self.live = self.row[order], self.live[order]

    def token_ids(self) -> list[np.ndarray]:
        """[R] int32 [length], EOS included where it was drawn."""
        tokens = self.tokens.cpu().numpy()
        return [tokens[row, :length].copy() for row, length in enumerate(self.length.tolist())]

    def logprobs(self) -> np.ndarray:
        """[R, 2] nats per sequence: under the sampler, and under the policy at temperature 1, top-p 1."""
        return self.totals.cpu().numpy()


@torch.inference_mode()
def prefill(model: Any, prompt_ids: list[list[int]]) -> Prefill:
    batch = padded([{"input_ids": prompt} for prompt in prompt_ids], {}, model.device, left=True)
    ids, attended = batch["input_ids"], batch["attention_mask"].bool()
    cache = kv_cache.empty(model, ids.shape[1])
    positions = (attended.cumsum(dim=-1) - 1).clamp(min=0)
    return Prefill(cache, kv_cache.forward(model, ids, attended, positions, cache), attended)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Prefill,
    uniforms: np.ndarray,
    sampler: Sampler,
    *,
    eos_ids: set[int],
    advance: Callable[[float], None],
    memory: GrowingRows | FixedRows,
) -> Draws:
    """A completion of at most T tokens for each row of uniforms [R, T].

    advance: called with the number of tokens drawn. memory: of the batch's rows, for one batch after another.
    """
    draws = Draws(uniforms, sampler, eos_ids, model.device)
    try:
        _decode(prompts, draws, advance, memory)
    except BaseException:
        memory.forget()
        raise
    return draws


def _decode(prompts: Prefill, draws: Draws, advance: Callable[[float], None], memory: GrowingRows | FixedRows) -> None:
    rows, steps = draws.tokens.shape
    copies = rows // len(prompts.logits)
    memory.begin(prompts, copies, steps)
    logits = prompts.logits.repeat_interleave(copies, 0)
    look_every, unfinished = 1 if logits.device.type == "cpu" else LOOK_EVERY, rows
    for step in range(steps):
        drawn = draws.step(logits, step)
        if step == steps - 1:
            break
        if (step + 1) % look_every == 0:
            advance(unfinished * look_every)
            live = draws.live.nonzero()[:, 0]
            unfinished = len(live)
            if unfinished == 0:
                break
            order = memory.drop(live)
            if order is not None:
                draws.keep(order)
                drawn = drawn[order]
        logits = memory.forward(drawn)


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row [R] by inverting the sampler's distribution function, and its log-probabilities [R, 2] in nats.

    The first log-probability is the sampler's, the second that of the policy at temperature 1, top-p 1. Tokens are
    ordered by id; under top-p by probability, where the nucleus is the upper end. uniform is float64.
    """
    logits = logits.float()
    if sampler.is_greedy:
        drawn = logits.argmax(dim=-1)
        return drawn, torch.stack([torch.zeros_like(uniform), _logprob(logits, drawn)], dim=-1)
    scaled, top_p = scale(logits, sampler), sampler.top_p
    probabilities = scaled.softmax(dim=-1)
    choose = at_quantile if top_p == 1 else functools.partial(_in_nucleus, top_p=top_p)
    drawn, mass = choose(probabilities, uniform[:, None])
    under_sampler = (probabilities.gather(-1, drawn).double().log() - mass.log())[:, 0]
    if scaled is not logits:
        under_policy = _logprob(logits, drawn[:, 0])
    else:
        under_policy = under_sampler if top_p == 1 else under_sampler + mass[:, 0].log()
    return drawn[:, 0], torch.stack([under_sampler, under_policy], dim=-1)


def _in_nucleus(
    probabilities: torch.Tensor, uniform: torch.Tensor, *, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `at_quantile`, from the tokens of the nucleus in ascending order of probability, then of id."""
    values, cumulative = upper_tail(probabilities, top_p)
    start = first_kept(cumulative, top_p)
    dropped = cumulative.gather(-1, start) - values.gather(-1, start)
    mass = cumulative[:, -1:] - dropped
    place = torch.searchsorted(cumulative, dropped + uniform * mass, right=True)
    place = torch.maximum(place, start).clamp_(max=values.shape[-1] - 1)
    return token_at(probabilities, values, place), mass


def _logprob(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0].double()


class DrawingProcessor(LogitsProcessor):
    """Draws the next token of every row [R], and leaves it as the only choice."""

    def __init__(self, draws: Draws, advance: Callable[[float], None]) -> None:
        self.draws, self.advance, self.step = draws, advance, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = self.draws.step(scores, self.step)
        self.step += 1
        self.advance(len(drawn))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


def plain_decode(
    model: Any,
    prompt_ids: list[list[int]],
    uniforms: np.ndarray,
    sampler: Sampler,
    *,
    eos_ids: set[int],
    advance: Callable[[float], None],
) -> Draws:
    """As `decode`, by the model's own `generate`: a completion of at most T tokens for each row of uniforms [R, T].

    prompt_ids: P prompts of equal length, as not every architecture ignores padding.
    """
    ids = torch.tensor(prompt_ids, device=model.device).repeat_interleave(len(uniforms) // len(prompt_ids), 0)
    draws = Draws(uniforms, sampler, eos_ids, model.device)
    model.generation_config = GenerationConfig()  # the model's own (penalties, ...) would be merged into ours
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=LogitsProcessorList([DrawingProcessor(draws, advance)]),
        generation_config=GenerationConfig(
            max_new_tokens=uniforms.shape[1],
            do_sample=False,
            eos_token_id=sorted(eos_ids) or None,
            pad_token_id=min(eos_ids, default=0),  # finished rows go on with it
        ),
    )
    return draws
