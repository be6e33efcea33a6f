"""What cells will draw, train and judge, by rehearsing each of them; work that they share counts once.

bench.sweeps.plan prices it by a store's history, bench.size for a machine.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from bench.sweeps.cells import Cell
from bench.sweeps.rehearsal import Record, rehearse


@dataclass(frozen=True)
class Workload:
    """The work of some cells together, each distinct piece once."""

    pools: int  # on training prompts; pools that differ in N alone are one
    completions: int
    sampled: int  # the completions of training prompts
    trainings: int  # at most: equal selections share one
    evaluations: int
    examples: float  # of all trainings, counted once per epoch
    compared: int  # completions read for KLs, counted once per model that reads them
    harnessed: int  # policies that lm-eval judges
    harness_completions: int  # the completions that it judges
    unknown: tuple[str, ...] = ()  # settings that take all prompts of data that is not on this machine


def workload(cells: Sequence[Cell]) -> Workload:
    """The work of these cells together: exact where it does not depend on rewards, else by seeded random rewards."""
    record = Record()
    for cell in cells:
        record.add(record_of(cell))
    drawn = {key: prompts * samples for key, (prompts, samples) in record.draws.items()}
    harnessed = [prompts for _, prompts in record.judged.values() if prompts]
    return Workload(
        pools=len({stream for stream, *_ in record.for_training}),
        completions=sum(drawn.values()),
        sampled=sum(drawn[key] for key in record.for_training),
        trainings=len(record.trainings),
        evaluations=len(record.judged),
        examples=sum(record.trainings.values()),
        compared=sum(read for read, _ in record.judged.values()),
        harnessed=len(harnessed),
        harness_completions=sum(harnessed),
        unknown=tuple(record.unknown),
    )


@functools.cache
def record_of(cell: Cell) -> Record:
    """The record of one cell; a plan needs it twice: alone, and together with the other cells."""
    record = Record()
    rehearse(cell.config, cell.parts, record)
    return record
