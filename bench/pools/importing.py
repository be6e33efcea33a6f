"""Import completions that were drawn elsewhere."""

from collections.abc import Sequence

from bench.errors import BenchError


def main(words: Sequence[str]) -> None:
    raise BenchError("import is not built yet.")


def import_pool() -> None:
    raise BenchError("import is not built yet.")
