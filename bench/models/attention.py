"""Attention of one new token per row, on a CPU: the same numbers as torch's kernel by two batched matrix products.

torch's kernel for CPUs is built for long queries; with one query per row it takes about twice the time. transformers
gets this function under a name of its own; for everything but one query it does what "sdpa" does.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_one_query"


def install(model: Any) -> None:
    """Let a float32 model on a CPU that computes its attention with "sdpa" use this module's function."""
    fits = model.device.type == "cpu" and model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
    if not fits or not model._can_set_attn_implementation():  # older classes choose theirs when they are made
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


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
    scores = torch.matmul(grouped, key.transpose(2, 3)).mul_(size**-0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores.masked_fill_(~attention_mask, -torch.inf)
    elif attention_mask is not None:
        scores.add_(attention_mask)
    found = torch.matmul(scores.softmax(dim=-1), value)  # [rows, key heads, group, size]
    return found.reshape(rows, 1, heads, value.shape[3]), None
