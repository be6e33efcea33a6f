"""Compare two pools on the prompts that they share: pass@k and Best-of-k, and for which k either leads.

python -m bench.pools compare A B [largest_k=K] [split=test] [seed=0] [outputs=outputs] [to=FOLDER]

A, B: the name of an imported pool, or a run's folder; a quoted pattern such as "outputs/a/*" stands for training seeds.
largest_k=K: compare up to k = K, on the prompts with so many completions; by default, as many as each prompt has.
to=FOLDER: where crossover.png, .pdf, .svg, .csv and crossover.md go; outputs/compared/A_vs_B by default.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.errors import BenchError, printable
from bench.estimators.crossing import Crossover, crossover
from bench.estimators.curves import best_of_n, pass_at_k
from bench.evaluation.measures import powers_of_two
from bench.pools.arrays import PoolArrays, options_of, read, runs_of, whole_of
from bench.records.read import Estimate
from bench.reporting.exhibit import Figure, Table
from bench.reporting.files import captioned, write_figure
from bench.reporting.finish import legend_above
from bench.reporting.plots import grid_of
from bench.reporting.style import COLOURS, COLUMN_WIDTH, FULL_WIDTH, QUIET
from bench.reporting.tables import spread
from bench.seeds import generator
from bench.store import write_durably

USAGE = "python -m bench.pools compare --help"
EVERY = 512  # values of k: up to this, each is one; above, they are spaced evenly in log k


class Compared(NamedTuple):
    """One measure of both pools over k."""

    measure: str
    a: np.ndarray  # [K] means
    b: np.ndarray  # [K]
    crossing: Crossover


class Paired(NamedTuple):
    """The pools of both sides, and the prompts that all have."""

    sides: tuple[list[PoolArrays], list[PoolArrays]]  # several where there are training seeds
    ids: list[str]
    left_out: list[str]  # sentences


def main(words: Sequence[str]) -> None:
    places, options = options_of(words, ("largest_k", "split", "seed", "outputs", "to"), USAGE)
    if len(places) != 2:
        raise BenchError(f"{len(places)} pools are given; two are compared: {USAGE}")
    outputs = options.get("outputs", "outputs")
    sides = [[read(run, options.get("split", "test")) for run in runs_of(place, outputs)] for place in places]
    names = [Path(place).name if len(side) == 1 else place for place, side in zip(places, sides, strict=True)]
    if names[0] == names[1]:
        names = places if places[0] != places[1] else [f"{places[0]} (A)", f"{places[1]} (B)"]
    paired = pair(sides[0], sides[1], names)
    found, notes = compare(paired, whole_of(options, "largest_k", None), seed=whole_of(options, "seed", 0, 0) or 0)
    plain = [name.replace("/", "_").replace("*", "all") for name in names]
    folder = Path(options.get("to") or Path(outputs) / "compared" / f"{plain[0]}_vs_{plain[1]}")
    text = write(folder, found, names, [*paired.left_out, *notes], paired)
    print(printable(text))
    print(f"written   {printable(str(folder))}")


def pair(a: list[PoolArrays], b: list[PoolArrays], names: Sequence[str]) -> Paired:
    """Pair the prompts by id; equal ids with different texts are no pair. BenchError where no pair is left."""
    shared = set.intersection(*(set(pool.ids.tolist()) for pool in (*a, *b)))
    texts = {name: {pool.texts[name] for pool in (*a, *b) if name in pool.texts} for name in shared}
    ids = sorted(name for name in shared if len(texts[name]) < 2)
    notes = [
        f"{max(len(pool.ids) for pool in side) - len(shared):,} prompts of {name} have no partner and are left out."
        for name, side in zip(names, (a, b), strict=True)
        if max(len(pool.ids) for pool in side) > len(shared)
    ]
    if len(ids) < len(shared):
        notes.append(f"{len(shared) - len(ids):,} prompts have one id, but different texts, and are left out.")
    if not ids:
        reason = "equal ids have different texts" if shared else "no id is in both"
        raise BenchError(f"{names[0]} and {names[1]} share no prompt: {reason}. Import both with id=FIELD.")
    return Paired((a, b), ids, notes)


def compare(paired: Paired, largest: int | None, *, seed: int) -> tuple[list[Compared], list[str]]:
    """The differences of pass@k, and of Best-of-k by every reward that both have; and what its reader should know."""
    pools = [pool for side in paired.sides for pool in side]
    cells = [pool.correct[pool.rows(paired.ids)] for pool in pools]
    counts = np.min([(~np.isnan(values)).sum(axis=1) for values in cells], axis=0)  # [M]
    most = int(counts.max())
    if most == 0:
        raise BenchError("No prompt has judged completions in both pools: their labels are of different prompts.")
    if largest is not None and largest > most:
        raise BenchError(
            f"largest_k={largest} is not allowed: no prompt has more than {most} judged completions in both."
        )
    largest = largest or int(counts[counts > 0].min(initial=most))
    kept = [name for name, count in zip(paired.ids, counts.tolist(), strict=True) if count >= largest]
    notes = [f"{len(kept):,} prompts are compared, for k up to {largest:,}."]
    if len(kept) < len(paired.ids):
        notes.append(f"{len(paired.ids) - len(kept):,} paired prompts have fewer than {largest} judged completions.")
    if largest < most:
        notes.append(f"largest_k={most} goes on, with the prompts that have so many.")
    if len(kept) < 2:
        raise BenchError(
            f"{len(kept)} paired prompts have {largest} judged completions in both; at least 2 are expected."
        )
    k = np.arange(1, largest + 1)
    if largest > EVERY:
        k = np.unique(np.geomspace(1, largest, EVERY).round().astype(int))
        notes.append(f"The band is over {len(k)} values of k, spaced evenly in log k.")
    found = []
    for measure, values in _measures(paired, kept, k):
        whole = ~np.any([np.isnan(curve).any(axis=1) for side in values for curve in side], axis=0)
        if not whole.all():
            usable = f"{int(whole.sum()):,} of these prompts have {largest:,} rewards in both"
            notes.append(f"{measure} is {'over' if whole.sum() > 1 else 'left out:'} {usable}.")
        if whole.sum() < 2:
            continue
        seeds = [np.array(side) if len(side) > 1 else side[0] for side in values]
        crossing = crossover(seeds[0], seeds[1], k, generator(seed, "compare", measure))
        # a difference of shares is at most 1
        crossing = replace(crossing, low=np.maximum(crossing.low, -1), high=np.minimum(crossing.high, 1))
        means = [np.mean([curve[whole].mean(axis=0) for curve in side], axis=0) for side in values]
        found.append(Compared(measure, means[0], means[1], crossing))
    return found, notes


def _measures(paired: Paired, ids: list[str], k: np.ndarray) -> Iterator[tuple[str, list[list[np.ndarray]]]]:
    """(name, for each side the curves [M, K] of its pools)."""
    rows = [[pool.rows(ids) for pool in side] for side in paired.sides]
    sides = [list(zip(side, places, strict=True)) for side, places in zip(paired.sides, rows, strict=True)]
    yield "pass@k", [[pass_at_k(pool.correct[place], k) for pool, place in side] for side in sides]
    names = [list(pool.rewards) for side in paired.sides for pool in side]
    for name in [name for name in names[0] if all(name in other for other in names)]:
        curves = [[best_of_n(pool.rewards[name][at], k, pool.correct[at]) for pool, at in side] for side in sides]
        if not any(np.isnan(curve).all(axis=1).any() for side in curves for curve in side):
            yield f"Best-of-k by {name}", curves


def write(folder: Path, found: Sequence[Compared], names: Sequence[str], notes: Sequence[str], paired: Paired) -> str:
    """Write the figure and the page; returns the page."""
    runs = [pool.run for side in paired.sides for pool in side]
    rows = [row for one in found for row in _rows(one, names)]
    caption = (
        f"{names[0]} minus {names[1]} on the same prompts. The band holds the whole true curve with probability 95 % "
        "(prompts, and training seeds where there are several): a pool leads wherever the band excludes 0."
    )
    size = (COLUMN_WIDTH if len(found) == 1 else FULL_WIDTH, COLUMN_WIDTH * 0.8)
    figure = Figure("crossover", caption, rows, runs, lambda canvas, *_: _draw(canvas, found, names), *size)
    headings = {name: name for name in ("measure", "k", "a", "b", "difference", "leads")}
    headings |= {"a": names[0], "b": names[1]}
    shown = [row for row in rows if row["k"] in powers_of_two(max(int(one.crossing.k[-1]) for one in found))]
    table = Table("crossover", caption, shown, runs, headings)
    text = "\n\n".join(
        [" ".join(notes), *(_sentence(one, names) for one in found), captioned(table), "![crossover](crossover.png)"]
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_figure(figure, folder)
        write_durably(folder / "crossover.md", text + "\n")
    except OSError as error:
        raise BenchError(f"{folder} can't be written ({error.strerror or error}).") from error
    return text


def _rows(one: Compared, names: Sequence[str]) -> list[dict[str, Any]]:
    crossing = one.crossing
    return [
        {
            "measure": one.measure,
            "k": int(crossing.k[at]),
            "a": float(one.a[at]),
            "b": float(one.b[at]),
            **spread(
                "difference",
                Estimate(*(float(ends[at]) for ends in (crossing.difference, crossing.low, crossing.high))),
            ),
            "leads": {1: names[0], -1: names[1], 0: "open"}[int(crossing.leader[at])],
        }
        for at in range(len(crossing.k))
    ]


def _sentence(one: Compared, names: Sequence[str]) -> str:
    parts = []
    for leader, words in ((1, f"{names[0]} leads"), (-1, f"{names[1]} leads"), (0, "open")):
        stretches = [f"{first}" if first == last else f"{first}–{last}" for first, last in one.crossing.where(leader)]
        if stretches:
            parts.append(f"{words} at k = {', '.join(stretches)}")
    return f"{one.measure}: {'; '.join(parts)}."


def _draw(canvas: Any, found: Sequence[Compared], names: Sequence[str]) -> None:
    """The difference over k with its band; the stretches in which a pool leads are thick."""
    for axes, one in zip(grid_of(canvas, len(found), sharey=True), found, strict=True):
        crossing = one.crossing
        axes.axhline(0, color=QUIET, linewidth=0.6)
        axes.fill_between(
            crossing.k, crossing.low, crossing.high, color=QUIET, alpha=0.2, linewidth=0, label="95 % band"
        )
        axes.plot(crossing.k, crossing.difference, color=COLOURS["base"], linewidth=1.0, label="difference")
        for leader, name, colour in ((1, names[0], COLOURS["best_of_n"]), (-1, names[1], COLOURS["tuned"])):
            inside = np.where(crossing.leader == leader, crossing.difference, np.nan)
            if not np.isnan(inside).all():
                marker = "o" if len(crossing.k) < 20 else None
                axes.plot(crossing.k, inside, color=colour, linewidth=2.5, marker=marker, label=f"leads: {name}")
        axes.set_xscale("log", base=2)
        axes.set(title=one.measure, xlabel="k")
        axes.xaxis.set_major_formatter("{x:.0f}")
    canvas.axes[0].set_ylabel("difference of accuracy")
    legend_above(canvas)
