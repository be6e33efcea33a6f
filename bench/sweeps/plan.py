"""What a sweep will cost before it starts."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.store import MANIFEST, walk
from bench.sweeps.cells import Cell, State, state
from bench.sweeps.workload import workload

STAGES = {"evaluation": ("divergence_samples", "lm_eval_exact_match"), "training": ("sft",)}


def summary(cells: Sequence[Cell]) -> str:
    """Cells, pools, trainings and evaluations after sharing, tokens, time by the store's own history, what is done."""
    kinds = [state(cell).kind for cell in cells]
    todo = [cell for cell, kind in zip(cells, kinds, strict=True) if kind != "done"]
    shared, alone = workload(cells), [workload([cell]) for cell in cells]
    drawn, drawn_alone = f"{shared.completions:,}", f"{sum(one.completions for one in alone):,}"
    if shared.unknown:
        drawn = drawn_alone = "unknown"
    lines = [
        f"{counted(len(cells))}: {tally(kinds)}",
        f"{'':24}{'shared':>12}{'each alone':>14}",
        f"  {'pools':22}{shared.pools:>12,}{sum(one.pools for one in alone):>14,}",
        f"  {'completions':22}{drawn:>12}{drawn_alone:>14}",
        f"  {'fine-tunings, at most':22}{shared.trainings:>12,}{sum(one.trainings for one in alone):>14,}",
        f"  {'evaluations, at most':22}{shared.evaluations:>12,}{sum(one.evaluations for one in alone):>14,}",
    ]
    if shared.unknown:
        lines.append(
            f"  unknown number of prompts until the data is there: {', '.join(shared.unknown)}=null asks for all"
        )
    elif todo:
        lines.append(f"  {estimate(todo)}")
    return "\n".join(lines)


def counted(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"


def described(found: State) -> str:
    return f"{found.kind} ({found.detail})" if found.detail else found.kind


def tally(kinds: Sequence[str]) -> str:
    order = ("done", "running", "failed", "interrupted", "incomplete", "outdated", "missing")
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


def estimate(cells: Sequence[Cell]) -> str:
    """Time and tokens of cells that are not done, from what like work took in their store."""
    todo, cfg = workload(cells), cells[0].cfg
    if todo.unknown:
        return f"time: unknown, as {', '.join(todo.unknown)}=null asks for all prompts that there are"
    engine = str(cfg.generation.get("_target_", "")).split(".")[-2].removesuffix("_engine")
    history = _history(Path(cfg.store))
    drawn = [one for one in history.get("generate", []) if one["settings"].get("engine") == engine]
    completions = sum(one["counts"].get("completions", 0) for one in drawn)
    trained = [one["seconds"] for stage in STAGES["training"] for one in history.get(stage, [])]
    if not completions or not trained:
        return "time: unknown, as this store holds no such work yet; python -m bench.size says what is expected"
    seconds = todo.completions * sum(one["seconds"] for one in drawn) / completions
    tokens = todo.completions * sum(one["counts"]["generated_tokens"] for one in drawn) / completions
    seconds += todo.trainings * sum(trained) / len(trained)
    for stage in STAGES["evaluation"]:
        took = [one["seconds"] for one in history.get(stage, [])]
        seconds += todo.evaluations * sum(took) / len(took) if took else 0.0
    return (
        f"at most {tokens:,.0f} tokens and {duration(seconds)} of work for what is not done, by what "
        f"{len(drawn) + len(trained):,} artifacts in the store took"
    )


def _history(store: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for folder, whole in walk(store):
        if whole:
            manifest = json.loads((folder / MANIFEST).read_text())
            found.setdefault(manifest["stage"], []).append(manifest)
    return found


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
