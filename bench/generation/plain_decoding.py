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

from bench.generation.decoding import Draws
from bench.models.sampler import Sampler


class DrawingProcessor(LogitsProcessor):
    """Draws the next token of every row [R], and leaves it as the only choice."""

    def __init__(self, draws: Draws, advance: Callable[[float], None]) -> None:
        self.draws, self.advance, self.step = draws, advance, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = self.draws.step(scores, self.step)
        self.step += 1
        self.advance(len(drawn))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


def prefill(model: Any, prompt_ids: list[list[int]]) -> torch.Tensor:
    """P prompts of equal length [P, L], as not every architecture ignores padding. Nothing is computed."""
    return torch.tensor(prompt_ids, device=model.device)


def decode(
    model: Any,
    prompts: torch.Tensor,
    uniforms: np.ndarray,
    sampler: Sampler,
    *,
    eos_ids: set[int],
    advance: Callable[[float], None],
) -> Draws:
    """Draw at most T tokens for each row of uniforms [R, T], as bench.generation.decoding.decode does."""
    ids = prompts.repeat_interleave(len(uniforms) // len(prompts), 0)
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
