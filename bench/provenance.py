"""Which code made a run."""

import functools
from pathlib import Path

from bench.artifacts import content_hash


@functools.cache
def code_fingerprint() -> str:
    """A hash of this package's source: runs of different code are not taken for the same."""
    root = Path(__file__).parent
    return content_hash([(path.relative_to(root).as_posix(), path.read_text()) for path in sorted(root.rglob("*.py"))])
