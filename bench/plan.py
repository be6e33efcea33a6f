"""What a sweep will cost before it starts, and what sharing saved when it has run."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.gate import NEEDS_PROBE
from bench.savings import outside_stages, savings, settings_key
from bench.store import MANIFEST, walk
from bench.sweep import Cell, State, state

if TYPE_CHECKING:
    from bench.reporting.collect import Run

STAGES = {"evaluation": ("divergence_samples", "lm_eval_exact_match"), "training": ("sft",)}


@dataclass(frozen=True)
class Work:
    """What cells ask for, each distinct piece once."""

    pools: int  # on training prompts, each drawn once at its largest N
    completions: int
    trainings: int  # at most: selections that picked the same completions share one
    evaluations: int
    unknown: tuple[str, ...] = ()  # settings for all prompts that there are, which only the data can tell: counted as 0


def summary(cells: Sequence[Cell]) -> str:
    """Cells, pools, trainings and evaluations after sharing, tokens, time by the store's own history, what is done."""
    kinds = [state(cell).kind for cell in cells]
    todo = [cell for cell, kind in zip(cells, kinds, strict=True) if kind != "done"]
    shared, alone = work(cells), [work([cell]) for cell in cells]
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
        lines += ["", table, "", *savings(done), outside_stages(done)]
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
    trainings: set[Hashable] = set()
    evaluations = set()
    drawn_by_policies = 0
    unknown: dict[str, None] = {}
    for cell in cells:
        cfg: Any = OmegaConf.to_container(cell.cfg, resolve=True)
        counts = {split: prompts_in(cfg["task"], split) for split in ("train", cfg["split"])}
        unknown |= {f"task.{split}_prompts": None for split, count in counts.items() if count is None}
        train, test = (count or 0 for count in counts.values())
        base = settings_key(cfg, "task", "policy")
        pool = settings_key(cfg, "task", "policy", "generation", "seed")
        drawn[pool] = max(drawn.get(pool, 0), max(cfg["num_completions"], cfg["baseline_completions"]) * test)
        training: Hashable = settings_key(cfg, "scoring", "prompt_filter", "selection", "training", "num_completions")
        if "allocate" in cfg["procedure"]:  # of bench.adaptive: what there is to train on depends on it
            training = (training, settings_key(cfg, "procedure"))
        measured = settings_key(cfg, "evaluation", "seed")
        made: list[Hashable] = []  # the trainings of this cell
        drawers = {} if "easy_by" in cfg["procedure"] else _drawers(cfg)
        if "easy_by" in cfg["procedure"]:
            sampled, probes = _hybrid(cfg)
            pools[pool, settings_key(cfg, "procedure")] = sampled * cfg["num_completions"]
            trainings |= {(pool, settings_key(cfg, "training"), *probe) for probe in probes}
            made.append((pool, training, settings_key(cfg, "procedure")))
        else:
            for drawer, count in drawers.items():
                pools[(pool, *drawer)] = max(pools.get((pool, *drawer), 0), count * train)
            mix = (settings_key(cfg, "procedure"),) if "drawn_by" in cfg["procedure"] else ()
            for arm in ("tuned",) if cfg["control"] == "none" else ("tuned", "control"):
                for shared_by in _rounds(cfg):
                    # what draws first is the base, or the generators; then what the round before trained
                    if shared_by:
                        source = (pool, *made[-1:])
                        pools[source] = max(pools.get(source, 0), cfg["num_completions"] * train)
                    made.append((pool, training, arm, *mix, *shared_by))
        trainings |= set(made)
        generators = [(base, *drawer, measured) for drawer in {(): 0} | drawers]  # the base is judged in any case
        for evaluated in (*generators, *((one, measured) for one in made)):
            if evaluated not in evaluations:
                evaluations.add(evaluated)
                drawn_by_policies += test * (1 + cfg["evaluation"]["num_completions"])
    return Work(
        pools=len(pools),
        completions=sum(pools.values()) + sum(drawn.values()) + drawn_by_policies,
        trainings=len(trainings),
        evaluations=len(evaluations),
        unknown=tuple(unknown),
    )


def _drawers(cfg: dict[str, Any]) -> dict[tuple[str, ...], int]:
    """Samples a training prompt by who draws them (at first); the policy that is fine-tuned is ()."""
    if "drawn_by" not in cfg["procedure"]:
        return {(): cfg["num_completions"]}
    from bench.generators import shares

    entries = cfg["procedure"]["generators"]
    weights = {name: entries[name]["weight"] for name in cfg["procedure"]["drawn_by"]}
    counts = shares(weights, cfg["num_completions"], seed=cfg["seed"])
    policies = {name: entries[name]["policy"] for name in counts}
    return {(name, json.dumps(policies[name])) if policies[name] else (): count for name, count in counts.items()}


def prompts_in(task: dict[str, Any], split: str) -> int | None:
    """Of a configured task. Where it asks for all that there is: of its local files, None of what lies on the hub."""
    wanted = task.get(f"{split}_prompts")
    if wanted is None and task.get("path") is not None:
        return len(instantiate(task, _convert_="all").prompts(split))
    return wanted


def _rounds(cfg: dict[str, Any]) -> list[tuple[Hashable, ...]]:
    """For each round, what else its training depends on beside the cell's parts; on nothing in the first."""
    rounds = cfg["procedure"].get("rounds", 1)
    return [(), *((number, settings_key(cfg, "procedure")) for number in range(2, rounds + 1))]


def _hybrid(cfg: dict[str, Any]) -> tuple[int, list[tuple[Hashable, ...]]]:
    """How many prompts a hybrid samples, and what each training of its probe depends on beside the base and seed."""
    procedure, prompts = cfg["procedure"], prompts_in(cfg["task"], "train") or 0
    share = procedure["easy_share"] if procedure["hard"] == "sample" else 1
    judges = 0 < procedure["easy_share"] < 1 and procedure["easy_by"] in NEEDS_PROBE
    if not judges and (share == 1 or procedure["sample_from"] == "base"):
        return round((1 - share) * prompts), []
    told = (procedure["foreign"], procedure["noise"], procedure["folds"])
    steps = [(fold, epoch) for fold in range(procedure["folds"] or 1) for epoch in range(procedure["probe_epochs"])]
    return round((1 - share) * prompts), [(*told, *step) for step in steps]


def tally(kinds: Sequence[str]) -> str:
    order = ("done", "running", "failed", "interrupted", "incomplete", "outdated", "missing")
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


def estimate(cells: Sequence[Cell]) -> str:
    """Time and tokens of cells that are not done, from what like work took in their store."""
    todo, cfg = work(cells), cells[0].cfg
    if todo.unknown:
        return f"time: unknown, as {', '.join(todo.unknown)}=null asks for all prompts that there are"
    engine = str(cfg.generation.get("_target_", "")).split(".")[-2].removesuffix("_engine")
    history = _history(Path(cfg.store))
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
    for folder, whole in walk(store):
        if whole:
            manifest = json.loads((folder / MANIFEST).read_text())
            found.setdefault(manifest["stage"], []).append(manifest)
    return found


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
