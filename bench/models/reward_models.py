"""Score texts with a reward model: sorted by length, batched by a token budget, each prompt read once.

A text's score does not depend on its batch: padding lies to the right, masked, and is never taken for the text's last
token. Texts of one prompt begin alike, and a causal model can remember that beginning.
"""

import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.artifacts import Message
from bench.devices import that_fit
from bench.errors import BenchError
from bench.models import chat
from bench.models.classifiers import Classifier, LoadedClassifier
from bench.models.loading import bytes_per_token
from bench.models.tokens import padded
from bench.progress import bar, say

if TYPE_CHECKING:
    import torch

BATCH_TOKENS, MOST = 2_048, 2**18  # of a batch on a CPU, which is slower on what its caches can't hold; on a GPU
SHORTEST = 8  # tokens that are worth sharing


class RewardModel(LoadedClassifier):
    """A loaded reward model.

    max_length: tokens; a longer text loses what follows its first token. None: what the model can read. batch_tokens:
    rows x longest of one batch. None: 2,048 on a CPU, what half of its free memory holds on a GPU. dtype: a torch name.
    """

    def __init__(self, address: Classifier, *, max_length: int | None, dtype: str, batch_tokens: int | None) -> None:
        super().__init__(address, "reward model", dtype=dtype)
        self.batch_tokens = batch_tokens or that_fit(BATCH_TOKENS, bytes_per_token(self.model), MOST)
        self.own_pad_id = self.model.config.get_text_config().pad_token_id
        self.shares = not address.trust_remote_code and shares_prefixes(self.model)  # own code may look at all tokens
        if max_length is not None and max_length > self.readable:
            raise BenchError(
                f"scoring.max_length={max_length} is more than the {self.readable} tokens that {address.name} can read."
            )
        self.max_length = self.readable if max_length is None else max_length

    def score(self, prompts: Sequence[Sequence[Message]], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        """[D] scores of D pairs of prompt and completion, NaN where not finite, and what was counted."""
        import torch

        inputs = chat.encode_conversations(self.tokenizer, prompts, texts)
        truncated = 0
        for row in inputs:
            truncated += len(row["input_ids"]) > self.max_length
            for name, ids in row.items():
                if len(ids) > self.max_length:
                    row[name] = [ids[0], *ids[len(ids) - self.max_length + 1 :]]
        lengths = np.array([len(row["input_ids"]) for row in inputs], dtype=int)
        values, read = np.empty(len(inputs)), 0
        with bar("score", total=len(inputs), unit="completions") as progress, torch.inference_mode():
            for batch, logits, tokens in self._forward(inputs, prompts, lengths):
                values[batch] = logits[:, 0].double().cpu().numpy()
                read += tokens
                progress.advance(len(batch))
        finite = np.isfinite(values)
        counts = {
            "scored_tokens": int(lengths.sum()),
            "truncated_inputs": int(truncated),
            "not_finite": int((~finite).sum()),
            **self.compute_counts(read),
        }
        return np.where(finite, values, np.nan), counts

    def _forward(
        self, inputs: list[dict[str, list[int]]], prompts: Sequence[Sequence[Message]], lengths: np.ndarray
    ) -> "Iterator[tuple[np.ndarray, torch.Tensor, int]]":
        """Numbers of texts [B], their logits [B, 1], and the tokens read for them."""
        shared = np.zeros(len(inputs), int)
        if self.shares:
            ids = [row["input_ids"] for row in inputs]
            # numbered by first appearance: in order of their addresses, batches and rounding would differ between runs
            numbers: dict[int, int] = {}
            group = np.array([numbers.setdefault(id(messages), len(numbers)) for messages in prompts])
            shared = shared_lengths(ids, group, self.own_pad_id)
            some = np.flatnonzero(shared)
            if len(some):
                for batch, logits, read in self._forward_shared([ids[i] for i in some], group[some], shared[some]):
                    yield some[batch], logits, read
        rest = np.flatnonzero(shared == 0)

        def whole(numbers: np.ndarray) -> Any:
            rows = [inputs[i] for i in numbers]
            pad_id = self._pad_id([row["input_ids"][-1] for row in rows])
            return self.model(**padded(rows, {"input_ids": pad_id}, self.model.device)).logits

        alone = (rest[batch] for batch in self.batches(lengths[rest], self.batch_tokens))
        for batch, logits in self.halving.each(whole, alone):
            yield batch, logits, int(lengths[batch].sum())

    def _forward_shared(
        self, ids: Sequence[list[int]], group: np.ndarray, shared: np.ndarray
    ) -> "Iterator[tuple[np.ndarray, torch.Tensor, int]]":
        """As `_forward`, for texts whose first `shared` [D] tokens are alike within a group; each beginning read once.

        ids: D lists; group: [D] ints, equal for texts of one prompt.
        """
        import torch

        where, first_of_group = self.model.device, np.unique(group, return_index=True)[1]

        def begin(first: np.ndarray) -> tuple[Any, torch.Tensor]:
            beginnings = padded([{"input_ids": ids[i][: shared[i]]} for i in first], {}, where)
            return self.model.base_model(**beginnings, use_cache=True).past_key_values, beginnings["attention_mask"]

        def go_on(place: dict[int, int], cache: Any, mask: torch.Tensor, chosen: np.ndarray) -> tuple[Any, int]:
            rows = torch.tensor([place[group[i]] for i in chosen], device=where)
            rest = [{"input_ids": ids[i][shared[i] :]} for i in chosen]
            suffix = padded(rest, {"input_ids": self._pad_id([row["input_ids"][-1] for row in rest])}, where)
            start = torch.tensor(shared[chosen], device=where)[:, None]
            logits = self.model(
                input_ids=suffix["input_ids"],
                attention_mask=torch.cat([mask[rows], suffix["attention_mask"]], dim=1),
                position_ids=start + torch.arange(suffix["input_ids"].shape[1], device=where),
                past_key_values=_rows_of_cache(cache, rows, self.model.config),
            ).logits
            return logits, int(suffix["attention_mask"].sum())

        parts = (first_of_group[part] for part in self.batches(shared[first_of_group], self.batch_tokens))
        for first, (cache, mask) in self.halving.each(begin, parts):
            place = {group[i]: position for position, i in enumerate(first)}
            texts = np.flatnonzero(np.isin(group, group[first]))
            tokens = int(mask.sum())
            # a text takes memory for its shared tokens too
            batches = self.batches(np.array([len(ids[i]) for i in texts]), self.batch_tokens)
            of_texts = (texts[batch] for batch in batches)
            for chosen, (logits, read) in self.halving.each(partial(go_on, place, cache, mask), of_texts):
                yield chosen, logits, tokens + read
                tokens = 0

    def _pad_id(self, last: list[int]) -> int:
        """The id by which the model finds each text's end: its own, or else one that ends no text.

        last: the last token id of each text.
        """
        if self.own_pad_id is not None:
            return self.own_pad_id
        pad_id = next(i for i in range(len(last) + 1) if i not in last)
        self.model.config.get_text_config().pad_token_id = pad_id
        return pad_id


def shares_prefixes(model: Any) -> bool:
    """Whether the model reads left to right, and remembers the keys and values of all tokens and nothing else."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if not {"past_key_values", "position_ids"} <= set(inspect.signature(model.forward).parameters):
        return False
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    # later tokens must leave the states of earlier ones as they were
    few = torch.arange(3, 9, device=model.device)[None]
    with torch.inference_mode():
        whole, part = (model.base_model(input_ids=ids).last_hidden_state[:, :3].float() for ids in (few, few[:, :3]))
    return bool(torch.isfinite(whole).all()) and bool((whole - part).abs().max() <= 0.02 * whole.abs().max())


def shared_lengths(ids: Sequence[list[int]], group: np.ndarray, pad_id: int | None) -> np.ndarray:
    """[D] tokens at each text's beginning that all texts of its group share, 0 where sharing is not worth it.

    ids: D lists; group: [D] ints, equal for texts of one prompt. The rest of a text holds a token other than pad_id,
    by which the model finds the text's end.
    """
    lengths = np.zeros(len(ids), int)
    for members in np.split(np.argsort(group, kind="stable"), np.flatnonzero(np.diff(np.sort(group))) + 1):
        if len(members) > 1:
            first, last = min(ids[i] for i in members), max(ids[i] for i in members)  # which differ soonest
            common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
            shared = min(common, *(_last_token(ids[i], pad_id) for i in members))
            lengths[members] = shared if shared >= SHORTEST else 0
    return lengths


def _last_token(ids: list[int], pad_id: int | None) -> int:
    """The place of the last token other than pad_id."""
    return next((i for i in reversed(range(len(ids))) if ids[i] != pad_id), 0)


def _rows_of_cache(cache: Any, rows: "torch.Tensor", config: Any) -> Any:
    """A copy of the cache's given rows, which the model may extend."""
    from transformers.cache_utils import DynamicCache

    taken = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        taken.update(layer.keys.index_select(0, rows), layer.values.index_select(0, rows), number)
    return taken


def report(counts: Sequence[dict[str, float]], max_length: int | None, *, who: str = "reward model") -> None:
    """Warn of inputs that were cut and of scores that are not finite; the lineage holds the numbers too."""
    total, truncated, not_finite = (
        int(sum(count.get(name, 0) for count in counts)) for name in ("scored", "truncated_inputs", "not_finite")
    )
    if truncated:
        limit = "the model can read" if max_length is None else f"max_length={max_length}"
        say(f"warning: {truncated:,} of {total:,} inputs of the {who} were longer than {limit} and were cut")
    if not_finite:
        say(f"warning: {not_finite:,} of {total:,} scores of the {who} were not finite and count as unscored")
