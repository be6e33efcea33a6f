"""What experiments will draw, train and judge, told from their configurations alone; each distinct piece once.

Every procedure's module has a function `asks(cfg, prompts) -> Asks` beside the procedure, which must say the same as it
does. bench.sweeps.plan prices the sum for a store, bench.size for a machine.
Configurations are resolved, as plain containers.
"""

import math
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from bench.config.keys import settings_key

if TYPE_CHECKING:
    from bench.sweeps.cells import Cell

ALL_KEPT = 0.5  # assumed of a pool, by selections that keep every completion above something
ONE_A_PROMPT = (
    "top_per_prompt",
    "random_per_prompt",
    "worst_per_prompt",
    "shortest_correct",
    "self_consistency",
    "mbr",
)
DRAWN_BY = ("task", "policy", "generation", "seed")
SAMPLER = ("temperature", "top_p", "top_k")

Config = Mapping[str, Any]
Name = tuple[Hashable, ...]  # of a policy: what it depends on beside task, base, generation and seed; (): the base
Prompts = Callable[[str], int]  # how many a split has


@dataclass(frozen=True)
class Asks:
    """What one experiment does beyond Best-of-N of the base and the base's evaluation, at most.

    What depends on how samples turn out is counted as if it took the longest. Equal names are one piece of work, in
    whatever experiments with the same task, base, generation and seed they appear.
    """

    pools: Mapping[Name, float]  # completions on training prompts, by who draws; of equal names the largest holds all
    tuned: Mapping[Name, float]  # policies that are trained and judged -> examples, counted once an epoch
    probes: Mapping[Name, float] = field(default_factory=dict)  # those that are trained and not judged, likewise
    others: Sequence[Name] = ()  # policies that are judged though nothing trained them
    choosing: Mapping[Name, float] = field(default_factory=dict)  # completions drawn only to decide how it goes on
    kl_from: int = 0  # how many policies beside the base the tuned arm's KL is taken from


@dataclass(frozen=True)
class Work:
    """What experiments ask for together, each distinct piece once."""

    pools: int  # on training prompts, each drawn once at its largest N
    completions: int
    sampled: int  # of these, on training prompts to train on
    trainings: int  # at most: selections that picked the same completions share one
    evaluations: int
    examples: float  # that all trainings see, counted once an epoch
    compared: int  # completions read for a KL, once for each of the two models
    harnessed: int  # policies that lm-eval judges
    harness_completions: int  # theirs on the held-out prompts
    unknown: tuple[str, ...] = ()  # settings for all prompts that there are, which only the data can tell: counted as 0


def work(cells: "Sequence[Cell]") -> Work:
    """Of these cells together."""
    pools: dict[Hashable, float] = {}
    held_out: dict[Hashable, int] = {}
    choosing: dict[Hashable, float] = {}
    trainings: dict[Hashable, float] = {}
    evaluations: dict[
        Hashable, tuple[int, int, int, int]
    ] = {}  # completions, compared, lm-eval's policies and completions
    unknown: dict[str, None] = {}
    for cell in cells:
        cfg: Any = OmegaConf.to_container(cell.cfg, resolve=True)

        def prompts(split: str, task: Config = cfg["task"]) -> int:
            count = prompts_in(task, split)
            if count is None:
                unknown[f"task.{split}_prompts"] = None
            return count or 0

        asked = of_procedure(cfg)(cfg, prompts)
        base, root = settings_key(cfg, "task", "policy"), settings_key(cfg, *DRAWN_BY)
        _at_least(pools, {(root, name): count for name, count in asked.pools.items()})
        _at_least(choosing, {(root, name): count for name, count in asked.choosing.items()})
        _at_least(trainings, {(root, name): count for name, count in {**asked.tuned, **asked.probes}.items()})

        test, of = prompts(cfg["split"]), cfg["evaluation"]
        best_of_n = max(cfg["num_completions"], cfg["baseline_completions"])
        sampled, kl = of["num_completions"], test * of["kl_completions"]
        for how, samples in (({}, best_of_n), ({name: of[name] for name in SAMPLER}, sampled)):  # often one pool
            drawn_by = settings_key({**cfg, "generation": {**cfg["generation"], **how}}, *DRAWN_BY, "split")
            _at_least(held_out, {drawn_by: test * drawn(cfg, samples)})
        measured = settings_key(cfg, "evaluation", "split", "seed")
        # greedy ones, and samples; the base's samples are among those above, and its KL from itself reads it once
        evaluations[base, measured] = (test, kl, 1, test)
        both = test * (1 + drawn(cfg, sampled))
        for name in asked.others:
            evaluations[base, name, measured] = (both, 2 * kl, 1, test)
        for name in asked.tuned:
            again = asked.kl_from if "tuned" in name else 0
            evaluations[root, name, measured] = (both, 2 * kl * (1 + again), 1, test)
        if cfg["training"].get("keep_every"):
            evaluations |= {
                (root, *key): one for key, one in _along_training(cfg, asked, prompts("validation")).items()
            }
    judged = [sum(column) for column in zip(*evaluations.values(), strict=True)]
    return Work(
        pools=len(pools),
        completions=round(sum(pools.values()) + sum(held_out.values()) + sum(choosing.values())) + judged[0],
        sampled=round(sum(pools.values())),
        trainings=len(trainings),
        evaluations=len(evaluations),
        examples=sum(trainings.values()),
        compared=judged[1],
        harnessed=judged[2],
        harness_completions=judged[3],
        unknown=tuple(unknown),
    )


def _along_training(cfg: Config, asked: Asks, prompts: int) -> dict[Name, tuple[int, int, int, int]]:
    """Evaluations of the base and of what trainings keep on the way, on validation prompts."""
    training, of = cfg["training"], cfg["evaluation"]
    completions, kl = prompts * (1 + drawn(cfg, of["num_completions"])), prompts * of["kl_completions"]
    measured = settings_key(cfg, "evaluation", "seed")
    found: dict[Name, tuple[int, int, int, int]] = {(measured, "base"): (completions, kl, 0, 0)}
    for name, seen in asked.tuned.items():
        batches = math.ceil(seen / training["epochs"] / training["batch_size"])
        updates = math.ceil(batches * training["epochs"])
        for number in range((updates - 1) // training["keep_every"] + 1):  # the last one is kept in any case
            found[measured, *name, number] = (completions, 2 * kl, 0, 0)
    return found


def _at_least(counts: dict[Hashable, Any], more: Mapping[Any, Any]) -> None:
    for key, count in more.items():
        counts[key] = max(counts.get(key, 0), count)


def of_procedure(cfg: Config) -> Callable[[Config, Prompts], Asks]:
    """The `asks` beside a configured procedure; a procedure of one's own without it is taken for a single round."""
    from bench import experiment

    module = sys.modules[get_object(cfg["procedure"]["_target_"]).__module__]
    return getattr(module, "asks", experiment.asks)


def arms(cfg: Config) -> tuple[str, ...]:
    """What is fine-tuned."""
    return ("tuned",) if cfg["control"] == "none" else ("tuned", "control")


def drawn(cfg: Config, samples: int) -> int:
    """How many samples of a prompt are drawn where these are asked for: whole blocks."""
    block = cfg["generation"].get("worker", cfg["generation"]).get("block_size", 1)
    return math.ceil(samples / block) * block


def fine_tuned(cfg: Config, arm: str, *more: Hashable) -> Name:
    """A policy that is trained on what is selected from the base's pool, and on what else decides what it becomes."""
    parts = ("scoring", "prompt_filter", "selection", "training", "num_completions")
    return (settings_key(cfg, *parts), arm, *more)


def examples(cfg: Config, prompts: float, *, rounds: int = 1) -> float:
    """That a training sees of what the selection keeps of this many prompts, counted once an epoch.

    Assumed where what it keeps depends on the rewards. rounds: whose pools it chooses among, all at once.
    """
    selection, pool = cfg["selection"], cfg["num_completions"] * rounds
    name, k = selection["_target_"].rpartition(".")[2], selection.get("k")
    if name in ONE_A_PROMPT or (name.endswith("overall") and k is None):
        found = prompts
    elif k is not None:
        found = min(k, prompts * pool) if name.endswith("overall") else prompts * min(k, pool)
    else:
        found = max(ALL_KEPT * prompts * pool, prompts)
    return found * cfg["training"].get("epochs", 1)


def assumes_kept(cfg: Config) -> bool:
    """Whether what a selection keeps is an assumption in `examples`."""
    return cfg["selection"]["_target_"].rpartition(".")[2] not in ONE_A_PROMPT and "k" not in cfg["selection"]


def prompts_in(task: Config, split: str) -> int | None:
    """Of a configured task. Where it asks for all that there is: of its local files, None of what lies on the hub."""
    wanted = task.get(f"{split}_prompts")
    if wanted is None and task.get("path") is not None:
        return len(instantiate(task, _convert_="all").prompts(split))
    return wanted
