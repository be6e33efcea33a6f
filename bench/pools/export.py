"""Export the pool of a run."""

from collections.abc import Sequence

from bench.errors import BenchError


def main(words: Sequence[str]) -> None:
    raise BenchError("export is not built yet.")
