"""Stand-ins for the prompts, completions and rewards of a rehearsal: seeded numbers in place of texts."""

import functools
from collections.abc import Hashable
from typing import Any

import numpy as np

from bench.artifacts import Completions, Prompts, content_hash


@functools.lru_cache(maxsize=8)
def numbered_prompts(split: str, count: int) -> Prompts:
    """Numbered prompts. `answer` is the number plus the difficulty."""
    numbers = np.arange(count, dtype=float)
    difficulty = np.round(uniform(split, numbers.view(np.uint64)), 6)
    ids = np.char.add(f"{split}-", numbers.astype(int).astype(str))
    return Prompts(ids, (({"role": "user", "content": ""},),) * count, numbers + difficulty, split)


def placeholders(prompts: Prompts, stream: Hashable, samples: range) -> Completions:
    logprob = -uniform(repr(stream), bits(prompts.answer)[:, None], np.array(samples, np.uint64))
    text, token_ids = np.full(logprob.shape, "", object), np.empty(logprob.shape, object)
    token_ids.fill(np.empty(0, np.int32))
    key = content_hash(repr(stream), prompts.answer, list(samples))
    return Completions(text, token_ids, np.full(logprob.shape, "stop"), logprob, logprob, key)


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, float).view(np.uint64)


def uniform(name: str, *keys: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), a hash of the name and the keys: SplitMix64 (Steele et al. 2014)."""
    state: Any = np.uint64(int(content_hash(name)[:16], 16))
    for key in keys:
        state = state ^ key
        with np.errstate(over="ignore"):
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53
