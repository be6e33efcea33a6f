"""What experiments will draw, train and judge, found by rehearsing each of them; work that they share counts once.

bench.sweeps.plan prices it by a store's history, bench.size for a machine.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from bench.sweeps.cells import Cell
from bench.sweeps.rehearsal import Record, rehearse


@dataclass(frozen=True)
class Workload:
    """What experiments ask for together, each distinct piece once."""

    pools: int  # of training prompts, each counted once at its largest N
    completions: int
    sampled: int  # completions of training prompts
    trainings: int  # at most: selections that picked equal completions share one
    evaluations: int
    examples: float  # seen by all trainings, counted once per epoch
    compared: int  # completions read for a KL, counted for each of the two models
    harnessed: int  # policies that lm-eval judges
    harness_completions: int  # their completions on the held-out prompts
    unknown: tuple[str, ...] = ()  # settings that ask for all prompts of data that is elsewhere


def workload(cells: Sequence[Cell]) -> Workload:
    """The workload of these cells together.

    It is exact where nothing depends on the rewards, and else that of the rehearsal's seeded random rewards.
    """
    record = Record()
    for cell in cells:
        record.add(_rehearsed(cell))
    drawn = {key: prompts * samples for key, (prompts, samples) in record.draws.items()}
    judged = [harnessed for _, harnessed in record.judged.values() if harnessed]
    return Workload(
        pools=len({stream for stream, *_ in record.for_training}),
        completions=sum(drawn.values()),
        sampled=sum(drawn[key] for key in record.for_training),
        trainings=len(record.trainings),
        evaluations=len(record.judged),
        examples=sum(record.trainings.values()),
        compared=sum(read for read, _ in record.judged.values()),
        harnessed=len(judged),
        harness_completions=sum(judged),
        unknown=tuple(record.unknown),
    )


@functools.cache
def _rehearsed(cell: Cell) -> Record:
    """What one cell asks for; a plan asks for it alone and together with others."""
    record = Record()
    rehearse(cell.config, cell.parts, record)
    return record
