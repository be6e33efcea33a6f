"""What a run asked of the store: its lineage, from which its costs come."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Use:
    """One artifact that a run asked for; a run's uses are its lineage, its costs are theirs."""

    stage: str
    key: str
    part: str
    settings: dict[str, Any]
    parents: dict[str, str]
    counts: dict[str, float]  # e.g. generated_tokens, flops
    seconds: float  # wall time of making it, now or earlier
    reused: bool


def unique(uses: Sequence[Use]) -> list[Use]:
    """Each artifact once, as it was when first asked for."""
    first: dict[tuple[str, str, str], Use] = {}
    for use in uses:
        first.setdefault((use.stage, use.key, use.part), use)
    return list(first.values())


def lineage(uses: Sequence[Use]) -> list[dict[str, Any]]:
    """Every ancestor of a run, for lineage.json."""
    return [asdict(use) for use in unique(uses)]
