"""Decoding by the model's own `generate`, for models whose memory can't be shared among samples or repacked.

State-space and hybrid models keep more than attention keys and values, in caches that their own `generate` manages. The
tokens are ours: a logits processor draws each from its row's random stream and leaves it as the only choice. Every
sample reads its prompt anew and finished rows stay in the batch, so this is slower than bench.generation.decoding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.generation.decoding import Drawn, draw
from bench.models.sampler import Sampler


class Draws(LogitsProcessor):
    """Draws the next token of every row [R] from uniforms [R, T], and keeps it with its log-probabilities."""

    def __init__(
        self,
        uniforms: torch.Tensor,
        sampler: Sampler,
        *,
        eos: torch.Tensor,
        advance: Callable[[float], None],
    ) -> None:
        rows, steps = uniforms.shape
        self.uniforms, self.sampler, self.eos, self.advance = uniforms, sampler, eos, advance
        self.tokens = torch.zeros(rows, steps, dtype=torch.int32, device=uniforms.device)
        self.length = torch.zeros(rows, dtype=torch.long, device=uniforms.device)
        self.logprobs = torch.zeros(rows, 2, dtype=torch.float64, device=uniforms.device)
        self.live = torch.ones(rows, dtype=torch.bool, device=uniforms.device)
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn, both = draw(scores, self.uniforms[:, self.step], self.sampler)
        self.tokens[:, self.step] = drawn.int()
        self.logprobs += both * self.live[:, None]
        self.length += self.live
        self.live = self.live & ~torch.isin(drawn, self.eos)
        self.step += 1
        self.advance(len(drawn))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


def prefill(model: Any, prompt_ids: list[list[int]]) -> torch.Tensor:
    """P prompts of equal length [P, L]: not every architecture ignores padding. Nothing is run."""
    return torch.tensor(prompt_ids, device=model.device)


def decode(
    model: Any,
    prompts: torch.Tensor,
    uniforms: np.ndarray,
    sampler: Sampler,
    *,
    eos_ids: set[int],
    advance: Callable[[float], None],
) -> Drawn:
    """As bench.generation.decoding.decode: a completion of at most T tokens for each row of uniforms [R, T]."""
    ids = prompts.repeat_interleave(len(uniforms) // len(prompts), 0)
    draws = Draws(
        torch.from_numpy(uniforms).to(model.device),
        sampler,
        eos=torch.tensor(sorted(eos_ids), dtype=torch.long, device=model.device),
        advance=advance,
    )
    model.generation_config = GenerationConfig()  # the model's own (penalties, ...) would be merged into what is asked
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=LogitsProcessorList([draws]),
        generation_config=GenerationConfig(
            max_new_tokens=uniforms.shape[1],
            do_sample=False,
            eos_token_id=sorted(eos_ids) or None,
            pad_token_id=min(eos_ids, default=0),  # what finished rows go on with
        ),
    )
    return Drawn.of(draws.tokens, draws.length, draws.logprobs)
