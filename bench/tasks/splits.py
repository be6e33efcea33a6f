"""Train, validation and test by a stated rule, without near-duplicates across them.

A split that the data lacks is taken from train: it gets every prompt whose seeded hash falls into the split's share.
The hash is of the normalised text, so a prompt's split depends on no other prompt, and equal prompts share a split.
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
from bench.tasks import SPLITS

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s.,;:!?'\"`’“”]")  # signs such as + count, punctuation does not
SHINGLE = 8  # words
WHOLE = "all"  # the split of rows that came without one


@dataclass(frozen=True)
class Example:
    """A prompt before it has a split. `text` is its question alone, without the parts that all prompts share."""

    id: str
    text: str
    messages: tuple[Message, ...]
    answer: str
    solution: str | None = None  # worked out; None where the data has none


@dataclass(frozen=True)
class Divided:
    """Prompts by split, in a fixed random order, and how many near-duplicates each split lost."""

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
    """Divide examples into train, validation and test; what the data lacks of these is taken by hash.

    examples: by split, or under WHOLE. A validation prompt that is near a test prompt is left out, and so is a training
    prompt that is near either. near_duplicate: the Jaccard similarity from which two prompts are near (see `near`);
    above 1, none are.
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
        members = sorted(splits[split], key=lambda example: (fraction(example.text, seed, "order"), example.id))
        texts, earlier = ([example.text for example in some] for some in (members, before))
        close = near(texts, earlier, similarity=near_duplicate)
        kept = [example for example, is_near in zip(members, close, strict=True) if not is_near]
        prompts[split], removed[split] = _prompts(kept), int(close.sum())
        before += kept
    return Divided({split: prompts[split] for split in SPLITS}, removed)


def _prompts(examples: Sequence[Example]) -> Prompts:
    ids = [example.id for example in examples]
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise BenchError(f"The id {twice!r} stands for several rows of the task's data; ids must be unique.")
    return Prompts(
        id=np.array(ids, dtype=str),
        messages=tuple(example.messages for example in examples),
        answer=np.array([example.answer for example in examples], dtype=object),
    )


def words(text: str) -> list[str]:
    """Return the lower-case words, numbers and signs of the text, without punctuation and layout."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def fraction(text: str, seed: int, purpose: str) -> float:
    """Return a number in [0, 1) that depends only on the seed, the purpose and the normalised text."""
    content = repr((seed, purpose, words(text))).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") / 2**64


def near(texts: Sequence[str], others: Sequence[str], *, similarity: float) -> np.ndarray:
    """Return [D] bool: whether a text's shingles and those of any other have a Jaccard similarity >= `similarity`.

    A shingle is 8 words in a row, or the whole text where it is shorter. The result is exact, by prefix filtering
    (Bayardo et al. 2007): two sets that are so similar share one of the few rarest shingles of each.
    """
    if not 0 < similarity <= 1 or not texts or not others:
        return np.zeros(len(texts), bool)
    numbers: dict[str, int] = {}
    ours, theirs = ([_shingles(text, numbers) for text in some] for some in (texts, others))
    frequency = Counter(shingle for shingles in (*ours, *theirs) for shingle in shingles)

    def rarest(shingles: frozenset[int]) -> list[int]:
        most_shared = int(np.ceil(similarity * len(shingles) - 1e-9))
        return sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))[: len(shingles) - most_shared + 1]

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
    """Hashes of the text's shingles. `numbers` maps each word to its number, in order of appearance."""
    ids = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words(text)] or [0], dtype=np.uint64)
    width = min(SHINGLE, len(ids))
    factors = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, width + 1)], dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, width)
    return frozenset((windows * factors).sum(axis=1, dtype=np.uint64).tolist())  # modulo 2^64
