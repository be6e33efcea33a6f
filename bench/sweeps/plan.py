"""The cost of a sweep: estimated before it starts, and counted after it ends, with and without sharing.

What cells will draw, train and judge is known by rehearsing each of them; work that they share counts once. The store's
history prices it here, bench.size for a machine.
"""

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.keys import drawing, settings_key
from bench.progress import duration
from bench.records.read import read_run, seconds
from bench.store import SHIPPED, DamagedArtifactError, check, walk
from bench.sweeps.cells import Cell, State, state
from bench.sweeps.rehearsal import rehearse
from bench.sweeps.work import Record

STAGES = {  # of the store
    "trainings": ("sft", "dpo"),
    "evaluations": ("divergence_samples",),
    "harnessed": ("lm_eval_exact_match",),
}
PRETRAINING = "pretrain"  # left out of a sweep's cost: nobody would pretrain the base once per cell


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


def summary(cells: Sequence[Cell]) -> str:
    """The state of the cells, their work with and without sharing, and the time that is left."""
    kinds = [state(cell).kind for cell in cells]
    todo = [cell for cell, kind in zip(cells, kinds, strict=True) if kind != "done"]
    shared, alone = workload(cells), [workload([cell]) for cell in cells]

    def line(name: str, count: str, known: bool = True) -> str:
        numbers = [getattr(shared, count), sum(getattr(work, count) for work in alone)]
        both, each = (f"{number:,}" if known else "unknown" for number in numbers)
        return f"  {name:22}{both:>12}{each:>17}"

    lines = [
        f"{counted(len(cells))}: {tally(kinds)}",
        f"{'':24}{'shared':>12}{'without sharing':>17}",
        f"  {'engine':22}{', '.join(sorted({engine(cell.config['generation']) for cell in cells})):>12}",
        line("pools", "pools"),
        line("completions", "completions", known=not shared.unknown),
        line("fine-tunings, at most", "trainings"),
        line("evaluations, at most", "evaluations"),
    ]
    if shared.unknown:
        lines.append(f"  the number of prompts is unknown until the data is here: {', '.join(shared.unknown)}=null")
    elif todo:
        lines.append(f"  {estimate(todo)}")
    return "\n".join(lines)


def engine(generation: Any) -> str:
    return str(drawing(generation).get("_target_", "")).split(".")[-2].removesuffix("_engine")


def counted(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"


def described(state: State) -> str:
    return f"{state.kind} ({state.detail})" if state.detail else state.kind


def tally(kinds: Sequence[str]) -> str:
    """The number of cells in each kind of state."""
    order = ("done", "running", "failed", "interrupted", "incomplete", "outdated", "missing")
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


def estimate(cells: Sequence[Cell]) -> str:
    """The time and tokens that these cells will take."""
    work = workload(cells)
    amounts = {"completions": work.completions, "trainings": work.trainings, "evaluations": work.evaluations}
    evaluation = cells[0].config["evaluation"]
    if evaluation["lm_eval"]:
        amounts |= {"harnessed": work.harnessed, "harness_completions": work.harness_completions}
    return f"time: {_in_words(amounts, rates(cells[0].cfg), work.unknown, evaluation)}"


def _in_words(
    amounts: Mapping[str, float], per: Mapping[str, float], unknown: Sequence[str], evaluation: Mapping[str, Any]
) -> str:
    """The time and tokens of these amounts of work, by the rates of what the store has, and what they leave out."""
    if unknown:
        return f"unknown, since {', '.join(unknown)}=null takes all prompts, whose number is unknown"
    if (taken := _seconds(amounts, per)) is None:
        return "unknown, since the store holds no such work yet; python -m bench.size gives an estimate"
    tokens = (amounts.get("completions", 0) + amounts.get("harness_completions", 0)) * per.get("tokens", 0.0)
    others = ", ".join([*evaluation["transfer"], *evaluation["harness_tasks"]])
    return (
        f"about {tokens:,.0f} tokens and {duration(taken)} of work remain, by what {per['artifacts']:,} artifacts in "
        f"the store took, of any model{f'; without lm-eval on {others}' if others else ''}"
    )


def opening(cell: Cell, stored: Collection[int]) -> str:
    """The lines with which a run begins. stored: the numbers of the stages that the store is known to hold."""
    record, first = record_of(cell), f"run       {cell.id} in {cell.folder}\nengine    "
    first += f"{engine(cell.config['generation'])}\nstore     "
    if len(stored) == (count := len(record.stages)):
        return f"{first}all {count} stages are there"
    names = ", ".join(record.stages[number].name for number in sorted(stored)[:6])
    known = f"at least {len(stored)} of {count} stages: {names}" if stored else "no stage is known to be there"
    per, kinds, total = rates(cell.cfg), dict[str, list[Counter[str]]](), Counter[str]()
    for number, stage in enumerate(record.stages):
        if number not in stored:
            kinds.setdefault(stage.name.partition(" ")[0], []).append(stage.work)
            total += stage.work
    times = {kind: _seconds(sum(works, Counter[str]()), per) for kind, works in kinds.items()}
    words = [
        f"{len(kinds[kind])} {kind}"
        + (" to pretrain" if any(work["steps"] for work in kinds[kind]) else "")
        + (f" ({duration(taken)})" if taken else "")
        for kind, taken in times.items()
    ]
    time = _in_words(total, per, list(record.unknown), cell.config["evaluation"])
    return f"{first}{known}\nto come   {', '.join(words)}\ntime      {time}"


def _seconds(amounts: Mapping[str, float], per: Mapping[str, float]) -> float | None:
    """None where the store holds no work of a kind."""
    timed = {kind: amount for kind, amount in amounts.items() if amount and kind != "harness_completions"}
    return sum(amount * per[kind] for kind, amount in timed.items()) if timed.keys() <= per.keys() else None


def rates(cfg: Any) -> dict[str, float]:
    """Seconds per unit of work of each kind that the store holds; tokens per completion; the number of artifacts."""
    history = _history(Path(cfg.store))
    drawn = [each for each in history.get("generate", []) if each["settings"].get("engine") == engine(cfg.generation)]
    trained = [artifact for stage in STAGES["trainings"] for artifact in history.get(stage, [])]
    per: dict[str, float] = {"artifacts": len(drawn) + len(trained)}
    if completions := sum(artifact["counts"].get("completions", 0) for artifact in drawn):
        per["completions"] = sum(artifact["seconds"] for artifact in drawn) / completions
        per["tokens"] = sum(artifact["counts"]["generated_tokens"] for artifact in drawn) / completions
    if online := history.get("online"):
        per["online"] = sum(each["seconds"] for each in online) / sum(each["counts"]["completions"] for each in online)
    pretrained = history.get(PRETRAINING) or _history(SHIPPED)[PRETRAINING]  # the pace of another machine, at first
    if steps := sum(artifact["settings"].get("steps", 0) for artifact in pretrained):
        per["steps"] = sum(artifact["seconds"] for artifact in pretrained) / steps
    for kind, stages in STAGES.items():
        if times := [artifact["seconds"] for stage in stages for artifact in history.get(stage, [])]:
            per[kind] = sum(times) / len(times)
    return per


def _history(store: Path) -> dict[str, list[dict]]:
    """The manifests of all complete artifacts, by stage."""
    history: dict[str, list[dict]] = {}
    for folder, complete in walk(store):
        if complete:
            with contextlib.suppress(DamagedArtifactError):  # the run that needs it says so, and makes it again
                manifest = check(folder, hash_limit=0)
                history.setdefault(manifest["stage"], []).append(manifest)
    return history


def savings(cells: Sequence[Cell]) -> list[str]:
    """Tokens and seconds of finished cells: as shared, with a cache whose key includes N, and without sharing."""
    lineages = {cell: lineage_of(cell) for cell in cells}
    rows = [(cell, entry) for cell, lineage in lineages.items() for entry in lineage if entry["stage"] != PRETRAINING]
    given: dict[Cell, set[str]] = {}  # the policies that drew before the first fine-tuning: base, other generators
    for cell, lineage in lineages.items():
        before = itertools.takewhile(lambda entry: entry["stage"] not in STAGES["trainings"], lineage)
        given[cell] = {entry["parents"]["policy"] for entry in before if entry["stage"] == "generate"}
    names = ("task", "policy", "generation", "seed", "num_completions", "baseline_completions")
    sampling = {cell: settings_key(cell.config, *names) for cell in cells}

    def by_content(cell: Cell, entry: dict) -> tuple[str, ...]:
        return (entry["stage"], entry["key"], entry["part"])

    def place(cell: Cell, entry: dict) -> Hashable:
        by_given = entry["stage"] == "generate" and entry["parents"]["policy"] in given[cell]
        return sampling[cell] if by_given else cell.folder

    keys: dict[str, Callable[[Cell, dict], Hashable]] = {
        "shared by content": by_content,
        "shared where N and the sampler are equal": lambda *row: (place(*row), *by_content(*row)),
        "without sharing": lambda cell, entry: (cell.folder, *by_content(cell, entry)),
    }
    lines = [f"{'Cost without pretraining':44}{'generated tokens':>18}{'seconds':>10}"]
    for name, key in keys.items():
        distinct = {key(cell, entry): entry for cell, entry in rows}.values()
        tokens = sum(entry["counts"].get("generated_tokens", 0) for entry in distinct)
        lines.append(f"  {name:42}{tokens:>18,.0f}{sum(entry['seconds'] for entry in distinct):>10,.0f}")
    return lines


def outside_stages(cells: Sequence[Cell]) -> str:
    """The share of the cells' time that no stage took, such as waiting for another process to make an artifact."""
    times = {cell: taken for cell in cells if (taken := seconds(cell.folder)) > 0}  # where it was recorded
    total = sum(times.values())
    if not times:
        return "The time that the cells took was not recorded."
    staged = sum(entry["seconds"] for cell in times for entry in lineage_of(cell) if not entry["reused"])
    return f"The cells took {total:,.0f} s, of which {max(0.0, 1 - staged / total):.1%} outside of any stage."


def lineage_of(cell: Cell) -> list[dict[str, Any]]:
    return read_run(cell.folder).lineage
