"""What a finished sweep cost: with what its cells shared, without, and how much of its time no stage accounts for."""

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from omegaconf import OmegaConf

from bench.config.keys import settings_key
from bench.records.read import read_run, seconds
from bench.sweeps.cells import Cell

GIVEN = "pretrain"  # the base policy is there before any experiment; nobody would train it once a cell


def savings(cells: Sequence[Cell]) -> list[str]:
    """Tokens and seconds of these finished cells: as they were shared, with a cache keyed by N too, and each alone."""
    lineages = {cell: _lineage(cell) for cell in cells}
    rows = [(cell, entry) for cell, lineage in lineages.items() for entry in lineage if entry["stage"] != GIVEN]
    bases = {cell: _given(lineage) for cell, lineage in lineages.items()}
    names = ("task", "policy", "generation", "seed", "num_completions", "baseline_completions")
    sampling = {cell: settings_key(OmegaConf.to_container(cell.cfg, resolve=True), *names) for cell in cells}

    def by_content(cell: Cell, entry: dict) -> tuple[str, ...]:
        return (entry["stage"], entry["key"], entry["part"])

    def by_sampling_parameters(cell: Cell, entry: dict) -> Hashable:
        drawn = entry["stage"] == "generate" and entry["parents"]["policy"] in bases[cell]
        return (sampling[cell] if drawn else cell.folder, *by_content(cell, entry))

    def by_cell(cell: Cell, entry: dict) -> Hashable:
        return cell.folder, *by_content(cell, entry)

    ways: dict[str, Callable[[Cell, dict], Hashable]] = {
        "shared by content": by_content,
        "cached by all sampling parameters, N too": by_sampling_parameters,
        "every cell alone": by_cell,
    }
    lines = [f"{'What it cost, the base policy apart':44}{'generated tokens':>18}{'seconds':>10}"]
    for name, key in ways.items():
        once = {key(cell, entry): entry for cell, entry in rows}.values()
        tokens = sum(entry["counts"].get("generated_tokens", 0) for entry in once)
        lines.append(f"  {name:42}{tokens:>18,.0f}{sum(entry['seconds'] for entry in once):>10,.0f}")
    return lines


def _given(lineage: list[dict[str, Any]]) -> set[str]:
    """The keys of the policies that drew before any was fine-tuned: the base, and other generators."""
    before = itertools.takewhile(lambda entry: entry["stage"] != "sft", lineage)
    return {entry["parents"]["policy"] for entry in before if entry["stage"] == "generate"}


def outside_stages(cells: Sequence[Cell]) -> str:
    """The share of the cells' own time that went neither into sampling, scoring, training nor evaluation.

    What a cell waited for another process to make counts as its own time too.
    """
    total = made = 0.0
    for cell in cells:
        total += seconds(cell.folder)
        made += sum(entry["seconds"] for entry in _lineage(cell) if not entry["reused"])
    return f"The cells took {total:,.0f} s, of which {max(0.0, 1 - made / total):.1%} outside of any stage."


def _lineage(cell: Cell) -> list[dict[str, Any]]:
    return read_run(cell.folder).lineage
