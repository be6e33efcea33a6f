"""Who reads completions to score them: reward models by their size, tests of programs by their number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.sizing.shapes import Shape, of_model

PROGRAM = 0.05  # seconds that one takes in the sandbox, one after another: its start, most of all; assumed
GOLD = "gold model"
TRAINED = ("trained_reward_model", "trained_process_reward")


@dataclass(frozen=True)
class Reader:
    """A model that reads completions."""

    role: str
    shape: Shape
    held_out: bool = False  # only those of prompts that policies are judged on
    notes: list[str] = field(default_factory=list)


def readers(cfg: Mapping[str, Any], policy: Shape, parameters: float | None) -> list[Reader]:
    """Of a configuration, whatever combines them. parameters: of reward models whose names do not say them."""
    found = []
    for scorer, times in _models(cfg["scoring"], 1):
        if isinstance(scorer.get("model"), str):
            shape = of_model(scorer["model"], revision=scorer.get("revision", "main"), parameters=parameters)
            found += [Reader("reward model", shape)] * times
        else:
            notes = ["a reward model is trained here: its samples and its training come on top"]
            found += [Reader("reward model of the policy's size", policy, notes=notes)] * times
    if gold := cfg["task"].get("gold_model"):
        judges = cfg["scoring"]["_target_"].endswith(".verify")  # which asks it
        shape = of_model(gold, revision=cfg["task"]["gold_revision"], parameters=parameters)
        found.append(Reader(GOLD, shape, held_out=not judges))
    return found


def _models(node: Any, times: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Scorers inside a configured one that are models on this machine, and how many are made of each."""
    if isinstance(node, list):
        for entry in node:
            yield from _models(entry, times)
    if not isinstance(node, Mapping):
        return
    name = str(node.get("_target_", "")).rpartition(".")[2]
    if name in TRAINED or name in ("reward_model", "process_reward"):
        yield node, times
    times *= node["size"] if name == "seed_ensemble" else 1
    for key, entry in node.items():
        if key not in ("gold", "task"):  # gold labels some samples alone; a task's models are its own
            yield from _models(entry, times)


def programs(cfg: Mapping[str, Any], completions: float, held_out: float) -> float:
    """How many programs run: of every completion where tests score, of those that are graded where the task runs them.

    completions: all that are drawn; held_out: of them, those not drawn to train on.
    """
    scored = _has(cfg["scoring"], "unit_tests")
    judged = "isolation" in cfg["task"]
    return (completions if scored else 0) + (held_out if judged else 0)


def _has(node: Any, name: str) -> bool:
    if isinstance(node, list):
        return any(_has(entry, name) for entry in node)
    if not isinstance(node, Mapping):
        return False
    return str(node.get("_target_", "")).rpartition(".")[2] == name or any(_has(entry, name) for entry in node.values())
