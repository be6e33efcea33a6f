"""A key-value cache for sampling: filled in place, prefills repeated for their samples, finished rows dropped."""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, capacity, size] of which the first `used` positions are filled, in place.

    A model's ordinary attention sees a view of the filled part; nothing is concatenated or copied a token. Sliding
    windows are kept by the attention mask alone.
    """

    keys: Any  # [rows, heads, capacity, size] once initialised
    values: Any

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

    def taking(self, rows: torch.Tensor | None, capacity: int) -> "GrowingLayer":
        """A layer of the given rows (repeats allowed; None: all), with room for `capacity` positions."""
        taken = GrowingLayer(capacity)
        taken.used, taken.dtype, taken.device, taken.is_initialized = self.used, self.dtype, self.device, True
        for name in ("keys", "values"):
            filled = getattr(self, name)[:, :, : self.used]
            filled = filled if rows is None else filled.index_select(0, rows)
            room = filled.new_empty(*filled.shape[:2], capacity, filled.shape[3])
            room[:, :, : self.used] = filled
            setattr(taken, name, room)
        return taken


def supported(model: Any) -> bool:
    """Whether all that the model remembers between tokens is attention keys and values."""
    import inspect

    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def empty(model: Any, capacity: int) -> Cache:
    return Cache(layers=[GrowingLayer(capacity) for _ in DynamicCache(config=model.config).layers])


def take(cache: Any, rows: torch.Tensor | None, capacity: int) -> Cache:
    """The cache of the given rows, in their order (None: all), with room for `capacity` positions."""
    return Cache(layers=[layer.taking(rows, capacity) for layer in cache.layers])
