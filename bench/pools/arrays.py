"""The pools of finished runs, imported or drawn here, as arrays."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, quoted
from bench.pools.columns import whole_number
from bench.records.completions import frame
from bench.records.frames import load
from bench.records.read import COMPLETIONS, Run, is_finished
from bench.reporting.words import function_name

REWARD = "reward."
PROMPTS = "prompts.parquet"  # of an imported run
GROUP = "imported"


@dataclass(frozen=True)
class PoolArrays:
    """The completions of M prompts, at most N of each; NaN and None where something is not there."""

    run: Run
    ids: np.ndarray  # [M] text
    correct: np.ndarray  # [M, N]
    judged: np.ndarray | None  # [M, N] a task's verdicts, where labels came along too
    rewards: dict[str, np.ndarray]  # [M, N] by name
    texts: dict[str, str]  # id -> prompt, where the run has them

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        return np.array([place[name] for name in ids], int)


def read(run: Run, split: str) -> PoolArrays:
    """The run's pool of this split. BenchError where it has none, or none of its completions has a verdict."""
    if isinstance(run.config["generation"].get("stopped"), dict):
        raise BenchError(
            f"{run.folder} has counts that stopped early; this takes a fixed number of samples per prompt."
        )
    cells = frame(run, COMPLETIONS)
    here = cells[cells["split"] == split]
    if not len(here):
        raise BenchError(f"{run.folder} has no pool of split {quoted(split)}: it has {', '.join(set(cells['split']))}.")
    ids, row = np.unique(here["prompt_id"].to_numpy(str), return_inverse=True)
    column = here["sample"].to_numpy(int)

    def grid(name: str) -> np.ndarray:
        values = np.full((len(ids), column.max() + 1), np.nan)
        values[row, column] = here[name].astype(object).map(lambda value: np.nan if value is None else value)
        return values

    correct = grid("correct")
    if np.isnan(correct).all():
        raise BenchError(f"{run.folder} has no verdicts: import its pool with correct=FIELD or task=NAME.")
    names = [name for name in here if name.startswith(REWARD)]
    rewards = {name.removeprefix(REWARD): grid(name) for name in names}
    if not names and not np.array_equal(grid("reward"), correct, equal_nan=True):  # the reward is the verdict
        rewards[function_name(run.config["scoring"])] = grid("reward")
    return PoolArrays(run, ids, correct, grid("judged") if "judged" in here else None, rewards, _prompts(run))


def runs_of(name: str, outputs: str) -> Sequence[Run]:
    """The finished runs of a folder, a pattern of folders, or the name of an imported pool."""
    imported = Path(outputs) / GROUP / name
    return load(imported if imported.is_dir() and not is_finished(Path(name)) else name)


def options_of(words: Sequence[str], known: Sequence[str], usage: str) -> tuple[list[str], dict[str, Any]]:
    """The words without "=", and the options. BenchError for an option that is not known."""
    places = [word for word in words if word.partition("=")[0] not in known or "=" not in word]
    for word in places:
        if "=" in word and not os.path.exists(word):
            raise BenchError(f"{quoted(word)} is no option: give {', '.join(f'{name}=' for name in known)}; {usage}")
    return places, dict(word.split("=", 1) for word in words if word not in places)


def whole_of(options: dict[str, Any], name: str, default: int | None, least: int = 1) -> int | None:
    """A whole number among the options. BenchError for other text or a smaller one."""
    text = options.get(name)
    if text is None:
        return default
    if (number := whole_number(text)) is None or number < least:
        raise BenchError(f"{name}={quoted(text)} is not allowed: it must be a whole number, {least} or more.")
    return number


def _prompts(run: Run) -> dict[str, str]:
    if not (run.folder / PROMPTS).is_file():
        return {}
    table = frame(run, PROMPTS)
    return {name: text for name, text in zip(table["prompt_id"], table["prompt"], strict=True) if text}
