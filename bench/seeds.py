"""Independent random streams, one per (seed, stage, ...). Nothing in the suite draws from a global generator."""

import hashlib

import numpy as np


def stream_key(seed: int, stage: str, *parts: str | int) -> int:
    """A 128-bit key. Any difference in seed, stage or parts gives an unrelated stream."""
    digest = hashlib.blake2b(repr((int(seed), stage, *parts)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, stage: str, *parts: str | int) -> np.random.Generator:
    """The NumPy generator of one stream, e.g. `generator(0, "generate", prompt_id, sample)`."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, stage, *parts)))


def small_seed(seed: int, stage: str, *parts: str | int) -> int:
    """A 31-bit seed for libraries that take an int (torch, transformers.Trainer)."""
    return stream_key(seed, stage, *parts) % 2**31
