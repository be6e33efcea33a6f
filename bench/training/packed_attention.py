"""Attention within each example of a packed row: what flash attention for lengths that vary computes.

No score between two examples is computed, and there is no mask of the row's length squared. On a GPU of compute
capability 8.0 or more, in bfloat16 or float16, it is one kernel per layer; elsewhere one call per example.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION = "sdpa_within_examples"  # the name of `attend` in transformers
LAYERS = {"full_attention", "sliding_attention"}
HALF = (torch.bfloat16, torch.float16)


def supported(model: Any) -> bool:
    """Whether the model calls attention by transformers' interface, and with kinds of layers that `attend` knows."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or LAYERS
    return (
        model.config._attn_implementation in ("sdpa", ATTENTION)
        and bool(model._supports_attention_backend)
        and model._can_set_attn_implementation()
        and set(kinds) <= LAYERS
    )


@contextlib.contextmanager
def within_examples(model: Any) -> Iterator[None]:
    """Inside, the model's attention is `attend`, and its forward needs the argument `examples` (see `lengths`)."""
    before = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, lambda **given: None)
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def lengths(owner: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Where the examples of a row begin and end, [B + 1] int32 on its device, and their lengths. owner: (T,)."""
    found = owner.bincount()
    return pad(found.cumsum(0), (1, 0)).int(), found.tolist()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, T, size]
    key: torch.Tensor,  # [1, key heads, T, size]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    examples: tuple[torch.Tensor, list[int]],
    sliding_window: int | None = None,
    **others: Any,  # what models hand to every attention function
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: causal, within each example, and within the last `sliding_window` tokens."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if attention_mask is not None or unknown or others.get("is_causal") is False:
        raise TypeError(f"Attention within examples does not know {', '.join(unknown) or 'masks'}.")
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (key, value))
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # as torch does for its own attention
        query, key, value = (part.to(torch.get_autocast_dtype(kind)) for part in (query, key, value))
    if not dropout and has_kernel(query, value):
        return _flash((query, key, value), examples, sliding_window, scaling), None
    return _one_by_one((query, key, value), examples[1], sliding_window, scaling, dropout), None


def has_kernel(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether torch's flash attention for lengths that vary computes this on this device."""
    sizes = {query.shape[3], value.shape[3]}
    if not query.is_cuda or torch.version.hip or query.dtype not in HALF or len(sizes) > 1:
        return False
    return sizes.pop() in range(8, 257, 8) and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _flash(
    given: tuple[torch.Tensor, ...], examples: tuple[torch.Tensor, list[int]], window: int | None, scaling: float | None
) -> torch.Tensor:
    from torch.nn.attention import varlen

    ends, own = examples
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in given)  # [T, heads, size]
    longest, left = max(own), -1 if window is None else window - 1  # tokens before the present one
    found: Any = varlen.varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(left, 0)
    )
    return found[None]


def _one_by_one(
    given: tuple[torch.Tensor, ...], own: list[int], window: int | None, scaling: float | None, dropout: float
) -> torch.Tensor:
    found = []
    for query, key, value in zip(*(part.split(own, dim=2) for part in given), strict=True):
        length, seen = query.shape[2], None
        if window is not None and length > window:
            place = torch.arange(length, device=query.device)
            back = place[:, None] - place
            seen = (back >= 0) & (back < window)
        found.append(scaled_dot_product_attention(query, key, value, seen, dropout, seen is None, scale=scaling))
    return torch.cat(found, dim=2).transpose(1, 2)  # [1, T, heads, size]
