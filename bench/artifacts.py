"""The values that stages pass on, all frozen: M prompts, N completions of each, K selected completions.

A failure is NaN in its cell, never a missing cell. Every artifact has a `key`, a hash of its content: artifacts made
from equal content are shared, however that content came about.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

HASHED = 4096  # items at a time
UNKNOWN = "unknown"  # the finish_reason of an imported completion without one
FIELDS = ("text", "token_ids", "finish_reason", "logprob", "policy_logprob")  # the columns of Completions
Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": ...}


def content_hash(*values: Any) -> str:
    """A 20-digit hexadecimal hash of arrays, strings, numbers and nested lists of them."""
    digest = hashlib.blake2b(digest_size=10)
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            if isinstance(value, np.ndarray):
                value = value.tolist()
            for text in _as_json(value):
                digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _as_json(value: Any) -> Iterator[str]:
    """The parts of a value's JSON: of a long list some items at a time, as the whole takes much memory."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        yield json.dumps(value, sort_keys=True, ensure_ascii=False)
        return
    for start in range(0, len(value), HASHED):
        items = json.dumps(value[start : start + HASHED], sort_keys=True, ensure_ascii=False)
        yield f"{', ' if start else '['}{items[1:-1]}"
    yield "]"


@dataclass(frozen=True)
class Prompts:
    """M prompts of one split. `messages` is what the policy sees, `answer` what a verifier compares with."""

    id: np.ndarray  # [M] str, unique
    messages: Sequence[tuple[Message, ...]]  # [M] chat turns
    answer: np.ndarray  # [M] str
    split: str = field(default="", compare=False)  # for the lines that speak of them

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows: slice) -> "Prompts":
        return Prompts(self.id[rows], self.messages[rows], self.answer[rows], self.split)

    def take(self, rows: np.ndarray) -> "Prompts":
        """The prompts in the given rows [H], in that order."""
        messages = tuple(self.messages[row] for row in rows)
        return Prompts(self.id[rows], messages, self.answer[rows], self.split)

    @cached_property
    def key(self) -> str:
        return content_hash(self.id.tolist(), self.messages, self.answer.tolist())


@dataclass(frozen=True)
class Policy:
    """The address of a causal language model in Hugging Face format, not its weights."""

    path: Path
    fingerprint: str  # of the files' contents, or of hub id and commit
    system: str | None = None  # the system prompt of conversations that bring none
    thinking: bool | None = None  # whether it reasons before it answers; None: as its chat template has it
    trust_remote_code: bool = False  # run the Python files that lie beside the weights
    name: str = field(default="", compare=False)  # in the run, for the lines that speak of it

    @property
    def key(self) -> str:
        beside = [self.system, self.thinking, self.trust_remote_code]
        return self.fingerprint if beside == [None, None, False] else content_hash(self.fingerprint, beside)


@dataclass(frozen=True)
class Completions:
    """N completions of each of M prompts, in memory, drawn by one policy under one sampler.

    A `bench.blocks.Pool` is one that leaves text and token_ids in the store: index those by row or by (row, column),
    and walk any pool with `shards` or `units`.
    """

    text: np.ndarray  # [M, N] str objects, special tokens removed; see bench.models.tokens.decode on <think>
    token_ids: np.ndarray  # [M, N] objects: int32 arrays [length], EOS included where it was drawn
    finish_reason: np.ndarray  # [M, N] "stop" (EOS drawn), "length" (cut), "unknown" (imported) or "" (no sample here)
    logprob: np.ndarray  # [M, N] nats per sequence, under the sampler that drew it (temperature, top-k, top-p)
    policy_logprob: np.ndarray  # [M, N] nats per sequence, under the same policy at temperature 1, top-p 1
    key: str

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.text.shape
        return rows, columns

    @cached_property
    def length(self) -> np.ndarray:
        """[M, N] tokens, EOS included."""
        flat = [len(ids) for ids in self.token_ids.ravel()]
        return np.array(flat, dtype=np.int64).reshape(self.shape)

    @property
    def drawn(self) -> np.ndarray:
        """[M, N] bool: which cells hold a sample."""
        return np.asarray(self.finish_reason) != ""

    @property
    def truncated(self) -> float:
        """How many samples were cut at max_new_tokens; NaN where no sample's finish reason is known."""
        reasons = np.asarray(self.finish_reason)
        return int((reasons == "length").sum()) if np.isin(reasons, ("stop", "length")).any() else float("nan")

    @property
    def always(self) -> int:
        """Samples that every prompt has, whatever they turned out to be: N, but in a stopped pool."""
        return self.shape[1]

    @property
    def starts(self) -> tuple[int, ...]:
        """The rows at which shards begin."""
        return (0,)

    @property
    def prompt_reads(self) -> float:
        """The number of times that a policy read a prompt to draw these samples, as a mean over prompts."""
        return 1.0

    @property
    def parts(self) -> tuple["Completions", ...]:
        """The pools side by side in this one, each drawn by one policy under one sampler."""
        return (self,)

    @property
    def stored_as(self) -> frozenset[str]:
        """The artifacts, as key or key/part, that hold these samples, and perhaps others beside them."""
        return frozenset({self.key.partition("[")[0]})

    def places(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The artifacts that hold the samples, and of each sample [M, N] its artifact and line: -1 where none does."""
        return [], np.full(self.shape, -1), np.full(self.shape, -1)

    def read(self, rows: slice, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named columns of some rows, each [rows, N]."""
        return {name: getattr(self, name)[rows] for name in names}

    def shards(self, *, blanks: bool = False) -> Iterator[tuple[slice, "Completions"]]:
        """Consecutive prompts and their completions [rows, N], as many at a time as the pool keeps together.

        blanks: walk a stopped pool too, which leaves cells blank (see `drawn`); else that is a ValueError.
        """
        yield slice(0, self.shape[0]), self

    def units(self, *, whole: bool = False) -> Iterator[tuple[slice, slice, "Completions"]]:
        """Prompts, samples and their completions, as they are stored; the key of each names its content.

        whole: with those samples of a stored unit that this view of a pool leaves out.
        """
        yield slice(0, self.shape[0]), slice(0, self.shape[1]), self

    def first(self, num_completions: int) -> "Completions":
        """The view of each prompt's first `num_completions` samples; all where there are no more."""
        if num_completions >= self.shape[1]:
            return self
        columns = {name: getattr(self, name)[:, :num_completions] for name in FIELDS}
        return Completions(**columns, key=prefix_key(self.key, num_completions))


def prefix_key(pool_key: str, num_completions: int) -> str:
    """The key of the first `num_completions` samples per prompt of a pool, or of such a prefix, e.g. "3f2a...[:8]"."""
    return f"{pool_key.partition('[')[0]}[:{num_completions}]"


@dataclass(frozen=True)
class Rewards:
    """One number per completion; NaN means that it could not be scored, and is counted."""

    value: np.ndarray  # [M, N] float64

    @property
    def unscored(self) -> int:
        return int(np.isnan(self.value).sum())

    def of(self, pool: Completions) -> "Rewards":
        """The rewards of a pool's samples, NaN where it has none."""
        return Rewards(np.where(pool.drawn, self.value, np.nan))


@dataclass(frozen=True)
class Selection:
    """K chosen cells of an [M, N] pool; one type fits argmax, top-k, resampling and weighting."""

    row: np.ndarray  # [K] int, prompt
    column: np.ndarray  # [K] int, sample
    weight: np.ndarray  # [K] float, in the training loss
    rejected: np.ndarray | None = None  # [K] int, the sample to which each chosen one is preferred; None: no pairs

    def __len__(self) -> int:
        return len(self.row)

    @property
    def completions(self) -> int:
        """The number of completions to train on: of a pair, both."""
        return len(self) * (1 if self.rejected is None else 2)

    @property
    def prompts_covered(self) -> int:
        return len(np.unique(self.row))


PairSelection = Annotated[Selection, "pairs"]  # of a function that gives pairs: `rejected` is not None


@dataclass(frozen=True)
class Divergence:
    """KL of one policy from a reference, a value per prompt, with its estimator and the reference in words."""

    kl: np.ndarray  # [M] nats per sequence
    estimator: str
    reference: str
