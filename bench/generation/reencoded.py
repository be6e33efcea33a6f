"""A pool of one policy in another's token ids, made from its texts: for training where tokenizers differ.

What was drawn can't be kept token by token then. A text that the other tokenizer does not write back as it was is
marked, so that it can be left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.artifacts import Completions, Policy, content_hash
from bench.errors import BenchError
from bench.models import loading


@dataclass(frozen=True)
class Reencoded(Completions):
    """Completions of `source` with other token ids; log-probabilities stay those of the policy that drew them."""

    source: Completions

    @property
    def stored_as(self) -> frozenset[str]:
        return self.source.stored_as

    def shards(self) -> Iterator[tuple[slice, Completions]]:
        for rows, part in self.source.shards():
            yield rows, _with_ids(part, self.token_ids[rows], content_hash(self.key, rows.start, rows.stop))

    def first(self, num_completions: int) -> Completions:
        if num_completions == self.shape[1]:
            return self
        kept = self.source.first(num_completions)
        return _with_ids(kept, self.token_ids[:, :num_completions], content_hash(self.key, num_completions))


def reencoded(pool: Completions, reader: Policy) -> tuple[Completions, np.ndarray]:
    """The pool in the token ids of `reader`, and [M, N] bool: whether they are the text that was drawn, and some.

    A finished completion gets the reader's EOS, one cut at the length limit none. BenchError where it has no EOS.
    """
    tokenizer = loading.load_tokenizer(reader)
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer in {reader.path} has no EOS, so that no other policy's texts can end in it.")
    token_ids, faithful = np.empty(pool.shape, object), np.empty(pool.shape, bool)
    for rows, part in pool.shards():
        texts = [str(text) for text in np.asarray(part.text).ravel()]
        bare = tokenizer(texts, add_special_tokens=False)["input_ids"]
        back = tokenizer.batch_decode(bare, skip_special_tokens=True)
        cells = np.empty(len(texts), object)
        for cell, (ids, reason) in enumerate(zip(bare, part.finish_reason.ravel(), strict=True)):
            cells[cell] = np.array([*ids, *([tokenizer.eos_token_id] if reason == "stop" else [])], np.int32)
        same = [len(ids) > 0 and one == text for ids, one, text in zip(cells, back, texts, strict=True)]
        token_ids[rows] = cells.reshape(part.shape)
        faithful[rows] = np.array(same).reshape(part.shape)
    return _with_ids(pool, token_ids, content_hash(pool.key, reader.key)), faithful


def _with_ids(source: Completions, token_ids: np.ndarray, key: str) -> Reencoded:
    return Reencoded(
        text=source.text,
        token_ids=token_ids,
        finish_reason=source.finish_reason,
        logprob=source.logprob,
        policy_logprob=source.policy_logprob,
        key=key,
        source=source,
    )
