"""A prompt is read once for all its completions: their texts begin alike, and a causal model remembers that."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SHORTEST = 8  # tokens that are worth sharing


def applicable(model: Any) -> bool:
    """Whether the model remembers attention keys and values of all tokens and nothing else, and reads left to right."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if not {"past_key_values", "position_ids"} <= set(inspect.signature(model.forward).parameters):
        return False
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    # what comes later must leave what came before as it was
    few = torch.arange(3, 9, device=model.device)[None]
    with torch.inference_mode():
        whole, part = (model.base_model(input_ids=ids).last_hidden_state[:, :3].float() for ids in (few, few[:, :3]))
    return bool(torch.isfinite(whole).all()) and bool((whole - part).abs().max() <= 0.02 * whole.abs().max())


def shared_lengths(ids: Sequence[list[int]], group: np.ndarray, pad_id: int | None) -> np.ndarray:
    """[D] tokens at each text's beginning that all texts of its group share, 0 where sharing is not worth it.

    ids: [D] lists; group: [D] ints, equal for texts of one prompt. What is left of a text holds a token that isn't
    pad_id: there the model finds its end.
    """
    lengths = np.zeros(len(ids), int)
    for members in np.split(np.argsort(group, kind="stable"), np.flatnonzero(np.diff(np.sort(group))) + 1):
        if len(members) > 1:
            shared = min(_common([ids[i] for i in members]), *(_last_token(ids[i], pad_id) for i in members))
            lengths[members] = shared if shared >= SHORTEST else 0
    return lengths


def _common(rows: list[list[int]]) -> int:
    """How many elements all rows begin with alike: the first and the last in order differ soonest."""
    first, last = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _last_token(ids: list[int], pad_id: int | None) -> int:
    return next((i for i in reversed(range(len(ids))) if ids[i] != pad_id), 0)


def forward_shared(
    model: Any,
    ids: Sequence[list[int]],
    group: np.ndarray,
    shared: np.ndarray,
    batches: Callable[[np.ndarray], Iterator[np.ndarray]],
    choose_pad: Callable[[list[int]], int],
) -> Iterator[tuple[np.ndarray, "torch.Tensor", int]]:
    """Texts [B] by their numbers, the model's logits [B, 1], and the tokens it read for them, beginnings included.

    batches: numbers of texts of given lengths, batch by batch; choose_pad: the id to pad texts with these last tokens.
    """
    import torch

    prompts = np.unique(group, return_index=True)[1]  # a text of each group
    for part in batches(shared[prompts]):
        first = prompts[part]
        beginnings, mask = _padded([ids[i][: shared[i]] for i in first], 0, model.device)
        read = model.base_model(input_ids=beginnings, attention_mask=mask, use_cache=True).past_key_values
        place = {group[i]: position for position, i in enumerate(first)}
        texts = np.flatnonzero(np.isin(group, group[first]))
        tokens = int(mask.sum())
        for batch in batches(np.array([len(ids[i]) for i in texts])):  # all of a text takes memory
            chosen = texts[batch]
            rows = torch.tensor([place[group[i]] for i in chosen], device=model.device)
            rest = [ids[i][shared[i] :] for i in chosen]
            suffix, attended = _padded(rest, choose_pad([row[-1] for row in rest]), model.device)
            start = torch.tensor(shared[chosen], device=model.device)[:, None]
            logits = model(
                input_ids=suffix,
                attention_mask=torch.cat([mask[rows], attended], dim=1),
                position_ids=start + torch.arange(suffix.shape[1], device=model.device),
                past_key_values=_taken(read, rows, model.config),
            ).logits
            yield chosen, logits, tokens + int(attended.sum())
            tokens = 0


def _padded(rows: list[list[int]], pad_id: int, device: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Token ids and their mask [B, T], padded on the right."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids.to(device), mask.to(device)


def _taken(cache: Any, rows: "torch.Tensor", config: Any) -> Any:
    """A cache of the given rows, to be written on."""
    from transformers.cache_utils import DynamicCache

    taken = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        taken.update(layer.keys.index_select(0, rows), layer.values.index_select(0, rows), number)
    return taken
