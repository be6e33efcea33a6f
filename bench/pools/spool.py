"""Texts that stay in a temporary file while a pool is read and written."""

import os
import tempfile
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.artifacts import Message


class Spool:
    """Texts or token ids in a temporary file, in the order in which they came."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=2**20)  # noqa: SIM115  it lives as long as the spool
        self._ends = array("q", [0])
        self.empty = True

    def add(self, content: bytes | None) -> None:
        if content:
            self._file.write(content)
        self.empty = self.empty and content is None
        self._ends.append(self._ends[-1] + len(content or b""))

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        return os.pread(self._file.fileno(), end - start, start)

    def flush(self) -> None:
        self._file.flush()


class Messages(Sequence[tuple[Message, ...]]):
    """The prompts of these numbers as chat turns, each read when it is asked for: a million take 0.4 GiB of memory."""

    def __init__(self, texts: Spool, numbers: np.ndarray) -> None:
        self._texts, self._numbers = texts, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(len(self))))
        return ({"role": "user", "content": self._texts[int(self._numbers[index])].decode()},)
