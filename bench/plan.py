"""What a sweep will cost before it starts, and what sharing saved when it has run."""

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from bench.sweep import Cell, State, state

if TYPE_CHECKING:
    from bench.reporting.collect import Run

STAGES = {"evaluation": ("divergence_samples", "lm_eval_exact_match"), "training": ("sft",)}
GIVEN = "pretrain"  # the base policy is there before any experiment; nobody would train it once a cell


@dataclass(frozen=True)
class Work:
    """What cells ask for, each distinct piece once."""

    pools: int  # on training prompts, each drawn once at its largest N
    completions: int
    trainings: int  # at most: selections that picked the same completions share one
    evaluations: int


def summary(cells: Sequence[Cell]) -> str:
    """Cells, pools, trainings and evaluations after sharing, tokens, time by the store's own history, what is done."""
    kinds = [state(cell).kind for cell in cells]
    todo = [cell for cell, kind in zip(cells, kinds, strict=True) if kind != "done"]
    shared, alone = work(cells), [work([cell]) for cell in cells]
    lines = [
        f"{counted(len(cells))}: {tally(kinds)}",
        f"{'':24}{'shared':>12}{'each alone':>14}",
        f"  {'pools':22}{shared.pools:>12,}{sum(one.pools for one in alone):>14,}",
        f"  {'completions':22}{shared.completions:>12,}{sum(one.completions for one in alone):>14,}",
        f"  {'fine-tunings, at most':22}{shared.trainings:>12,}{sum(one.trainings for one in alone):>14,}",
        f"  {'evaluations, at most':22}{shared.evaluations:>12,}{sum(one.evaluations for one in alone):>14,}",
    ]
    if todo:
        lines.append(f"  {_estimate(work(todo), Path(cells[0].cfg.store), cells[0].cfg.generation)}")
    return "\n".join(lines)


def conclusion(cells: Sequence[Cell]) -> str:
    """The table of finished cells, what failed and why, and what sharing saved."""
    from bench.reporting.collect import read_run
    from bench.reporting.ranking import rank
    from bench.reporting.tables import ranking_table, runs_table

    states = {cell.label: state(cell) for cell in cells}
    done = [cell for cell in cells if states[cell.label].kind == "done"]
    lines = ["", tally([found.kind for found in states.values()])]
    lines += [f"  {label}: {described(found)}" for label, found in states.items() if found.kind != "done"]
    if done:
        runs = {cell.label: read_run(cell.folder) for cell in done}
        by_method = _by_method(runs)
        table = ranking_table(rank(by_method)) if by_method else runs_table(list(runs.values()))
        lines += ["", table, "", *savings(done)]
    return "\n".join(lines)


def _by_method(runs: "dict[str, Run]") -> "dict[str, list[Run]]":
    """Runs by what sets them apart beside the seed; empty unless several methods have the same several seeds."""
    methods: dict[str, list[Run]] = {}
    for label, run in runs.items():
        name = " ".join(part for part in label.split() if not part.startswith("seed="))
        methods.setdefault(name, []).append(run)
    seeds = {tuple(sorted(run.config["seed"] for run in found)) for found in methods.values()}
    comparable = len(methods) > 1 and len(seeds) == 1 and len(next(iter(seeds))) > 1
    return methods if comparable else {}


def counted(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"


def described(found: State) -> str:
    return f"{found.kind} ({found.detail})" if found.detail else found.kind


def work(cells: Sequence[Cell]) -> Work:
    """Of these cells together."""
    pools: dict[Hashable, int] = {}
    drawn: dict[Hashable, int] = {}
    trainings, evaluations = set(), set()
    drawn_by_policies = 0
    for cell in cells:
        cfg = _resolved(cell)
        train, test = (cfg["task"].get(f"{split}_prompts") or 0 for split in ("train", cfg["split"]))
        base = _key(cfg, "task", "policy")
        pool = _key(cfg, "task", "policy", "generation", "seed")
        pools[pool] = max(pools.get(pool, 0), cfg["num_completions"] * train)
        drawn[pool] = max(drawn.get(pool, 0), max(cfg["num_completions"], cfg["baseline_completions"]) * test)
        training = _key(cfg, "scoring", "prompt_filter", "selection", "training", "num_completions")
        arms = ("tuned",) if cfg["control"] == "none" else ("tuned", "control")
        trainings |= {(pool, training, arm) for arm in arms}
        measured = _key(cfg, "evaluation", "seed")
        for evaluated in ((base, measured), *((pool, training, arm, measured) for arm in arms)):
            if evaluated not in evaluations:
                evaluations.add(evaluated)
                drawn_by_policies += test * (1 + cfg["evaluation"]["num_completions"])
    return Work(
        pools=len(pools),
        completions=sum(pools.values()) + sum(drawn.values()) + drawn_by_policies,
        trainings=len(trainings),
        evaluations=len(evaluations),
    )


def savings(cells: Sequence[Cell]) -> list[str]:
    """Tokens and seconds of these finished cells: as they were shared, with a cache keyed by N too, and each alone."""
    lineages = {cell: json.loads((cell.folder / "lineage.json").read_text()) for cell in cells}
    rows = [(cell, entry) for cell, lineage in lineages.items() for entry in lineage if entry["stage"] != GIVEN]
    bases = {cell: _first_to_draw(lineage) for cell, lineage in lineages.items()}
    names = ("task", "policy", "generation", "seed", "num_completions", "baseline_completions")
    sampling = {cell: _key(_resolved(cell), *names) for cell in cells}

    def by_content(cell: Cell, entry: dict) -> tuple[str, ...]:
        return (entry["stage"], entry["key"], entry["part"])

    def by_sampling_parameters(cell: Cell, entry: dict) -> Hashable:
        drawn = entry["stage"] == "generate" and entry["parents"]["policy"] == bases[cell]
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


def _first_to_draw(lineage: list[dict[str, Any]]) -> str:
    """The key of the base policy: the pool that it drew is what all else comes from."""
    return next(entry["parents"]["policy"] for entry in lineage if entry["stage"] == "generate")


def _resolved(cell: Cell) -> Any:
    return OmegaConf.to_container(cell.cfg, resolve=True)


def _key(cfg: dict, *names: str) -> str:
    return json.dumps([cfg[name] for name in names], sort_keys=True)


def tally(kinds: Sequence[str]) -> str:
    order = ("done", "running", "failed", "interrupted", "outdated", "missing")
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


def _estimate(todo: Work, store: Path, generation: Any) -> str:
    """Time and tokens of what is to do, from what like work took in this store."""
    engine = str(generation.get("_target_", "")).split(".")[-2].removesuffix("_engine")
    history = _history(store)
    drawn = [one for one in history.get("generate", []) if one["settings"].get("engine") == engine]
    completions = sum(one["counts"].get("completions", 0) for one in drawn)
    trained = [one["seconds"] for stage in STAGES["training"] for one in history.get(stage, [])]
    if not completions or not trained:
        return "time: unknown, as this store holds no such work yet"
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
    for path in store.glob("*/*/**/manifest.json"):
        manifest = json.loads(path.read_text())
        found.setdefault(manifest["stage"], []).append(manifest)
    return found


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
