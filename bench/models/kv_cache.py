"""A key-value cache for sampling: filled in place, prompts repeated for their samples, finished rows dropped.

On a CPU, `attend` computes the attention of one new token per row: the same numbers as torch's kernel, by two batched
matrix products. torch's kernel is built for long queries; with one query per row it takes about twice the time.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bench.models import sampler

ATTENTION = "sdpa_one_query"  # the name of `attend` in transformers


class Room:
    """The memory of past caches, kept for the next ones: new pages cost a CPU more than filling them does.

    torch itself keeps a GPU's memory.
    """

    def __init__(self) -> None:
        self._spare: list[torch.Tensor] = []
        self._largest = 0  # numbers in one part of a cache, so far

    def take(self, like: torch.Tensor, shape: tuple[int, ...], largest: int) -> torch.Tensor:
        """A tensor of the given shape, not filled. largest: how many numbers a part of its cache may grow to."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        self._largest = max(self._largest, largest)
        self._spare = [part for part in self._spare if part.numel() >= self._largest and part.dtype == like.dtype]
        # Pages that are never written take no memory
        part = self._spare.pop() if self._spare else like.new_empty(self._largest)
        return part[: math.prod(shape)].view(shape)

    def give_back(self, cache: Any) -> None:
        """Take the memory of a cache that is not used any more."""
        for part in (part for layer in cache.layers for part in (layer.keys, layer.values)):
            if part.device.type == "cpu":
                self._spare.append(part.new_empty(0).set_(part.untyped_storage()))


class GrowingLayer(DynamicLayer):
    """Keys and values [room for rows, heads, capacity, size], filled in place up to `rows` and `used` positions.

    A model's ordinary attention sees a view of the filled part; nothing is concatenated or copied per token. Sliding
    windows are kept by the attention mask alone.
    """

    keys: Any  # [room for rows, heads, capacity, size] once initialised
    values: Any

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0
        self.rows = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(self.rows, heads, self.capacity, size)
        self.values = value_states.new_empty(self.rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.used = self.used, self.used + key_states.shape[-2]
        keys, values = self.filled()
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys[: self.rows, :, : self.used], self.values[: self.rows, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def repeated(self, copies: int, capacity: int, limit: int, room: Room) -> "GrowingLayer":
        """A new layer with each row `copies` times, next to each other. capacity: its positions, at most `limit`."""
        new = GrowingLayer(capacity)
        new.used, new.dtype, new.device, new.is_initialized = self.used, self.dtype, self.device, True
        new.rows = self.rows * copies
        for name, filled in zip(("keys", "values"), self.filled(), strict=True):
            _, heads, _, size = filled.shape
            shape = (self.rows, copies, heads, capacity, size)
            place = room.take(filled, shape, math.prod(shape) // capacity * limit)
            place[:, :, :, : self.used] = filled[:, None]
            setattr(new, name, place.flatten(0, 1))
        return new

    def move(self, sources: torch.Tensor, targets: torch.Tensor, rows: int) -> None:
        """Copy the rows `sources` over the rows `targets`, then forget all but the first `rows`."""
        for filled in self.filled():
            filled[targets] = filled[sources]
        self.rows = rows


class FixedLayer(GrowingLayer):
    """Keys and values in given memory; the next token of every row is written at position `slot`, a tensor.

    used: positions that the attention sees; its mask hides those that are not yet filled.
    """

    is_compileable = True  # so that transformers always makes a mask, without looking at values

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor) -> None:
        super().__init__(keys.shape[2])
        self.keys, self.values, self.slot = keys, values, slot
        self.rows, self.dtype, self.device, self.is_initialized = len(keys), keys.dtype, keys.device, True

    def fill(self, layer: GrowingLayer, copies: int) -> None:
        """Begin with each row of a layer `copies` times."""
        self.used = layer.used
        for place, filled in zip(self.filled(), layer.filled(), strict=True):
            place[: len(filled) * copies].unflatten(0, (-1, copies))[:] = filled[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.filled()
        keys.index_copy_(2, self.slot.view(1), key_states)
        values.index_copy_(2, self.slot.view(1), value_states)
        return keys, values

    def get_seq_length(self) -> Any:
        return self.slot

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used, 0


@torch.inference_mode()
def supported(model: Any) -> bool:
    """Whether the model remembers attention keys and values of each token and nothing else; two tokens are tried."""
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    cache: Any = DynamicCache(config=model.config)
    if not takes(model, "past_key_values") or not all(type(layer) in kinds for layer in cache.layers):
        return False
    two_tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    model(input_ids=two_tokens, past_key_values=cache, use_cache=True)
    return all(
        type(layer) in kinds and layer.is_initialized and layer.keys.shape[2] == 2 == layer.values.shape[2]
        for layer in cache.layers
    )


def mixes_lengths(model: Any) -> bool:
    """Whether texts of several lengths can be padded on the left into one batch.

    Padding moves positions. Some older models can't be told their positions, and state-space and hybrid models
    remember the padding.
    """
    return takes(model, "position_ids") and supported(model)


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return argument in _arguments(type(model).forward)


@functools.cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def empty(model: Any, capacity: int) -> Cache:
    return Cache(layers=[GrowingLayer(capacity) for _ in DynamicCache(config=model.config).layers])


def drop(cache: Any, kept: torch.Tensor) -> torch.Tensor:
    """Keep the rows of the ascending numbers `kept`, in place; returns which row now stands at each place.

    Only as many rows are copied as there are gaps among the first len(kept): the last rows move into the gaps.
    """
    rows = len(kept)
    order = torch.arange(rows, device=kept.device)
    last = kept[kept >= rows]
    gaps = torch.ones(rows, dtype=torch.bool, device=kept.device)
    gaps[kept[: rows - len(last)]] = False
    order[gaps] = last
    targets = gaps.nonzero()[:, 0]
    for layer in cache.layers:
        layer.move(last, targets, rows)
    return order


def forward(model: Any, ids: torch.Tensor, attended: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
    """[rows, V] logits after the last of the given tokens."""
    optional = {"position_ids": positions, "logits_to_keep": 1}
    given = {name: value for name, value in optional.items() if takes(model, name)}
    return model(input_ids=ids, attention_mask=attended, past_key_values=cache, use_cache=True, **given).logits[:, -1]


def has_own_attention(model: Any) -> bool:
    """Whether the model uses `attend`, and can be told positions."""
    return model.config._attn_implementation == ATTENTION and takes(model, "position_ids")


def install_attention(model: Any) -> None:
    """Let a model that computes its attention with "sdpa" use `attend`, on a CPU in float32 alone."""
    fits = model.config._attn_implementation == "sdpa" and (model.device.type == "cuda" or model.dtype == torch.float32)
    if not fits or not model._can_set_attn_implementation():  # older classes choose theirs when they are made
        return
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, mask)
    model.set_attn_implementation(ATTENTION)


def mask(**given: Any) -> torch.Tensor | None:
    """The mask for `attend`; for one query on a GPU as what is added, which torch would else make in each layer."""
    seen = sdpa_mask(**given)
    if seen is None or seen.shape[2] > 1 or sampler.on_cpu(seen):
        return seen
    return torch.zeros(seen.shape, dtype=given["dtype"], device=seen.device).masked_fill_(~seen, -torch.inf)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [rows, heads, queries, size]
    key: torch.Tensor,  # [rows, key heads, positions, size]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,  # what models hand to every attention function
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, under a name of its own; for everything but one query, what "sdpa" does."""
    plain = (
        query.shape[2] == 1
        and dropout == 0
        and (attention_mask is None or attention_mask.shape[1] == 1)
        and others.get("position_bias") is None
    )
    if not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **others)
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)  # queries that share a key head
    if not sampler.on_cpu(query):  # torch's kernel takes them as several queries, and no key head is copied for each
        fused = torch.nn.functional.scaled_dot_product_attention
        if attention_mask is not None and attention_mask.dtype != torch.bool:
            attention_mask = attention_mask.to(query.dtype)
        found = fused(grouped, key, value, attn_mask=attention_mask, scale=scaling)
        return found.reshape(rows, 1, heads, value.shape[3]), None
    scores = torch.matmul(grouped, key.transpose(2, 3)).mul_(size**-0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores.masked_fill_(~attention_mask, -torch.inf)
    elif attention_mask is not None:
        scores.add_(attention_mask)
    found = torch.matmul(scores.softmax(dim=-1), value)  # [rows, key heads, group, size]
    return found.reshape(rows, 1, heads, value.shape[3]), None
