"""Train, validation and test by a stated rule, without near-duplicates across them.

A split that the data lacks is taken from train: every prompt whose seeded hash, of its normalised text, falls into that
split's share. So a prompt's split depends on no other prompt, and equal prompts never part.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.artifacts import Message, Prompts
from bench.errors import BenchError
from bench.tasks.rows import WHOLE

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s.,;:!?'\"`’“”]")  # signs such as + count, punctuation does not
SHINGLE = 8  # words


@dataclass(frozen=True)
class Example:
    """A prompt before it has a split. `text` is what makes it this one: the question, without what all share."""

    id: str
    text: str
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Divided:
    """Prompts by split, each in a fixed random order, and how many near-duplicates were left out of it."""

    prompts: dict[str, Prompts]
    near_duplicates: dict[str, int]


def divided(
    examples: Mapping[str, Sequence[Example]],
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    near_duplicate: float,
) -> Divided:
    """Train, validation and test of examples by split ("all", or without "test", "validation": taken by hash).

    Test prompts stay; a validation prompt near one of them is left out, and so is a training prompt near one of
    either. near_duplicate: the Jaccard similarity from which two prompts are near, see `near`; above 1 finds none.
    """
    splits = {split: list(members) for split, members in examples.items() if split != WHOLE}
    pool = [*splits.pop("train", []), *examples.get(WHOLE, [])]
    shares = {"test": test_share, "validation": validation_share}
    missing = [split for split in shares if split not in splits]
    splits |= {split: [] for split in (*missing, "train")}
    for example in pool:
        place, end = fraction(example.text, seed, "split"), 0.0
        for split in missing:
            end += shares[split]
            if place < end:
                splits[split].append(example)
                break
        else:
            splits["train"].append(example)
    prompts, removed = {}, {}
    before: list[Example] = []
    for split in ("test", "validation", "train"):
        members = sorted(splits[split], key=lambda one: (fraction(one.text, seed, "order"), one.id))
        close = near([one.text for one in members], [one.text for one in before], similarity=near_duplicate)
        kept = [one for one, is_near in zip(members, close, strict=True) if not is_near]
        prompts[split], removed[split] = _prompts(kept), int(close.sum())
        before += kept
    return Divided({split: prompts[split] for split in ("train", "validation", "test")}, removed)


def _prompts(examples: Sequence[Example]) -> Prompts:
    ids = [one.id for one in examples]
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise BenchError(f"The id {twice!r} stands for several rows of the task's data; ids must be unique.")
    return Prompts(
        id=np.array(ids, dtype=str),
        messages=tuple(one.messages for one in examples),
        answer=np.array([one.answer for one in examples], dtype=object),
    )


def words(text: str) -> list[str]:
    """Lower-case words, numbers and signs of the text; punctuation and layout do not count."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def fraction(text: str, seed: int, purpose: str) -> float:
    """A number in [0, 1) that depends on the seed and the normalised text alone."""
    content = repr((seed, purpose, words(text))).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") / 2**64


def near(texts: Sequence[str], others: Sequence[str], *, similarity: float) -> np.ndarray:
    """[D] bool: whether the Jaccard similarity of a text's shingles with some other's is at least `similarity`.

    A shingle is 8 words in a row (all of them, where there are fewer). Exact, by prefix filtering (Bayardo et al.
    2007): two sets that are so similar share one of the rarest few shingles of each.
    """
    if not 0 < similarity <= 1 or not texts or not others:
        return np.zeros(len(texts), bool)
    numbers: dict[str, int] = {}
    ours, theirs = ([_shingles(text, numbers) for text in some] for some in (texts, others))
    frequency = Counter(shingle for one in (*ours, *theirs) for shingle in one)

    def rarest(shingles: frozenset[int]) -> list[int]:
        most_shared = int(np.ceil(similarity * len(shingles) - 1e-9))
        return sorted(shingles, key=lambda one: (frequency[one], one))[: len(shingles) - most_shared + 1]

    holders: dict[int, list[int]] = {}
    for index, shingles in enumerate(theirs):
        for shingle in rarest(shingles):
            holders.setdefault(shingle, []).append(index)
    found = np.zeros(len(texts), bool)
    for row, shingles in enumerate(ours):
        candidates = {index for shingle in rarest(shingles) for index in holders.get(shingle, ())}
        found[row] = any(
            len(shingles & theirs[index]) >= similarity * len(shingles | theirs[index]) - 1e-9 for index in candidates
        )
    return found


def _shingles(text: str, numbers: dict[str, int]) -> frozenset[int]:
    """Hashes of the text's shingles; `numbers` numbers the words, in order of appearance."""
    ids = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words(text)] or [0], dtype=np.uint64)
    width = min(SHINGLE, len(ids))
    factors = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, width + 1)], dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, width)
    return frozenset((windows * factors).sum(axis=1, dtype=np.uint64).tolist())  # modulo 2^64
