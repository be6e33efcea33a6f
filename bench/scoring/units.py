"""Scores kept in the store: each stored unit of a pool is scored once, and each distinct text of a prompt once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.progress import bar, say
from bench.store import Address, current
from bench.store.files import load_arrays, save_arrays

FILE = "rewards.safetensors"
Score = Callable[[Sequence[int], Sequence[str]], tuple[np.ndarray, dict[str, float]]]


def scored(
    prompts: Prompts,
    completions: Completions,
    score: Score,
    *,
    stage: str,
    version: int,
    settings: dict[str, Any],
    parents: dict[str, str] | None = None,
    report: Callable[[list[dict[str, float]]], None] | None = None,
) -> Rewards:
    """[M, N] rewards, one artifact per stored unit of the pool; units that were scored before are read from the store.

    score(rows, texts) -> (values [D], counts) is given D distinct pairs of a row of `prompts` and a text; NaN is
    unscored. It is called only where a unit is missing: load a model at its first call. The counts (tokens, flops,
    truncated inputs) are those of the unit. report: is given the counts of all units, those found in the store too.
    Raise `version` when equal settings give other scores. parents: the content keys of whatever else the scores depend
    on, e.g. a reward model.
    """
    earlier = len(current().uses)
    value = np.empty(completions.shape)
    known: dict[tuple[int, str], float] = {}  # scores of the prompts at hand: equal texts of other units score equal
    with bar(stage, total=float(completions.logprob.size), unit="completions") as progress:
        start = -1
        for rows, columns, unit in completions.units(whole=True):
            if rows.start != start:
                start, known = rows.start, {}
            cells = [(row, text) for row, texts in enumerate(unit.text.tolist(), start=rows.start) for text in texts]
            address = Address(
                stage, version, settings, {"prompts": prompts[rows].key, "completions": unit.key, **(parents or {})}
            )
            build = partial(_build, cells, known, score)
            flat = current().make(address, build, lambda out: load_arrays(out / FILE)["value"])
            known |= dict(zip(cells, flat.tolist(), strict=True))
            scores = flat.reshape(unit.shape)
            value[rows, columns] = scores[:, : value.shape[1] - columns.start]  # a slice may end beyond the last sample
            progress.advance(flat.size)
    if report is not None:
        report([use.counts for use in current().uses[earlier:] if use.stage == stage])
    return Rewards(value)


def _build(cells: list[tuple[int, str]], known: dict[tuple[int, str], float], score: Score, out: Path) -> dict:
    new = [cell for cell in dict.fromkeys(cells) if cell not in known]
    values, counts = score([row for row, _ in new], [text for _, text in new]) if new else (np.empty(0), {})
    if np.shape(values) != (len(new),):
        raise ValueError(f"a scorer gave values of shape {np.shape(values)} for {len(new)} texts.")
    found = known | dict(zip(new, np.asarray(values, float).tolist(), strict=True))
    save_arrays(out / FILE, value=np.array([found[cell] for cell in cells]))
    return {"scored": len(new), **counts}


def warn_unscored(
    counts: Sequence[Mapping[str, float]], outcomes: Sequence[str], of: Sequence[str], words: str
) -> None:
    """Warn of completions without a score, by outcome. of: the names of the counts whose sum {total} is in `words`."""

    def total(name: str) -> int:
        return int(sum(count.get(name, 0) for count in counts))

    unscored = ", ".join(f"{total(name):,} {name.replace('_', ' ')}" for name in outcomes if total(name))
    if unscored:
        say(f"warning: {words.format(total=sum(map(total, of)))}: {unscored}")
