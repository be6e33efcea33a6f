"""Completions of some of the prompts as a pool of all of them: where nothing was drawn, a cell is blank.

A blank has no text and no tokens, NaN log-probabilities and an empty finish reason: it must never be selected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.artifacts import Completions, content_hash

Part = tuple[np.ndarray, Completions]  # prompts [H] and their completions [H, N]


def scattered(parts: Sequence[Part], num_prompts: int) -> Completions:
    """[num_prompts, N], in memory. parts: disjoint prompts, each with N completions.

    ValueError where a prompt is in two parts, or the parts have different N.
    """
    placed = np.concatenate([rows for rows, _ in parts])
    widths = {pool.shape[1] for _, pool in parts}
    if len(widths) != 1 or len(set(placed.tolist())) < len(placed):
        raise ValueError(f"parts have {sorted(widths)} completions of {len(placed)} prompts; each prompt fits once.")
    shape = (num_prompts, widths.pop())
    text, token_ids = np.full(shape, "", object), np.empty(shape, object)
    for cell in np.ndindex(shape):
        token_ids[cell] = np.empty(0, np.int32)
    finish_reason = np.full(shape, "", "<U6")
    logprob, policy_logprob = np.full(shape, np.nan), np.full(shape, np.nan)
    for rows, pool in parts:
        for shard_rows, shard in pool.shards():
            text[rows[shard_rows]], token_ids[rows[shard_rows]] = shard.text, shard.token_ids
        finish_reason[rows], logprob[rows] = pool.finish_reason, pool.logprob
        policy_logprob[rows] = pool.policy_logprob
    key = content_hash(num_prompts, [[rows.tolist(), pool.key] for rows, pool in parts])
    stored = frozenset({key}).union(*(pool.stored_as for _, pool in parts))
    return ScatteredCompletions(text, token_ids, finish_reason, logprob, policy_logprob, key, stored)


@dataclass(frozen=True)
class ScatteredCompletions(Completions):
    """Completions that lie in several stored pools of fewer prompts."""

    stored_as_: frozenset[str]

    @property
    def stored_as(self) -> frozenset[str]:
        return self.stored_as_
