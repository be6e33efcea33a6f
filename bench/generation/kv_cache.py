"""A key-value cache for sampling: allocated once, shared prefills copied to their samples, finished rows dropped."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, capacity, size] of which the first `used` positions are filled, in place.

    A model's ordinary attention sees a view of the filled part; nothing is concatenated or copied a token.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, size)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def taking(self, rows: torch.Tensor, capacity: int) -> "GrowingLayer":
        """A layer of the given rows (repeats allowed), with room for `capacity` positions."""
        taken = GrowingLayer(capacity)
        taken.used, taken.dtype, taken.device, taken.is_initialized = self.used, self.dtype, self.device, True
        for name in ("keys", "values"):
            ours = getattr(self, name)
            room = ours.new_empty(len(rows), ours.shape[1], capacity, ours.shape[3])
            room[:, :, : self.used] = ours[:, :, : self.used].index_select(0, rows)
            setattr(taken, name, room)
        return taken


def empty(layers: int, capacity: int) -> Cache:
    return Cache(layers=[GrowingLayer(capacity) for _ in range(layers)])


def take(cache: Cache, rows: torch.Tensor, capacity: int) -> Cache:
    """The cache of the given rows, in their order, with room for `capacity` positions."""
    layers: Sequence[GrowingLayer] = cache.layers
    return Cache(layers=[layer.taking(rows, capacity) for layer in layers])
