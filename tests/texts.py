"""Pools of given texts, for tests of scorers."""

from dataclasses import fields

import numpy as np

from bench.artifacts import Completions, Prompts, content_hash


def prompts_of(questions: list[str], answers: list[str]) -> Prompts:
    return Prompts(
        id=np.array([f"p{i}" for i in range(len(questions))]),
        messages=tuple(({"role": "user", "content": question},) for question in questions),
        answer=np.array(answers),
    )


class RowByRow(Completions):
    """A pool that keeps each prompt's completions in a shard and a unit of their own."""

    def units(self, *, whole: bool = False):
        for row in range(self.shape[0]):
            rows = slice(row, row + 1)
            arrays = (self.text, self.token_ids, self.finish_reason, self.logprob, self.policy_logprob)
            yield rows, slice(0, self.shape[1]), Completions(*(a[rows] for a in arrays), key=f"{self.key} {row}")

    def shards(self, *, blanks: bool = False):
        for rows, _, part in self.units():
            yield rows, part


def row_by_row(pool: Completions) -> RowByRow:
    return RowByRow(**{field.name: getattr(pool, field.name) for field in fields(pool)})


def pool_of(texts: list[list[str]]) -> Completions:
    """[M, N] completions; a text's tokens are its words, and an EOS."""
    shape = len(texts), len(texts[0])
    text, token_ids = np.empty(shape, object), np.empty(shape, object)
    for cell in np.ndindex(*shape):
        text[cell] = texts[cell[0]][cell[1]]
        token_ids[cell] = np.arange(len(text[cell].split()) + 1, dtype=np.int32)
    zeros = np.zeros(shape)
    return Completions(text, token_ids, np.full(shape, "stop"), zeros, zeros, key=content_hash(texts))
